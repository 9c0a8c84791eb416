//! log -> decode -> history, cache, tracker -> commit.
//!
//! The order is the point: rows and the gaps they reveal are durable before their offsets are committed
//! (invariant 1), and the committed position is contiguous (a held frame keeps everything behind it).

mod assignment;
mod reorder_buffer;
mod router;
mod stream_state;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use reorder_buffer::{EXPECT_GRACE_US, Expectation, ReadyBatch, ReorderBuffer};
pub use stream_state::DetectedGap;

use crate::clock::Clock;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::ledger::SharedLedger;
use crate::log::{Consumer, Log, LogError};
use crate::market::Stream;
use crate::progress::Progress;
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
pub enum Probe {
    /// Positions up to here exist: are they here?
    Expect(Expectation),
    /// A stream of which nothing came yet begins at this position.
    Begin(Stream, i64),
}

/// What the consumer works with.
#[derive(Clone)]
pub struct Deps {
    /// The log it reads.
    pub log: Arc<dyn Log>,
    /// How rows become durable.
    pub writer: Writer,
    /// Where gaps are opened.
    pub ledger: SharedLedger,
    /// Where progress is published.
    pub progress: Arc<Progress>,
    /// What is degraded.
    pub health: Health,
    /// The time.
    pub clock: Clock,
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Told which of them this recorder consumes: in a group, others consume the rest.
    pub assigned: watch::Sender<Vec<Stream>>,
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
    deps: Deps,
    mut buffer: ReorderBuffer,
    mut probes: mpsc::Receiver<Probe>,
    options: Options,
    heartbeat: Heartbeat,
    drain: CancellationToken,
    stop: CancellationToken,
) -> Result<(), ConsumeError> {
    let Some(consumer) = subscribe(&deps, &heartbeat, &stop).await? else { return Ok(()) };
    let mut worker = Worker::new(deps, consumer, heartbeat, stop);
    loop {
        worker.heartbeat.beat();
        worker.refresh_streams();
        while let Ok(probe) = probes.try_recv() {
            worker.apply_probe(&mut buffer, probe);
        }
        let draining = drain.is_cancelled();
        let age = worker.batch_started_at.elapsed();
        let wait = if draining { Duration::from_millis(20) } else { options.batch_time.saturating_sub(age) };
        let wait = if buffer.is_idle() && !buffer.is_waiting() && !draining { Duration::from_secs(1) } else { wait };
        let delivery = tokio::select! {
            biased;
            () = worker.stop.cancelled() => return Ok(()),
            delivery = tokio::time::timeout(wait, worker.consumer.next()) => delivery,
            () = drain.cancelled(), if !draining => continue,
        };
        let was_idle = buffer.is_idle();
        let caught_up = match delivery {
            Ok(Ok(delivery)) => worker.accept(&mut buffer, delivery).await?,
            Ok(Err(LogError::Unavailable(why))) => worker.wait_for_log(&why).await,
            Ok(Err(LogError::Fatal(why))) => return Err(ConsumeError::Log(why)),
            Err(_elapsed) => Some(worker.deps.clock.now()),
        };
        // What is waited for may lie in the log already, unread: the clock only counts at the log's end.
        let caught_up = match caught_up {
            Some(_) if buffer.is_waiting() && !worker.is_at_end(&buffer).await => None,
            caught_up => caught_up,
        };
        if was_idle {
            worker.batch_started_at = Instant::now();
        }
        buffer.declare_gaps_over_limit();
        if let Some(now) = caught_up {
            buffer.declare_gaps(now, false);
        }
        let due = buffer.pending_rows() >= options.batch_rows
            || buffer.pending_bytes() >= options.batch_bytes
            || worker.batch_started_at.elapsed() >= options.batch_time;
        let at_end = draining && worker.is_at_end(&buffer).await;
        if at_end {
            buffer.declare_gaps(worker.deps.clock.now(), true);
        }
        if (due || at_end) && !worker.is_idle(&buffer) && worker.flush(&mut buffer).await?.is_none() {
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
    deps: &Deps,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<Option<Box<dyn Consumer>>, ConsumeError> {
    loop {
        heartbeat.beat();
        match deps.log.consumer().await {
            Ok(consumer) => return Ok(Some(consumer)),
            Err(LogError::Fatal(why)) => return Err(ConsumeError::Log(why)),
            Err(LogError::Unavailable(why)) => {
                deps.health.degraded("log", &why);
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
