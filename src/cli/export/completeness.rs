//! What was written, and what between was not.

use crate::gap::{Range, RangeSet};
use crate::market::Stream;

/// Missing ranges named; the others are only counted.
const RANGES_MAX: usize = 1_000;

/// Follows the rows as they are written.
pub struct Completeness {
    stream: Stream,
    step: i64,
    /// Positions that the exchange itself does not have.
    never_existed: RangeSet,
    /// The position that should come next.
    next: i64,
    /// Rows so far.
    pub rows: u64,
    /// Positions that should have been between them.
    pub missing: i64,
    /// The first ranges of these.
    pub ranges: Vec<Range>,
    range_count: usize,
}

impl Completeness {
    /// Nothing yet of a range that begins with `first`.
    pub fn new(stream: &Stream, step: i64, never_existed: RangeSet, first: i64) -> Self {
        let ranges = Vec::new();
        Self { stream: stream.clone(), step, never_existed, next: first, rows: 0, missing: 0, ranges, range_count: 0 }
    }

    /// A row of this position.
    pub fn row(&mut self, position: i64) {
        self.count_missing_before(position);
        self.next = position + self.step;
        self.rows += 1;
    }

    /// There are no more rows up to here.
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

    /// Says on stderr what is missing.
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
