//! Reads the log again through the present decoder into history. Idempotent: equal rows stay, and a newer decoder's
//! rows replace an older one's. Commits no offset and opens no gap: the consumer did both.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::consume::{Force, Moment, ReadyBatch, ReorderBuffer, settle};
use crate::exchange::Dialect;
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::history::History;
use crate::log::{Log, Partition, Record};
use crate::market::Timestamp;
use crate::writer::Writer;

/// Records per read.
const READ_MAX: usize = 4_096;

/// A bound in the log: an offset, or the receive time of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// By offset.
    Offset(i64),
    /// By receive time.
    Time(Timestamp),
}

impl Bound {
    /// Parses an offset, an RFC 3339 time or a date.
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(offset) => Some(Self::Offset(offset)),
            Err(_) => Timestamp::parse(text).map(Self::Time),
        }
    }

    /// Whether the bound comes after a record.
    fn is_after(self, record: &Record) -> bool {
        match self {
            Self::Offset(offset) => record.offset < offset,
            Self::Time(at) => record.frame.received_at < at,
        }
    }
}

/// What to replay, and where to.
pub struct Replay {
    /// The log to read.
    pub log: Arc<dyn Log>,
    /// The history to write.
    pub history: Arc<dyn History>,
    /// The present decoders.
    pub dialects: Vec<Arc<dyn Dialect>>,
    /// First record; `None` is the first one kept.
    pub from: Option<Bound>,
    /// End, exclusive; `None` is the end of the log.
    pub to: Option<Bound>,
    /// The name of this recorder in dead letters.
    pub instance: String,
}

/// The outcome of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReplayReport {
    /// Frames decoded again.
    pub frames: u64,
    /// Trades and closed klines decoded from them.
    pub rows: u64,
    /// Frames that still cannot be decoded.
    pub dead_letters: u64,
}

impl Replay {
    /// How many frames a replay reads. Only offsets limit the count: a time is found by reading.
    pub async fn frames(&self) -> anyhow::Result<u64> {
        let usage = self.log.usage().await.context("read the log's offsets")?;
        let read = usage.end.iter().map(|(partition, &end)| {
            let first = usage.first.get(partition).copied().unwrap_or(0);
            let from = if let Some(Bound::Offset(offset)) = self.from { offset.max(first) } else { first };
            let to = if let Some(Bound::Offset(offset)) = self.to { offset.min(end) } else { end };
            (to - from).max(0)
        });
        Ok(u64::try_from(read.sum::<i64>()).unwrap_or(0))
    }

    /// Replays every partition; calls `progress` with the number of frames of each read.
    pub async fn run(&self, progress: &dyn Fn(u64), stop: &CancellationToken) -> anyhow::Result<ReplayReport> {
        let usage = self.log.usage().await.context("read the log's offsets")?;
        let mut report = ReplayReport::default();
        for (&partition, &end) in &usage.end {
            let first = usage.first.get(&partition).copied().unwrap_or(0);
            let from = match self.from {
                Some(Bound::Offset(offset)) => offset.max(first),
                _ => first,
            };
            self.partition(partition, from, end, progress, stop, &mut report).await?;
        }
        Ok(report)
    }

    async fn partition(
        &self,
        partition: Partition,
        mut offset: i64,
        end: i64,
        progress: &dyn Fn(u64),
        stop: &CancellationToken,
        report: &mut ReplayReport,
    ) -> anyhow::Result<()> {
        let mut buffer = ReorderBuffer::new(self.dialects.iter().cloned()).with_recorder(&self.instance);
        let writer = Writer::new(self.history.clone(), Arc::default(), Health::default()).with_recorder(&self.instance);
        let heartbeat = Heartbeats::default().watch("replay");
        buffer.seed_epochs(self.history.epochs().await.context("read history's epochs")?);
        while offset < end && !stop.is_cancelled() {
            let records = self.log.read(partition, offset, READ_MAX).await.context("read the log")?;
            let Some(last) = records.last() else { return Ok(()) };
            offset = last.offset + 1;
            progress(records.len() as u64);
            let over = self.to.is_some_and(|to| !to.is_after(last));
            for record in records {
                let early = self.from.is_some_and(|from| from.is_after(&record));
                let late = self.to.is_some_and(|to| !to.is_after(&record));
                if !early && !late {
                    report.frames += 1;
                    buffer.push(record);
                }
            }
            buffer.declare_gaps(&Moment::default(), Force::All);
            let mut ready = buffer.take_ready();
            let settled = settle(&self.history, &Health::default(), &mut ready, &heartbeat, stop).await;
            if !settled.context("compare with history")? {
                return Ok(());
            }
            let ReadyBatch { rows, .. } = ready;
            report.rows += (rows.batch.trades.len() + rows.batch.klines.len()) as u64;
            report.dead_letters += rows.batch.dead_letters.len() as u64;
            writer.write(&rows, &heartbeat, stop).await.context("write to history")?;
            if over {
                return Ok(());
            }
        }
        Ok(())
    }
}
