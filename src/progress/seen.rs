//! When each stream's newest frame arrived. Ingest writes it, without a lock for each frame.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::market::{Stream, Timestamp};

/// When each stream's newest frame arrived at a socket. [`super::Progress`] shows the same later, after log and
/// consumer: a stream that is late there is not silent.
#[derive(Debug, Default)]
pub struct LastSeen {
    streams: Mutex<HashMap<Stream, Arc<AtomicI64>>>,
    /// When the oldest frame of the append in progress was received; 0 when there is none.
    oldest_pending: AtomicI64,
}

impl LastSeen {
    /// When the newest frame of a stream was received; `None` when none was.
    pub fn get(&self, stream: &Stream) -> Option<Timestamp> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let at = streams.get(stream)?.load(Ordering::Relaxed);
        (at != 0).then_some(Timestamp(at))
    }

    /// How long the append in progress has taken. Beyond some seconds the sockets are not read, so a silent stream
    /// proves nothing.
    pub fn append_delay(&self, now: Timestamp) -> Duration {
        match self.oldest_pending.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros(u64::try_from(now.micros() - since).unwrap_or(0)),
        }
    }

    /// Says when the oldest frame of the append that begins now was received; `None` when there is none.
    pub fn set_oldest_pending(&self, received_at: Option<Timestamp>) {
        self.oldest_pending.store(received_at.map_or(0, Timestamp::micros), Ordering::Relaxed);
    }

    /// The cell with the receive time of a stream's newest frame, microseconds since 1970.
    pub fn stamp(&self, stream: &Stream) -> Arc<AtomicI64> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.entry(stream.clone()).or_default().clone()
    }
}
