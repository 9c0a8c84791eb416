//! When the recording of each stream started, until the first trade since then is known.
//!
//! The first frame is not always the first trade since the subscription. That trade may be lost on the wire, with a
//! connection, or with a process that is killed before its first durable row, and no earlier id reveals the loss. So
//! the state file stores the start time before the exchange is connected, and keeps it until backfill has asked the
//! exchange for the first trade.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::market::{Channel, Stream, Timestamp};

/// The streams whose start is not settled; shared by the state file and backfill.
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
    /// No trade is missed before the first subscription.
    NotSubscribed,
    Subscribed,
    /// An earlier process started the recording.
    Inherited,
}

/// A start that backfill must check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingStart {
    pub(super) stream: Stream,
    /// By our clock.
    pub(super) since: Timestamp,
    /// `by` of the gap's evidence: `begin` or `restart`.
    pub(super) by: &'static str,
}

impl RecordingStarts {
    /// Restores the `saved` starts (milliseconds), and starts every other stream without a watermark at `now`.
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

    /// Records that a stream is subscribed; `is_new` when it has no progress.
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

    /// The starts to save in the state file, in milliseconds since 1970.
    pub fn to_save(&self) -> BTreeMap<String, i64> {
        let starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        starts.iter().map(|(name, start)| (name.clone(), start.since.millis())).collect()
    }

    /// The starts that backfill must check.
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

    /// Removes a start: it is covered by history or the ledger, or the stream is no longer recorded.
    pub fn settle(&self, stream: &Stream) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_saved_until_it_is_settled_and_pending_once_it_is_subscribed() {
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
        // A stream that a reload adds.
        starts.mark_subscribed(&c, ms(14), true);
        assert_eq!(starts.pending(), [pending(&c, 14, "begin")]);
    }
}
