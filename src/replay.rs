//! Reads the log again through today's decoder into history. Idempotent: what is there stays, what an older
//! decoder made differently is replaced. It commits nothing and opens no gap: the first time did.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::consume::{ReadyBatch, ReorderBuffer};
use crate::exchange::Dialect;
use crate::health::Health;
use crate::heartbeat::Heartbeats;
use crate::history::History;
use crate::log::{Log, Partition, Record};
use crate::market::Timestamp;
use crate::writer::Writer;

/// Records of one read.
const READ_MAX: usize = 4_096;

/// A place in the log: an offset, or the time a frame was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// By offset.
    Offset(i64),
    /// By the time of receipt.
    Time(Timestamp),
}

impl Bound {
    /// Reads an offset, an RFC 3339 time or a date.
    pub fn parse(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(offset) => Some(Self::Offset(offset)),
            Err(_) => Timestamp::parse(text).map(Self::Time),
        }
    }

    /// Whether a record lies before it.
    fn is_after(self, record: &Record) -> bool {
        match self {
            Self::Offset(offset) => record.offset < offset,
            Self::Time(at) => record.frame.received_at < at,
        }
    }
}

/// What is replayed, and into what.
pub struct Replay {
    /// The log that is read.
    pub log: Arc<dyn Log>,
    /// The history that is written.
    pub history: Arc<dyn History>,
    /// Today's decoders.
    pub dialects: Vec<Arc<dyn Dialect>>,
    /// From here on; none is the first frame kept.
    pub from: Option<Bound>,
    /// Up to here, not included; none is the end.
    pub to: Option<Bound>,
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReplayReport {
    /// Frames decoded again.
    pub frames: u64,
    /// Trades and closed klines they made.
    pub rows: u64,
    /// Frames that still cannot be decoded.
    pub dead_letters: u64,
}

impl Replay {
    /// Frames that are read: as offsets bound them, because where a time lies only the reading tells.
    pub async fn frames(&self) -> anyhow::Result<u64> {
        let usage = self.log.usage().await.context("read the log's positions")?;
        let read = usage.end.iter().map(|(partition, &end)| {
            let first = usage.first.get(partition).copied().unwrap_or(0);
            let from = if let Some(Bound::Offset(offset)) = self.from { offset.max(first) } else { first };
            let to = if let Some(Bound::Offset(offset)) = self.to { offset.min(end) } else { end };
            (to - from).max(0)
        });
        Ok(u64::try_from(read.sum::<i64>()).unwrap_or(0))
    }

    /// Replays every partition; `progress` is told how many frames were read.
    pub async fn run(&self, progress: &dyn Fn(u64), stop: &CancellationToken) -> anyhow::Result<ReplayReport> {
        let usage = self.log.usage().await.context("read the log's positions")?;
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
        let mut buffer = ReorderBuffer::new(self.dialects.iter().cloned());
        let writer = Writer::new(self.history.clone(), Arc::default(), Health::default());
        let heartbeat = Heartbeats::default().watch("replay");
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
            buffer.declare_gaps(Timestamp(0), true);
            let ReadyBatch { rows, .. } = buffer.take_ready();
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
