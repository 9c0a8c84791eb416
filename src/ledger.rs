//! The open gaps in memory, and the rules for opening, merging, claiming and closing them.
//!
//! A finder calls [`Ledger::open`] with a range, gets rows for the part that the ledger does not know yet, and stores
//! them in history. Does no I/O itself.

mod handle;

use std::collections::{HashMap, HashSet};

pub use handle::SharedLedger;

use crate::gap::{Gap, GapState, Range, RangeSet};
use crate::histogram::Histogram;
use crate::market::{Stream, Timestamp};

/// Open gaps, and ranges that will never be filled.
#[derive(Debug, Default)]
pub struct Ledger {
    open: HashMap<String, Gap>,
    /// Positions that closed without their rows: only an appeal opens them again.
    settled: HashMap<Stream, RangeSet>,
    /// The newest numbering of each stream that has another than the first.
    epochs: HashMap<Stream, i64>,
    /// Rows that an operator wants to be asked for now.
    asked_again: HashSet<String>,
    /// Rows under repair: the repair holds a copy, so they must not be merged.
    claimed: HashSet<String>,
    totals: Totals,
    repair_times: RepairTimes,
}

/// Seconds from detection to fill.
#[derive(Debug)]
struct RepairTimes(Histogram);

/// A page of trades returns within a second; for a day of trades the exchange's weight limit sets the time.
const REPAIR_SECONDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0];

impl Default for RepairTimes {
    fn default() -> Self {
        Self(Histogram::new(REPAIR_SECONDS))
    }
}

/// Rows that [`Ledger::open`] changed; the caller stores all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenedGaps {
    /// New rows; each includes the rows that were merged into it.
    pub rows: Vec<Gap>,
    /// Rows that were merged into one of them.
    pub superseded: Vec<Gap>,
}

impl OpenedGaps {
    /// Whether nothing was opened.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every row to store.
    pub fn changed(&self) -> Vec<Gap> {
        self.superseded.iter().chain(&self.rows).cloned().collect()
    }
}

/// How many gaps were opened and closed since this process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Rows opened.
    pub found: u64,
    /// Rows closed as filled.
    pub filled: u64,
    /// Rows closed in any other state.
    pub closed_otherwise: u64,
    /// Of these, `never_existed`.
    pub never_existed: u64,
    /// Of these, `unrecoverable`.
    pub unrecoverable: u64,
    /// Of these, `refused`.
    pub refused: u64,
    /// Of these, `superseded`.
    pub superseded: u64,
}

impl Ledger {
    /// A ledger with the rows of a store.
    pub fn restore(rows: impl IntoIterator<Item = Gap>) -> Self {
        let mut ledger = Self::default();
        for gap in rows {
            ledger.insert_row(gap);
        }
        ledger
    }

    /// Sets the newest numbering of streams; call it before the rows are loaded.
    pub fn set_epochs(&mut self, epochs: impl IntoIterator<Item = (Stream, i64)>) {
        for (stream, epoch) in epochs {
            let known = self.epochs.entry(stream).or_default();
            *known = epoch.max(*known);
        }
    }

    /// The newest numbering of a stream.
    pub fn epoch_of(&self, stream: &Stream) -> i64 {
        self.epochs.get(stream).copied().unwrap_or(0)
    }

    /// Begins a numbering: the open rows of the ended one are superseded and returned, and its settled positions are
    /// forgotten.
    pub fn begin_epoch(&mut self, stream: &Stream, epoch: i64, now: Timestamp) -> Vec<Gap> {
        self.set_epochs([(stream.clone(), epoch)]);
        self.settled.remove(stream);
        let reason = format!("the numbering began again: epoch {epoch}");
        let ended = self.supersede(|other| other != stream, &reason, now);
        ended.iter().for_each(|gap| self.update(gap));
        ended
    }

    /// Whether [`Ledger::open`] would open a row.
    pub fn would_open(&self, found: &Gap) -> bool {
        let Some(step) = found.stream.channel.step() else { return false };
        !self.covered(found, step).uncovered(found.range).is_empty()
    }

    /// Positions of `found`'s stream that are in an open row or settled. An appeal asks again for settled ones.
    fn covered(&self, found: &Gap, step: i64) -> RangeSet {
        let stream = &found.stream;
        let settled = self.settled.get(stream).filter(|_| !found.evidence.is_appeal());
        let mut covered = settled.cloned().unwrap_or_else(|| RangeSet::new(step));
        for gap in self.of_stream(stream) {
            covered.insert(gap.range);
        }
        covered
    }

    /// Whether a new finding next to this row is merged with it. A row in doubt keeps its answers for itself, and an
    /// appeal names exactly the rows that it asks for.
    fn is_mergeable(&self, gap: &Gap, found: &Gap) -> bool {
        !self.claimed.contains(&gap.gap_id)
            && gap.state != GapState::Unconfirmed
            && gap.evidence.is_requested() == found.evidence.is_requested()
            && gap.evidence.is_appeal() == found.evidence.is_appeal()
    }

    /// Opens the part of `found`'s range that is in no open row and not settled. A part next to an open row of the same
    /// kind (see [`crate::gap::Evidence::is_requested`]) is merged with it into one new row.
    pub fn open(&mut self, found: &Gap) -> OpenedGaps {
        let stream = &found.stream;
        let Some(step) = stream.channel.step() else { return OpenedGaps::default() };
        let mut mergeable = RangeSet::new(step);
        for gap in self.of_stream(stream).filter(|gap| self.is_mergeable(gap, found)) {
            mergeable.insert(gap.range);
        }
        let uncovered = self.covered(found, step).uncovered(found.range);
        if found.evidence.is_appeal()
            && let Some(settled) = self.settled.get_mut(stream)
        {
            for range in &uncovered {
                settled.remove(*range);
            }
        }
        for range in &uncovered {
            mergeable.insert(*range);
        }
        let mut opened = OpenedGaps::default();
        for range in mergeable.iter().filter(|range| uncovered.iter().any(|part| range.contains(part.first))) {
            let mut row = Gap { range, ..found.clone() };
            row.gap_id = Gap::new_id();
            row.epoch = self.epoch_of(stream);
            let inside: Vec<Gap> = self
                .of_stream(stream)
                .filter(|gap| range.intersect(gap.range).is_some() && self.is_mergeable(gap, found))
                .cloned()
                .collect();
            for mut gap in inside {
                row.absorb(&gap);
                gap.advance(GapState::Superseded, &format!("merged into {}", row.gap_id), found.detected_at);
                self.open.remove(&gap.gap_id);
                opened.superseded.push(gap);
            }
            self.totals.found += 1;
            self.open.insert(row.gap_id.clone(), row.clone());
            opened.rows.push(row);
        }
        opened
    }

    /// Claims an open row for a repair; `false` when it is closed or already claimed.
    pub fn claim(&mut self, gap_id: &str) -> bool {
        self.open.contains_key(gap_id) && self.claimed.insert(gap_id.to_owned())
    }

    /// Whether a repair has claimed this row.
    pub fn is_claimed(&self, gap_id: &str) -> bool {
        self.claimed.contains(gap_id)
    }

    /// Releases a claim.
    pub fn unclaim(&mut self, gap_id: &str) {
        self.claimed.remove(gap_id);
    }

    /// Releases all claims.
    pub fn unclaim_all(&mut self) {
        self.claimed.clear();
    }

    /// Stores a changed row; a closed one is removed from the open ones.
    pub fn update(&mut self, gap: &Gap) {
        if gap.state.is_closed() && self.open.contains_key(&gap.gap_id) {
            let totals = &mut self.totals;
            match gap.state {
                GapState::Filled => {
                    totals.filled += 1;
                    let took = gap.closed_at.map_or(0, |at| at.since(gap.detected_at).max(0));
                    self.repair_times.0.observe(took as f64 / 1e6);
                }
                GapState::NeverExisted => totals.never_existed += 1,
                GapState::Unrecoverable => totals.unrecoverable += 1,
                GapState::Refused => totals.refused += 1,
                _ => totals.superseded += 1,
            }
            totals.closed_otherwise = totals.never_existed + totals.unrecoverable + totals.refused + totals.superseded;
        }
        self.insert_row(gap.clone());
    }

    /// How long repairs of filled gaps took.
    pub fn repair_times(&self) -> &Histogram {
        &self.repair_times.0
    }

    /// Rows that are not closed, by state.
    pub fn open_states(&self) -> [(GapState, usize); 3] {
        [GapState::Open, GapState::Filling, GapState::Unconfirmed]
            .map(|state| (state, self.open.values().filter(|gap| gap.state == state).count()))
    }

    /// Closes the open rows of streams that `keep` rejects, and returns them.
    pub fn supersede(&self, keep: impl Fn(&Stream) -> bool, reason: &str, now: Timestamp) -> Vec<Gap> {
        let mut changed: Vec<Gap> = self.open.values().filter(|gap| !keep(&gap.stream)).cloned().collect();
        changed.retain_mut(|gap| gap.advance(GapState::Superseded, reason, now));
        changed
    }

    /// Adds all rows of another ledger.
    pub fn absorb(&mut self, other: Self) {
        self.open.extend(other.open);
        self.settled.extend(other.settled);
        self.set_epochs(other.epochs);
    }

    /// Adds rows of a store for streams that another recorder consumed until now.
    pub fn load(&mut self, rows: impl IntoIterator<Item = Gap>) {
        for gap in rows {
            self.insert_row(gap);
        }
    }

    /// Keeps only the rows of streams that `keep` accepts; another recorder repairs the others.
    pub fn retain_streams(&mut self, keep: impl Fn(&Stream) -> bool) {
        self.open.retain(|_, gap| keep(&gap.stream));
        self.settled.retain(|stream, _| keep(stream));
    }

    /// Asks now for the open rows of a stream that lie in `range`, also for those that wait; returns how many.
    pub fn ask_again(&mut self, stream: &Stream, range: Range) -> usize {
        let inside = |gap: &&Gap| gap.range.intersect(range).is_some();
        let ids: Vec<String> = self.of_stream(stream).filter(inside).map(|gap| gap.gap_id.clone()).collect();
        let count = ids.len();
        self.asked_again.extend(ids);
        count
    }

    /// Takes the rows that [`Ledger::ask_again`] named.
    pub fn take_asked_again(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.asked_again)
    }

    /// Whether a position closed without its row.
    pub fn is_settled(&self, stream: &Stream, position: i64) -> bool {
        self.settled.get(stream).is_some_and(|settled| settled.contains(position))
    }

    /// Every open row.
    pub fn rows(&self) -> impl Iterator<Item = &Gap> {
        self.open.values()
    }

    /// The open row with this id.
    pub fn get(&self, gap_id: &str) -> Option<&Gap> {
        self.open.get(gap_id)
    }

    /// How many rows are open, and how many positions they still miss as of the last repair attempt.
    pub fn open_count(&self) -> (usize, i64) {
        (self.open.len(), self.open.values().map(Gap::missing).sum())
    }

    /// The same for the rows in doubt alone. They raise no alarm.
    pub fn unconfirmed_count(&self) -> (usize, i64) {
        let in_doubt = || self.open.values().filter(|gap| gap.state == GapState::Unconfirmed);
        (in_doubt().count(), in_doubt().map(Gap::missing).sum())
    }

    /// Open rows of one stream.
    pub fn of_stream<'a>(&'a self, stream: &'a Stream) -> impl Iterator<Item = &'a Gap> {
        self.open.values().filter(move |gap| &gap.stream == stream)
    }

    /// How many gaps were opened and closed since this process began.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn insert_row(&mut self, gap: Gap) {
        if !gap.state.is_closed() {
            self.open.insert(gap.gap_id.clone(), gap);
            return;
        }
        self.open.remove(&gap.gap_id);
        if let Some(step) = gap.stream.channel.step()
            && gap.state.is_verdict()
            && gap.epoch == self.epoch_of(&gap.stream)
        {
            self.settled.entry(gap.stream.clone()).or_insert_with(|| RangeSet::new(step)).insert(gap.range);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::gap::Evidence;

    fn stream() -> Stream {
        "binance:BTCUSDT:trade".parse().unwrap()
    }

    fn found(first: i64, last: i64, by: &str) -> Gap {
        let evidence = Evidence { by: by.to_owned(), ..Evidence::default() };
        Gap::open(stream(), Range { first, last }, evidence, Timestamp(1))
    }

    fn open(ledger: &mut Ledger, first: i64, last: i64) -> Vec<(i64, i64)> {
        let opened = ledger.open(&found(first, last, "neighbour"));
        opened.rows.iter().map(|gap| (gap.range.first, gap.range.last)).collect()
    }

    #[test]
    fn only_unknown_positions_open_a_row_and_adjacent_rows_are_merged() {
        let mut ledger = Ledger::default();
        assert_eq!(open(&mut ledger, 10, 20), [(10, 20)]);
        assert_eq!(open(&mut ledger, 10, 20), []);
        assert_eq!(open(&mut ledger, 12, 13), []);
        assert_eq!(open(&mut ledger, 30, 40), [(30, 40)]);
        let opened = ledger.open(&found(21, 29, "tail"));
        let [row] = &opened.rows[..] else { panic!("{opened:?}") };
        assert_eq!((row.range, row.attempts), (Range { first: 10, last: 40 }, 0));
        assert_eq!(opened.superseded.len(), 2);
        for gap in &opened.superseded {
            assert_eq!((gap.state, gap.closed_at), (GapState::Superseded, Some(Timestamp(1))));
            assert!(gap.reason.contains(&row.gap_id) && row.evidence.replaces.contains(&gap.gap_id));
        }
        assert_eq!(ledger.open_count(), (1, 31));
    }

    #[test]
    fn a_requested_gap_or_one_under_repair_is_not_merged() {
        let mut ledger = Ledger::default();
        open(&mut ledger, 10, 20);
        let opened = ledger.open(&found(1, 15, "since"));
        assert_eq!((opened.rows[0].range, opened.superseded.len()), (Range { first: 1, last: 9 }, 0));
        let live = ledger.rows().find(|gap| gap.range.first == 10).unwrap().gap_id.clone();
        assert!(ledger.claim(&live) && !ledger.claim(&live), "one repair at a time");
        assert_eq!(open(&mut ledger, 18, 25), [(21, 25)]);
        ledger.unclaim(&live);
        assert_eq!(open(&mut ledger, 26, 26), [(10, 26)]);
        assert_eq!(ledger.open_count(), (2, 26));
    }

    #[test]
    fn a_merged_row_keeps_the_outer_evidence_and_the_first_detection_time() {
        let mut ledger = Ledger::default();
        let mut low = found(10, 20, "neighbour");
        (low.evidence.previous, low.evidence.next, low.from_ts) = (Some(9), Some(21), Some(Timestamp(5)));
        ledger.open(&low);
        let mut high = found(21, 30, "tail");
        (high.evidence.previous, high.evidence.next, high.to_ts) = (Some(20), Some(31), Some(Timestamp(6)));
        high.detected_at = Timestamp(9);
        let row = ledger.open(&high).rows.remove(0);
        assert_eq!((row.evidence.previous, row.evidence.next), (Some(9), Some(31)));
        assert_eq!((row.from_ts, row.to_ts, row.detected_at), (Some(Timestamp(5)), Some(Timestamp(6)), Timestamp(1)));
    }

    proptest! {
        #[test]
        fn open_rows_are_what_is_missing_and_never_overlap(
            findings in prop::collection::vec((0_i64..60, 0_i64..12, 0_usize..3, 0_usize..4), 1..40),
        ) {
            let mut ledger = Ledger::default();
            let (mut model, mut settled) = (BTreeSet::new(), BTreeSet::new());
            for (first, len, by, then) in findings {
                let by = ["neighbour", "tail", "since"][by];
                let opened = ledger.open(&found(first, first + len, by));
                model.extend((first..=first + len).filter(|id| !settled.contains(id)));
                if let Some(mut gap) = opened.rows.into_iter().next() {
                    let ids = gap.range.first..=gap.range.last;
                    match then {
                        0 => assert!(ledger.claim(&gap.gap_id)),
                        1 => {
                            gap.advance(GapState::Filled, "", Timestamp(2));
                            model.retain(|id| !ids.contains(id));
                        }
                        2 => {
                            gap.advance(GapState::NeverExisted, "", Timestamp(2));
                            model.retain(|id| !ids.contains(id));
                            settled.extend(ids);
                        }
                        _ => ledger.unclaim_all(),
                    }
                    ledger.update(&gap);
                }
                let rows: Vec<i64> = ledger.rows().flat_map(|gap| gap.range.first..=gap.range.last).collect();
                let ids: BTreeSet<i64> = rows.iter().copied().collect();
                prop_assert_eq!(rows.len(), ids.len(), "rows overlap");
                prop_assert_eq!(&ids, &model);
            }
        }
    }

    #[test]
    fn a_filled_range_can_open_again_but_a_settled_one_cannot() {
        let mut ledger = Ledger::default();
        for (state, again) in [(GapState::Filled, vec![(1, 3)]), (GapState::NeverExisted, vec![])] {
            let mut gap = ledger.open(&found(1, 3, "neighbour")).rows.pop().unwrap();
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
        assert_eq!(
            ledger.totals(),
            Totals { found: 3, filled: 2, closed_otherwise: 1, never_existed: 1, ..Totals::default() }
        );
        assert_eq!(ledger.repair_times().count(), 2);
    }

    #[test]
    fn removing_a_feed_supersedes_its_gaps() {
        let mut ledger = Ledger::default();
        open(&mut ledger, 1, 3);
        let changed = ledger.supersede(|_| false, "feed removed", Timestamp(5));
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].state, changed[0].closed_at), (GapState::Superseded, Some(Timestamp(5))));
        assert_eq!(ledger.open_count(), (1, 3), "until the rows are durable");
        ledger.update(&changed[0]);
        assert_eq!(ledger.open_count(), (0, 0));
    }

    #[test]
    fn a_numbering_that_begins_supersedes_the_gaps_of_the_ended_one_and_forgets_its_verdicts() {
        let mut ledger = Ledger::default();
        let mut settled = ledger.open(&found(10, 20, "neighbour")).rows.pop().unwrap();
        settled.advance(GapState::NeverExisted, "", Timestamp(2));
        ledger.update(&settled);
        open(&mut ledger, 30, 40);
        let ended = ledger.begin_epoch(&stream(), 1, Timestamp(5));
        assert_eq!((ended.len(), ended[0].state, ledger.open_count().0), (1, GapState::Superseded, 0));
        let again = ledger.open(&found(10, 20, "neighbour")).rows.pop().unwrap();
        assert_eq!(
            (again.range, again.epoch),
            (Range { first: 10, last: 20 }, 1),
            "another numbering, another verdict"
        );
        // The same after a restart.
        let mut restored = Ledger::default();
        restored.set_epochs([(stream(), 1)]);
        restored.load([settled]);
        assert!(restored.would_open(&found(10, 20, "neighbour")));
    }
}
