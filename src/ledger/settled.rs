//! Positions that closed without their rows, by stream, within a bound.

use std::collections::HashMap;

use crate::gap::{Range, RangeSet};
use crate::market::Stream;

/// Ranges kept for each stream: the highest ones, where new gaps are found. A range costs 37 bytes (measured with a million
/// of them), so a stream costs at most 150 kB, however many of its gaps closed. Of lower positions history knows what is
/// settled, and a finder asks it ([`super::SharedLedger::open`]). The consumer does not ask: a gap that live frames reveal
/// is above them, and a row that opens once too often is asked for again and closes again.
const RANGES_MAX: usize = 4_096;

/// The settled positions of every stream.
#[derive(Debug, Default)]
pub(super) struct Settled(HashMap<Stream, OfStream>);

#[derive(Debug)]
struct OfStream {
    ranges: RangeSet,
    /// Lower positions were forgotten.
    floor: Option<i64>,
}

impl Settled {
    pub(super) fn insert(&mut self, stream: &Stream, step: i64, range: Range) {
        if !self.0.contains_key(stream) {
            self.0.insert(stream.clone(), OfStream { ranges: RangeSet::new(step), floor: None });
        }
        let Some(kept) = self.0.get_mut(stream) else { return };
        let first = kept.floor.map_or(range.first, |floor| range.first.max(floor));
        let Some(range) = Range::new(first, range.last) else { return };
        kept.ranges.insert(range);
        while kept.ranges.range_count() > RANGES_MAX
            && let Some(lowest) = kept.ranges.pop_first()
        {
            kept.floor = Some(lowest.last.saturating_add(step));
        }
    }

    /// The settled ranges in memory that overlap `range`.
    pub(super) fn within(&self, stream: &Stream, range: Range) -> impl Iterator<Item = Range> + '_ {
        self.0.get(stream).into_iter().flat_map(move |kept| kept.ranges.overlapping(range))
    }

    /// The part of `range` that was forgotten.
    pub(super) fn forgotten(&self, stream: &Stream, range: Range) -> Option<Range> {
        let floor = self.0.get(stream)?.floor?;
        Range::new(range.first, range.last.min(floor.saturating_sub(1)))
    }

    pub(super) fn remove(&mut self, stream: &Stream, range: Range) {
        if let Some(kept) = self.0.get_mut(stream) {
            kept.ranges.remove(range);
        }
    }

    pub(super) fn forget(&mut self, stream: &Stream) {
        self.0.remove(stream);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Stream) -> bool) {
        self.0.retain(|stream, _| keep(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_closed_gaps_of_a_stream_keep_four_thousand_ranges_and_say_below_which_position_history_must_be_asked()
    {
        let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
        let mut settled = Settled::default();
        let odd = |n: i64| Range { first: 2 * n + 1, last: 2 * n + 1 };
        // History lists them newest first; a position below the floor stays forgotten.
        for n in (0..1_000_000).chain((0..1_000).rev()) {
            settled.insert(&stream, 1, odd(n));
        }
        let kept = &settled.0[&stream];
        assert_eq!((kept.ranges.range_count(), kept.floor), (RANGES_MAX, Some(odd(995_903).last + 1)));
        assert_eq!(settled.within(&stream, odd(999_999)).next(), Some(odd(999_999)));
        assert_eq!(settled.forgotten(&stream, odd(999_999)), None);
        assert_eq!((settled.within(&stream, odd(5)).next(), settled.forgotten(&stream, odd(5))), (None, Some(odd(5))));
        let across = Range { first: odd(995_903).first, last: odd(995_905).last };
        assert_eq!(settled.forgotten(&stream, across), Some(odd(995_903)));
        assert_eq!(settled.within(&stream, across).count(), 2);
        settled.forget(&stream);
        assert_eq!(settled.forgotten(&stream, odd(5)), None, "a numbering that begins has settled nothing");
    }
}
