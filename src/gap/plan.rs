//! The plan of a repair: which gap comes first, which page comes next, and what the exchange's answers prove.

use std::time::Duration;

use crate::market::Timestamp;
use crate::retry::doubled;

use super::{Gap, GapState, Range, RangeSet};

/// A position must be absent in this many attempts before the answers count as doubt: the exchange's database lags
/// behind its market by seconds.
pub const ABSENT_ATTEMPTS: i64 = 3;
/// Longer than any exchange's database lags behind its market, in microseconds.
const LAG_MAX_US: i64 = 60_000_000;

/// Orders gaps for repair: the newest first, then the smallest. Requested gaps (a `since`, an operator) come later: they
/// can wait, while the exchange may soon stop serving the range of a live gap. Gaps in doubt come last: they were asked
/// for before.
pub fn repair_order(a: &Gap, b: &Gap) -> std::cmp::Ordering {
    let in_doubt = |gap: &Gap| gap.state == GapState::Unconfirmed;
    (in_doubt(a).cmp(&in_doubt(b)))
        .then_with(|| a.evidence.is_requested().cmp(&b.evidence.is_requested()))
        .then_with(|| b.detected_at.cmp(&a.detected_at))
        .then_with(|| a.len().cmp(&b.len()))
        .then_with(|| a.gap_id.cmp(&b.gap_id))
}

/// The next request to the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The positions to request: at most one page, and some of them may be stored already.
    pub range: Range,
}

/// The first page of the missing positions; `None` when none is missing. Ranges that are close together share a page.
pub fn next_page(missing: &RangeSet, step: i64, page_max: i64) -> Option<Page> {
    let first = missing.iter().next()?.first;
    let end = first.saturating_add((page_max - 1) * step);
    let last = missing.iter().take_while(|range| range.first <= end).last().map_or(end, |range| range.last.min(end));
    Some(Page { range: Range { first, last } })
}

/// What the exchange serves next to a range that it did not return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Whether it serves a position below the range.
    pub below: bool,
    /// The lowest position above the range that it serves, and its time.
    pub above: Option<(i64, Timestamp)>,
}

/// Why the exchange did not return a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The exchange's database may lag: request it again.
    NotYet,
    /// The exchange serves both neighbours and skips the range.
    Skipped,
    /// The exchange serves only newer positions.
    OnlyNewer,
}

/// Says why `attempts` requests did not return a range. `now` is the exchange's time: when the database serves a row
/// older than any lag, it no longer lags for the rows before it.
pub fn classify_absence(neighbours: Neighbours, attempts: i64, now: Timestamp) -> Absence {
    let Some((_, ts)) = neighbours.above else { return Absence::NotYet };
    if attempts < ABSENT_ATTEMPTS {
        return Absence::NotYet;
    }
    if neighbours.below {
        return Absence::Skipped;
    }
    if now.since(ts) < LAG_MAX_US { Absence::NotYet } else { Absence::OnlyNewer }
}

/// Until when the exchange served a range that happened at `happened`: for `kept` where the exchange documents it, else
/// for the age that its oldest position has at `now` (`oldest`).
pub fn served_until(happened: Timestamp, oldest: Timestamp, now: Timestamp, kept: Option<Duration>) -> Timestamp {
    let kept_us = kept.map_or_else(|| now.since(oldest), |kept| i64::try_from(kept.as_micros()).unwrap_or(i64::MAX));
    Timestamp(happened.micros().saturating_add(kept_us)).min(now)
}

/// How long to wait after a failed attempt: 1 s, doubling with each attempt, at most a minute.
pub fn retry_after(attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).max(0)).unwrap_or(u32::MAX);
    doubled(Duration::from_secs(1), doublings, Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gap::Evidence;

    fn range(first: i64, last: i64) -> Range {
        Range { first, last }
    }

    #[test]
    fn pages_start_at_the_lowest_missing_position() {
        let mut missing = RangeSet::new(1);
        missing.insert(range(10, 2_500));
        assert_eq!(next_page(&missing, 1, 1_000), Some(Page { range: range(10, 1_009) }));
        missing.remove(range(10, 2_499));
        assert_eq!(next_page(&missing, 1, 1_000), Some(Page { range: range(2_500, 2_500) }));
        missing.remove(range(2_500, 2_500));
        assert_eq!(next_page(&missing, 1, 1_000), None);
    }

    #[test]
    fn missing_ranges_that_are_close_together_share_a_page() {
        let mut missing = RangeSet::new(1);
        missing.insert(range(10, 12));
        missing.insert(range(20, 20));
        missing.insert(range(105, 130));
        assert_eq!(next_page(&missing, 1, 100), Some(Page { range: range(10, 109) }));
        assert_eq!(next_page(&missing, 1, 50), Some(Page { range: range(10, 20) }));
    }

    #[test]
    fn a_range_between_served_rows_is_skipped_and_one_below_them_is_older() {
        let (old, minute) = (Timestamp(0), 60_000_000);
        let neighbours = |below, above| Neighbours { below, above };
        let later = Timestamp(minute);
        for (neighbours, attempts, now, expected) in [
            (neighbours(true, None), 9, later, Absence::NotYet),
            (neighbours(false, None), 9, later, Absence::NotYet),
            (neighbours(true, Some((7, old))), 2, later, Absence::NotYet),
            (neighbours(true, Some((7, old))), 3, old, Absence::Skipped),
            (neighbours(false, Some((7, old))), 2, later, Absence::NotYet),
            (neighbours(false, Some((7, old))), 3, Timestamp(minute - 1), Absence::NotYet),
            (neighbours(false, Some((7, old))), 3, later, Absence::OnlyNewer),
        ] {
            assert_eq!(classify_absence(neighbours, attempts, now), expected, "{neighbours:?}, {attempts} attempts");
        }
    }

    #[test]
    fn a_gone_range_was_served_for_the_age_of_the_oldest_served_row() {
        let until = |kept| served_until(Timestamp(100), Timestamp(700), Timestamp(1_000), kept);
        assert_eq!(until(None), Timestamp(400));
        assert_eq!(until(Some(Duration::from_micros(50))), Timestamp(150));
        assert_eq!(until(Some(Duration::MAX)), Timestamp(1_000), "it is gone, so it was served until now at most");
    }

    #[test]
    fn newest_and_smallest_gaps_come_first_and_requested_ones_last() {
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
    fn waits_double_up_to_one_minute() {
        let waits: Vec<u64> = [0, 1, 2, 5, 7, 60].map(|n| retry_after(n).as_secs()).to_vec();
        assert_eq!(waits, [1, 1, 2, 16, 60, 60]);
    }
}
