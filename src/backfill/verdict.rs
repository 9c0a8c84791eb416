//! Decides why positions did not come back: they never existed, are no longer served, or are not served yet.
//!
//! A lagging database, a range older than everything the exchange keeps, and ids that were never assigned give the same
//! empty answer. The positions that the exchange serves around the range distinguish them.

use tokio_util::sync::CancellationToken;

use crate::exchange::rest::RestError;
use crate::gap::{ABSENT_ATTEMPTS, Absence, Gap, GapState, Neighbours, Range, classify_absence, served_until};
use crate::market::{Channel, Timestamp};

use super::attempt::{Attempt, RANGES_PER_ATTEMPT, RepairError};
use super::deps::Deps;
use super::pages::{lowest_served_from, serves_below};

/// Absent ranges per attempt whose neighbours are requested; each costs up to three pages.
const LOOKUPS_MAX: usize = 8;

/// The decision about the absent part of a gap.
pub(super) enum Verdict {
    /// It stays open; the reason.
    NotYet(String),
    /// Each absent range, with the state and the reason of its row.
    Final(Vec<(Range, GapState, String)>),
}

/// Decides about the positions that are absent after a complete attempt. Requests their neighbours when the attempt did
/// not show them.
pub(super) async fn judge(
    deps: &Deps,
    gap: &Gap,
    attempt: &Attempt,
    stop: &CancellationToken,
) -> Result<Verdict, RepairError> {
    let absent = deps.history().missing(&gap.stream, gap.range, RANGES_PER_ATTEMPT).await;
    let absent = absent.map_err(|error| RepairError::Wait(deps.clock.now(), error.to_string()))?;
    let rest = &deps.rest[&gap.stream.exchange];
    // The age of a served row depends on the exchange's clock, so measure it (1 of weight). If that fails, use the last
    // measured offset.
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
                return Ok(Verdict::NotYet("more ranges are absent than one attempt checks".to_owned()));
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
    // The last rows arrived after the count; the next attempt counts again.
    if ranges.is_empty() {
        return Ok(Verdict::NotYet("its last rows have just arrived".to_owned()));
    }
    if ranges.len() == RANGES_PER_ATTEMPT {
        return Ok(Verdict::NotYet("more ranges are absent than one attempt reads".to_owned()));
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
    // One answer must begin with the range and show a position above it. Between two answers the database might have
    // caught up.
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
            format!("the exchange serves rows of {} but not {span}, requesting it again to confirm", at.rfc3339())
        }
        None => format!("the exchange does not serve {span} yet: its database lags"),
    }
}

/// Why a range is unrecoverable, and until when the exchange served it.
fn gone(deps: &Deps, gap: &Gap, range: Range, oldest: (i64, Timestamp), now: Timestamp) -> String {
    let (position, ts) = oldest;
    // Only the time of the range's end may be known; else the oldest served row bounds it.
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
    format!("no longer served: the exchange's oldest is {oldest}; these rows would have been served until {until}")
}

/// Closes a gap that is not fully filled. When one state applies to the whole gap, the gap gets it. Else the gap is
/// superseded by one row per range, which this returns.
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
