//! Inclusive ranges of positions, and sets of them.

use std::collections::BTreeMap;

/// An inclusive range of positions. `first <= last` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// First position in the range.
    pub first: i64,
    /// Last position in the range.
    pub last: i64,
}

impl Range {
    /// `None` when there is no position from `first` to `last`.
    pub fn new(first: i64, last: i64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// How many positions it contains, `step` apart.
    pub fn len(self, step: i64) -> i64 {
        (self.last - self.first) / step + 1
    }

    /// Whether it contains `position`.
    pub fn contains(self, position: i64) -> bool {
        self.first <= position && position <= self.last
    }

    /// The positions in both ranges; `None` when there is none.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }
}

/// A set of positions as disjoint, non-adjacent ranges: ten million consecutive ids need one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet {
    /// first -> last
    ranges: BTreeMap<i64, i64>,
    step: i64,
}

impl RangeSet {
    /// An empty set of positions that are `step` apart.
    pub fn new(step: i64) -> Self {
        Self { ranges: BTreeMap::new(), step }
    }

    /// Adds a range and merges it with ranges that touch or overlap it.
    pub fn insert(&mut self, range: Range) {
        let Range { mut first, mut last } = range;
        while let Some((&other_first, &other_last)) = self.ranges.range(..=last + self.step).next_back() {
            if other_last + self.step < first {
                break;
            }
            first = first.min(other_first);
            last = last.max(other_last);
            self.ranges.remove(&other_first);
        }
        self.ranges.insert(first, last);
    }

    /// Removes a range; returns whether the set contained any of it.
    pub fn remove(&mut self, range: Range) -> bool {
        let mut touched = false;
        while let Some((&first, &last)) = self.ranges.range(..=range.last).next_back() {
            if last < range.first {
                break;
            }
            touched = true;
            self.ranges.remove(&first);
            if last > range.last {
                self.ranges.insert(range.last + self.step, last);
            }
            if first < range.first {
                self.ranges.insert(first, range.first - self.step);
            }
        }
        touched
    }

    /// Whether the set contains `position`.
    pub fn contains(&self, position: i64) -> bool {
        self.ranges.range(..=position).next_back().is_some_and(|(_, &last)| position <= last)
    }

    /// Whether the set contains every position of `range`.
    pub fn covers(&self, range: Range) -> bool {
        self.ranges.range(..=range.first).next_back().is_some_and(|(_, &last)| range.last <= last)
    }

    /// The ranges of the set that overlap `range`, ascending.
    pub fn overlapping(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self.ranges.range(..range.first).next_back().filter(|(_, last)| range.first <= **last);
        let from = self.ranges.range(range.first..=range.last);
        before.into_iter().chain(from).map(|(&first, &last)| Range { first, last })
    }

    /// Removes and returns the lowest range.
    pub fn pop_first(&mut self) -> Option<Range> {
        self.ranges.pop_first().map(|(first, last)| Range { first, last })
    }

    /// How many ranges it consists of.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// The parts of `range` that are not in the set.
    pub fn uncovered(&self, range: Range) -> Vec<Range> {
        let mut uncovered = Vec::new();
        let mut next = range.first;
        let before = self.ranges.range(..range.first).next_back();
        for (&first, &last) in before.into_iter().chain(self.ranges.range(range.first..=range.last)) {
            uncovered.extend(Range::new(next, first - self.step));
            next = next.max(last + self.step);
        }
        uncovered.extend(Range::new(next, range.last));
        uncovered
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().map(|(&first, &last)| Range { first, last })
    }

    /// How many positions it contains.
    pub fn len(&self) -> i64 {
        self.iter().map(|range| range.len(self.step)).sum()
    }

    /// Whether it contains no position.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_set_is_a_set_of_positions(
            step in prop_oneof![Just(1_i64), Just(60)],
            steps in prop::collection::vec((any::<bool>(), 0_i64..60, 0_i64..12), 0..40),
        ) {
            let mut set = RangeSet::new(step);
            let mut model = BTreeSet::new();
            for (insert, first, len) in steps {
                let range = Range { first: first * step, last: (first + len) * step };
                let positions: Vec<i64> = (first..=first + len).map(|n| n * step).collect();
                if insert {
                    set.insert(range);
                    model.extend(positions);
                } else {
                    let any = positions.iter().any(|position| model.contains(position));
                    prop_assert_eq!(set.remove(range), any);
                    for position in positions {
                        model.remove(&position);
                    }
                }
                let listed: BTreeSet<i64> =
                    set.iter().flat_map(|r| (0..r.len(step)).map(move |n| r.first + n * step)).collect();
                prop_assert_eq!(&listed, &model);
                prop_assert_eq!(set.len(), model.len() as i64);
                let ranges: Vec<Range> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].last + step < w[1].first), "touching ranges");
            }
        }

        #[test]
        fn covered_and_uncovered_positions_make_up_the_range(
            known in prop::collection::vec((0_i64..50, 0_i64..8), 0..10), first in 0_i64..40, len in 0_i64..20,
        ) {
            let mut set = RangeSet::new(1);
            for (first, len) in known {
                set.insert(Range { first, last: first + len });
            }
            let requested = Range { first, last: first + len };
            let uncovered = set.uncovered(requested);
            for position in requested.first..=requested.last {
                prop_assert_eq!(uncovered.iter().any(|r| r.contains(position)), !set.contains(position));
            }
            prop_assert_eq!(set.covers(requested), uncovered.is_empty());
            let overlapping: Vec<Range> = set.overlapping(requested).collect();
            let expected: Vec<Range> = set.iter().filter(|range| range.intersect(requested).is_some()).collect();
            prop_assert_eq!(overlapping, expected);
        }
    }

    #[test]
    fn ten_million_consecutive_ids_need_one_entry() {
        let mut set = RangeSet::new(1);
        set.insert(Range { first: 1, last: 10_000_000 });
        assert_eq!(set.len(), 10_000_000);
        assert_eq!(set.iter().count(), 1);
    }
}
