//! Counts the frames of streams that this recorder does not record. Ingest drops them: an exchange that sends invented
//! names would otherwise fill the log and the memory of its consumers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::market::{Exchange, small_letters};

/// Time between two warnings: one is enough to notice, and the counter has the rest.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// Most characters kept of a name: the exchange chooses it.
const NAME_MAX: usize = 80;

/// Frames of streams that are not recorded, since the process started.
#[derive(Debug, Default)]
pub struct Unrequested {
    frames: AtomicU64,
    bytes: AtomicU64,
    newest: Mutex<String>,
}

impl Unrequested {
    /// How many frames were dropped.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The exchange's name of the stream of the newest one; `None` when none was dropped.
    pub fn newest(&self) -> Option<String> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        (!newest.is_empty()).then(|| newest.clone())
    }

    fn count(&self, name: &str, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.clear();
        newest.extend(name.chars().take(NAME_MAX).flat_map(char::escape_debug));
    }
}

/// Drops the frames of one exchange that nobody requested, and warns about them.
#[derive(Debug)]
pub(super) struct Dropper {
    exchange: Exchange,
    /// Streams that were recorded until the last reload: their last frames are still on their way, and no warning.
    former: HashSet<Box<str>>,
    /// Dropped since the last warning.
    unreported: u64,
    warned_at: Option<Instant>,
}

impl Dropper {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self { exchange, former: HashSet::new(), unreported: 0, warned_at: None }
    }

    /// Replaces the names of the streams that are no longer recorded.
    pub(super) fn set_former(&mut self, names: impl IntoIterator<Item = Box<str>>) {
        self.former = names.into_iter().collect();
    }

    /// Counts a frame that is dropped.
    pub(super) fn count(&mut self, name: &str, bytes: usize, unrequested: &Unrequested) {
        unrequested.count(name, bytes);
        if self.former.contains(name) {
            return;
        }
        self.unreported += 1;
        if self.warned_at.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            return;
        }
        let (exchange, frames) = (self.exchange, self.unreported);
        let name = unrequested.newest().unwrap_or_default();
        warn!(
            EXCHANGE = %exchange,
            "{exchange} sends streams that this recorder did not subscribe to: dropped {frames} frames, the newest of {name}"
        );
        (self.unreported, self.warned_at) = (0, Some(Instant::now()));
    }
}

/// The name as we write it when the exchange writes the symbol with capitals; `None` when it is the same.
pub(super) fn with_small_symbol(name: &str) -> Option<String> {
    if !name.chars().any(char::is_uppercase) {
        return None;
    }
    let (symbol, channel) = name.split_once('@')?;
    let mut small: String = small_letters(symbol).collect();
    small.push('@');
    small.push_str(channel);
    (small != name).then_some(small)
}
