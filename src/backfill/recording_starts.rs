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
pub struct RecordingStarts(Mutex<BTreeMap<String, RecordingStart>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordingStart {
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
pub(super) struct PendingStart {
    pub(super) stream: Stream,
    /// By our clock.
    pub(super) since: Timestamp,
    /// What the ledger says has found what is missing.
    pub(super) by: &'static str,
}

impl RecordingStarts {
    /// Takes over what `saved` says, and begins now what has neither that nor a `watermark`.
    pub fn restore(
        saved: &BTreeMap<String, i64>,
        streams: &[Stream],
        has_watermark: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Self {
        let names = streams.iter().filter(|stream| stream.channel == Channel::Trade).map(Stream::to_string);
        let starts = names.filter_map(|name| {
            let start = match saved.get(&name) {
                Some(ms) => RecordingStart { since: Timestamp::from_millis(*ms), stage: Stage::Inherited },
                None if has_watermark(&name) => return None,
                None => RecordingStart { since: now, stage: Stage::NotSubscribed },
            };
            Some((name, start))
        });
        Self(Mutex::new(starts.collect()))
    }

    /// A stream is subscribed; `is_new` when nothing of it was ever seen.
    pub fn mark_subscribed(&self, stream: &Stream, now: Timestamp, is_new: bool) {
        let mut starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subscribed = RecordingStart { since: now, stage: Stage::Subscribed };
        match starts.get_mut(&stream.to_string()) {
            Some(start) if start.stage == Stage::NotSubscribed => *start = subscribed,
            Some(_) => {}
            None if is_new => {
                starts.insert(stream.to_string(), subscribed);
            }
            None => {}
        }
    }

    /// What the state is to keep, in milliseconds.
    pub fn to_save(&self) -> BTreeMap<String, i64> {
        let starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        starts.iter().map(|(name, start)| (name.clone(), start.since.millis())).collect()
    }

    /// Streams of which the exchange is to be asked what came first.
    pub(super) fn pending(&self) -> Vec<PendingStart> {
        let starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = starts.iter().filter_map(|(name, start)| {
            let by = match start.stage {
                Stage::NotSubscribed => return None,
                Stage::Subscribed => "begin",
                Stage::Inherited => "restart",
            };
            Some(PendingStart { stream: name.parse().ok()?, since: start.since, by })
        });
        pending.collect()
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
        let pending = |stream: &Stream, since, by| PendingStart { stream: stream.clone(), since: ms(since), by };
        let saved = BTreeMap::from([(a.to_string(), 7)]);
        let starts = RecordingStarts::restore(&saved, &streams, |name| name == "binance:C:trade", ms(9));
        assert_eq!(starts.to_save(), BTreeMap::from([(a.to_string(), 7), (b.to_string(), 9)]));
        assert_eq!(starts.pending(), [pending(&a, 7, "restart")]);
        starts.mark_subscribed(&a, ms(10), false);
        starts.mark_subscribed(&b, ms(11), false);
        starts.mark_subscribed(&b, ms(12), false);
        starts.mark_subscribed(&c, ms(13), false);
        assert_eq!(starts.pending(), [pending(&a, 7, "restart"), pending(&b, 11, "begin")]);
        for stream in [&a, &b] {
            starts.settle(stream);
        }
        assert_eq!((starts.to_save(), starts.pending()), (BTreeMap::new(), vec![]));
        // One that a reload adds.
        starts.mark_subscribed(&c, ms(14), true);
        assert_eq!(starts.pending(), [pending(&c, 14, "begin")]);
    }
}
