//! The streams that the exchange refuses, and when to request each again. One socket's connections share it, so that a
//! reconnect neither forgets a refusal nor asks sooner. Pure.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::market::Stream;

/// The longest wait before a refused stream is requested again: a symbol that is listed later is recorded within it.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// The refused streams of one socket; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<BTreeMap<Stream, Refused>>>);

#[derive(Clone, Copy, Debug)]
struct Refused {
    wait: Duration,
    again_at: Instant,
}

impl Refusals {
    /// The exchange refused a stream: request it again after `first_wait`, which doubles with every refusal.
    pub(super) fn refused(&self, stream: &Stream, first_wait: Duration, now: Instant) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = refused.get(stream).map_or(first_wait, |before| (before.wait * 2).min(WAIT_MAX));
        refused.insert(stream.clone(), Refused { wait, again_at: now + wait });
    }

    /// The exchange accepted these streams.
    pub(super) fn accepted(&self, streams: &[Stream]) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|stream, _| !streams.contains(stream));
    }

    /// Whether a stream must not be requested yet.
    pub(super) fn waits(&self, stream: &Stream, now: Instant) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(stream).is_some_and(|refused| now < refused.again_at)
    }

    /// When the next of these streams may be requested again.
    pub(super) fn next_at(&self, streams: &[Stream]) -> Option<Instant> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.iter().filter_map(|stream| Some(refused.get(stream)?.again_at)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_with_every_refusal_up_to_an_hour_and_ends_with_an_acceptance() {
        let (refusals, stream): (_, Stream) = (Refusals::default(), "binance:BTCUSDT:trade".parse().unwrap());
        let first = Duration::from_secs(10);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let now = Instant::now();
            refusals.refused(&stream, first, now);
            assert!(refusals.waits(&stream, now));
            waits.push((refusals.next_at(std::slice::from_ref(&stream)).unwrap() - now).as_secs());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600]);
        refusals.accepted(std::slice::from_ref(&stream));
        assert!(!refusals.waits(&stream, Instant::now()));
        refusals.refused(&stream, first, Instant::now());
        assert!(!refusals.waits(&stream, Instant::now() + first), "the first wait again");
    }
}
