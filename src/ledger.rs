//! The one door to gap rows: the open gaps in memory, the rules for opening, merging, claiming and closing them, and the
//! only code that stores them.
//!
//! Everybody else goes through [`SharedLedger`], so memory and history change in one order:
//!
//! | who | calls | the write |
//! |---|---|---|
//! | a finder: sweep, audit, operator, `since` | [`SharedLedger::open`] | memory first, because another finder must not open the same range meanwhile. Until history has the rows the ledger remembers them as unstored: every later call for that range stores them before it succeeds, and the repair loop repeats [`SharedLedger::store_unstored`] until it works |
//! | the consumer | [`SharedLedger::open_with_rows`], [`SharedLedger::begin_epoch`] | the rows go into the batch that reveals them; the consumer repeats that batch until it is stored, and acknowledges no frame before |
//! | a repair | [`SharedLedger::record`] | history first; when that fails the ledger stays as it was, and the repair tries again |
//! | the removal of a feed | [`SharedLedger::supersede`] | history first; the caller repeats it |
//! | the audit | [`SharedLedger::filled_row`] | a closed row in the batch of the row that it explains |
//! | the start | [`Ledger::open_unshared`] | into a ledger that nobody sees before the rows are stored |
//!
//! A late copy of an older row does no harm: history keeps the highest version of each.
//!
//! This file and `appeal.rs`, `settled.rs` hold the rules and do no I/O; `handle.rs` does all of it.
//!
//! # Memory
//!
//! Open rows are all in memory, because the repair orders them and the status counts them. One costs 0.8 kB (measured:
//! 782 bytes with its id and a reason), so 10,000 open gaps cost 8 MB and a million 0.8 GB. Adjacent ones are merged, so
//! only an exchange that loses every second position of a stream gets there; nothing limits their number.
//! Settled positions are bounded, because they stay for ever: see `settled.rs`.

mod appeal;
mod handle;
mod settled;

use std::collections::{HashMap, HashSet};

pub use handle::SharedLedger;

use crate::gap::{Gap, GapState, Range, RangeSet};
use crate::histogram::Histogram;
use crate::market::{Stream, Timestamp};

use settled::Settled;

/// Open gaps, and ranges that will never be filled.
#[derive(Debug, Default)]
pub struct Ledger {
    open: HashMap<String, Gap>,
    /// Positions that closed without their rows: only an appeal opens them again.
    settled: Settled,
    /// Rows that history does not have yet, by id: their finder could not store them.
    unstored: HashMap<String, Gap>,
    /// Those of them that a caller stores now.
    in_flight: HashSet<String>,
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

/// Rows that opening a gap changed; the caller stores all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OpenedGaps {
    /// New rows; each includes the rows that were merged into it.
    rows: Vec<Gap>,
    /// Rows that were merged into one of them.
    superseded: Vec<Gap>,
}

impl OpenedGaps {
    /// Whether nothing was opened.
    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Every row to store.
    fn changed(&self) -> Vec<Gap> {
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
    fn begin_epoch(&mut self, stream: &Stream, epoch: i64, now: Timestamp) -> Vec<Gap> {
        self.set_epochs([(stream.clone(), epoch)]);
        self.settled.forget(stream);
        let reason = format!("the numbering began again: epoch {epoch}");
        let ended = self.supersede(|other| other != stream, &reason, now);
        ended.iter().for_each(|gap| self.update(gap));
        ended
    }

    /// Whether opening `found` would open a row, as far as memory knows: see [`Ledger::forgotten`].
    pub fn would_open(&self, found: &Gap) -> bool {
        let Some(step) = found.stream.channel.step() else { return false };
        !self.covered(found, step).uncovered(found.range).is_empty()
    }

    /// Positions of `found`'s range that are in an open row or settled. An appeal asks again for settled ones.
    fn covered(&self, found: &Gap, step: i64) -> RangeSet {
        let mut covered = RangeSet::new(step);
        if !found.evidence.is_appeal() {
            self.settled.within(&found.stream, found.range).for_each(|range| covered.insert(range));
        }
        for gap in self.of_stream(&found.stream).filter(|gap| gap.range.intersect(found.range).is_some()) {
            covered.insert(gap.range);
        }
        covered
    }

    /// The part of a range of which memory does not know what is settled: history knows it.
    pub fn forgotten(&self, stream: &Stream, range: Range) -> Option<Range> {
        self.settled.forgotten(stream, range)
    }

    /// Whether a new finding next to this row is merged with it. A row in doubt keeps its answers for itself, and an
    /// appeal names exactly the rows that it asks for.
    fn is_mergeable(&self, gap: &Gap, found: &Gap) -> bool {
        !self.claimed.contains(&gap.gap_id)
            && gap.state != GapState::Unconfirmed
            && gap.evidence.is_requested() == found.evidence.is_requested()
            && gap.evidence.is_appeal() == found.evidence.is_appeal()
    }

    /// Opens the part of `found`'s range that is in no open row and not settled. `closed` are ranges that history says are
    /// settled, beside those in memory. A part next to an open row of the same
    /// kind (see [`crate::gap::Evidence::is_requested`]) is merged with it into one new row.
    fn open(&mut self, found: &Gap, closed: &[Range]) -> OpenedGaps {
        let stream = &found.stream;
        let Some(step) = stream.channel.step() else { return OpenedGaps::default() };
        let mut mergeable = RangeSet::new(step);
        for gap in self.of_stream(stream).filter(|gap| self.is_mergeable(gap, found)) {
            mergeable.insert(gap.range);
        }
        let mut covered = self.covered(found, step);
        closed.iter().for_each(|range| covered.insert(*range));
        let uncovered = covered.uncovered(found.range);
        if found.evidence.is_appeal() {
            uncovered.iter().for_each(|range| self.settled.remove(stream, *range));
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

    /// Takes over a changed row; a closed one is removed from the open ones.
    fn update(&mut self, gap: &Gap) {
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
    fn supersede(&self, keep: impl Fn(&Stream) -> bool, reason: &str, now: Timestamp) -> Vec<Gap> {
        let mut changed: Vec<Gap> = self.open.values().filter(|gap| !keep(&gap.stream)).cloned().collect();
        changed.retain_mut(|gap| gap.advance(GapState::Superseded, reason, now));
        changed
    }

    /// Adds all rows of another ledger.
    pub fn absorb(&mut self, other: Self) {
        self.open.extend(other.open);
        self.unstored.extend(other.unstored);
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
        self.unstored.retain(|_, gap| keep(&gap.stream));
        self.settled.retain(keep);
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

    /// Remembers rows that history does not have yet.
    fn note_unstored(&mut self, rows: &[Gap]) {
        self.unstored.extend(rows.iter().map(|row| (row.gap_id.clone(), row.clone())));
    }

    /// History has these rows now.
    fn note_stored(&mut self, rows: &[Gap]) {
        for row in rows {
            if self.unstored.get(&row.gap_id).is_some_and(|unstored| unstored.version <= row.version) {
                self.unstored.remove(&row.gap_id);
            }
        }
    }

    /// Rows of a stream that history does not have yet.
    fn unstored_of(&self, stream: &Stream) -> Vec<Gap> {
        self.unstored.values().filter(|row| &row.stream == stream).cloned().collect()
    }

    /// Rows that history does not have yet and that nobody stores now.
    fn abandoned(&self) -> Vec<Gap> {
        self.unstored.values().filter(|row| !self.in_flight.contains(&row.gap_id)).cloned().collect()
    }

    /// How many rows wait for [`SharedLedger::store_unstored`].
    pub fn abandoned_count(&self) -> usize {
        self.unstored.keys().filter(|gap_id| !self.in_flight.contains(*gap_id)).count()
    }

    /// How many rows history does not have yet.
    pub fn unstored_count(&self) -> usize {
        self.unstored.len()
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
            self.settled.insert(&gap.stream, step, gap.range);
        }
    }
}

#[cfg(test)]
mod ledger_tests;
