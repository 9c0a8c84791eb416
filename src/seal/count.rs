//! Counts the rows of a day as they are read: first and last position, what is absent between them, the scale of each
//! column and the hash. Pure.

use crate::gap::{Range, RangeSet};
use crate::market::Timestamp;

use super::kline_check::KlineComparison;
use super::logical_hash::LogicalHash;
use super::rows::{Row, Scales};
use super::{Day, KlineCheck, RANGES_MAX};

/// The rows of one numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochCount {
    day: Day,
    step: i64,
    /// Its number.
    pub epoch: i64,
    /// The first and last position of the day; `None` without a row.
    pub extent: Option<Range>,
    /// Rows of the day.
    pub rows: u64,
    /// Of these, how many backfill fetched.
    pub backfilled: i64,
    /// Of these, how many came from the exchange's published files.
    pub archived: i64,
    /// Ranges without a row between the first and last position.
    pub absent: Vec<Range>,
    /// Ranges between them whose rows belong to another day.
    pub other_day: Vec<Range>,
    /// The range without a row directly before the first position, or where the day's rows would be.
    pub before: Option<Range>,
    /// The range without a row directly after the last position.
    pub after: Option<Range>,
    /// Backfilled positions in these ranges came from the exchange's published files.
    archive: RangeSet,
    /// The last position that was read.
    read: Option<i64>,
    /// The last position before the day and the first one after it, by time.
    neighbours: (Option<i64>, Option<i64>),
    /// What lies behind the last position so far: part of the day only if another row of it follows.
    pending_absent: Vec<Range>,
    pending_other: Vec<Range>,
}

impl EpochCount {
    /// Begins to count. `previous` is the last stored position before those that are read.
    pub fn new(day: Day, step: i64, epoch: i64, previous: Option<i64>, archive: RangeSet) -> Self {
        Self {
            day,
            step,
            epoch,
            extent: None,
            rows: 0,
            backfilled: 0,
            archived: 0,
            absent: Vec::new(),
            other_day: Vec::new(),
            before: None,
            after: None,
            archive,
            read: previous,
            neighbours: (previous, None),
            pending_absent: Vec::new(),
            pending_other: Vec::new(),
        }
    }

    /// Counts a row; returns whether it is of the day. Positions ascend.
    fn row(&mut self, row: Row<'_>) -> bool {
        let (position, ts) = (row.position(), row.ts());
        let absent = self.read.and_then(|read| Range::new(read + self.step, position - self.step));
        let is_next = self.extent.is_some_and(|extent| self.read == Some(extent.last));
        self.read = Some(position);
        if !self.day.contains(ts) {
            self.of_other_day(position, ts, absent, is_next);
            return false;
        }
        match &mut self.extent {
            None => {
                self.before = absent;
                self.extent = Some(Range { first: position, last: position });
            }
            Some(extent) => {
                extent.last = position;
                self.absent.append(&mut self.pending_absent);
                self.absent.extend(absent);
                self.other_day.append(&mut self.pending_other);
            }
        }
        self.after = None;
        self.rows += 1;
        if row.is_backfilled() {
            self.backfilled += 1;
            self.archived += i64::from(self.archive.contains(position));
        }
        true
    }

    fn of_other_day(&mut self, position: i64, ts: Timestamp, absent: Option<Range>, is_next: bool) {
        if ts < self.day.start() {
            self.neighbours.0 = Some(position);
        } else if self.neighbours.1.is_none() {
            self.neighbours.1 = Some(position);
        }
        if self.extent.is_none() {
            return;
        }
        if is_next {
            self.after = absent;
        }
        self.pending_absent.extend(absent);
        match self.pending_other.last_mut() {
            Some(range) if range.last + self.step == position => range.last = position,
            _ => self.pending_other.push(Range { first: position, last: position }),
        }
    }

    /// Ends the count. `next` is the first stored position after those that were read.
    pub fn end(&mut self, next: Option<i64>) {
        match self.extent {
            Some(extent) if self.read == Some(extent.last) => {
                self.after = next.and_then(|next| Range::new(extent.last + self.step, next - self.step));
            }
            Some(_) => {}
            // Whatever is missing between the rows of the days around it may be of this day.
            None => {
                let (before, after) = (self.neighbours.0, self.neighbours.1.or(next));
                let between = before.zip(after);
                self.before = between.and_then(|(before, after)| Range::new(before + self.step, after - self.step));
            }
        }
        self.pending_absent = Vec::new();
        self.pending_other = Vec::new();
    }

    /// Whether it has more ranges than a manifest may list.
    fn is_too_torn(&self) -> bool {
        [&self.absent, &self.other_day, &self.pending_absent, &self.pending_other]
            .iter()
            .any(|ranges| ranges.len() > RANGES_MAX)
    }
}

/// The rows of a day, of every numbering.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayCount {
    /// Each numbering, oldest first.
    pub epochs: Vec<EpochCount>,
    /// Rows of the day.
    pub rows: u64,
    /// The scales of the columns.
    pub scales: Scales,
    /// The hash of the rows.
    pub hash: LogicalHash,
    /// The comparison of klines with the trades of the newest numbering.
    pub klines: KlineCheck,
    comparison: KlineComparison,
    line: String,
}

impl DayCount {
    /// Begins a numbering.
    pub fn begin(&mut self, epoch: EpochCount, comparison: KlineComparison) {
        self.epochs.push(epoch);
        self.comparison = comparison;
    }

    /// Counts a row of the numbering that began last; returns whether it is of the day.
    pub fn row(&mut self, row: Row<'_>) -> bool {
        if let Row::Trade(trade) = row {
            self.comparison.trade(&trade.trade);
        }
        if !self.epochs.last_mut().is_some_and(|epoch| epoch.row(row)) {
            return false;
        }
        self.rows += 1;
        self.scales.widen(row);
        row.write_line(&mut self.line);
        self.hash.add(&self.line);
        true
    }

    /// Ends the numbering that began last.
    pub fn end(&mut self, next: Option<i64>) {
        let found = std::mem::take(&mut self.comparison).end();
        let Some(epoch) = self.epochs.last_mut() else { return };
        epoch.end(next);
        if epoch.extent.is_some() {
            self.klines = found;
        }
    }

    /// Whether the rows of the day are the same.
    pub fn has_the_rows_of(&self, other: &Self) -> bool {
        (self.rows, self.hash, self.scales) == (other.rows, other.hash, other.scales)
    }

    /// Whether a numbering has more ranges than a manifest may list.
    pub fn is_too_torn(&self) -> bool {
        self.epochs.last().is_some_and(EpochCount::is_too_torn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::TradeRow;
    use crate::seal::fixture_tests::trade_row;

    fn day() -> Day {
        Day::parse("2026-11-27").unwrap()
    }

    /// Positions with their distance to the day: before it (-1), of it (0) or after it (1).
    fn count(previous: Option<i64>, rows: &[(i64, i64)], next: Option<i64>) -> EpochCount {
        let mut counted = DayCount::default();
        counted.begin(EpochCount::new(day(), 1, 0, previous, RangeSet::new(1)), KlineComparison::default());
        for (id, distance) in rows {
            let ts = day().start().plus_micros(distance * crate::market::DAY_US + 5);
            let row: TradeRow = trade_row(*id, ts);
            assert_eq!(counted.row(Row::Trade(&row)), *distance == 0);
        }
        counted.end(next);
        counted.epochs.remove(0)
    }

    fn pairs(ranges: &[Range]) -> Vec<(i64, i64)> {
        ranges.iter().map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn a_day_begins_with_its_first_row_and_ends_with_its_last() {
        let counted = count(Some(3), &[(4, -1), (5, 0), (6, 0), (9, 0), (10, 1)], Some(11));
        assert_eq!((counted.extent, counted.rows), (Range::new(5, 9), 3));
        assert_eq!((pairs(&counted.absent), counted.before, counted.after), (vec![(7, 8)], None, None));
    }

    #[test]
    fn what_is_absent_around_midnight_is_directly_before_the_first_or_after_the_last_row() {
        let counted = count(Some(1), &[(2, -1), (5, 0), (8, 1), (12, 1)], None);
        assert_eq!((counted.before, counted.after), (Range::new(3, 4), Range::new(6, 7)));
        assert!(counted.absent.is_empty());
        let counted = count(Some(1), &[(5, 0)], Some(9));
        assert_eq!((counted.before, counted.after), (Range::new(2, 4), Range::new(6, 8)));
        let counted = count(None, &[(5, 0)], None);
        assert_eq!((counted.before, counted.after), (None, None));
    }

    #[test]
    fn rows_that_are_numbered_in_another_order_than_they_happened_are_no_hole() {
        let counted = count(None, &[(1, -1), (2, 0), (3, -1), (4, 0), (5, 1), (6, 0), (7, 1), (9, 1)], None);
        assert_eq!((counted.extent, counted.rows), (Range::new(2, 6), 3));
        assert_eq!((pairs(&counted.other_day), counted.absent.len()), (vec![(3, 3), (5, 5)], 0));
        assert_eq!(counted.after, None);
    }

    #[test]
    fn a_day_without_a_row_may_lack_what_is_absent_between_its_neighbours() {
        assert_eq!(count(None, &[(4, -1), (9, 1)], None).before, Range::new(5, 8));
        assert_eq!(count(Some(4), &[], Some(9)).before, Range::new(5, 8));
        assert_eq!(count(Some(4), &[], Some(5)).before, None);
        assert_eq!(count(None, &[(9, 1)], None).before, None);
    }
}
