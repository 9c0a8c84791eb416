//! When each stream's newest frame arrived. Ingest writes it, without a lock for each frame.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::market::{Stream, Timestamp};

/// When each stream's newest frame arrived at a socket. [`super::Progress`] shows the same later, after log and
/// consumer: a stream that is late there is not silent.
#[derive(Debug, Default)]
pub struct LastSeen(Mutex<HashMap<Stream, Arc<AtomicI64>>>);

impl LastSeen {
    /// When the newest frame of a stream was received; `None` when none was.
    pub fn get(&self, stream: &Stream) -> Option<Timestamp> {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = streams.get(stream)?.load(Ordering::Relaxed);
        (at != 0).then_some(Timestamp(at))
    }

    /// The cell with the receive time of a stream's newest frame, microseconds since 1970.
    pub fn stamp(&self, stream: &Stream) -> Arc<AtomicI64> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.entry(stream.clone()).or_default().clone()
    }
}
