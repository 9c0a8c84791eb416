//! Notices a hole in one stream's positions, and forgives frames that merely came out of order.
//!
//! Items that are ahead of their turn are held until the hole before them closes or is declared a
//! gap; so a row never reaches history before the gap it reveals (invariant 1), and two frames
//! that swapped places raise no alarm.

use std::collections::BTreeMap;

use crate::market::Timestamp;

use super::Range;

/// What an item is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The first position ever, or exactly the expected one: use it now, then [`Tracker::release`].
    InOrder,
    /// Seen before, or a late arrival: storing it again is harmless.
    Behind,
    /// Positions before it are missing: [`Tracker::hold`] it.
    Ahead,
}

/// Watches one numbered stream. `T` is what is held, with the position in the log it came from.
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
    /// The position itself is still to come: the item only says that everything before it exists.
    announces: bool,
}

/// A hole that was waited for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRange {
    /// What is missing.
    pub range: Range,
    /// The position that reveals it.
    pub next: i64,
    /// Log offset of the frame that reveals it.
    pub offset: i64,
}

impl<T> Tracker<T> {
    /// A tracker of positions `step` apart, that expects the one after `watermark`.
    pub fn new(step: i64, watermark: Option<i64>) -> Self {
        Self { step, next: watermark.map(|position| position + step), held: BTreeMap::new() }
    }

    /// The next position expected; `None` before the first.
    pub fn next(&self) -> Option<i64> {
        self.next
    }

    /// What `position` is to this stream.
    pub fn observe(&self, position: i64) -> Observation {
        match self.next {
            Some(next) if position > next => Observation::Ahead,
            Some(next) if position < next => Observation::Behind,
            _ => Observation::InOrder,
        }
    }

    /// Takes the expected position as seen.
    pub fn advance(&mut self, position: i64) {
        self.next = Some(self.next.map_or(position + self.step, |next| next.max(position + self.step)));
    }

    /// Expects `position` next without having seen anything, when nothing is expected yet.
    pub fn begin_at(&mut self, position: i64) {
        self.next.get_or_insert(position);
    }

    /// Keeps an item that is ahead. `announces` means that the position itself is still to come.
    pub fn hold(&mut self, position: i64, item: T, announces: bool, offset: i64, now: Timestamp) {
        // The first copy stays: it reveals the hole, and an announcement never replaces the real one.
        if let Some(held) = self.held.get(&position)
            && (announces || !held.announces)
        {
            return;
        }
        self.held.insert(position, HeldItem { item, since: now, offset, announces });
    }

    /// The held item whose turn has come; call until it returns `None`.
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

    /// Declares the lowest hole a gap when its revealing item is held since `deadline` or before, or
    /// when more than `held_max` items are held; the caller opens the gap, then calls [`Tracker::release`].
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

    /// Positions up to `last` are known to exist: what has not come of them is a gap, and is returned.
    pub fn expect_until(&mut self, last: i64) -> Option<Range> {
        let next = self.next?;
        let until = self.held.first_key_value().map_or(last, |(&position, _)| last.min(position - self.step));
        let range = Range::new(next, until)?;
        self.next = Some(until + self.step);
        Some(range)
    }

    /// The lowest log offset of what is held: nothing at or above it may be committed.
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

    /// Feeds positions, one microsecond apart, declaring gaps after `grace`; returns (used in order, gaps).
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
                Observation::Ahead => tracker.hold(position, position, false, now, Timestamp(now)),
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
    fn a_jump_at_the_very_end_is_a_gap_too() {
        check(&[7, 9], &[(8, 8)]);
    }

    #[test]
    fn two_frames_that_swapped_places_are_no_gap() {
        check(&[7, 9, 8, 10], &[]);
    }

    #[test]
    fn duplicates_and_old_frames_are_no_gap() {
        check(&[7, 8, 8, 7, 3, 9], &[]);
    }

    #[test]
    fn an_announcement_reveals_what_came_before_it_but_not_itself() {
        let mut tracker = Tracker::new(60, Some(0));
        tracker.hold(180, "open kline", true, 5, Timestamp(0));
        let missing = tracker.expire(Timestamp(0), 9).unwrap();
        assert_eq!(missing.range, Range { first: 60, last: 120 });
        assert_eq!(tracker.release(), Some("open kline"));
        assert_eq!((tracker.next(), tracker.release()), (Some(180), None));
    }

    #[test]
    fn what_is_known_to_exist_and_did_not_come_is_missing() {
        let mut tracker: Tracker<()> = Tracker::new(1, Some(10));
        assert_eq!(tracker.expect_until(10), None);
        assert_eq!(tracker.expect_until(12), Some(Range { first: 11, last: 12 }));
        assert_eq!(tracker.next(), Some(13));
    }

    #[test]
    fn nothing_held_may_be_committed() {
        let mut tracker = Tracker::new(1, Some(1));
        tracker.hold(9, (), false, 100, Timestamp(0));
        tracker.hold(7, (), false, 101, Timestamp(0));
        assert_eq!(tracker.held_offset(), Some(100));
    }

    proptest! {
        #[test]
        fn gaps_are_exactly_what_never_came(
            lost in prop::collection::btree_set(1_i64..60, 0..20),
            swaps in prop::collection::vec(0_usize..80, 0..20),
        ) {
            let mut positions: Vec<i64> = (0..=60).filter(|id| !lost.contains(id)).collect();
            for swap in swaps {
                if swap > 0 && swap + 1 < positions.len() {
                    positions.swap(swap, swap + 1);
                }
            }
            // A chain of swaps can carry one frame far; a grace longer than that must forgive it.
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
