//! Since when a stream is recorded of which nothing is durable yet.
//!
//! A process that is killed between its subscription and its first durable row leaves no id behind. The time at which it
//! began is in the state before it subscribes; the next process opens a gap from there to its own first row.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::market::{Channel, Stream, Timestamp};

/// Every stream without a durable row; shared by the state and by backfill.
#[derive(Debug, Default)]
pub struct Anchors(Mutex<BTreeMap<String, Anchor>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    since: Timestamp,
    /// Another process began it, and what it missed is not in the ledger yet.
    owed: bool,
}

impl Anchors {
    /// Takes over what `saved` says of streams that have no `watermark`, and begins the others now.
    pub fn begin(
        saved: &BTreeMap<String, i64>,
        streams: &[Stream],
        has_watermark: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Self {
        let names = streams.iter().filter(|stream| stream.channel == Channel::Trade).map(Stream::to_string);
        let anchors = names.filter(|name| !has_watermark(name)).map(|name| {
            let anchor = match saved.get(&name) {
                Some(ms) => Anchor { since: Timestamp::from_millis(*ms), owed: true },
                None => Anchor { since: now, owed: false },
            };
            (name, anchor)
        });
        Self(Mutex::new(anchors.collect()))
    }

    /// What the state is to keep, in milliseconds: what is owed, and what began here and has no row yet.
    pub fn to_save(&self, is_durable: impl Fn(&str) -> bool) -> BTreeMap<String, i64> {
        let mut anchors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anchors.retain(|name, anchor| anchor.owed || !is_durable(name));
        anchors.iter().map(|(name, anchor)| (name.clone(), anchor.since.millis())).collect()
    }

    /// Streams whose beginning another process missed, and when that was.
    pub fn owed(&self) -> Vec<(Stream, Timestamp)> {
        let anchors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owed = anchors.iter().filter(|(_, anchor)| anchor.owed);
        owed.filter_map(|(name, anchor)| Some((name.parse().ok()?, anchor.since))).collect()
    }

    /// What was owed of a stream is in the ledger.
    pub fn settle(&self, stream: &Stream) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_kept_until_a_row_is_durable_and_an_inherited_one_until_it_is_settled() {
        let streams: Vec<Stream> = ["binance:A:trade", "binance:B:trade", "binance:C:trade", "binance:A:kline_1m"]
            .map(|name| name.parse().unwrap())
            .into();
        let saved = BTreeMap::from([("binance:A:trade".to_owned(), 7), ("binance:C:trade".to_owned(), 8)]);
        let anchors = Anchors::begin(&saved, &streams, |name| name == "binance:C:trade", Timestamp::from_millis(9));
        let expected = [("binance:A:trade".to_owned(), 7), ("binance:B:trade".to_owned(), 9)];
        assert_eq!(anchors.to_save(|_| false), BTreeMap::from(expected.clone()));
        assert_eq!(anchors.owed(), [(streams[0].clone(), Timestamp::from_millis(7))]);
        assert_eq!(anchors.to_save(|_| true), BTreeMap::from([expected[0].clone()]));
        anchors.settle(&streams[0]);
        assert_eq!((anchors.to_save(|_| false), anchors.owed()), (BTreeMap::new(), vec![]));
    }
}
