//! The plan of a repair: which gap first, which page next, and what the answers amount to.

use crate::market::Timestamp;

use super::{Gap, Range, RangeSet};

/// Which of two gaps is repaired first: newest first, then smallest; live fills before old ones,
/// because a `since` or a request of an operator can wait and a fresh hole may be about to leave
/// what the exchange still serves.
pub fn repair_order(a: &Gap, b: &Gap) -> std::cmp::Ordering {
    let old = |gap: &Gap| matches!(gap.evidence.by.as_str(), "since" | "manual");
    old(a)
        .cmp(&old(b))
        .then_with(|| b.detected_at.cmp(&a.detected_at))
        .then_with(|| a.len().cmp(&b.len()))
        .then_with(|| a.gap_id.cmp(&b.gap_id))
}

/// What is asked of the exchange next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Positions wanted; at most one page of them.
    pub range: Range,
}

/// The first page of what is still missing; `None` when nothing is.
pub fn next_page(missing: &RangeSet, step: i64, page_max: i64) -> Option<Page> {
    let first = missing.iter().next()?;
    let last = first.first + (page_max - 1) * step;
    Some(Page { range: Range { first: first.first, last: first.last.min(last) } })
}

/// What an answer to a page says of the positions it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Positions of the range that the answer skipped although it served a later one: the exchange
    /// has nothing there, unless its database lags.
    pub skipped: Vec<Range>,
    /// Positions of the range behind everything served: not served yet, or not any more.
    pub behind: Option<Range>,
}

/// Reads an answer (ascending positions, possibly beyond the range) against the range asked for.
pub fn verdict(asked: Range, step: i64, served: &[i64]) -> Verdict {
    let mut skipped = Vec::new();
    let mut next = asked.first;
    for &position in served.iter().filter(|position| **position >= asked.first) {
        if let Some(range) = Range::new(next, (position - step).min(asked.last)) {
            skipped.push(range);
        }
        next = next.max(position + step);
    }
    Verdict { skipped, behind: Range::new(next, asked.last) }
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
    fn a_full_answer_leaves_nothing_to_say() {
        assert_eq!(verdict(range(3, 5), 1, &[3, 4, 5, 6]), Verdict { skipped: vec![], behind: None });
    }

    #[test]
    fn an_id_skipped_between_two_served_ones_does_not_exist() {
        assert_eq!(verdict(range(3, 6), 1, &[3, 5, 6]), Verdict { skipped: vec![range(4, 4)], behind: None });
        assert_eq!(verdict(range(3, 6), 1, &[9, 10]), Verdict { skipped: vec![range(3, 6)], behind: None });
    }

    #[test]
    fn a_short_answer_leaves_the_end_behind() {
        assert_eq!(verdict(range(3, 6), 1, &[3, 4]), Verdict { skipped: vec![], behind: Some(range(5, 6)) });
        assert_eq!(verdict(range(3, 6), 1, &[]), Verdict { skipped: vec![], behind: Some(range(3, 6)) });
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
