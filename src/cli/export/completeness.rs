//! Counts the rows as the export writes them, and the positions missing between them.

use crate::gap::{Range, RangeSet};
use crate::market::Stream;

/// Missing ranges kept; further ones are only counted.
const RANGES_MAX: usize = 1_000;

/// The rows written so far, and what is missing between them.
pub struct Completeness {
    stream: Stream,
    step: i64,
    /// Positions that the exchange never used.
    never_existed: RangeSet,
    /// The next expected position.
    next: i64,
    /// Rows so far.
    pub rows: u64,
    /// Missing positions so far.
    pub missing: i64,
    /// The first missing ranges.
    pub ranges: Vec<Range>,
    range_count: usize,
}

impl Completeness {
    /// Begins a range at `first`; `step` is the distance between positions.
    pub fn new(stream: &Stream, step: i64, never_existed: RangeSet, first: i64) -> Self {
        let ranges = Vec::new();
        Self { stream: stream.clone(), step, never_existed, next: first, rows: 0, missing: 0, ranges, range_count: 0 }
    }

    /// Counts a row at this position.
    pub fn row(&mut self, position: i64) {
        self.count_missing_before(position);
        self.next = position + self.step;
        self.rows += 1;
    }

    /// Counts what is missing after the last row of the range.
    pub fn end(&mut self, range: Range) {
        self.count_missing_before(range.last + self.step);
    }

    fn count_missing_before(&mut self, position: i64) {
        let Some(skipped) = Range::new(self.next, position - self.step) else { return };
        for absent in self.never_existed.uncovered(skipped) {
            self.missing += absent.len(self.step);
            self.range_count += 1;
            if self.ranges.len() < RANGES_MAX {
                self.ranges.push(absent);
            }
        }
    }

    /// Prints the missing ranges on stderr.
    pub fn report(&self) {
        if self.missing == 0 {
            return;
        }
        eprintln!("{}: NOT complete: {} missing", self.stream, self.missing);
        for Range { first, last } in &self.ranges {
            eprintln!("  missing {}", self.stream.channel.span(*first, *last));
        }
        if self.range_count > self.ranges.len() {
            eprintln!("  and {} more ranges", self.range_count - self.ranges.len());
        }
    }
}
