//! When the recording of each stream started, until its first trade or closed kline since then is stored.
//!
//! The first frame is not always the first trade or kline since the subscription. That one may be lost on the wire, with a
//! connection, or with a process that is killed before its first durable row, and no earlier position reveals the loss. So
//! the state file stores the start time before the exchange is connected, and keeps it until backfill has found what came
//! before the first row.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Reading;
use crate::market::{Stream, Timestamp};

/// The streams whose start is not settled; shared by the state file and backfill.
#[derive(Debug, Default)]
pub struct RecordingStarts(Mutex<BTreeMap<String, RecordingStart>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordingStart {
    /// By our wall clock.
    since: Timestamp,
    /// By the steady clock of this process; `None` for a start of an earlier one.
    steady: Option<Timestamp>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is missed before the first subscription.
    NotSubscribed,
    Subscribed,
    /// An earlier process started the recording.
    Inherited,
}

/// A start that backfill must check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PendingStart {
    pub(super) stream: Stream,
    /// By our wall clock, as it is set now.
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
        now: Reading,
    ) -> Self {
        // A stream without numbered positions has nothing that could be refilled.
        let names = streams.iter().filter(|stream| stream.channel.step().is_some()).map(Stream::to_string);
        let starts = names.filter_map(|name| {
            let start = match saved.get(&name) {
                Some(ms) => {
                    RecordingStart { since: Timestamp::from_millis(*ms), steady: None, stage: Stage::Inherited }
                }
                None if has_watermark(&name) => return None,
                None => RecordingStart { since: now.wall, steady: Some(now.steady), stage: Stage::NotSubscribed },
            };
            Some((name, start))
        });
        Self(Mutex::new(starts.collect()))
    }

    /// Records that a stream is subscribed; `is_new` when it has no progress.
    pub fn mark_subscribed(&self, stream: &Stream, now: Reading, is_new: bool) {
        let mut starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subscribed = RecordingStart { since: now.wall, steady: Some(now.steady), stage: Stage::Subscribed };
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

    /// The starts that backfill must check. The wall clock may have been set since a start of this process.
    pub(super) fn pending(&self, now: Reading) -> Vec<PendingStart> {
        let starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = starts.iter().filter_map(|(name, start)| {
            let by = match start.stage {
                Stage::NotSubscribed => return None,
                Stage::Subscribed => "begin",
                Stage::Inherited => "restart",
            };
            let since = start.steady.map_or(start.since, |steady| now.date_of(steady));
            Some(PendingStart { stream: name.parse().ok()?, since, by })
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

    /// An instant at which both clocks show this time.
    fn at(ms: i64) -> Reading {
        Reading { wall: Timestamp::from_millis(ms), steady: Timestamp::from_millis(ms) }
    }

    fn pending(stream: &Stream, since: i64, by: &'static str) -> PendingStart {
        PendingStart { stream: stream.clone(), since: Timestamp::from_millis(since), by }
    }

    #[test]
    fn a_start_is_saved_until_it_is_settled_and_pending_once_it_is_subscribed() {
        let streams: Vec<Stream> =
            ["binance:A:trade", "binance:B:kline_1m", "binance:C:trade", "binance:A:book_ticker"]
                .map(|name| name.parse().unwrap())
                .into();
        let [a, b, c] = [0, 1, 2].map(|n| streams[n].clone());
        let saved = BTreeMap::from([(a.to_string(), 7)]);
        let starts = RecordingStarts::restore(&saved, &streams, |name| name == "binance:C:trade", at(9));
        assert_eq!(starts.to_save(), BTreeMap::from([(a.to_string(), 7), (b.to_string(), 9)]));
        assert_eq!(starts.pending(at(9)), [pending(&a, 7, "restart")]);
        starts.mark_subscribed(&a, at(10), false);
        starts.mark_subscribed(&b, at(11), false);
        starts.mark_subscribed(&b, at(12), false);
        starts.mark_subscribed(&c, at(13), false);
        assert_eq!(starts.pending(at(13)), [pending(&a, 7, "restart"), pending(&b, 11, "begin")]);
        for stream in [&a, &b] {
            starts.settle(stream);
        }
        assert_eq!((starts.to_save(), starts.pending(at(13))), (BTreeMap::new(), vec![]));
        // A stream that a reload adds.
        starts.mark_subscribed(&c, at(14), true);
        assert_eq!(starts.pending(at(14)), [pending(&c, 14, "begin")]);
    }

    #[test]
    fn a_start_of_this_process_moves_with_a_wall_clock_that_is_set() {
        let stream: Stream = "binance:A:kline_1m".parse().unwrap();
        let starts = RecordingStarts::default();
        starts.mark_subscribed(&stream, at(1_000), true);
        let set_back = Reading { wall: Timestamp::from_millis(400), steady: Timestamp::from_millis(1_500) };
        assert_eq!(starts.pending(set_back), [pending(&stream, -100, "begin")], "500 ms ago");
        let saved = BTreeMap::from([(stream.to_string(), 1_000)]);
        let inherited = RecordingStarts::restore(&saved, std::slice::from_ref(&stream), |_| false, at(1_200));
        assert_eq!(inherited.pending(set_back), [pending(&stream, 1_000, "restart")]);
    }
}
