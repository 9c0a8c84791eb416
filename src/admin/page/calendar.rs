//! What became of every day and of every minute of today, stream by stream. Pure.

use std::collections::{HashMap, HashSet};

use crate::audit::Coverage;
use crate::gap::{Gap, GapState};
use crate::history::MinuteCount;
use crate::market::{Channel, DAY_US, Interval, Stream, Timestamp};

use super::coverage_cells::Basis;

/// Days that are drawn: five weeks.
pub const DAYS: i64 = 35;
/// Minutes of a day.
pub const MINUTES: i64 = 1_440;
const MINUTE_US: i64 = Interval::M1.micros();

/// What became of a stretch of time, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellState {
    /// Nothing is known of it: before the first row, or after the last one.
    #[default]
    Nothing,
    /// Every position is there, as it came.
    Complete,
    /// Every position is there, some of them fetched later.
    Backfilled,
    /// Something of it is lost for good.
    Lost,
    /// Something of it is missing.
    Open,
}

/// What became of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// The worst of it.
    pub cell_state: CellState,
    /// Rows stored.
    pub present: i64,
    /// Of these, how many were fetched later.
    pub backfilled: i64,
    /// Positions that no gap explains and that are not there.
    pub unexplained: i64,
}

/// A stream as drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamCalendar {
    /// The last [`DAYS`] days, today last.
    pub days: Vec<Day>,
    /// The [`MINUTES`] of today.
    pub minutes: Vec<CellState>,
    /// Positions missing in open gaps.
    pub missing: i64,
    /// Positions lost for good in these days.
    pub lost: i64,
}

/// Today, as it was counted.
#[derive(Clone, Debug, Default)]
pub struct TodayCounts {
    /// Rows of each minute of the day, by stream.
    pub minutes: HashMap<Stream, Vec<MinuteCount>>,
    /// The newest rows of the ledger, and all open ones.
    pub gaps: Vec<Gap>,
    /// What it was counted on.
    pub basis: Basis,
}

/// When what a gap misses was traded, as far as it is known: the first instant, when that is known, and the last one.
/// None when nothing is known of it.
fn span(gap: &Gap) -> Option<(Option<i64>, i64)> {
    if let Channel::Kline(interval) = gap.stream.channel {
        // A kline's position is the time at which it opened.
        return Some((Some(gap.range.first), gap.range.last.saturating_add(interval.micros() - 1)));
    }
    let found = gap.detected_at.micros();
    let [from, to] = [gap.from_ts, gap.to_ts].map(|at| at.map(Timestamp::micros));
    match (from, to, cell_state(gap.state)) {
        (Some(from), Some(to), _) => Some((Some(from.min(to)), to.max(from))),
        // What was found to be missing was traded before that.
        (Some(from), None, CellState::Open) => Some((Some(from), found.max(from))),
        (None, to, CellState::Open) => Some((None, to.unwrap_or(found))),
        (None, None, _) => None,
        (from, to, _) => from.or(to).map(|at| (Some(at), at)),
    }
}

/// Raises what a gap covers in a stretch of time whose places are so long and begin at `begin`. When nobody knows where
/// the gap begins, that is every place without a row of its own, from the first one that is `known` on.
fn mark_gap(stretch: &mut [CellState], gap: &Gap, long: i64, begin: i64, known: i64, has_rows: &dyn Fn(usize) -> bool) {
    let Some((from, to)) = span(gap) else { return };
    let (cell_state, to) = (cell_state(gap.state), to.div_euclid(long) - begin);
    match from {
        Some(from) => mark(stretch, from.div_euclid(long) - begin, to, cell_state),
        None => {
            mark(stretch, to, to, cell_state);
            let empty = |at: &i64| usize::try_from(*at).is_ok_and(|at| at < stretch.len() && !has_rows(at));
            for at in (known.max(0)..to).filter(empty).collect::<Vec<_>>() {
                mark(stretch, at, at, cell_state);
            }
        }
    }
}

fn cell_state(state: GapState) -> CellState {
    match state {
        GapState::Open | GapState::Filling => CellState::Open,
        GapState::Unrecoverable => CellState::Lost,
        // What came back is told by its rows; what never was is not missing.
        GapState::Filled | GapState::NeverExisted | GapState::Superseded => CellState::Nothing,
    }
}

/// The first day that is drawn, in days since 1970.
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
    let mut minutes = vec![CellState::Nothing; MINUTES as usize];
    let midnight = now.day() * MINUTES;
    let step = stream.channel.step().unwrap_or(1).max(MINUTE_US) / MINUTE_US;
    // Between two rows nothing is unknown: a hole would be a gap. What was quiet is as the row before it, and a kline
    // speaks for all of its minutes.
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

/// Raises what lies in `from..=to` to at least `cell_state`.
fn mark(stretch: &mut [CellState], from: i64, to: i64, cell_state: CellState) {
    let end = to.saturating_add(1).clamp(0, stretch.len() as i64);
    let from = from.clamp(0, end);
    for place in &mut stretch[from as usize..end as usize] {
        *place = cell_state.max(*place);
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
        let cell_state = if counted.backfilled > 0 { CellState::Backfilled } else { CellState::Complete };
        let unexplained = (counted.expected - counted.present).max(0);
        *day = Day { cell_state, present: counted.present, backfilled: counted.backfilled, unexplained };
    }
    let mut cell_states: Vec<CellState> = days.iter().map(|day| day.cell_state).collect();
    let first = days.iter().position(|day| day.present > 0).map_or(DAYS, |first| first as i64);
    for gap in gaps {
        mark_gap(&mut cell_states, gap, DAY_US, oldest, first, &|at| days.get(at).is_some_and(|day| day.present > 0));
    }
    for (day, cell_state) in days.iter_mut().zip(cell_states) {
        day.cell_state = cell_state;
        if matches!(cell_state, CellState::Open | CellState::Lost) {
            day.unexplained = 0;
        } else if day.unexplained > 0 {
            day.cell_state = CellState::Open;
        }
    }
    // Today was counted more lately than the days before it.
    if let Some(day) = days.last_mut()
        && !counts.is_empty()
    {
        day.present = counts.iter().map(|count| count.present).sum();
        day.backfilled = counts.iter().map(|count| count.backfilled).sum();
        day.cell_state = minutes.iter().copied().max().unwrap_or_default().max(day.cell_state);
    }
    days
}

/// Stretches of the same kind: where each begins, how long it is, and what it is.
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
