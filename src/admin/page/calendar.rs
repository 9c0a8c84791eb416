//! What became of every day and of every minute of today, stream by stream. Pure.

use std::collections::HashMap;

use crate::audit::Coverage;
use crate::gap::{Gap, GapState};
use crate::history::MinuteCount;
use crate::market::{Channel, DAY_US, Interval, Stream, Timestamp};

use super::count::Basis;

/// Days that are drawn: five weeks.
pub const DAYS: i64 = 35;
/// Minutes of a day.
pub const MINUTES: i64 = 1_440;
const MINUTE_US: i64 = Interval::M1.micros();

/// What became of a stretch of time, the worst last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cover {
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
    pub cover: Cover,
    /// Rows stored.
    pub present: i64,
    /// Of these, how many were fetched later.
    pub backfilled: i64,
    /// Positions that no gap explains and that are not there.
    pub unexplained: i64,
}

/// A stream as drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sheet {
    /// The last [`DAYS`] days, today last.
    pub days: Vec<Day>,
    /// The [`MINUTES`] of today.
    pub minutes: Vec<Cover>,
    /// Positions missing in open gaps.
    pub missing: i64,
    /// Positions lost for good in these days.
    pub lost: i64,
}

/// Today, as it was counted.
#[derive(Clone, Debug, Default)]
pub struct Today {
    /// Rows of each minute of the day, by stream.
    pub minutes: HashMap<Stream, Vec<MinuteCount>>,
    /// The newest rows of the ledger, and all open ones.
    pub gaps: Vec<Gap>,
    /// What it was counted on.
    pub basis: Basis,
}

/// When what a gap misses was traded, as far as it is known: from the first to the last instant.
fn span(gap: &Gap) -> (i64, i64) {
    if let Channel::Kline(interval) = gap.stream.channel {
        // A kline's position is the time at which it opened.
        return (gap.range.first, gap.range.last.saturating_add(interval.micros() - 1));
    }
    let known = |at: Option<Timestamp>, other: Option<Timestamp>| at.or(other).unwrap_or(gap.detected_at).micros();
    let (from, to) = (known(gap.from_ts, gap.to_ts), known(gap.to_ts, gap.from_ts));
    (from.min(to), to.max(from))
}

fn cover(state: GapState) -> Cover {
    match state {
        GapState::Open | GapState::Filling => Cover::Open,
        GapState::Unrecoverable => Cover::Lost,
        // What came back is told by its rows; what never was is not missing.
        GapState::Filled | GapState::NeverExisted | GapState::Superseded => Cover::Nothing,
    }
}

/// A stream's sheet.
pub fn sheet(stream: &Stream, coverage: Option<&Coverage>, today: &Today, now: Timestamp) -> Sheet {
    let gaps: Vec<&Gap> = today.gaps.iter().filter(|gap| &gap.stream == stream).collect();
    let counts = today.minutes.get(stream).map_or(&[][..], Vec::as_slice);
    let began = coverage.and_then(|coverage| coverage.days.first()).map(|day| day.date.as_str());
    let is_older = began.and_then(Timestamp::parse).is_some_and(|began| began.day() < now.day());
    let minutes = minutes(stream, counts, &gaps, is_older, now);
    let days = days(coverage, counts, &gaps, &minutes, now);
    let total = |of: Cover| gaps.iter().filter(move |gap| cover(gap.state) == of);
    let missing = total(Cover::Open).map(|gap| (gap.len() - gap.filled).max(0)).sum();
    let oldest = (now.day() - DAYS + 1) * DAY_US;
    let lost = total(Cover::Lost).filter(|gap| span(gap).1 >= oldest).map(|gap| (gap.len() - gap.filled).max(0)).sum();
    Sheet { days, minutes, missing, lost }
}

fn minutes(stream: &Stream, counts: &[MinuteCount], gaps: &[&Gap], is_older: bool, now: Timestamp) -> Vec<Cover> {
    let mut minutes = vec![Cover::Nothing; MINUTES as usize];
    let midnight = now.day() * MINUTES;
    let step = stream.channel.step().unwrap_or(1).max(MINUTE_US) / MINUTE_US;
    // Between two rows nothing is unknown: a hole would be a gap. A kline speaks for all of its minutes.
    let first = if is_older { midnight } else { counts.first().map_or(midnight, |count| count.minute) };
    let last = counts.last().map(|count| count.minute + step - 1);
    if let Some(last) = last {
        mark(&mut minutes, first - midnight, last - midnight, Cover::Complete);
    }
    for count in counts.iter().filter(|count| count.backfilled > 0) {
        mark(&mut minutes, count.minute - midnight, count.minute - midnight + step - 1, Cover::Backfilled);
    }
    for gap in gaps {
        let (from, to) = span(gap);
        mark(
            &mut minutes,
            from.div_euclid(MINUTE_US) - midnight,
            to.div_euclid(MINUTE_US) - midnight,
            cover(gap.state),
        );
    }
    minutes
}

/// Raises what lies in `from..=to` to at least `cover`.
fn mark(stretch: &mut [Cover], from: i64, to: i64, cover: Cover) {
    let end = to.saturating_add(1).clamp(0, stretch.len() as i64);
    let from = from.clamp(0, end);
    for place in &mut stretch[from as usize..end as usize] {
        *place = cover.max(*place);
    }
}

fn days(
    coverage: Option<&Coverage>,
    counts: &[MinuteCount],
    gaps: &[&Gap],
    minutes: &[Cover],
    now: Timestamp,
) -> Vec<Day> {
    let mut days = vec![Day::default(); DAYS as usize];
    let oldest = now.day() - DAYS + 1;
    for counted in coverage.iter().flat_map(|coverage| &coverage.days) {
        let Some(at) = Timestamp::parse(&counted.date).and_then(|at| usize::try_from(at.day() - oldest).ok()) else {
            continue;
        };
        let Some(day) = days.get_mut(at) else { continue };
        let cover = if counted.backfilled > 0 { Cover::Backfilled } else { Cover::Complete };
        let unexplained = (counted.expected - counted.present).max(0);
        *day = Day { cover, present: counted.present, backfilled: counted.backfilled, unexplained };
    }
    let mut covers: Vec<Cover> = days.iter().map(|day| day.cover).collect();
    for gap in gaps {
        let (from, to) = span(gap);
        mark(&mut covers, from.div_euclid(DAY_US) - oldest, to.div_euclid(DAY_US) - oldest, cover(gap.state));
    }
    for (day, cover) in days.iter_mut().zip(covers) {
        day.cover = cover;
        if matches!(cover, Cover::Open | Cover::Lost) {
            day.unexplained = 0;
        } else if day.unexplained > 0 {
            day.cover = Cover::Open;
        }
    }
    // Today was counted more lately than the days before it.
    if let Some(day) = days.last_mut()
        && !counts.is_empty()
    {
        day.present = counts.iter().map(|count| count.present).sum();
        day.backfilled = counts.iter().map(|count| count.backfilled).sum();
        day.cover = minutes.iter().copied().max().unwrap_or_default().max(day.cover);
    }
    days
}

/// Stretches of the same kind: where each begins, how long it is, and what it is.
pub fn stretches(covers: &[Cover]) -> Vec<(usize, usize, Cover)> {
    let mut all: Vec<(usize, usize, Cover)> = Vec::new();
    for (at, cover) in covers.iter().enumerate() {
        match all.last_mut() {
            Some((_, length, last)) if last == cover => *length += 1,
            _ => all.push((at, 1, *cover)),
        }
    }
    all
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
