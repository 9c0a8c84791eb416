//! The port of the durable event log, and its contract.
//!
//! A log stores frames in order, per partition, until they are consumed and expired. The contract suite in
//! `tests/it/contracts` checks these promises on every backend:
//!
//! 1. **Append is durable.** When [`Log::append`] returns `Ok`, every frame of the call survives SIGKILL and a power
//!    cut. On an error, none, some or all of the frames may be in the log or still in flight: the caller appends all of
//!    them again. Consumers then see duplicates, which are harmless.
//! 2. **Order.** Frames with the same key are in one partition, in the order of their appends.
//! 3. **Offsets are dense and increase.** The offset of a frame never changes. A committed offset is the *next* offset
//!    to read.
//! 4. **A consumer starts at the committed offset**, or at the first stored frame if there is none, and receives every
//!    frame from there, in order, at least once.
//! 5. **Commit is explicit.** Only [`Consumer::commit`] commits, and a committed offset never decreases.
//! 6. **Retention drops only consumed frames.** [`Log::retain`] removes old frames by age and by size, and only below
//!    the committed offset. A backend whose server drops frames itself ([`kafka`]) removes nothing here; its
//!    documentation says what the operator must configure instead.
//! 7. **A full disk refuses appends.** `append` returns [`LogError::Unavailable`]; the log stays readable, and commits
//!    continue where the backend allows it. Nothing is overwritten. The same holds when no inode, file descriptor or
//!    quota is left, when a file reaches its largest size, and when somebody removed the log's file.
//!
//! This module knows frames and offsets. It must not know what a frame contains.

pub mod embedded;
pub mod faulty;
pub mod kafka;
mod options;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

pub use options::{Backend, KafkaOptions, Options};

use crate::market::Frame;

/// The number of a partition, from 0. The embedded log has only partition 0.
pub type Partition = i32;

/// The next offset to read, by partition.
pub type Offsets = BTreeMap<Partition, i64>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A later call may succeed: the disk is full, the broker is down. Retry with back-off.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// No call succeeds until an operator acts: a foreign schema, a damaged file, a missing permission.
    #[error("log unusable: {0}")]
    Fatal(String),
    /// A file of the log does not contain what was written to it. No call succeeds until an operator acts.
    #[error("{0}")]
    Damaged(String),
}

impl LogError {
    /// The text without the kind, for health.
    pub fn into_reason(self) -> String {
        match self {
            Self::Unavailable(why) | Self::Fatal(why) | Self::Damaged(why) => why,
        }
    }
}

/// A frame with its partition and offset.
#[derive(Clone, Debug)]
pub struct Record {
    /// The partition of the frame.
    pub partition: Partition,
    /// The offset of the frame in the partition.
    pub offset: i64,
    /// The frame.
    pub frame: Frame,
}

/// One result of [`Consumer::next`].
#[derive(Debug)]
pub enum Delivery {
    /// Frames, possibly none.
    Records {
        /// Ascending by offset within each partition.
        records: Vec<Record>,
        /// Whether the log already has further frames, so that the next call returns at once.
        more: bool,
    },
    /// This consumer owns these partitions from now on; their records follow. The caller reads the watermarks of their
    /// streams from history before it decodes the first record.
    Assigned(Vec<Partition>),
    /// This consumer is about to lose these partitions. The caller makes the delivered records durable and sends the
    /// offsets to commit; the rebalance waits for that, at most `deadline`.
    Revoked {
        /// The revoked partitions.
        partitions: Vec<Partition>,
        /// The longest time that the log waits for `done`.
        deadline: Duration,
        /// Receives the offsets to commit. Dropping it commits nothing.
        done: tokio::sync::oneshot::Sender<Offsets>,
    },
}

/// Reads the log in order. Each worker has its own consumer.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery. It returns at least once a second, without records if there are none, so that the
    /// caller's loop can send its heartbeat. Cancelling the call loses nothing.
    async fn next(&mut self) -> Result<Delivery, LogError>;

    /// Records that all frames below these offsets are durable in history. Skips partitions that this consumer has
    /// lost: their new owner commits them.
    async fn commit(&mut self, offsets: &Offsets) -> Result<(), LogError>;

    /// Stops (`true`) or resumes (`false`) the delivery of records from all partitions, for back-pressure. The caller
    /// continues to call [`Consumer::next`] while paused.
    fn pause(&mut self, paused: bool);
}

/// What the log contains.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct LogUsage {
    /// First stored offset, per partition.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub first: Offsets,
    /// Next offset to write, per partition.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub end: Offsets,
    /// Next offset to consume, per partition; a partition without a commit is absent.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub committed: Offsets,
    /// Bytes on disk; `None` if the backend cannot tell.
    pub bytes: Option<u64>,
}

impl LogUsage {
    /// The number of frames that are stored and not committed.
    pub fn lag(&self) -> i64 {
        self.end
            .iter()
            .map(|(partition, end)| {
                let first = self.first.get(partition).copied().unwrap_or(0);
                end - self.committed.get(partition).copied().unwrap_or(first).max(first)
            })
            .sum()
    }
}

/// The durable event log.
#[async_trait]
pub trait Log: Send + Sync {
    /// Appends frames; they are durable when it returns `Ok` (promise 1).
    async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError>;

    /// Opens a consumer at the committed offsets (promise 4).
    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError>;

    /// Reads at most `limit` records of a partition, starting at `offset` or the first stored one, for replay. Empty at
    /// the end of the partition.
    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError>;

    /// The partition that frames with this key go to; `None` until the log knows the number of partitions.
    fn partition(&self, key: &str) -> Option<Partition>;

    /// First, end and committed offsets, and the size.
    async fn usage(&self) -> Result<LogUsage, LogError>;

    /// Drops consumed frames that were received before `older_than`, and then the oldest consumed ones until the log
    /// fits into `bytes` (promise 6). Returns the number of dropped frames; 0 if the backend's server drops frames
    /// itself.
    async fn retain(&self, older_than: crate::market::Timestamp, bytes: u64) -> Result<u64, LogError>;

    /// What is wrong with the log's own files now, although no call has failed yet: somebody removed them, or a read has
    /// found damage. Cheap enough for once a second.
    fn trouble(&self) -> Option<LogError> {
        None
    }

    /// Reads the log's own files and looks for damage. It may take as long as reading all of them; dropping the future
    /// ends it.
    async fn find_damage(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Flushes and closes the log. Later calls fail; another `close` succeeds.
    async fn close(&self) -> Result<(), LogError>;
}
