//! log -> decode -> history, cache, tracker -> commit.
//!
//! The order is the point: rows and the gaps they reveal are durable before their offsets are committed
//! (invariant 1), and the committed position is contiguous (a held frame keeps everything behind it).

mod board;
mod desk;
mod line;
mod sorter;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use board::{Board, Standing};
pub use line::FoundHole;
pub use sorter::{EXPECT_GRACE_US, Expectation, Sealed, Sorter};

use crate::clock::Clock;
use crate::gap::{Evidence, Gap, Ledger};
use crate::health::Health;
use crate::log::{Consumer, Delivery, Log, LogError, Positions};
use crate::market::{Stream, Timestamp};
use crate::messages;
use crate::pulse::Pulse;
use crate::writer::{WriteError, Writer};

/// When a batch is sealed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At so many rows.
    pub batch_rows: usize,
    /// At so many bytes of frames.
    pub batch_bytes: usize,
    /// At this age.
    pub batch_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // The embedded store has no round trip to save: small batches, soon visible.
        Self { batch_rows: 8_192, batch_bytes: 8 << 20, batch_time: Duration::from_millis(100) }
    }
}

/// Longest commit; a log that does not answer for so long is wedged.
const COMMIT_MAX: Duration = Duration::from_secs(60);

/// What others ask of the consumer; only it touches the trackers, so there is no race with the frames.
#[derive(Clone, Debug)]
pub enum Question {
    /// Positions up to here exist: are they here?
    Expect(Expectation),
    /// A stream of which nothing came yet begins at this position.
    Begin(Stream, i64),
}

/// The ledger in memory, shared by all who find or close gaps.
#[derive(Clone, Default)]
pub struct SharedLedger {
    ledger: Arc<Mutex<Ledger>>,
    /// Rings when a gap was opened.
    pub news: Arc<Notify>,
}

impl SharedLedger {
    /// Shares a ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger: Arc::new(Mutex::new(ledger)), news: Arc::default() }
    }

    /// Uses the ledger for a moment; never across an await.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
        use_it(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the consumer works with.
#[derive(Clone)]
pub struct Parts {
    /// The log it reads.
    pub log: Arc<dyn Log>,
    /// How rows become durable.
    pub writer: Writer,
    /// Where gaps are opened.
    pub ledger: SharedLedger,
    /// Where standings are published.
    pub board: Arc<Board>,
    /// What is degraded.
    pub health: Health,
    /// The time.
    pub clock: Clock,
}

/// Why the consumer ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The log cannot be used any more.
    #[error("consume the log: {0}")]
    Log(String),
    /// History cannot be used any more.
    #[error("write to history: {0}")]
    History(String),
}

/// Runs until `drain` is cancelled and the log is read to its end, or `stop` is cancelled: then what is not
/// durable stays uncommitted.
pub async fn run(
    parts: Parts,
    mut sorter: Sorter,
    mut questions: mpsc::Receiver<Question>,
    options: Options,
    pulse: Pulse,
    drain: CancellationToken,
    stop: CancellationToken,
) -> Result<(), ConsumeError> {
    let Some(consumer) = subscribe(&parts, &pulse, &stop).await? else { return Ok(()) };
    let mut worker = Worker { parts, consumer, pulse, stop, sealed_at: Instant::now() };
    loop {
        worker.pulse.beat();
        while let Ok(question) = questions.try_recv() {
            worker.ask(&mut sorter, question);
        }
        let draining = drain.is_cancelled();
        let age = worker.sealed_at.elapsed();
        let wait = if draining { Duration::from_millis(20) } else { options.batch_time.saturating_sub(age) };
        let wait = if sorter.is_idle() && !sorter.is_waiting() && !draining { Duration::from_secs(1) } else { wait };
        let delivery = tokio::select! {
            biased;
            () = worker.stop.cancelled() => return Ok(()),
            delivery = tokio::time::timeout(wait, worker.consumer.next()) => delivery,
            () = drain.cancelled(), if !draining => continue,
        };
        let was_idle = sorter.is_idle();
        let caught_up = match delivery {
            Ok(Ok(delivery)) => worker.accept(&mut sorter, delivery).await?,
            Ok(Err(LogError::Unavailable(why))) => worker.wait_for_log(&why).await,
            Ok(Err(LogError::Fatal(why))) => return Err(ConsumeError::Log(why)),
            Err(_elapsed) => Some(worker.parts.clock.now()),
        };
        // What is waited for may lie in the log already, unread: the clock only counts at the log's end.
        let caught_up = match caught_up {
            Some(_) if sorter.is_waiting() && !worker.is_at_end(&sorter).await => None,
            caught_up => caught_up,
        };
        if was_idle {
            worker.sealed_at = Instant::now();
        }
        sorter.settle_by_count();
        if let Some(now) = caught_up {
            sorter.settle(now, false);
        }
        let due = sorter.pending_rows() >= options.batch_rows
            || sorter.pending_bytes() >= options.batch_bytes
            || worker.sealed_at.elapsed() >= options.batch_time;
        let at_end = draining && worker.is_at_end(&sorter).await;
        if at_end {
            sorter.settle(worker.parts.clock.now(), true);
        }
        if (due || at_end) && !sorter.is_idle() && worker.flush(&mut sorter).await?.is_none() {
            return Ok(());
        }
        if at_end {
            worker.pulse.retire();
            return Ok(());
        }
    }
}

/// Opens a consumer, however long the log takes.
async fn subscribe(
    parts: &Parts,
    pulse: &Pulse,
    stop: &CancellationToken,
) -> Result<Option<Box<dyn Consumer>>, ConsumeError> {
    loop {
        pulse.beat();
        match parts.log.consumer().await {
            Ok(consumer) => return Ok(Some(consumer)),
            Err(LogError::Fatal(why)) => return Err(ConsumeError::Log(why)),
            Err(LogError::Unavailable(why)) => {
                parts.health.degraded("log", &why);
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }
}

struct Worker {
    parts: Parts,
    consumer: Box<dyn Consumer>,
    pulse: Pulse,
    stop: CancellationToken,
    sealed_at: Instant,
}

impl Worker {
    /// Sorts a delivery. Returns the clock's time when the log was read to its end, else `None`: behind it
    /// what is missing may still come.
    async fn accept(&mut self, sorter: &mut Sorter, delivery: Delivery) -> Result<Option<Timestamp>, ConsumeError> {
        match delivery {
            Delivery::Records { records, more } => {
                self.parts.board.frames.fetch_add(records.len() as u64, Ordering::Relaxed);
                for record in records {
                    sorter.take(record);
                }
                Ok((!more).then(|| self.parts.clock.now()))
            }
            Delivery::Assigned(partitions) => {
                info!(?partitions, "assigned partitions {partitions:?}");
                Ok(None)
            }
            Delivery::Revoked { partitions, deadline, done } => {
                sorter.settle(self.parts.clock.now(), true);
                let flushed = tokio::time::timeout(deadline, self.write(sorter)).await;
                let positions = flushed.ok().transpose()?.flatten().unwrap_or_default();
                let leaving = positions.into_iter().filter(|(partition, _)| partitions.contains(partition)).collect();
                for partition in partitions {
                    sorter.forget(partition);
                }
                if done.send(leaving).is_err() {
                    warn!("the rebalance did not wait for what was drained; it will be consumed again");
                }
                Ok(None)
            }
        }
    }

    fn ask(&self, sorter: &mut Sorter, question: Question) {
        match question {
            Question::Expect(expectation) => sorter.expect(&expectation, self.parts.clock.now()),
            Question::Begin(stream, position) => sorter.begin(&stream, position),
        }
    }

    async fn wait_for_log(&mut self, why: &str) -> Option<Timestamp> {
        self.parts.health.degraded("log", why);
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        None
    }

    /// Whether everything the log holds was sorted.
    async fn is_at_end(&mut self, sorter: &Sorter) -> bool {
        match self.parts.log.usage().await {
            Ok(usage) => usage.end.iter().all(|(partition, end)| {
                let next = sorter.next_offsets().get(partition).or_else(|| usage.committed.get(partition));
                next.or_else(|| usage.first.get(partition)).copied().unwrap_or(0) >= *end
            }),
            Err(_unavailable) => false,
        }
    }

    /// Makes everything durable and commits it; `None` when told to stop meanwhile.
    async fn flush(&mut self, sorter: &mut Sorter) -> Result<Option<()>, ConsumeError> {
        let Some(positions) = self.write(sorter).await? else { return Ok(None) };
        self.sealed_at = Instant::now();
        if self.parts.board.committed() == positions {
            return Ok(Some(()));
        }
        match self.pulse.waiting(COMMIT_MAX, self.consumer.commit(&positions)).await {
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

    /// Makes everything sealed durable; returns what may be committed, `None` when told to stop meanwhile.
    async fn write(&mut self, sorter: &mut Sorter) -> Result<Option<Positions>, ConsumeError> {
        let began = Instant::now();
        let mut sealed = sorter.seal();
        let gaps = self.open_gaps(&sealed.holes);
        sealed.rows.batch.gaps = gaps;
        let letters = sealed.rows.batch.dead_letters.len() as u64;
        if !sealed.rows.batch.is_empty() {
            let set_aside = match self.parts.writer.write(&sealed.rows, &self.pulse, &self.stop).await {
                Ok(set_aside) => set_aside,
                Err(WriteError::Stopped) => return Ok(None),
                Err(WriteError::Fatal(why)) => return Err(ConsumeError::History(why)),
            };
            self.parts.board.dead_letters.fetch_add(letters + set_aside, Ordering::Relaxed);
            self.parts.board.count_batch(sealed.rows.batch.rows(), began.elapsed());
            for letter in &sealed.rows.batch.dead_letters {
                warn!(MESSAGE_ID = messages::DEAD_LETTER, stream = %letter.stream, offset = letter.offset, "dead letter: {}", letter.reason);
            }
        }
        self.parts.writer.latest().offer(sealed.update);
        self.parts.board.publish(sealed.standings, &Positions::new());
        if !sealed.rows.batch.gaps.is_empty() {
            self.parts.ledger.news.notify_one();
        }
        Ok(Some(sealed.positions))
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
                partition: None,
                offset: hole.offset,
                connection: hole.connection,
            };
            let mut news = self.parts.ledger.with(|ledger| ledger.open(&hole.stream, hole.range, &evidence, now));
            for gap in &mut news {
                gap.from_ts = hole.from_ts;
                gap.to_ts = hole.to_ts;
                self.parts.ledger.with(|ledger| ledger.update(gap));
                info!(
                    MESSAGE_ID = messages::GAP_FOUND,
                    EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol,
                    GAP_FIRST = gap.range.first, GAP_LAST = gap.range.last,
                    "gap in {}: {} missing, {}..{}, found by {}",
                    gap.stream, gap.len(), gap.range.first, gap.range.last, hole.by
                );
            }
            rows.append(&mut news);
        }
        rows
    }
}
