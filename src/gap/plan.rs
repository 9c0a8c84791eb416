//! The plan of a repair: which gap first, which page next, and what the answers amount to.

use std::time::Duration;

use crate::market::Timestamp;

use super::{Gap, Range, RangeSet};

/// A position must be absent from so many answers, each on its own attempt, before it is said never to come: the
/// exchange's database lags behind its market by seconds.
pub const ABSENT_ATTEMPTS: i64 = 3;
/// Longer than any database lags behind its market. Microseconds of the exchange's time.
const LAG_MAX_US: i64 = 60_000_000;

/// Which of two gaps is repaired first: newest first, then smallest; live fills before old ones,
/// because a `since` or a request of an operator can wait and a fresh hole may be about to leave
/// what the exchange still serves.
pub fn repair_order(a: &Gap, b: &Gap) -> std::cmp::Ordering {
    (a.evidence.is_requested().cmp(&b.evidence.is_requested()))
        .then_with(|| b.detected_at.cmp(&a.detected_at))
        .then_with(|| a.len().cmp(&b.len()))
        .then_with(|| a.gap_id.cmp(&b.gap_id))
}

/// What is asked of the exchange next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Positions wanted; at most one page of them, and not all of them are missing.
    pub range: Range,
}

/// The first page of what is still missing; `None` when nothing is. Holes that lie close together share a page.
pub fn next_page(missing: &RangeSet, step: i64, page_max: i64) -> Option<Page> {
    let first = missing.iter().next()?.first;
    let end = first.saturating_add((page_max - 1) * step);
    let last = missing.iter().take_while(|range| range.first <= end).last().map_or(end, |range| range.last.min(end));
    Some(Page { range: Range { first, last } })
}

/// What the exchange showed of the positions around a range that did not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Whether it serves a position below the range.
    pub below: bool,
    /// The lowest position above the range that it serves, and its time.
    pub above: Option<(i64, Timestamp)>,
}

/// Why a range did not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The exchange's database may lag: ask again.
    NotYet,
    /// Served on both sides and skipped: the exchange has nothing there.
    NeverExisted,
    /// The exchange serves what is newer and nothing as old as this any more.
    Gone,
}

/// Reads what lies around a range that `attempts` questions did not bring. `now` is the exchange's time: a database
/// that shows a row of so long ago is not behind for what came before it.
pub fn classify_absence(neighbours: Neighbours, attempts: i64, now: Timestamp) -> Absence {
    let Some((_, ts)) = neighbours.above else { return Absence::NotYet };
    if attempts < ABSENT_ATTEMPTS {
        return Absence::NotYet;
    }
    if neighbours.below {
        return Absence::NeverExisted;
    }
    if now.since(ts) < LAG_MAX_US { Absence::NotYet } else { Absence::Gone }
}

/// Until when a range could have been fetched: what happened at `happened` stays for `kept` where the exchange says how
/// long, else for as long as the oldest position it still serves has stayed (`oldest`, at `now`).
pub fn served_until(happened: Timestamp, oldest: Timestamp, now: Timestamp, kept: Option<Duration>) -> Timestamp {
    let kept_us = kept.map_or_else(|| now.since(oldest), |kept| i64::try_from(kept.as_micros()).unwrap_or(i64::MAX));
    Timestamp(happened.micros().saturating_add(kept_us)).min(now)
}

/// How long to wait before the next try: 1 s, doubling, at most a minute.
pub fn retry_at(now: Timestamp, attempts: i64) -> Timestamp {
    let doublings = attempts.saturating_sub(1).clamp(0, 6) as u32;
    now.plus_micros((1_000_000_i64 << doublings).min(60_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gap::Evidence;

    fn range(first: i64, last: i64) -> Range {
        Range { first, last }
    }

    #[test]
    fn pages_cover_the_missing_part_from_below() {
        let mut missing = RangeSet::new(1);
        missing.insert(range(10, 2_500));
        assert_eq!(next_page(&missing, 1, 1_000), Some(Page { range: range(10, 1_009) }));
        missing.remove(range(10, 2_499));
        assert_eq!(next_page(&missing, 1, 1_000), Some(Page { range: range(2_500, 2_500) }));
        missing.remove(range(2_500, 2_500));
        assert_eq!(next_page(&missing, 1, 1_000), None);
    }

    #[test]
    fn holes_that_lie_close_together_share_a_page() {
        let mut missing = RangeSet::new(1);
        missing.insert(range(10, 12));
        missing.insert(range(20, 20));
        missing.insert(range(105, 130));
        assert_eq!(next_page(&missing, 1, 100), Some(Page { range: range(10, 109) }));
        assert_eq!(next_page(&missing, 1, 50), Some(Page { range: range(10, 20) }));
    }

    #[test]
    fn what_is_skipped_never_existed_and_what_is_older_than_all_is_gone() {
        let (old, minute) = (Timestamp(0), 60_000_000);
        let neighbours = |below, above| Neighbours { below, above };
        let later = Timestamp(minute);
        for (neighbours, attempts, now, expected) in [
            (neighbours(true, None), 9, later, Absence::NotYet),
            (neighbours(false, None), 9, later, Absence::NotYet),
            (neighbours(true, Some((7, old))), 2, later, Absence::NotYet),
            (neighbours(true, Some((7, old))), 3, old, Absence::NeverExisted),
            (neighbours(false, Some((7, old))), 2, later, Absence::NotYet),
            (neighbours(false, Some((7, old))), 3, Timestamp(minute - 1), Absence::NotYet),
            (neighbours(false, Some((7, old))), 3, later, Absence::Gone),
        ] {
            assert_eq!(classify_absence(neighbours, attempts, now), expected, "{neighbours:?}, {attempts} attempts");
        }
    }

    #[test]
    fn what_is_gone_was_served_as_long_as_the_oldest_that_is_left() {
        let until = |kept| served_until(Timestamp(100), Timestamp(700), Timestamp(1_000), kept);
        assert_eq!(until(None), Timestamp(400));
        assert_eq!(until(Some(Duration::from_micros(50))), Timestamp(150));
        assert_eq!(until(Some(Duration::MAX)), Timestamp(1_000), "it is gone: at the latest now");
    }

    #[test]
    fn newest_and_smallest_first_and_old_wishes_last() {
        let gap = |detected: i64, len: i64, by: &str| {
            let evidence = Evidence { by: by.to_owned(), ..Evidence::default() };
            Gap::open("binance:A:trade".parse().unwrap(), range(1, len), evidence, Timestamp(detected))
        };
        let mut gaps = [gap(9, 1, "since"), gap(1, 5, "neighbour"), gap(2, 9, "tail"), gap(2, 3, "restart")];
        gaps.sort_by(repair_order);
        let order: Vec<(i64, i64)> = gaps.iter().map(|gap| (gap.detected_at.0, gap.len())).collect();
        assert_eq!(order, [(2, 3), (2, 9), (1, 5), (9, 1)]);
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<i64> = [0, 1, 2, 5, 7, 60].map(|n| retry_at(Timestamp(0), n).0 / 1_000_000).to_vec();
        assert_eq!(waits, [1, 1, 2, 16, 60, 60]);
    }
}
