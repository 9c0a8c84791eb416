//! The rows of the ledger that are not done with, in memory, and the rules for adding to them.
//!
//! Whoever finds a hole asks [`Ledger::open`] which part of it is news, and stores the rows it gets.

use std::collections::HashMap;

use crate::market::{Stream, Timestamp};

use super::{Evidence, Gap, GapState, Range, RangeSet};

/// Gaps that are open, and ranges that will never be filled.
#[derive(Debug, Default)]
pub struct Ledger {
    open: HashMap<String, Gap>,
    /// Positions declared never existed or unrecoverable: finding them missing again is no news.
    settled: HashMap<Stream, RangeSet>,
    totals: Totals,
}

/// What became of gaps since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Rows opened.
    pub found: u64,
    /// Rows closed as filled.
    pub filled: u64,
    /// Rows closed otherwise.
    pub closed_otherwise: u64,
}

impl Ledger {
    /// Takes over the rows of a store at start.
    pub fn restore(rows: impl IntoIterator<Item = Gap>) -> Self {
        let mut ledger = Self::default();
        for gap in rows {
            ledger.place(gap);
        }
        ledger
    }

    /// New rows for those parts of `range` that no open row speaks for and that are not settled.
    pub fn open(&mut self, stream: &Stream, range: Range, evidence: &Evidence, now: Timestamp) -> Vec<Gap> {
        let Some(step) = stream.channel.step() else { return Vec::new() };
        let mut known = self.settled.get(stream).cloned().unwrap_or_else(|| RangeSet::new(step));
        for gap in self.of(stream) {
            known.insert(gap.range);
        }
        let news: Vec<Gap> = known
            .absent(range)
            .into_iter()
            .map(|range| Gap::open(stream.clone(), range, evidence.clone(), now))
            .collect();
        for gap in &news {
            self.totals.found += 1;
            self.open.insert(gap.gap_id.clone(), gap.clone());
        }
        news
    }

    /// Takes a changed row; a closed one leaves the open ones.
    pub fn update(&mut self, gap: &Gap) {
        if gap.state.is_closed() && self.open.contains_key(&gap.gap_id) {
            match gap.state {
                GapState::Filled => self.totals.filled += 1,
                _ => self.totals.closed_otherwise += 1,
            }
        }
        self.place(gap.clone());
    }

    /// Closes every open row of streams that `keep` does not name, and returns the changed rows.
    pub fn supersede(&mut self, keep: impl Fn(&Stream) -> bool, reason: &str, now: Timestamp) -> Vec<Gap> {
        let mut changed: Vec<Gap> = self.open.values().filter(|gap| !keep(&gap.stream)).cloned().collect();
        changed.retain_mut(|gap| gap.advance(GapState::Superseded, reason, now));
        for gap in &changed {
            self.update(gap);
        }
        changed
    }

    /// Takes over what another ledger knows.
    pub fn absorb(&mut self, other: Self) {
        self.open.extend(other.open);
        self.settled.extend(other.settled);
    }

    /// Takes over the rows of a store for streams that were another recorder's until now.
    pub fn adopt(&mut self, rows: impl IntoIterator<Item = Gap>) {
        for gap in rows {
            self.place(gap);
        }
    }

    /// Forgets the rows of streams that `keep` does not name, as another recorder sees to them from now on.
    pub fn release(&mut self, keep: impl Fn(&Stream) -> bool) {
        self.open.retain(|_, gap| keep(&gap.stream));
        self.settled.retain(|stream, _| keep(stream));
    }

    /// Every open row.
    pub fn rows(&self) -> impl Iterator<Item = &Gap> {
        self.open.values()
    }

    /// The open row with this id.
    pub fn get(&self, gap_id: &str) -> Option<&Gap> {
        self.open.get(gap_id)
    }

    /// How many rows are open, and how many positions they miss.
    pub fn open_count(&self) -> (usize, i64) {
        (self.open.len(), self.open.values().map(Gap::len).sum())
    }

    /// Open rows of one stream.
    pub fn of<'a>(&'a self, stream: &'a Stream) -> impl Iterator<Item = &'a Gap> {
        self.open.values().filter(move |gap| &gap.stream == stream)
    }

    /// What became of gaps since this process began.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn place(&mut self, gap: Gap) {
        if !gap.state.is_closed() {
            self.open.insert(gap.gap_id.clone(), gap);
            return;
        }
        self.open.remove(&gap.gap_id);
        let settled = matches!(gap.state, GapState::NeverExisted | GapState::Unrecoverable);
        if let Some(step) = gap.stream.channel.step()
            && settled
        {
            self.settled.entry(gap.stream.clone()).or_insert_with(|| RangeSet::new(step)).insert(gap.range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        "binance:BTCUSDT:trade".parse().unwrap()
    }

    fn open(ledger: &mut Ledger, first: i64, last: i64) -> Vec<(i64, i64)> {
        let rows = ledger.open(&stream(), Range { first, last }, &Evidence::default(), Timestamp(1));
        rows.iter().map(|gap| (gap.range.first, gap.range.last)).collect()
    }

    #[test]
    fn only_news_makes_a_row() {
        let mut ledger = Ledger::default();
        assert_eq!(open(&mut ledger, 10, 20), [(10, 20)]);
        assert_eq!(open(&mut ledger, 10, 20), []);
        assert_eq!(open(&mut ledger, 5, 25), [(5, 9), (21, 25)]);
        assert_eq!(ledger.open_count(), (3, 21));
    }

    #[test]
    fn a_filled_range_may_open_again_as_a_new_row_but_a_settled_one_not() {
        let mut ledger = Ledger::default();
        for (state, again) in [(GapState::Filled, vec![(1, 3)]), (GapState::NeverExisted, vec![])] {
            let mut rows = ledger.open(&stream(), Range { first: 1, last: 3 }, &Evidence::default(), Timestamp(1));
            let mut gap = rows.pop().unwrap();
            assert!(gap.advance(state, "", Timestamp(2)));
            ledger.update(&gap);
            assert_eq!(ledger.open_count().0, 0);
            assert_eq!(open(&mut ledger, 1, 3), again);
            let rows: Vec<Gap> = ledger.rows().cloned().collect();
            for mut gap in rows {
                gap.advance(GapState::Filled, "", Timestamp(3));
                ledger.update(&gap);
            }
        }
        assert_eq!(ledger.totals(), Totals { found: 3, filled: 2, closed_otherwise: 1 });
    }

    #[test]
    fn a_removed_feed_leaves_no_alarm_behind() {
        let mut ledger = Ledger::default();
        open(&mut ledger, 1, 3);
        let changed = ledger.supersede(|_| false, "feed removed", Timestamp(5));
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].state, changed[0].closed_at), (GapState::Superseded, Some(Timestamp(5))));
        assert_eq!(ledger.open_count(), (0, 0));
    }
}
