//! The port of the durable event log, and its contract.
//!
//! A log keeps frames in order, per partition, until they are consumed and old. Its promises,
//! which the contract suite in `tests/it/contracts` holds every backend to:
//!
//! 1. **Append is durable.** When [`Log::append`] returns `Ok`, every frame of the call survives
//!    SIGKILL and a power cut. On an error, none, some or all of them may be in the log, or on their
//!    way to it: the caller appends all of them again, and consumers see duplicates, which is harmless.
//! 2. **Order.** Frames with one key stay in the order they were appended, in one partition.
//! 3. **Positions are dense and grow.** A frame's offset never changes. Committed positions name
//!    the *next* offset to read.
//! 4. **A consumer starts at the committed position**, or at the first frame kept when none is
//!    committed, and sees every frame from there, in order, at least once.
//! 5. **Commit is explicit.** Nothing is committed but by [`Consumer::commit`]; it never moves back.
//! 6. **Retention never drops what was not consumed.** [`Log::retain`] removes old frames by age and
//!    by size, only below the committed position. A backend whose server drops frames by itself
//!    ([`kafka`]) removes nothing here, and says what the user must see to.
//! 7. **A full disk refuses.** `append` returns [`LogError::Unavailable`], the log stays readable
//!    and commits keep working where the backend can; nothing is overwritten.
//!
//! This room knows frames and positions; it does not know what is inside a frame.

pub mod embedded;
pub mod faulty;
pub mod kafka;
mod options;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

pub use options::{Backend, KafkaOptions, Options};

use crate::market::Frame;

/// A partition's number; the embedded log has one, number 0.
pub type Partition = i32;

/// For each partition the next offset to read.
pub type Offsets = BTreeMap<Partition, i64>;

/// Why the log did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It may work later: the disk is full, the broker is away. Retry with back-off.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// It will not work without a person: another schema, a damaged file, no permission.
    #[error("log unusable: {0}")]
    Fatal(String),
}

/// A frame with its place in the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which partition it is in.
    pub partition: Partition,
    /// Its offset there.
    pub offset: i64,
    /// The frame.
    pub frame: Frame,
}

/// What a consumer is handed next.
#[derive(Debug)]
pub enum Delivery {
    /// Frames in order; `more` says that the log holds further ones already.
    Records {
        /// In offset order per partition.
        records: Vec<Record>,
        /// Whether another call would return at once.
        more: bool,
    },
    /// These partitions are ours from now on; records of them follow. Their streams' watermarks
    /// must be taken from history before the first record is decoded.
    Assigned(Vec<Partition>),
    /// These partitions are about to leave us: make durable and commit what was delivered of them,
    /// then drop the value to let the rebalance go on. After `deadline` it goes on regardless.
    Revoked {
        /// The partitions that leave.
        partitions: Vec<Partition>,
        /// How long the log waits.
        deadline: Duration,
        /// Answer with the positions to commit; dropping it commits nothing.
        done: tokio::sync::oneshot::Sender<Offsets>,
    },
}

/// Reads the log in order. One per worker.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery; at least once a second it returns, with no records when there
    /// are none, so that the caller's loop can beat. Safe to cancel: nothing is lost.
    async fn next(&mut self) -> Result<Delivery, LogError>;

    /// Records that everything below these positions is durable elsewhere. Positions of partitions that have
    /// left are passed over: they are their new owner's to commit.
    async fn commit(&mut self, offsets: &Offsets) -> Result<(), LogError>;

    /// Stops delivering records of all partitions (`true`) or resumes (`false`), for
    /// back-pressure; [`Consumer::next`] must still be called.
    fn pause(&mut self, paused: bool);
}

/// How much a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct LogUsage {
    /// First offset kept, per partition.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub first: Offsets,
    /// Next offset to be written, per partition.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub end: Offsets,
    /// Next offset to be consumed, per partition.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub committed: Offsets,
    /// Bytes on disk, when the backend knows.
    pub bytes: Option<u64>,
}

impl LogUsage {
    /// Frames written but not committed.
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
    /// Appends frames; durable when it returns (promise 1).
    async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError>;

    /// A new consumer at the committed positions.
    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError>;

    /// Frames of one partition from `offset` on, at most `limit`, for replay; empty at the end.
    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError>;

    /// Which partition takes the frames of this key; `None` while the log cannot know.
    fn partition(&self, key: &str) -> Option<Partition>;

    /// First, end and committed positions, and the size.
    async fn usage(&self) -> Result<LogUsage, LogError>;

    /// Drops consumed frames that are older than `older_than` or beyond `bytes`; returns how many, 0 where
    /// the backend's server does it by itself.
    async fn retain(&self, older_than: crate::market::Timestamp, bytes: u64) -> Result<u64, LogError>;

    /// Flushes and closes; later calls fail.
    async fn close(&self) -> Result<(), LogError>;
}
