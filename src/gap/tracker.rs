//! Finds missing positions in one stream, and tolerates frames that arrive out of order.
//!
//! Early items are held until the missing positions before them arrive or are declared a gap. So a row never reaches
//! history before the gap it reveals (invariant 1), and two swapped frames are no gap.

use std::collections::BTreeMap;

use crate::market::Timestamp;

use super::Range;

/// How a position compares with the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The first position of the stream, or the expected one: use it now, then call [`Tracker::release`].
    InOrder,
    /// A copy or a late arrival: storing it again is harmless.
    Behind,
    /// Positions before it are missing: call [`Tracker::hold`].
    Ahead,
}

/// Tracks the positions of one numbered stream. `T` is a held item.
#[derive(Debug)]
pub struct Tracker<T> {
    step: i64,
    /// The next position expected; `None` before the first.
    next: Option<i64>,
    held: BTreeMap<i64, HeldItem<T>>,
}

#[derive(Debug)]
struct HeldItem<T> {
    item: T,
    since: Timestamp,
    offset: i64,
    /// The position itself has not arrived: the item only proves that every position before it exists.
    announces: bool,
}

/// Missing positions whose grace period is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRange {
    /// The missing positions.
    pub range: Range,
    /// The position that reveals them.
    pub next: i64,
    /// Log offset of the frame that reveals them.
    pub offset: i64,
}

impl<T> Tracker<T> {
    /// A tracker for positions `step` apart. It expects the one after `watermark`.
    pub fn new(step: i64, watermark: Option<i64>) -> Self {
        Self { step, next: watermark.map(|position| position + step), held: BTreeMap::new() }
    }

    /// The distance between two positions.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// The held items, ascending; the tracker ends.
    pub fn into_held(self) -> Vec<T> {
        self.held.into_values().map(|held| held.item).collect()
    }

    /// The next position expected; `None` before the first.
    pub fn next(&self) -> Option<i64> {
        self.next
    }

    /// The held items.
    pub fn held(&self) -> impl Iterator<Item = &T> {
        self.held.values().map(|held| &held.item)
    }

    /// How many items are held.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Compares `position` with the expected one.
    pub fn observe(&self, position: i64) -> Observation {
        match self.next {
            Some(next) if position > next => Observation::Ahead,
            Some(next) if position < next => Observation::Behind,
            _ => Observation::InOrder,
        }
    }

    /// Records that a position arrived, and expects the one after it.
    pub fn advance(&mut self, position: i64) {
        self.next = Some(self.next.map_or(position + self.step, |next| next.max(position + self.step)));
    }

    /// Expects `position` next, unless another one is expected already.
    pub fn begin_at(&mut self, position: i64) {
        self.next.get_or_insert(position);
    }

    /// Holds an early item. `announces` means that the position itself has not arrived. `now` is on the scale of
    /// [`Tracker::expire`]'s deadline. Returns the item that is not held: a second copy, or a replaced announcement.
    pub fn hold(&mut self, position: i64, item: T, announces: bool, offset: i64, now: Timestamp) -> Option<T> {
        // The first copy stays, because it reveals the gap. An announcement never replaces a real item.
        if let Some(held) = self.held.get(&position)
            && (announces || !held.announces)
        {
            return Some(item);
        }
        self.held.insert(position, HeldItem { item, since: now, offset, announces }).map(|replaced| replaced.item)
    }

    /// Takes the next held item that is in order now; call it until it returns `None`.
    pub fn release(&mut self) -> Option<T> {
        let next = self.next?;
        let (&position, held) = self.held.first_key_value()?;
        if position > next {
            return None;
        }
        let announces = held.announces;
        let (_, held) = self.held.pop_first().expect("the first entry was just seen");
        if !announces {
            self.advance(position);
        }
        Some(held.item)
    }

    /// Declares the lowest missing positions a gap when the item behind them is held since `deadline` or longer, or
    /// when more than `held_max` items are held. The caller opens the gap, then calls [`Tracker::release`].
    pub fn expire(&mut self, deadline: Timestamp, held_max: usize) -> Option<MissingRange> {
        let next = self.next?;
        let (&position, held) = self.held.first_key_value()?;
        if position <= next || (held.since > deadline && self.held.len() <= held_max) {
            return None;
        }
        let range = Range::new(next, position - self.step)?;
        self.next = Some(position);
        Some(MissingRange { range, next: position, offset: held.offset })
    }

    /// Declares a gap up to `last`, because the exchange has these positions. Returns the part that did not arrive, up
    /// to the first held item.
    pub fn expect_until(&mut self, last: i64) -> Option<Range> {
        let next = self.next?;
        let until = self.held.first_key_value().map_or(last, |(&position, _)| last.min(position - self.step));
        let range = Range::new(next, until)?;
        self.next = Some(until + self.step);
        Some(range)
    }

    /// The lowest log offset of the held items: it and all later offsets must not be committed.
    pub fn held_offset(&self) -> Option<i64> {
        self.held.values().map(|held| held.offset).min()
    }

    /// The held item with the lowest position.
    pub fn first_held(&self) -> Option<&T> {
        self.held.first_key_value().map(|(_, held)| &held.item)
    }

    /// Whether anything is held.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Feeds positions one microsecond apart and declares gaps after `grace`; returns (positions in order of use,
    /// gaps).
    fn run(positions: &[i64], grace: i64) -> (Vec<i64>, Vec<Range>) {
        let mut tracker = Tracker::new(1, None);
        let (mut used, mut gaps) = (Vec::new(), Vec::new());
        for (now, &position) in positions.iter().enumerate() {
            let now = now as i64;
            match tracker.observe(position) {
                Observation::InOrder => {
                    tracker.advance(position);
                    used.push(position);
                }
                Observation::Behind => used.push(position),
                Observation::Ahead => {
                    tracker.hold(position, position, false, now, Timestamp(now));
                }
            }
            used.extend(std::iter::from_fn(|| tracker.release()));
            while let Some(missing) = tracker.expire(Timestamp(now - grace), 100) {
                gaps.push(missing.range);
                used.extend(std::iter::from_fn(|| tracker.release()));
            }
        }
        while let Some(missing) = tracker.expire(Timestamp(i64::MAX), 100) {
            gaps.push(missing.range);
            used.extend(std::iter::from_fn(|| tracker.release()));
        }
        assert!(!tracker.is_holding());
        (used, gaps)
    }

    fn check(positions: &[i64], gaps: &[(i64, i64)]) {
        let expected: Vec<Range> = gaps.iter().map(|&(first, last)| Range { first, last }).collect();
        assert_eq!(run(positions, 3).1, expected, "{positions:?}");
    }

    #[test]
    fn neighbours_raise_nothing() {
        check(&[7, 8, 9], &[]);
    }

    #[test]
    fn a_jump_in_ids_is_a_gap() {
        check(&[7, 8, 12, 13, 14, 15, 16], &[(9, 11)]);
    }

    #[test]
    fn a_jump_at_the_end_is_a_gap() {
        check(&[7, 9], &[(8, 8)]);
    }

    #[test]
    fn two_swapped_frames_are_no_gap() {
        check(&[7, 9, 8, 10], &[]);
    }

    #[test]
    fn duplicates_and_old_frames_are_no_gap() {
        check(&[7, 8, 8, 7, 3, 9], &[]);
    }

    #[test]
    fn an_announcement_reveals_missing_positions_before_it_but_not_its_own() {
        let mut tracker = Tracker::new(60, Some(0));
        tracker.hold(180, "open kline", true, 5, Timestamp(0));
        let missing = tracker.expire(Timestamp(0), 9).unwrap();
        assert_eq!(missing.range, Range { first: 60, last: 120 });
        assert_eq!(tracker.release(), Some("open kline"));
        assert_eq!((tracker.next(), tracker.release()), (Some(180), None));
    }

    #[test]
    fn an_expected_position_that_did_not_arrive_is_missing() {
        let mut tracker: Tracker<()> = Tracker::new(1, Some(10));
        assert_eq!(tracker.expect_until(10), None);
        assert_eq!(tracker.expect_until(12), Some(Range { first: 11, last: 12 }));
        assert_eq!(tracker.next(), Some(13));
    }

    #[test]
    fn the_lowest_held_offset_limits_the_commit() {
        let mut tracker = Tracker::new(1, Some(1));
        tracker.hold(9, (), false, 100, Timestamp(0));
        tracker.hold(7, (), false, 101, Timestamp(0));
        assert_eq!(tracker.held_offset(), Some(100));
    }

    proptest! {
        #[test]
        fn gaps_are_exactly_the_lost_positions(
            lost in prop::collection::btree_set(1_i64..60, 0..20),
            swaps in prop::collection::vec(0_usize..80, 0..20),
        ) {
            let mut positions: Vec<i64> = (0..=60).filter(|id| !lost.contains(id)).collect();
            for swap in swaps {
                if swap > 0 && swap + 1 < positions.len() {
                    positions.swap(swap, swap + 1);
                }
            }
            // A chain of swaps can move one frame far; the grace period is longer than that.
            let (used, gaps) = run(&positions, 200);
            let first = positions[0];
            let missing: BTreeSet<i64> = gaps.iter().flat_map(|gap| gap.first..=gap.last).collect();
            let expected: BTreeSet<i64> = lost.iter().copied().filter(|id| *id > first).collect();
            prop_assert_eq!(missing, expected);
            let used: BTreeSet<i64> = used.into_iter().collect();
            prop_assert_eq!(used, positions.iter().copied().collect::<BTreeSet<i64>>());
        }
    }
}
