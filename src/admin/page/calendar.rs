//! The state of every day and of every minute of today, stream by stream. Pure.

use std::collections::HashSet;

use crate::audit::Coverage;
use crate::gap::{Gap, GapState};
use crate::history::MinuteCount;
use crate::market::{Channel, DAY_US, Interval, Stream, Timestamp};

use super::coverage_cells::TodayCounts;

/// Days of the calendar: five weeks.
pub const DAYS: i64 = 35;
/// Minutes of a day.
pub const MINUTES: i64 = 1_440;
const MINUTE_US: i64 = Interval::M1.micros();

/// The state of a cell (a day or a minute), the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellState {
    /// Before the first row, or after the last one.
    #[default]
    Unknown,
    /// Every position was recorded live.
    Complete,
    /// Every position is stored, some of them backfilled.
    Backfilled,
    /// A position is lost: the exchange no longer serves it.
    Lost,
    /// A position is missing.
    Open,
}

/// The state and the counts of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Its worst state.
    pub state: CellState,
    /// Rows stored.
    pub present: i64,
    /// How many of these were backfilled.
    pub backfilled: i64,
    /// Missing positions that no gap explains.
    pub unexplained: i64,
}

/// The calendar of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamCalendar {
    /// The last [`DAYS`] days, today last.
    pub days: Vec<Day>,
    /// The [`MINUTES`] of today.
    pub minutes: Vec<CellState>,
    /// Positions missing in open gaps.
    pub missing: i64,
    /// Positions lost in these days.
    pub lost: i64,
}

/// When the missing positions of a gap were traded: the first instant, if known, and the last one. `None` when neither is
/// known.
fn span(gap: &Gap) -> Option<(Option<i64>, i64)> {
    if let Channel::Kline(interval) = gap.stream.channel {
        // A kline's position is the time at which it opened.
        return Some((Some(gap.range.first), gap.range.last.saturating_add(interval.micros() - 1)));
    }
    let found = gap.detected_at.micros();
    let [from, to] = [gap.from_ts, gap.to_ts].map(|at| at.map(Timestamp::micros));
    match (from, to, cell_state(gap.state)) {
        (Some(from), Some(to), _) => Some((Some(from.min(to)), to.max(from))),
        // The exchange traded the missing positions before the gap was found.
        (Some(from), None, CellState::Open) => Some((Some(from), found.max(from))),
        (None, to, CellState::Open) => Some((None, to.unwrap_or(found))),
        (None, None, _) => None,
        (from, to, _) => from.or(to).map(|at| (Some(at), at)),
    }
}

/// Raises the cells that a gap covers; cells are `length` long and the first one begins at `begin`. When the start of the gap is
/// not known, the gap covers every cell without a row, from the first `known` one on.
fn mark_gap(cells: &mut [CellState], gap: &Gap, length: i64, begin: i64, known: i64, has_rows: &dyn Fn(usize) -> bool) {
    let Some((from, to)) = span(gap) else { return };
    let (cell_state, to) = (cell_state(gap.state), to.div_euclid(length) - begin);
    match from {
        Some(from) => mark(cells, from.div_euclid(length) - begin, to, cell_state),
        None => {
            mark(cells, to, to, cell_state);
            let empty = |at: &i64| usize::try_from(*at).is_ok_and(|at| at < cells.len() && !has_rows(at));
            for at in (known.max(0)..to).filter(empty).collect::<Vec<_>>() {
                mark(cells, at, at, cell_state);
            }
        }
    }
}

fn cell_state(state: GapState) -> CellState {
    match state {
        GapState::Open | GapState::Filling | GapState::Unconfirmed => CellState::Open,
        GapState::Unrecoverable | GapState::Refused => CellState::Lost,
        // The rows of a filled gap are counted themselves; a position that never existed is not missing.
        GapState::Filled | GapState::NeverExisted | GapState::Superseded => CellState::Unknown,
    }
}

/// The first day of the calendar, in days since 1970.
pub fn first_day(now: Timestamp) -> i64 {
    now.day() - DAYS + 1
}

/// A stream's calendar.
pub fn stream_calendar(
    stream: &Stream,
    coverage: Option<&Coverage>,
    today: &TodayCounts,
    now: Timestamp,
) -> StreamCalendar {
    let gaps: Vec<&Gap> = today.gaps.iter().filter(|gap| &gap.stream == stream).collect();
    let counts = today.minutes.get(stream).map_or(&[][..], Vec::as_slice);
    let began = coverage.and_then(|coverage| coverage.days.first()).map(|day| day.date.as_str());
    let is_older = began.and_then(Timestamp::parse).is_some_and(|began| began.day() < now.day());
    let minutes = minutes(stream, counts, &gaps, is_older, now);
    let days = days(coverage, counts, &gaps, &minutes, now);
    let total = |of: CellState| gaps.iter().filter(move |gap| cell_state(gap.state) == of);
    let missing = total(CellState::Open).map(|gap| gap.missing()).sum();
    let oldest = first_day(now) * DAY_US;
    let is_drawn = |gap: &&&Gap| span(gap).map_or(gap.detected_at.micros(), |(_, to)| to) >= oldest;
    let lost = total(CellState::Lost).filter(is_drawn).map(|gap| gap.missing()).sum();
    StreamCalendar { days, minutes, missing, lost }
}

fn minutes(stream: &Stream, counts: &[MinuteCount], gaps: &[&Gap], is_older: bool, now: Timestamp) -> Vec<CellState> {
    let mut minutes = vec![CellState::Unknown; MINUTES as usize];
    let midnight = now.day() * MINUTES;
    let step = stream.channel.step().unwrap_or(1).max(MINUTE_US) / MINUTE_US;
    // Nothing is unknown between two rows: a missing row would be a gap. A quiet minute has the state of the row before it,
    // and a kline covers all of its minutes.
    let first = if is_older { midnight } else { counts.first().map_or(midnight, |count| count.minute) };
    for (at, count) in counts.iter().enumerate() {
        let from = if at == 0 { first } else { count.minute };
        let end = counts.get(at + 1).map_or(count.minute + step, |next| next.minute);
        let cell_state = if count.backfilled > 0 { CellState::Backfilled } else { CellState::Complete };
        mark(&mut minutes, from - midnight, end - 1 - midnight, cell_state);
    }
    let has_rows: HashSet<i64> = counts.iter().map(|count| count.minute - midnight).collect();
    for gap in gaps {
        let first = if is_older || !counts.is_empty() { first - midnight } else { MINUTES };
        mark_gap(&mut minutes, gap, MINUTE_US, midnight, first, &|at| has_rows.contains(&(at as i64)));
    }
    minutes
}

/// Raises the cells `from..=to` to at least `state`.
fn mark(cells: &mut [CellState], from: i64, to: i64, state: CellState) {
    let end = to.saturating_add(1).clamp(0, cells.len() as i64);
    let from = from.clamp(0, end);
    for cell in &mut cells[from as usize..end as usize] {
        *cell = state.max(*cell);
    }
}

fn days(
    coverage: Option<&Coverage>,
    counts: &[MinuteCount],
    gaps: &[&Gap],
    minutes: &[CellState],
    now: Timestamp,
) -> Vec<Day> {
    let mut days = vec![Day::default(); DAYS as usize];
    let oldest = first_day(now);
    for counted in coverage.iter().flat_map(|coverage| &coverage.days) {
        let Some(at) = Timestamp::parse(&counted.date).and_then(|at| usize::try_from(at.day() - oldest).ok()) else {
            continue;
        };
        let Some(day) = days.get_mut(at) else { continue };
        let state = if counted.backfilled > 0 { CellState::Backfilled } else { CellState::Complete };
        let unexplained = (counted.expected - counted.present).max(0);
        *day = Day { state, present: counted.present, backfilled: counted.backfilled, unexplained };
    }
    let mut cell_states: Vec<CellState> = days.iter().map(|day| day.state).collect();
    let first = days.iter().position(|day| day.present > 0).map_or(DAYS, |first| first as i64);
    for gap in gaps {
        mark_gap(&mut cell_states, gap, DAY_US, oldest, first, &|at| days.get(at).is_some_and(|day| day.present > 0));
    }
    for (day, cell_state) in days.iter_mut().zip(cell_states) {
        day.state = cell_state;
        if matches!(cell_state, CellState::Open | CellState::Lost) {
            day.unexplained = 0;
        } else if day.unexplained > 0 {
            day.state = CellState::Open;
        }
    }
    // Today's count is newer than that of the days before it.
    if let Some(day) = days.last_mut()
        && !counts.is_empty()
    {
        day.present = counts.iter().map(|count| count.present).sum();
        day.backfilled = counts.iter().map(|count| count.backfilled).sum();
        day.state = minutes.iter().copied().max().unwrap_or_default().max(day.state);
    }
    days
}

/// Runs of equal cells: the first cell, the number of cells, and their state.
pub fn segments(cell_states: &[CellState]) -> Vec<(usize, usize, CellState)> {
    let mut all: Vec<(usize, usize, CellState)> = Vec::new();
    for (at, cell_state) in cell_states.iter().enumerate() {
        match all.last_mut() {
            Some((_, length, last)) if last == cell_state => *length += 1,
            _ => all.push((at, 1, *cell_state)),
        }
    }
    all
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
