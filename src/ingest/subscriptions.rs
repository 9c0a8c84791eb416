//! Which streams a connection carries, and which the exchange refuses.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::market::{Stream, Timestamp};

/// The subscriptions of every connection, as the exchange answered them.
#[derive(Debug, Default)]
pub struct Subscriptions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The streams that the exchange refuses on some connection, each with its words.
    refused: BTreeMap<Stream, String>,
    /// The connections of each stream, the newest last, and when the exchange acknowledged the stream there.
    carried: HashMap<Stream, Vec<(i64, Timestamp)>>,
}

impl Inner {
    fn remove(&mut self, stream: &Stream, connection: i64) {
        if let Some(carriers) = self.carried.get_mut(stream) {
            carriers.retain(|(carrier, _)| *carrier != connection);
            if carriers.is_empty() {
                self.carried.remove(stream);
            }
        }
    }
}

impl Subscriptions {
    /// Why the exchange refuses a stream; `None` when it does not, or when another connection carries it.
    pub fn refusal(&self, stream: &Stream) -> Option<String> {
        self.with(|inner| inner.refused.get(stream).filter(|_| !inner.carried.contains_key(stream)).cloned())
    }

    /// Every refused stream that no connection carries, with the exchange's words.
    pub fn refused(&self) -> BTreeMap<Stream, String> {
        self.with(|inner| {
            let refused = inner.refused.iter().filter(|(stream, _)| !inner.carried.contains_key(*stream));
            refused.map(|(stream, why)| (stream.clone(), why.clone())).collect()
        })
    }

    /// Since when an open connection carries a stream, the first of several; `None` when none does.
    pub fn carried_since(&self, stream: &Stream) -> Option<Timestamp> {
        self.with(|inner| inner.carried.get(stream)?.iter().map(|(_, since)| *since).min())
    }

    /// The newest open connection that carries a stream; `None` when none does.
    pub fn carrier(&self, stream: &Stream) -> Option<i64> {
        self.with(|inner| inner.carried.get(stream)?.last().map(|(connection, _)| *connection))
    }

    /// Records that a connection carries these streams.
    pub(crate) fn accepted(&self, connection: i64, streams: &[Stream], now: Timestamp) {
        self.with(|inner| {
            for stream in streams {
                inner.refused.remove(stream);
                inner.remove(stream, connection);
                inner.carried.entry(stream.clone()).or_default().push((connection, now));
            }
        });
    }

    /// Records that the exchange refuses a stream on a connection; returns whether that is new.
    pub(crate) fn refuse(&self, connection: i64, stream: Stream, reason: String) -> bool {
        self.with(|inner| {
            inner.remove(&stream, connection);
            inner.refused.insert(stream, reason).is_none()
        })
    }

    /// Records that a connection ended. Streams that another one carries by now stay.
    pub(crate) fn ended(&self, connection: i64) {
        self.with(|inner| {
            inner.carried.retain(|_, carriers| {
                carriers.retain(|(carrier, _)| *carrier != connection);
                !carriers.is_empty()
            });
        });
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
        assert!(subscriptions.refuse(6, stream(), "-1121: Invalid symbol.".to_owned()));
        assert!(!subscriptions.refuse(6, stream(), "-1121: Invalid symbol.".to_owned()), "nothing new");
        assert_eq!(subscriptions.refusal(&stream()).as_deref(), Some("-1121: Invalid symbol."));
        subscriptions.accepted(7, &[stream()], Timestamp(1));
        assert!(subscriptions.refused().is_empty());
        assert_eq!(subscriptions.carried_since(&stream()), Some(Timestamp(1)));
    }

    #[test]
    fn a_stream_on_two_connections_is_carried_while_one_of_them_is_open() {
        let subscriptions = Subscriptions::default();
        subscriptions.accepted(7, &[stream()], Timestamp(1));
        subscriptions.accepted(8, &[stream()], Timestamp(2));
        assert_eq!(
            (subscriptions.carrier(&stream()), subscriptions.carried_since(&stream())),
            (Some(8), Some(Timestamp(1)))
        );
        subscriptions.ended(8);
        assert_eq!(
            (subscriptions.carrier(&stream()), subscriptions.carried_since(&stream())),
            (Some(7), Some(Timestamp(1)))
        );
        subscriptions.refuse(9, stream(), "busy".to_owned());
        assert!(subscriptions.refusal(&stream()).is_none() && subscriptions.refused().is_empty(), "7 carries it");
        subscriptions.refuse(7, stream(), "busy".to_owned());
        assert_eq!(
            (subscriptions.carrier(&stream()), subscriptions.refusal(&stream())),
            (None, Some("busy".to_owned()))
        );
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
