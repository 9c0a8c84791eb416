//! Follows the partitions that the log assigns to this recorder, and the streams in them. Other recorders of the group
//! consume the other partitions and write to the same history. Knows nothing of how records become rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::gap::Gap;
use crate::history::{EpochRow, GapFilter, History, HistoryError, Watermark, each_gap};
use crate::log::Partition;
use crate::market::Stream;
use crate::retry;

use super::worker::Worker;
use super::{ConsumeError, ReorderBuffer};

/// Longest time for one read of watermarks and gaps from history; the read is then tried again.
const LOAD_MAX: Duration = Duration::from_secs(30);
/// Longest time between two looks at which streams are assigned to this recorder.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(5);
/// Wait between two attempts to read from a history that is down.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Worker {
    /// Publishes the assigned streams again when the set of recorded streams has changed, and every few seconds: after
    /// the log has gained partitions a stream may belong to another one.
    pub(super) fn refresh_streams(&mut self, buffer: &mut ReorderBuffer) {
        self.letters.summarize();
        if self.deps.streams.has_changed().unwrap_or(false) || self.published_at.elapsed() >= PUBLISH_INTERVAL {
            self.published_at = Instant::now();
            self.publish_assigned();
            buffer.retain_outages(&self.deps.streams.borrow());
            self.report_outages(buffer);
        }
    }

    /// Publishes which streams are assigned to this recorder, when that has changed.
    fn publish_assigned(&mut self) {
        let mut assigned = self.deps.streams.borrow_and_update().clone();
        assigned.retain(|stream| self.is_assigned(stream));
        self.deps.assigned.send_if_modified(|known| {
            let changed = *known != assigned;
            *known = assigned;
            changed
        });
    }

    fn is_assigned(&self, stream: &Stream) -> bool {
        self.deps.log.partition(&stream.log_key()).is_some_and(|partition| self.partitions.contains(&partition))
    }

    /// Takes over partitions. Their streams continue at history's watermarks, because another recorder may have written
    /// rows since, and this recorder takes over its open gaps. Waits while history is down: without watermarks every
    /// first frame would look like a gap.
    pub(super) async fn accept_partitions(
        &mut self,
        buffer: &mut ReorderBuffer,
        partitions: &[Partition],
    ) -> Result<(), ConsumeError> {
        self.partitions.extend(partitions);
        self.publish_assigned();
        let streams = self.deps.assigned.borrow().clone();
        let history = self.deps.writer.history().clone();
        let mut warned = false;
        loop {
            self.heartbeat.beat();
            let why = match self
                .heartbeat
                .beat_while(LOAD_MAX * 2, tokio::time::timeout(LOAD_MAX, load(&history, &streams)))
                .await
            {
                Ok(Ok(Loaded { epochs, watermarks, gaps })) => {
                    self.deps.health.restored("history");
                    let newest: Vec<_> = epochs.iter().map(|row| (row.stream(), row.epoch)).collect();
                    self.deps.ledger.with(|ledger| ledger.set_epochs(newest));
                    buffer.seed_epochs(epochs);
                    buffer.raise_watermarks(
                        watermarks
                            .into_iter()
                            .map(|row| (row.stream, super::Watermark { position: row.position, ts: Some(row.ts) })),
                    );
                    self.deps.ledger.with(|ledger| ledger.load(gaps));
                    self.deps.ledger.gap_opened.notify_one();
                    return Ok(());
                }
                Ok(Err(HistoryError::Schema(why))) => return Err(ConsumeError::History(why)),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => format!("no answer within {} s", LOAD_MAX.as_secs()),
            };
            if !std::mem::replace(&mut warned, true) {
                warn!(
                    "cannot read the watermarks of partitions {partitions:?} from history, trying until it works: {why}"
                );
            }
            self.deps.health.degraded("history", &why);
            if !retry::wait(RETRY_AFTER, &self.stop).await {
                return Ok(());
            }
        }
    }

    /// Gives up partitions: drops their held items, offsets, streams and gaps from memory.
    pub(super) fn release_partitions(&mut self, buffer: &mut ReorderBuffer, partitions: &[Partition]) {
        for partition in partitions {
            self.partitions.remove(partition);
            buffer.forget(*partition);
        }
        self.deps.progress.release(partitions);
        self.publish_assigned();
        let assigned = self.deps.assigned.borrow().clone();
        self.deps.ledger.with(|ledger| ledger.retain_streams(|stream| assigned.contains(stream)));
    }
}

/// What history has of streams.
struct Loaded {
    epochs: Vec<EpochRow>,
    watermarks: Vec<Watermark>,
    gaps: Vec<Gap>,
}

async fn load(history: &Arc<dyn History>, streams: &[Stream]) -> Result<Loaded, HistoryError> {
    let epochs = history.epochs().await?;
    let watermarks = history.watermarks(streams).await?;
    let mut gaps = Vec::new();
    let keep = |gap: Gap| gaps.extend(streams.contains(&gap.stream).then_some(gap));
    each_gap(&**history, GapFilter::unfilled(), keep).await?;
    Ok(Loaded { epochs, watermarks, gaps })
}
