//! One member at work: takes deliveries, makes them durable, commits.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::gap::{Evidence, Gap};
use crate::heartbeat::Heartbeat;
use crate::log::{Consumer, Delivery, LogError, Offsets, Partition};
use crate::market::Timestamp;
use crate::messages;
use crate::writer::WriteError;

use super::{ConsumeError, FoundHole, Parts, Question, Sealed, Sorter};

/// Longest commit; a log that does not answer for so long is wedged.
const COMMIT_MAX: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    pub(super) parts: Parts,
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) heartbeat: Heartbeat,
    pub(super) stop: CancellationToken,
    pub(super) sealed_at: Instant,
    /// The partitions that are ours now.
    pub(super) partitions: BTreeSet<Partition>,
    /// Sealed and not durable yet: a rebalance that could not wait for history leaves it here. It holds rows of
    /// partitions that stay, whose offsets must not be committed before.
    unwritten: Option<Sealed>,
}

impl Worker {
    pub(super) fn new(
        parts: Parts,
        consumer: Box<dyn Consumer>,
        heartbeat: Heartbeat,
        stop: CancellationToken,
    ) -> Self {
        let (sealed_at, partitions) = (Instant::now(), BTreeSet::new());
        Self { parts, consumer, heartbeat, stop, sealed_at, partitions, unwritten: None }
    }

    /// Sorts a delivery. Returns the clock's time when the log was read to its end, else `None`: behind it
    /// what is missing may still come.
    pub(super) async fn accept(
        &mut self,
        sorter: &mut Sorter,
        delivery: Delivery,
    ) -> Result<Option<Timestamp>, ConsumeError> {
        match delivery {
            Delivery::Records { records, more } => {
                self.parts.board.frames.fetch_add(records.len() as u64, Ordering::Relaxed);
                if !records.is_empty() {
                    self.parts.health.restored("log");
                }
                for record in records {
                    sorter.take(record);
                }
                Ok((!more).then(|| self.parts.clock.now()))
            }
            Delivery::Assigned(partitions) => {
                info!(?partitions, "assigned partitions {partitions:?}");
                self.parts.health.restored("log");
                self.adopt(sorter, &partitions).await?;
                Ok(None)
            }
            Delivery::Revoked { partitions, deadline, done } => {
                sorter.settle(self.parts.clock.now(), true);
                let flushed = tokio::time::timeout(deadline, self.write_all(sorter)).await;
                let positions = flushed.ok().transpose()?.flatten().unwrap_or_default();
                let leaving = positions.into_iter().filter(|(partition, _)| partitions.contains(partition)).collect();
                self.release(sorter, &partitions);
                if done.send(leaving).is_err() {
                    warn!("the rebalance did not wait for what was drained; it will be consumed again");
                }
                Ok(None)
            }
        }
    }

    pub(super) fn ask(&self, sorter: &mut Sorter, question: Question) {
        match question {
            Question::Expect(expectation) => sorter.expect(&expectation, self.parts.clock.now()),
            Question::Begin(stream, position) => sorter.begin(&stream, position),
        }
    }

    pub(super) async fn wait_for_log(&mut self, why: &str) -> Option<Timestamp> {
        self.parts.health.degraded("log", why);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        None
    }

    /// Whether everything that the log holds for us was sorted.
    pub(super) async fn is_at_end(&mut self, sorter: &Sorter) -> bool {
        match self.parts.log.usage().await {
            Ok(usage) => usage.end.iter().filter(|(id, _)| self.partitions.contains(id)).all(|(partition, end)| {
                let next = sorter.next_offsets().get(partition).or_else(|| usage.committed.get(partition));
                next.or_else(|| usage.first.get(partition)).copied().unwrap_or(0) >= *end
            }),
            Err(_unavailable) => false,
        }
    }

    /// Whether there is nothing to make durable or to commit.
    pub(super) fn is_idle(&self, sorter: &Sorter) -> bool {
        sorter.is_idle() && self.unwritten.is_none()
    }

    /// Makes everything durable and commits it; `None` when told to stop meanwhile.
    pub(super) async fn flush(&mut self, sorter: &mut Sorter) -> Result<Option<()>, ConsumeError> {
        let Some(positions) = self.write_all(sorter).await? else { return Ok(None) };
        self.sealed_at = Instant::now();
        if self.parts.board.committed() == positions {
            return Ok(Some(()));
        }
        match self.heartbeat.beat_while(COMMIT_MAX, self.consumer.commit(&positions)).await {
            Ok(()) => {
                self.parts.health.restored("log");
                self.parts.board.set_committed(&positions);
            }
            // The rows are durable; the next commit says the same and more.
            Err(LogError::Unavailable(why)) => self.parts.health.degraded("log", &why),
            Err(LogError::Fatal(why)) => return Err(ConsumeError::Log(why)),
        }
        Ok(Some(()))
    }

    /// Makes everything that was sorted durable; returns what may be committed, `None` when told to stop meanwhile.
    async fn write_all(&mut self, sorter: &mut Sorter) -> Result<Option<Offsets>, ConsumeError> {
        if self.unwritten.is_some() && self.write(sorter).await?.is_none() {
            return Ok(None);
        }
        self.write(sorter).await
    }

    /// Makes durable what an earlier call had to leave, or else what was sorted since. When it is dropped on its
    /// way, everything is left to the next call.
    async fn write(&mut self, sorter: &mut Sorter) -> Result<Option<Offsets>, ConsumeError> {
        let began = Instant::now();
        let sealed = match self.unwritten.take() {
            Some(sealed) => sealed,
            None => {
                let mut sealed = sorter.seal();
                sealed.rows.batch.gaps = self.open_gaps(&sealed.holes);
                sealed
            }
        };
        let sealed = self.unwritten.insert(sealed);
        if !sealed.rows.batch.is_empty() {
            let set_aside = match self.parts.writer.write(&sealed.rows, &self.heartbeat, &self.stop).await {
                Ok(set_aside) => set_aside,
                Err(WriteError::Stopped) => return Ok(None),
                Err(WriteError::Fatal(why)) => return Err(ConsumeError::History(why)),
            };
            let letters = &sealed.rows.batch.dead_letters;
            self.parts.board.dead_letters.fetch_add(letters.len() as u64 + set_aside, Ordering::Relaxed);
            let newest = sealed.standings.iter().filter_map(|(_, standing)| standing.last_received).max();
            let delay = newest.and_then(|at| u64::try_from(self.parts.clock.now().micros() - at).ok());
            let delay = delay.map(Duration::from_micros);
            self.parts.board.count_batch(sealed.rows.batch.rows(), began.elapsed(), delay);
            for letter in letters {
                warn!(MESSAGE_ID = messages::DEAD_LETTER, stream = %letter.stream, offset = letter.offset, "dead letter: {}", letter.reason);
            }
        }
        let Some(sealed) = self.unwritten.take() else { return Ok(None) };
        self.parts.writer.pending_updates().offer(sealed.update);
        self.parts.board.publish(sealed.standings, &Offsets::new());
        if !sealed.rows.batch.gaps.is_empty() {
            self.parts.ledger.news.notify_one();
        }
        let ours = sealed.positions.into_iter().filter(|(partition, _)| self.partitions.contains(partition));
        Ok(Some(ours.collect()))
    }

    /// Ledger rows for what is news among the holes.
    fn open_gaps(&self, holes: &[FoundHole]) -> Vec<Gap> {
        let now = self.parts.clock.now();
        let mut rows = Vec::new();
        for hole in holes {
            let step = hole.stream.channel.step().unwrap_or(1);
            let evidence = Evidence {
                by: hole.by.to_owned(),
                previous: Some(hole.range.first - step),
                next: hole.next,
                partition: hole.partition,
                offset: hole.offset,
                connection: hole.connection,
                replaces: Vec::new(),
            };
            let mut found = Gap::open(hole.stream.clone(), hole.range, evidence, now);
            (found.from_ts, found.to_ts) = (hole.from_ts, hole.to_ts);
            let opened = self.parts.ledger.with(|ledger| ledger.open(&found));
            for gap in &opened.rows {
                info!(
                    MESSAGE_ID = messages::GAP_FOUND,
                    EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol,
                    GAP_FIRST = gap.range.first, GAP_LAST = gap.range.last,
                    "gap in {}: {} missing, {}, found by {}", gap.stream, gap.len(), gap.span(), hole.by
                );
            }
            rows.append(&mut opened.changed());
        }
        rows
    }
}
