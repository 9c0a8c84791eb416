//! One member of the consumer group: accepts deliveries, makes their rows durable, commits offsets.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::gap::{Evidence, Gap};
use crate::heartbeat::Heartbeat;
use crate::history::EpochRow;
use crate::log::{Consumer, Delivery, LogError, Offsets, Partition};
use crate::market::Stream;
use crate::messages;
use crate::retry;
use crate::writer::WriteError;

use super::inputs::DoubtfulTrades;
use super::letter_report::LetterReport;
use super::{ConsumeError, Deps, DetectedGap, Force, Moment, Probe, ReadyBatch, ReorderBuffer, known_rows};

/// Longest commit; a log that does not answer within it counts as stuck.
const COMMIT_MAX: Duration = Duration::from_secs(60);
/// Longest request for the log's offsets: four requests of a broker that takes almost its timeout for each.
const USAGE_MAX: Duration = Duration::from_secs(60);

/// Time between two questions for the log's end: a broker needs a round trip for each.
const LOOK_FOR_END_EVERY: Duration = Duration::from_millis(50);
/// How long health shows that a frame of a stream was set aside.
const REJECTED_SHOWN: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    pub(super) deps: Deps,
    pub(super) consumer: Box<dyn Consumer>,
    pub(super) heartbeat: Heartbeat,
    pub(super) stop: CancellationToken,
    pub(super) batch_started_at: Instant,
    /// When the assigned streams were last looked up.
    pub(super) published_at: Instant,
    /// The partitions assigned to this recorder now.
    pub(super) partitions: BTreeSet<Partition>,
    /// A batch that is not durable yet: a rebalance that could not wait for history leaves it here. It contains rows of
    /// partitions that stay assigned; their offsets must not be committed before it is durable.
    unwritten: Option<ReadyBatch>,
    /// Streams of which a frame became a dead letter, and until when health shows it, by the monotonic clock.
    rejected: HashMap<Stream, Duration>,
    /// When the log was last asked for its end, by the monotonic clock.
    end_looked_at: Duration,
    pub(super) letters: LetterReport,
}

impl Worker {
    pub(super) fn new(deps: Deps, consumer: Box<dyn Consumer>, heartbeat: Heartbeat, stop: CancellationToken) -> Self {
        let (batch_started_at, partitions) = (Instant::now(), BTreeSet::new());
        Self {
            deps,
            consumer,
            heartbeat,
            stop,
            batch_started_at,
            published_at: batch_started_at,
            partitions,
            unwritten: None,
            rejected: HashMap::new(),
            end_looked_at: Duration::ZERO,
            letters: LetterReport::default(),
        }
    }

    /// Processes a delivery.
    pub(super) async fn accept(&mut self, buffer: &mut ReorderBuffer, delivery: Delivery) -> Result<(), ConsumeError> {
        match delivery {
            Delivery::Records { records, more: _ } => {
                self.deps.progress.frames.fetch_add(records.len() as u64, Ordering::Relaxed);
                if !records.is_empty() {
                    self.deps.health.restored("log");
                }
                let wall = self.deps.clock.now();
                buffer.set_monotonic(self.deps.clock.monotonic());
                for (exchange, rest) in &self.deps.rest {
                    buffer.set_clock(*exchange, rest.clock_offset(), wall);
                }
                for record in records {
                    buffer.push(record);
                }
                Ok(())
            }
            Delivery::Assigned(partitions) => {
                info!(?partitions, "assigned partitions {partitions:?}");
                self.deps.health.restored("log");
                self.accept_partitions(buffer, &partitions).await?;
                Ok(())
            }
            Delivery::Revoked { partitions, deadline, done } => {
                let moment = self.moment(buffer).await;
                buffer.declare_gaps(&moment, Force::Partitions(&partitions));
                let flushed = tokio::time::timeout(deadline, self.write_all(buffer)).await;
                let positions = flushed.ok().transpose()?.flatten().unwrap_or_default();
                let leaving = positions.into_iter().filter(|(partition, _)| partitions.contains(partition)).collect();
                self.release_partitions(buffer, &partitions);
                if done.send(leaving).is_err() {
                    warn!("the rebalance did not wait for the drained offsets; their frames will be consumed again");
                }
                Ok(())
            }
        }
    }

    pub(super) async fn apply_probe(&mut self, buffer: &mut ReorderBuffer, probe: Probe) {
        let moment = self.moment(buffer).await;
        match probe {
            Probe::Expect(expectation) => buffer.expect(&expectation, &moment),
            Probe::Begin(stream) => self.deps.doubts.ask(DoubtfulTrades { stream, trades: Vec::new() }),
            Probe::Numbering(stream, numbering) => buffer.answer(&stream, &numbering, &moment),
        }
    }

    pub(super) async fn wait_for_log(&mut self, why: &str) {
        self.deps.health.degraded("log", why);
        retry::wait(Duration::from_millis(500), &self.stop).await;
    }

    /// Asks the exchange about frames that do not fit their streams, and shows streams of which a frame became a dead letter.
    pub(super) fn follow_doubts(&mut self, buffer: &mut ReorderBuffer) {
        for question in buffer.take_doubtful() {
            self.deps.doubts.ask(question);
        }
        let now = self.deps.clock.monotonic();
        let health = &self.deps.health;
        self.rejected.retain(|stream, shown_until| {
            let is_shown = now < *shown_until;
            if !is_shown {
                health.restored(&stream.to_string());
            }
            is_shown
        });
    }

    fn show_rejected(&mut self, rejected: Vec<(Stream, String)>) {
        let until = self.deps.clock.monotonic() + REJECTED_SHOWN;
        for (stream, why) in rejected {
            self.deps.health.degraded(&stream.to_string(), &format!("a frame became a dead letter: {why}"));
            self.rejected.insert(stream, until);
        }
    }

    /// The present moment, and the partitions that are read to their end. Asks the log only while items wait.
    pub(super) async fn moment(&mut self, buffer: &ReorderBuffer) -> Moment {
        let (monotonic, wall) = (self.deps.clock.monotonic(), self.deps.clock.now());
        let is_due = monotonic >= self.end_looked_at + LOOK_FOR_END_EVERY;
        let at_end = if buffer.is_waiting() && is_due {
            self.end_looked_at = monotonic;
            self.partitions_at_end(buffer).await
        } else {
            BTreeSet::new()
        };
        Moment { monotonic, wall, at_end }
    }

    /// The assigned partitions of which every record was consumed.
    async fn partitions_at_end(&mut self, buffer: &ReorderBuffer) -> BTreeSet<Partition> {
        let Ok(usage) = self.heartbeat.beat_while(USAGE_MAX, self.deps.log.usage()).await else {
            return BTreeSet::new();
        };
        let is_read = |partition: &Partition, end: i64| {
            let next = buffer.next_offsets().get(partition).or_else(|| usage.committed.get(partition));
            next.or_else(|| usage.first.get(partition)).copied().unwrap_or(0) >= end
        };
        self.partitions
            .iter()
            .copied()
            .filter(|partition| is_read(partition, usage.end.get(partition).copied().unwrap_or(0)))
            .collect()
    }

    /// Whether every record of the assigned partitions was consumed.
    pub(super) async fn is_at_end(&mut self, buffer: &ReorderBuffer) -> bool {
        self.partitions_at_end(buffer).await.len() == self.partitions.len()
    }

    /// Whether there is nothing to make durable or to commit.
    pub(super) fn is_idle(&self, buffer: &ReorderBuffer) -> bool {
        buffer.is_idle() && self.unwritten.is_none()
    }

    /// Makes everything durable and commits it; `None` when `stop` was cancelled first.
    pub(super) async fn flush(&mut self, buffer: &mut ReorderBuffer) -> Result<Option<()>, ConsumeError> {
        let Some(positions) = self.write_all(buffer).await? else { return Ok(None) };
        self.batch_started_at = Instant::now();
        if self.deps.progress.committed() == positions {
            return Ok(Some(()));
        }
        match self.heartbeat.beat_while(COMMIT_MAX, self.consumer.commit(&positions)).await {
            Ok(()) => {
                self.deps.health.restored("log");
                self.deps.progress.set_committed(&positions);
            }
            // The rows are durable, and the next commit covers these offsets too.
            Err(LogError::Unavailable(why)) => self.deps.health.degraded("log", &why),
            Err(LogError::Fatal(why) | LogError::Damaged(why)) => return Err(ConsumeError::Log(why)),
        }
        Ok(Some(()))
    }

    /// Makes every consumed record durable. Returns the offsets that may be committed; `None` when `stop` was cancelled
    /// first.
    async fn write_all(&mut self, buffer: &mut ReorderBuffer) -> Result<Option<Offsets>, ConsumeError> {
        if self.unwritten.is_some() && self.write(buffer).await?.is_none() {
            return Ok(None);
        }
        self.write(buffer).await
    }

    /// Makes one batch durable: the one that an earlier call left, else a new one. When this future is dropped midway,
    /// the next call writes the batch again.
    async fn write(&mut self, buffer: &mut ReorderBuffer) -> Result<Option<Offsets>, ConsumeError> {
        let began = Instant::now();
        let ready = match self.unwritten.take() {
            Some(ready) => ready,
            None => {
                let mut ready = buffer.take_ready();
                // Gaps of a numbering that ends in this batch are opened first, so that they end with it.
                let (ended, present): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut ready.detected).into_iter().partition(|gap| is_of_ended(gap, &ready));
                let mut gaps = self.open_gaps(&ended);
                gaps.append(&mut self.begin_epochs(&ready.rows.batch.epochs));
                gaps.append(&mut self.open_gaps(&present));
                ready.rows.batch.gaps = gaps;
                ready
            }
        };
        let ready = self.unwritten.insert(ready);
        let (history, health) = (self.deps.writer.history(), &self.deps.health);
        let settled = known_rows::settle(history, health, ready, &self.heartbeat, &self.stop).await;
        if !settled.map_err(|error| ConsumeError::History(error.into_reason()))? {
            return Ok(None);
        }
        if !ready.rows.batch.is_empty() {
            let refused = match self.deps.writer.write(&ready.rows, &self.heartbeat, &self.stop).await {
                Ok(refused) => refused,
                Err(WriteError::Stopped) => return Ok(None),
                Err(WriteError::Fatal(why)) => return Err(ConsumeError::History(why)),
            };
            let letters = &ready.rows.batch.dead_letters;
            self.deps.progress.dead_letters.fetch_add((letters.len() + refused.len()) as u64, Ordering::Relaxed);
            let newest = ready.progress.iter().filter_map(|(_, progress)| progress.last_received).max();
            let delay = newest.and_then(|at| u64::try_from(self.deps.clock.now().micros() - at).ok());
            let delay = delay.map(Duration::from_micros);
            self.deps.progress.count_batch(ready.rows.batch.rows(), began.elapsed(), delay);
            self.letters.letters(letters);
        }
        self.report_outages(buffer);
        let Some(ready) = self.unwritten.take() else { return Ok(None) };
        self.deps.writer.pending_updates().offer(ready.update);
        self.show_rejected(ready.rejected);
        self.deps.progress.publish(ready.progress, &Offsets::new());
        self.deps.ledger.batch_stored(&ready.rows.batch.gaps);
        if !ready.rows.batch.conflicts.is_empty() {
            self.deps.doubts.conflict_found.notify_one();
        }
        let assigned = ready.positions.into_iter().filter(|(partition, _)| self.partitions.contains(partition));
        Ok(Some(assigned.collect()))
    }

    /// Shows which streams cannot be decoded now.
    pub(super) fn report_outages(&mut self, buffer: &ReorderBuffer) {
        let outages = buffer.outages();
        self.letters.outages(&outages, &self.deps.health);
        self.deps.progress.set_outages(outages);
    }

    /// Supersedes the open gaps of numberings that ended, and returns their rows.
    fn begin_epochs(&self, epochs: &[EpochRow]) -> Vec<Gap> {
        let now = self.deps.clock.now();
        let mut ended = Vec::new();
        for epoch in epochs {
            let stream = epoch.stream();
            warn!(
                MESSAGE_ID = messages::EPOCH_BEGAN,
                EXCHANGE = %epoch.exchange, SYMBOL = %epoch.symbol, EPOCH = epoch.epoch,
                "the numbering of {stream} began again, epoch {}: {}", epoch.epoch, epoch.reason
            );
            ended.append(&mut self.deps.ledger.begin_epoch(&stream, epoch.epoch, now));
        }
        ended
    }

    /// Opens gaps in the ledger and returns its new and changed rows.
    fn open_gaps(&self, detected: &[DetectedGap]) -> Vec<Gap> {
        let now = self.deps.clock.now();
        let mut rows = Vec::new();
        for detected_gap in detected {
            let step = detected_gap.stream.channel.step().unwrap_or(1);
            let evidence = Evidence {
                by: detected_gap.by.to_owned(),
                previous: Some(detected_gap.range.first - step),
                next: detected_gap.next,
                partition: detected_gap.partition,
                offset: detected_gap.offset,
                connection: detected_gap.connection,
                ..Evidence::default()
            };
            let mut found = Gap::open(detected_gap.stream.clone(), detected_gap.range, evidence, now);
            (found.from_ts, found.to_ts) = (detected_gap.from_ts, detected_gap.to_ts);
            rows.append(&mut self.deps.ledger.open_with_rows(&found));
        }
        rows
    }
}

/// Whether a numbering that begins in this batch ends the one of a gap.
fn is_of_ended(gap: &DetectedGap, ready: &ReadyBatch) -> bool {
    let mut begun = ready.rows.batch.epochs.iter();
    begun.any(|epoch| epoch.stream() == gap.stream && gap.epoch < epoch.epoch)
}
