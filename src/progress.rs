//! How far every stream is seen, consumed and durable. The state file, status, audits and the tail read it; ingest and
//! the consumer write it.
//!
//! A frame passes three stages. Each stage has one owner, and the next one learns of it only when it is complete:
//!
//! | stage | means | where |
//! |---|---|---|
//! | seen | a socket received it | [`LastSeen`]: ingest stamps the time of each stream's newest frame |
//! | pending | the consumer read it, and its rows are not durable yet | `consume::ReorderBuffer` with one `StreamState` per stream, and the batch that `consume::worker` repeats. They hold the frames themselves, belong to one task, and vanish with a partition that another recorder takes over. Here they would cost a lock per frame, and readers could mistake a pending position for a durable one |
//! | durable | its rows and the gaps before it are in history | [`Progress`]: [`Progress::publish`] runs after the insert, [`Progress::set_committed`] after the commit |
//!
//! So what is pending is not here.

mod outage;
mod seen;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::histogram::Histogram;
use crate::log::Offsets;
use crate::market::{Stream, Timestamp};

pub use outage::Outage;
pub use seen::LastSeen;

/// One stream's progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StreamProgress {
    /// The next expected position. Every lower one is in history or in the ledger.
    pub next: Option<i64>,
    /// The exchange's time of the newest row, microseconds since 1970.
    pub last_ts: Option<i64>,
    /// When the newest frame arrived, by our clock, microseconds since 1970.
    pub last_received: Option<i64>,
    /// Connection of the newest frame.
    pub connection: Option<i64>,
    /// Frames decoded since this process began.
    pub frames: u64,
    /// Frames with a position below `next`: copies and late arrivals.
    pub behind: u64,
    /// The numbering of `next`: 0, or the number of the last one that began again.
    pub epoch: i64,
}

/// The progress of every stream and of the consumer.
#[derive(Debug, Default)]
pub struct Progress {
    streams: Mutex<HashMap<Stream, StreamProgress>>,
    committed: Mutex<Offsets>,
    /// Rows made durable since this process began.
    pub rows: AtomicU64,
    /// Frames consumed since this process began.
    pub frames: AtomicU64,
    /// Dead letters written since this process began.
    pub dead_letters: AtomicU64,
    outages: Mutex<Vec<Outage>>,
    /// Batches made durable since this process began.
    pub batches: AtomicU64,
    batch_times: Mutex<BatchTimes>,
}

/// How long batches took, in seconds, since this process began.
#[derive(Clone, Debug)]
pub struct BatchTimes {
    /// Time to become durable.
    pub insert: Histogram,
    /// Time from the arrival of a batch's newest frame until the batch is durable.
    pub delay: Histogram,
}

/// An embedded store syncs in milliseconds; one on a busy network takes seconds.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Default for BatchTimes {
    fn default() -> Self {
        Self { insert: Histogram::new(SECONDS), delay: Histogram::new(SECONDS) }
    }
}

impl Progress {
    /// Stores the progress that the consumer made durable.
    pub fn publish(&self, changed: impl IntoIterator<Item = (Stream, StreamProgress)>, committed: &Offsets) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
        self.set_committed(committed);
    }

    /// Stores the committed offsets.
    pub fn set_committed(&self, committed: &Offsets) {
        let mut kept = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(committed.iter().map(|(partition, next)| (*partition, *next)));
    }

    /// Forgets the offsets of partitions that another recorder consumes now.
    pub fn release(&self, partitions: &[crate::log::Partition]) {
        let mut kept = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|partition, _| !partitions.contains(partition));
    }

    /// The next offset to consume of each partition.
    pub fn committed(&self) -> Offsets {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One stream's progress.
    pub fn stream(&self, stream: &Stream) -> StreamProgress {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(stream).copied().unwrap_or_default()
    }

    /// Every stream's progress.
    pub fn streams(&self) -> HashMap<Stream, StreamProgress> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets a stream that is no longer recorded.
    pub fn forget(&self, stream: &Stream) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }

    /// When the newest frame of any stream arrived.
    pub fn last_received(&self) -> Option<Timestamp> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.values().filter_map(|progress| progress.last_received).max().map(Timestamp)
    }

    /// Stores which streams cannot be decoded now.
    pub fn set_outages(&self, outages: Vec<Outage>) {
        *self.outages.lock().unwrap_or_else(PoisonError::into_inner) = outages;
    }

    /// The outage of a stream, or of its whole exchange.
    pub fn outage(&self, stream: &Stream) -> Option<Outage> {
        let outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = outages.iter().find(|outage| outage.stream.as_ref() == Some(stream));
        let whole = || outages.iter().find(|outage| outage.stream.is_none() && outage.exchange == stream.exchange);
        of_it.or_else(whole).cloned()
    }

    /// Counts a durable batch: how long the insert took, and the delay since the arrival of its newest frame.
    pub fn count_batch(&self, rows: usize, took: Duration, delay: Option<Duration>) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        let mut times = self.batch_times.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert.observe(took.as_secs_f64());
        if let Some(delay) = delay {
            times.delay.observe(delay.as_secs_f64());
        }
    }

    /// How long batches took.
    pub fn batch_times(&self) -> BatchTimes {
        self.batch_times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
