//! What did not come back: never there, no longer served, or not yet.
//!
//! A lagging database, a range that is older than all the exchange keeps, and ids that were never given out all look
//! alike in one answer: nothing. What the exchange serves around the range tells them apart.

use tokio_util::sync::CancellationToken;

use crate::exchange::rest::RestError;
use crate::gap::{ABSENT_ATTEMPTS, Absence, Gap, GapState, Neighbours, Range, classify_absence, served_until};
use crate::market::{Channel, Timestamp};

use super::Deps;
use super::pages::{lowest_served_from, serves_below};
use super::repair::{Attempt, RANGES_PER_ATTEMPT, RepairError};

/// Absent ranges of one gap whose surroundings are asked for in one turn; each costs up to three pages.
const LOOKUPS_MAX: usize = 8;

/// What the absent part of a gap amounts to.
pub(super) enum Verdict {
    /// It stays open, and why.
    NotYet(String),
    /// Each absent range with the state and the reason that its row gets.
    Final(Vec<(Range, GapState, String)>),
}

/// Judges what is absent after a whole turn; asks the exchange what it serves around it, when the turn did not tell.
pub(super) async fn judge(
    deps: &Deps,
    gap: &Gap,
    attempt: &Attempt,
    stop: &CancellationToken,
) -> Result<Verdict, RepairError> {
    let absent = deps.history().missing(&gap.stream, gap.range, RANGES_PER_ATTEMPT).await;
    let absent = absent.map_err(|error| RepairError::Wait(deps.clock.now(), error.to_string()))?;
    let rest = &deps.rest[&gap.stream.exchange];
    // How old what is served is, is a matter of the exchange's clock (1 of weight); when it does not say, its offset as
    // last measured has to do.
    if gap.attempts >= ABSENT_ATTEMPTS
        && let Err(RestError::Stopped) = rest.measure_clock(stop).await
    {
        return Err(RepairError::Stopped);
    }
    let now = rest.exchange_now();
    let mut lookups = 0;
    let mut ranges = Vec::new();
    for range in absent {
        let mut neighbours = Neighbours {
            below: attempt.served.is_some_and(|(lowest, _)| lowest < range.first),
            above: attempt.served.map(|(_, highest)| highest).filter(|_| attempt.skipped.covers(range)),
        };
        let known = neighbours.below && neighbours.above.is_some();
        if !known && gap.attempts >= ABSENT_ATTEMPTS {
            if lookups == LOOKUPS_MAX {
                return Ok(Verdict::NotYet("more ranges are absent than are asked about at a time".to_owned()));
            }
            lookups += 1;
            neighbours = look_around(deps, gap, range, neighbours, stop).await?;
        }
        match (classify_absence(neighbours, gap.attempts, now), neighbours.above) {
            (Absence::NeverExisted, _) => {
                let reason = "skipped by the exchange between ids that it serves".to_owned();
                ranges.push((range, GapState::NeverExisted, reason));
            }
            (Absence::Gone, Some(oldest)) => {
                ranges.push((range, GapState::Unrecoverable, gone(deps, gap, range, oldest, now)));
            }
            (_, above) => return Ok(Verdict::NotYet(not_yet(gap.stream.channel, range, above))),
        }
    }
    // Counted as missing, and there a moment later: it is counted again at the next attempt.
    if ranges.is_empty() {
        return Ok(Verdict::NotYet("its last rows have just arrived".to_owned()));
    }
    if ranges.len() == RANGES_PER_ATTEMPT {
        return Ok(Verdict::NotYet("more ranges are absent than one turn reads".to_owned()));
    }
    Ok(Verdict::Final(ranges))
}

async fn look_around(
    deps: &Deps,
    gap: &Gap,
    range: Range,
    mut neighbours: Neighbours,
    stop: &CancellationToken,
) -> Result<Neighbours, RepairError> {
    let failed = |error| RepairError::of(deps, error);
    // One answer that begins with the range and shows what is served behind it: were the range passed over in two, the
    // database might have caught up between them.
    let above = lowest_served_from(deps, gap, range.first, stop).await.map_err(failed)?;
    neighbours.above = above.filter(|(position, _)| *position > range.last);
    if neighbours.above.is_some() && !neighbours.below {
        neighbours.below = serves_below(deps, gap, range.first, stop).await.map_err(failed)?;
    }
    Ok(neighbours)
}

fn not_yet(channel: Channel, range: Range, above: Option<(i64, Timestamp)>) -> String {
    let span = channel.span(range.first, range.last);
    match above {
        Some((_, at)) => {
            format!("the exchange serves what is of {} but not {span}, asking again before believing it", at.rfc3339())
        }
        None => format!("the exchange does not serve {span} yet: its database lags"),
    }
}

/// Why a range is unrecoverable, and until when it would not have been.
fn gone(deps: &Deps, gap: &Gap, range: Range, oldest: (i64, Timestamp), now: Timestamp) -> String {
    let (position, ts) = oldest;
    // When it happened is known of the range's end at best; else no later than the oldest that is left.
    let happened = match gap.stream.channel {
        Channel::Kline(_) => Timestamp(range.last),
        _ => gap.to_ts.filter(|_| range.last == gap.range.last).unwrap_or(ts).min(ts),
    };
    let kept = deps.dialects[&gap.stream.exchange].rest_retention(gap.stream.channel);
    let until = served_until(happened, ts, now, kept);
    let oldest = match gap.stream.channel {
        Channel::Kline(_) => ts.rfc3339(),
        _ => format!("{position} of {}", ts.rfc3339()),
    };
    format!("no longer served: the exchange's oldest is {oldest}; this would have been served until {until}")
}

/// Closes a gap of which only a part came back, or nothing: one row a range that says what became of it. When all of it
/// met one fate, it is the gap's own; else the gap is superseded by the rows that are returned.
pub(super) fn split(gap: &mut Gap, absent: Vec<(Range, GapState, String)>, now: Timestamp) -> Vec<Gap> {
    if let [(range, state, reason)] = &absent[..]
        && *range == gap.range
    {
        gap.advance(*state, reason, now);
        return Vec::new();
    }
    let step = gap.stream.channel.step().unwrap_or(1);
    let mut parts = Vec::new();
    let mut next = Some(gap.range.first);
    for (range, state, reason) in absent {
        if let Some(filled) = next.and_then(|first| Range::new(first, range.first - step)) {
            parts.push((filled, GapState::Filled, String::new()));
        }
        next = range.last.checked_add(step);
        parts.push((range, state, reason));
    }
    if let Some(filled) = next.and_then(|first| Range::new(first, gap.range.last)) {
        parts.push((filled, GapState::Filled, String::new()));
    }
    let rows: Vec<Gap> =
        parts.into_iter().map(|(range, state, reason)| gap.closed_part(range, state, &reason, now)).collect();
    let left: i64 = gap.len() - gap.filled;
    gap.advance(GapState::Superseded, &format!("{} came back, {left} will not: see its parts", gap.filled), now);
    rows
}
