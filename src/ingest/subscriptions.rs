//! Which streams a connection carries, and which the exchange refuses.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::market::{Stream, Timestamp};

/// The subscriptions of every connection, as the exchange answered them.
#[derive(Debug, Default)]
pub struct Subscriptions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The streams that the exchange refuses, each with its words.
    refused: BTreeMap<Stream, String>,
    /// The newest connection of each stream, and when the exchange acknowledged the stream there.
    carried: HashMap<Stream, (i64, Timestamp)>,
}

impl Subscriptions {
    /// Why the exchange refuses a stream; `None` when it does not.
    pub fn refusal(&self, stream: &Stream) -> Option<String> {
        self.with(|inner| inner.refused.get(stream).cloned())
    }

    /// Every refused stream, with the exchange's words.
    pub fn refused(&self) -> BTreeMap<Stream, String> {
        self.with(|inner| inner.refused.clone())
    }

    /// Since when an open connection carries a stream; `None` when none does.
    pub fn carried_since(&self, stream: &Stream) -> Option<Timestamp> {
        self.with(|inner| inner.carried.get(stream).map(|(_, since)| *since))
    }

    /// Records that a connection carries these streams.
    pub(crate) fn accepted(&self, connection: i64, streams: &[Stream], now: Timestamp) {
        self.with(|inner| {
            for stream in streams {
                inner.refused.remove(stream);
                inner.carried.insert(stream.clone(), (connection, now));
            }
        });
    }

    /// Records that the exchange refuses a stream; returns whether that is new.
    pub(crate) fn refuse(&self, stream: Stream, reason: String) -> bool {
        self.with(|inner| {
            inner.carried.remove(&stream);
            inner.refused.insert(stream, reason).is_none()
        })
    }

    /// Records that a connection ended. Streams that another one carries by now stay.
    pub(crate) fn ended(&self, connection: i64) {
        self.with(|inner| inner.carried.retain(|_, (carrier, _)| *carrier != connection));
    }

    /// Forgets the streams of an exchange that are not recorded any more.
    pub(crate) fn retain(&self, is_recorded: impl Fn(&Stream) -> bool) {
        self.with(|inner| {
            inner.refused.retain(|stream, _| is_recorded(stream));
            inner.carried.retain(|stream, _| is_recorded(stream));
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        "binance:BTCUSDT:trade".parse().unwrap()
    }

    #[test]
    fn a_refusal_lasts_until_a_connection_carries_the_stream() {
        let subscriptions = Subscriptions::default();
        assert!(subscriptions.refuse(stream(), "-1121: Invalid symbol.".to_owned()));
        assert!(!subscriptions.refuse(stream(), "-1121: Invalid symbol.".to_owned()), "nothing new");
        assert_eq!(subscriptions.refusal(&stream()).as_deref(), Some("-1121: Invalid symbol."));
        subscriptions.accepted(7, &[stream()], Timestamp(1));
        assert!(subscriptions.refused().is_empty());
        assert_eq!(subscriptions.carried_since(&stream()), Some(Timestamp(1)));
    }

    #[test]
    fn a_stream_is_carried_until_its_newest_connection_ends() {
        let subscriptions = Subscriptions::default();
        subscriptions.accepted(7, &[stream()], Timestamp(1));
        subscriptions.accepted(8, &[stream()], Timestamp(2));
        subscriptions.ended(7);
        assert_eq!(subscriptions.carried_since(&stream()), Some(Timestamp(2)));
        subscriptions.ended(8);
        assert_eq!(subscriptions.carried_since(&stream()), None);
    }
}
