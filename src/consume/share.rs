//! Which streams are this recorder's: those of the partitions that the log has assigned to it. The others' are another
//! recorder's, whose rows and gaps reach the same history.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::gap::Gap;
use crate::history::{GapFilter, History, HistoryError, Watermark};
use crate::log::Partition;
use crate::market::Stream;

use super::worker::Worker;
use super::{ConsumeError, Sorter};

/// How long one look into history may take before it is tried again.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How soon a history that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// Takes over what is recorded now, when that has changed.
    pub(super) fn follow(&mut self) {
        if self.parts.streams.has_changed().unwrap_or(false) {
            self.share_out();
        }
    }

    /// Tells everybody which streams are ours, when that has changed.
    fn share_out(&mut self) {
        let mut ours = self.parts.streams.borrow_and_update().clone();
        ours.retain(|stream| self.is_ours(stream));
        self.parts.ours.send_if_modified(|known| {
            let changed = *known != ours;
            *known = ours;
            changed
        });
    }

    fn is_ours(&self, stream: &Stream) -> bool {
        self.parts.log.partition(&stream.log_key()).is_some_and(|partition| self.partitions.contains(&partition))
    }

    /// Takes over partitions: their streams go on where history is, for another recorder may have written since we
    /// looked last, and its gaps are ours. Waits for a history that is away: without it every first frame would
    /// look like a hole.
    pub(super) async fn adopt(&mut self, sorter: &mut Sorter, partitions: &[Partition]) -> Result<(), ConsumeError> {
        self.partitions.extend(partitions);
        self.share_out();
        let streams = self.parts.ours.borrow().clone();
        let history = self.parts.writer.history().clone();
        loop {
            self.heartbeat.beat();
            let why = match self
                .heartbeat
                .beat_while(LOOK_MAX * 2, tokio::time::timeout(LOOK_MAX, look(&history, &streams)))
                .await
            {
                Ok(Ok((watermarks, gaps))) => {
                    self.parts.health.restored("history");
                    sorter.adopt(watermarks.into_iter().map(|watermark| (watermark.stream, watermark.position)));
                    self.parts.ledger.with(|ledger| ledger.adopt(gaps));
                    self.parts.ledger.news.notify_one();
                    return Ok(());
                }
                Ok(Err(HistoryError::Schema(why))) => return Err(ConsumeError::History(why)),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => format!("no answer within {} s", LOOK_MAX.as_secs()),
            };
            warn!("cannot look up where the streams of partitions {partitions:?} stand: {why}");
            self.parts.health.degraded("history", &why);
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Lets partitions go.
    pub(super) fn release(&mut self, sorter: &mut Sorter, partitions: &[Partition]) {
        for partition in partitions {
            self.partitions.remove(partition);
            sorter.forget(*partition);
        }
        self.parts.board.release(partitions);
        self.share_out();
        let ours = self.parts.ours.borrow().clone();
        self.parts.ledger.with(|ledger| ledger.release(|stream| ours.contains(stream)));
    }
}

async fn look(history: &Arc<dyn History>, streams: &[Stream]) -> Result<(Vec<Watermark>, Vec<Gap>), HistoryError> {
    let watermarks = history.watermarks(streams).await?;
    let mut gaps = history.gaps(&GapFilter::default()).await?;
    gaps.retain(|gap| streams.contains(&gap.stream));
    Ok((watermarks, gaps))
}
