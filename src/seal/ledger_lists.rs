//! What the gap ledger says about the positions of a day that have no row. Pure.

use crate::gap::{Gap, GapState, Range, RangeSet};

/// Absent positions by what the ledger says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerLists {
    /// The exchange never used them.
    pub never_existed: Vec<(i64, i64)>,
    /// The exchange does not serve them, and is asked again.
    pub unconfirmed: Vec<(i64, i64)>,
    /// They are lost, for these reasons.
    pub unrecoverable: Vec<(i64, i64, String)>,
    /// They may still be filled.
    pub missing: Vec<(i64, i64)>,
}

impl LedgerLists {
    /// Divides the absent positions, `step` apart, among the gaps of their numbering.
    pub fn divide(absent: impl IntoIterator<Item = Range>, gaps: &[Gap], step: i64) -> Self {
        let mut rest = RangeSet::new(step);
        absent.into_iter().for_each(|range| rest.insert(range));
        let mut lists = Self::default();
        let mut take = |state: GapState, gap: &Gap| -> Vec<Range> {
            if gap.state != state {
                return Vec::new();
            }
            let parts: Vec<Range> =
                rest.overlapping(gap.range).filter_map(|range| range.intersect(gap.range)).collect();
            parts.iter().for_each(|part| {
                rest.remove(*part);
            });
            parts
        };
        // A position that never existed is not lost, whatever an older row of the ledger says.
        for gap in gaps {
            lists.never_existed.extend(take(GapState::NeverExisted, gap).iter().map(pair));
        }
        for gap in gaps {
            lists.unconfirmed.extend(take(GapState::Unconfirmed, gap).iter().map(pair));
        }
        for gap in gaps {
            for (state, word) in [(GapState::Unrecoverable, ""), (GapState::Refused, "refused: ")] {
                let lost = take(state, gap).into_iter();
                lists.unrecoverable.extend(lost.map(|part| (part.first, part.last, format!("{word}{}", gap.reason))));
            }
        }
        lists.missing = rest.iter().map(|range| (range.first, range.last)).collect();
        lists.never_existed.sort_unstable();
        lists.unconfirmed.sort_unstable();
        lists.unrecoverable.sort_unstable();
        lists
    }
}

fn pair(range: &Range) -> (i64, i64) {
    (range.first, range.last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gap::Evidence;
    use crate::market::Timestamp;

    fn gap(first: i64, last: i64, state: GapState, reason: &str) -> Gap {
        let stream = "binance:BTCUSDT:trade".parse().unwrap();
        let mut gap = Gap::open(stream, Range { first, last }, Evidence::default(), Timestamp(7));
        gap.advance(state, reason, Timestamp(8));
        gap
    }

    #[test]
    fn absent_positions_are_divided_among_the_gaps() {
        let gaps = [
            gap(10, 14, GapState::NeverExisted, ""),
            gap(13, 20, GapState::Unrecoverable, "gone"),
            gap(30, 31, GapState::Refused, "dead letter 7"),
            gap(40, 45, GapState::Unconfirmed, ""),
            gap(50, 50, GapState::Open, ""),
            gap(1, 100, GapState::Filled, ""),
        ];
        let absent = [Range { first: 12, last: 16 }, Range { first: 30, last: 42 }, Range { first: 50, last: 50 }];
        let lists = LedgerLists::divide(absent, &gaps, 1);
        assert_eq!(lists.never_existed, [(12, 14)]);
        let refused = "refused: dead letter 7".to_owned();
        assert_eq!(lists.unrecoverable, [(15, 16, "gone".to_owned()), (30, 31, refused)]);
        assert_eq!(lists.unconfirmed, [(40, 42)]);
        assert_eq!(lists.missing, [(32, 39), (50, 50)]);
    }
}
