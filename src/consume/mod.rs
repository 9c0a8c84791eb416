//! Reads the log, decodes, writes to history and cache, finds gaps, and commits offsets.
//!
//! The order matters. Rows and the gaps they reveal are durable before their offsets are committed (invariant 1), and
//! commits are contiguous: a held frame keeps every later offset of its partition uncommitted. Knows no backend and no
//! exchange by name.

mod assignment;
mod doubts;
mod exchange_state;
mod inputs;
mod kline_router;
mod known_rows;
mod letter_report;
mod open_klines;
mod partition_time;
mod plausible;
mod ready_batch;
mod reorder_buffer;
mod router;
mod stream_state;
mod undecodable;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use doubts::Doubts;
pub use inputs::{DoubtfulTrades, Expectation, Force, Numbering, Watermark};
pub use known_rows::{RepeatedRows, settle};
pub use partition_time::Moment;
pub use ready_batch::ReadyBatch;
pub use reorder_buffer::{EXPECT_GRACE_US, ReorderBuffer};
pub use stream_state::DetectedGap;

use crate::clock::Clock;
use crate::exchange::rest::Rest;
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::ledger::SharedLedger;
use crate::log::{Consumer, Log, LogError};
use crate::market::{Exchange, Stream};
use crate::progress::Progress;
use crate::retry;
use crate::writer::Writer;
use worker::Worker;

/// Longest time to open a consumer: the log may have to create its topic on a slow broker first.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(120);

/// When a batch is written. The first limit that is reached decides.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rows in the batch.
    pub batch_rows: usize,
    /// Bytes of frames in the batch.
    pub batch_bytes: usize,
    /// Age of the batch.
    pub batch_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        // The embedded store costs no round trip, so batches are small and rows appear soon.
        Self { batch_rows: 8_192, batch_bytes: 8 << 20, batch_time: Duration::from_millis(100) }
    }
}

/// What other modules report to the consumer. Only the consumer changes the trackers, so a probe cannot race with
/// frames.
#[derive(Clone, Debug)]
pub enum Probe {
    /// The exchange has positions up to here: check that they arrive.
    Expect(Expectation),
    /// A silent stream without any frame yet starts behind the exchange's newest position, once that is confirmed.
    Begin(Stream),
    /// What the exchange says about a stream's numbering, which [`Doubts`] asked for.
    Numbering(Stream, Numbering),
}

/// The consumer's dependencies.
#[derive(Clone)]
pub struct Deps {
    /// The log it reads.
    pub log: Arc<dyn Log>,
    /// Makes rows durable.
    pub writer: Writer,
    /// Opens gaps.
    pub ledger: SharedLedger,
    /// Receives each stream's progress.
    pub progress: Arc<Progress>,
    /// Receives what is degraded.
    pub health: Health,
    /// Reads the time.
    pub clock: Clock,
    /// The exchanges' clients, for what they measured of the exchanges' clocks.
    pub rest: HashMap<Exchange, Arc<Rest>>,
    /// Receives the streams whose newest position the exchange must name.
    pub doubts: Doubts,
    /// The streams that are recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Receives the streams that this recorder consumes; other members of the group consume the rest.
    pub assigned: watch::Sender<Vec<Stream>>,
}

/// Why the consumer failed.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The log failed for good.
    #[error("consume the log: {0}")]
    Log(String),
    /// History failed for good.
    #[error("write to history: {0}")]
    History(String),
}

/// Runs until `drain` is cancelled and the log is read to its end, or until `stop` is cancelled. After `stop`, whatever
/// is not durable stays uncommitted.
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
        worker.refresh_streams(&mut buffer);
        while let Ok(probe) = probes.try_recv() {
            worker.apply_probe(&mut buffer, probe).await;
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
        match delivery {
            Ok(Ok(delivery)) => worker.accept(&mut buffer, delivery).await?,
            Ok(Err(LogError::Unavailable(why))) => worker.wait_for_log(&why).await,
            Ok(Err(LogError::Fatal(why) | LogError::Damaged(why))) => return Err(ConsumeError::Log(why)),
            Err(_elapsed) => {}
        }
        if was_idle {
            worker.batch_started_at = Instant::now();
        }
        let moment = worker.moment(&buffer).await;
        buffer.declare_gaps(&moment, Force::None);
        worker.follow_doubts(&mut buffer);
        let due = buffer.pending_rows() >= options.batch_rows
            || buffer.pending_bytes() >= options.batch_bytes
            || worker.batch_started_at.elapsed() >= options.batch_time;
        let at_end = draining && worker.is_at_end(&buffer).await;
        if at_end {
            buffer.declare_gaps(&moment, Force::All);
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

/// Opens a consumer; tries again while the log is down.
async fn subscribe(
    deps: &Deps,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<Option<Box<dyn Consumer>>, ConsumeError> {
    loop {
        heartbeat.beat();
        match heartbeat.beat_while(SUBSCRIBE_MAX, deps.log.consumer()).await {
            Ok(consumer) => return Ok(Some(consumer)),
            Err(LogError::Fatal(why) | LogError::Damaged(why)) => return Err(ConsumeError::Log(why)),
            Err(LogError::Unavailable(why)) => {
                deps.health.degraded("log", &why);
                if !retry::wait(Duration::from_secs(1), stop).await {
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
