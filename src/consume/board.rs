//! Where every stream stands, as consumed and durable: for state, status, audits and the tail's questions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::log::Positions;
use crate::market::{Stream, Timestamp};

/// One stream's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// The next position expected: everything below is in history or in the ledger.
    pub next: Option<i64>,
    /// The exchange's time of the newest row, microseconds since 1970.
    pub last_ts: Option<i64>,
    /// When its newest frame arrived, by our clock, microseconds since 1970.
    pub last_received: Option<i64>,
    /// Connection its newest frame came over.
    pub connection: Option<i64>,
    /// Frames decoded since this process began.
    pub frames: u64,
    /// Frames that were behind: copies and late arrivals.
    pub behind: u64,
}

/// Every stream's standing, and the consumer's.
#[derive(Debug, Default)]
pub struct Board {
    streams: Mutex<HashMap<Stream, Standing>>,
    committed: Mutex<Positions>,
    /// Rows made durable since this process began.
    pub rows: AtomicU64,
    /// Frames consumed since this process began.
    pub frames: AtomicU64,
    /// Dead letters written since this process began.
    pub dead_letters: AtomicU64,
    /// Batches made durable since this process began.
    pub batches: AtomicU64,
    /// Microseconds that batches took to become durable, summed.
    pub insert_us: AtomicU64,
}

impl Board {
    /// Takes over what the consumer made durable.
    pub fn publish(&self, changed: impl IntoIterator<Item = (Stream, Standing)>, committed: &Positions) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
        self.set_committed(committed);
    }

    /// Takes over the committed positions.
    pub fn set_committed(&self, committed: &Positions) {
        let mut kept = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(committed.iter().map(|(partition, next)| (*partition, *next)));
    }

    /// Forgets the positions of partitions that are another recorder's now.
    pub fn release(&self, partitions: &[crate::log::Partition]) {
        let mut kept = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|partition, _| !partitions.contains(partition));
    }

    /// For each partition the next offset to consume.
    pub fn committed(&self) -> Positions {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One stream's standing.
    pub fn standing(&self, stream: &Stream) -> Standing {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(stream).copied().unwrap_or_default()
    }

    /// Every stream's standing.
    pub fn standings(&self) -> HashMap<Stream, Standing> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets a stream that is no longer recorded.
    pub fn forget(&self, stream: &Stream) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }

    /// When the newest frame of all arrived.
    pub fn last_received(&self) -> Option<Timestamp> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.values().filter_map(|standing| standing.last_received).max().map(Timestamp)
    }

    /// Counts a durable batch.
    pub fn count_batch(&self, rows: usize, took: std::time::Duration) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.insert_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}
