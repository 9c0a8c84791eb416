//! Since when a stream is recorded, until it is settled what came first.
//!
//! The first frame need not be the first trade since the subscription: that one may be lost on the wire, with a
//! connection, or with a process that is killed before its first durable row, and no number before it tells. So the time
//! is in the state before the exchange is connected, and stays there until the exchange was asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::market::{Channel, Stream, Timestamp};

/// Every stream whose beginning is not settled; shared by the state and by backfill.
#[derive(Debug, Default)]
pub struct Anchors(Mutex<BTreeMap<String, Anchor>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    /// By our clock.
    since: Timestamp,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is missed before the first subscription.
    NotSubscribed,
    Subscribed,
    /// Another process began it.
    Inherited,
}

/// A beginning to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) stream: Stream,
    /// By our clock.
    pub(super) since: Timestamp,
    /// What the ledger says has found what is missing.
    pub(super) by: &'static str,
}

impl Anchors {
    /// Takes over what `saved` says, and begins now what has neither that nor a `watermark`.
    pub fn begin(
        saved: &BTreeMap<String, i64>,
        streams: &[Stream],
        has_watermark: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Self {
        let names = streams.iter().filter(|stream| stream.channel == Channel::Trade).map(Stream::to_string);
        let anchors = names.filter_map(|name| {
            let anchor = match saved.get(&name) {
                Some(ms) => Anchor { since: Timestamp::from_millis(*ms), stage: Stage::Inherited },
                None if has_watermark(&name) => return None,
                None => Anchor { since: now, stage: Stage::NotSubscribed },
            };
            Some((name, anchor))
        });
        Self(Mutex::new(anchors.collect()))
    }

    /// A stream is subscribed; `is_new` when nothing of it was ever seen.
    pub fn subscribed(&self, stream: &Stream, now: Timestamp, is_new: bool) {
        let mut anchors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subscribed = Anchor { since: now, stage: Stage::Subscribed };
        match anchors.get_mut(&stream.to_string()) {
            Some(anchor) if anchor.stage == Stage::NotSubscribed => *anchor = subscribed,
            Some(_) => {}
            None if is_new => {
                anchors.insert(stream.to_string(), subscribed);
            }
            None => {}
        }
    }

    /// What the state is to keep, in milliseconds.
    pub fn to_save(&self) -> BTreeMap<String, i64> {
        let anchors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        anchors.iter().map(|(name, anchor)| (name.clone(), anchor.since.millis())).collect()
    }

    /// Streams of which the exchange is to be asked what came first.
    pub(super) fn begun(&self) -> Vec<Begun> {
        let anchors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = anchors.iter().filter_map(|(name, anchor)| {
            let by = match anchor.stage {
                Stage::NotSubscribed => return None,
                Stage::Subscribed => "begin",
                Stage::Inherited => "restart",
            };
            Some(Begun { stream: name.parse().ok()?, since: anchor.since, by })
        });
        begun.collect()
    }

    /// A stream's beginning is in history or in the ledger, or nobody wants it any more.
    pub fn settle(&self, stream: &Stream) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_kept_until_it_is_settled_and_looked_at_once_it_is_subscribed() {
        let streams: Vec<Stream> = ["binance:A:trade", "binance:B:trade", "binance:C:trade", "binance:A:kline_1m"]
            .map(|name| name.parse().unwrap())
            .into();
        let [a, b, c] = [0, 1, 2].map(|n| streams[n].clone());
        let ms = Timestamp::from_millis;
        let begun = |stream: &Stream, since, by| Begun { stream: stream.clone(), since: ms(since), by };
        let saved = BTreeMap::from([(a.to_string(), 7)]);
        let anchors = Anchors::begin(&saved, &streams, |name| name == "binance:C:trade", ms(9));
        assert_eq!(anchors.to_save(), BTreeMap::from([(a.to_string(), 7), (b.to_string(), 9)]));
        assert_eq!(anchors.begun(), [begun(&a, 7, "restart")]);
        anchors.subscribed(&a, ms(10), false);
        anchors.subscribed(&b, ms(11), false);
        anchors.subscribed(&b, ms(12), false);
        anchors.subscribed(&c, ms(13), false);
        assert_eq!(anchors.begun(), [begun(&a, 7, "restart"), begun(&b, 11, "begin")]);
        for stream in [&a, &b] {
            anchors.settle(stream);
        }
        assert_eq!((anchors.to_save(), anchors.begun()), (BTreeMap::new(), vec![]));
        // One that a reload adds.
        anchors.subscribed(&c, ms(14), true);
        assert_eq!(anchors.begun(), [begun(&c, 14, "begin")]);
    }
}
