//! log -> decode -> history, cache, tracker -> commit.
//!
//! The order is the point: rows and the gaps they reveal are durable before their offsets are committed
//! (invariant 1), and the committed position is contiguous (a held frame keeps everything behind it).

mod board;
mod desk;
mod line;
mod share;
mod sorter;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use board::{BatchTimes, Board, Standing};
pub use line::FoundHole;
pub use sorter::{EXPECT_GRACE_US, Expectation, Sealed, Sorter};

use crate::clock::Clock;
use crate::gap::Ledger;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::log::{Consumer, Log, LogError};
use crate::market::Stream;
use crate::writer::Writer;
use worker::Worker;

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
    /// Held while a repair's row or the end of a feed's rows goes to the store, so that a row that was superseded is not
    /// written over by the repair that it was taken from.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl SharedLedger {
    /// Shares a ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger: Arc::new(Mutex::new(ledger)), ..Self::default() }
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
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Told which of them this recorder consumes: in a group, others consume the rest.
    pub ours: watch::Sender<Vec<Stream>>,
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
    heartbeat: Heartbeat,
    drain: CancellationToken,
    stop: CancellationToken,
) -> Result<(), ConsumeError> {
    let Some(consumer) = subscribe(&parts, &heartbeat, &stop).await? else { return Ok(()) };
    let mut worker = Worker::new(parts, consumer, heartbeat, stop);
    loop {
        worker.heartbeat.beat();
        worker.follow();
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
        if (due || at_end) && !worker.is_idle(&sorter) && worker.flush(&mut sorter).await?.is_none() {
            return Ok(());
        }
        if at_end {
            worker.heartbeat.retire();
            return Ok(());
        }
    }
}

/// Opens a consumer, however long the log takes.
async fn subscribe(
    parts: &Parts,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<Option<Box<dyn Consumer>>, ConsumeError> {
    loop {
        heartbeat.beat();
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

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
