//! Says why positions did not come back: they never existed, are no longer served, or are not served yet. One such
//! answer is a doubt; `repair` closes the gap only after hours of asking.
//!
//! A lagging database, a range older than everything the exchange keeps, and ids that were never assigned give the same
//! empty answer. The positions that the exchange serves around the range distinguish them.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use crate::exchange::rest::RestError;
use crate::exchange::spec::Refill;
use crate::gap::{ABSENT_ATTEMPTS, Absence, Gap, GapState, Neighbours, Range, classify_absence, served_until};
use crate::market::{Channel, Timestamp};

use super::attempt::{Attempt, RANGES_PER_ATTEMPT, RepairError};
use super::deps::Deps;
use super::pages::{hidden, lowest_served_from, serves_below};

/// Absent ranges per attempt whose neighbours are requested; each costs up to three pages.
const LOOKUPS_MAX: usize = 8;

const SKIPPED: &str = "skipped by the exchange between ids that it serves";

/// What the answers say about the absent part of a gap.
pub(super) enum Verdict {
    /// Nothing; the reason.
    NotYet(String),
    /// Each absent range, with the state and the reason that its row gets if no later answer serves it.
    Absent(Vec<(Range, GapState, String)>),
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
    let absent = absent.map_err(RepairError::soon)?;
    if attempt.too_new > 0 {
        let count = attempt.too_new;
        return Ok(Verdict::NotYet(format!("the exchange serves {count} trades that are newer than the next one")));
    }
    if attempt.unreadable > 0 {
        let count = attempt.unreadable;
        return Ok(Verdict::NotYet(format!("the exchange served {count} elements without a readable position")));
    }
    let rest = &deps.rest[&gap.stream.exchange];
    if let Some(Refill::Recent(rows)) = refill(deps, gap) {
        return judge_recent(deps, gap, absent, rows, stop).await;
    }
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
            (Absence::Skipped, _) => {
                let hidden = hidden(deps, gap, range, stop).await.map_err(|error| RepairError::of(deps, error))?;
                ranges.push(match hidden {
                    Some(why) => (range, GapState::Unrecoverable, why),
                    None => (range, GapState::NeverExisted, SKIPPED.to_owned()),
                });
            }
            (Absence::OnlyNewer, Some(oldest)) => {
                deps.answers.note_oldest(&gap.stream, oldest);
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
    Ok(Verdict::Absent(ranges))
}

/// How the exchange returns lost rows of a gap's channel.
pub(super) fn refill(deps: &Deps, gap: &Gap) -> Option<Refill> {
    deps.dialects[&gap.stream.exchange].spec().channel(gap.stream.channel).map(|channel| channel.refill)
}

/// Decides where the exchange serves only its newest rows. Only an answer with all of them proves that older ones are gone:
/// a shorter one may come from a server that has just begun.
async fn judge_recent(
    deps: &Deps,
    gap: &Gap,
    absent: Vec<Range>,
    rows: u32,
    stop: &CancellationToken,
) -> Result<Verdict, RepairError> {
    let rest = &deps.rest[&gap.stream.exchange];
    let Some(first) = absent.first().map(|range| range.first) else {
        return Ok(Verdict::NotYet("its last rows have just arrived".to_owned()));
    };
    let newest = Range { first, last: i64::MAX };
    let page = rest.trades(&gap.stream, newest, stop).await.map_err(|why| RepairError::of(deps, why))?;
    let served = page.positions(|trade| (trade.id, trade.ts));
    let oldest = served.first().copied().filter(|_| served.len() >= rows as usize);
    let Some(oldest) = oldest else {
        let why = format!("the exchange serves {} of its newest {rows} rows after {first}", served.len());
        return Ok(Verdict::NotYet(why));
    };
    deps.answers.note_oldest(&gap.stream, oldest);
    let now = rest.exchange_now();
    let verdicts = absent.into_iter().map(|range| match range.last < oldest.0 {
        true => (range, GapState::Unrecoverable, gone(deps, gap, range, oldest, now)),
        false => (range, GapState::NeverExisted, SKIPPED.to_owned()),
    });
    Ok(Verdict::Absent(verdicts.collect()))
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
    let kept = deps.dialects[&gap.stream.exchange].spec().kept_for(gap.stream.channel);
    let until = served_until(happened, ts, now, kept);
    let oldest = match gap.stream.channel {
        Channel::Kline(_) => ts.rfc3339(),
        _ => format!("{position} of {}", ts.rfc3339()),
    };
    match refill(deps, gap) {
        Some(Refill::Recent(rows)) => {
            format!("the exchange serves only its newest {rows} rows: its oldest is {oldest}")
        }
        _ => format!(
            "no longer served: the exchange's oldest is {oldest}; these rows would have been served until {until}"
        ),
    }
}

/// The absent part of a gap of which the exchange says that it does not know the symbol, or that it serves no row that
/// old.
pub(super) async fn not_served(deps: &Deps, gap: &Gap, why: &str) -> Result<Verdict, RepairError> {
    let absent = deps.history().missing(&gap.stream, gap.range, RANGES_PER_ATTEMPT).await;
    let absent = absent.map_err(RepairError::soon)?;
    if absent.is_empty() || absent.len() == RANGES_PER_ATTEMPT {
        return Ok(Verdict::NotYet(why.to_owned()));
    }
    let ranges = absent.into_iter().map(|range| (range, GapState::Unrecoverable, why.to_owned()));
    Ok(Verdict::Absent(ranges.collect()))
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
    let (parts, left) = (parts(gap, absent, &[], now), gap.len() - gap.filled);
    gap.advance(GapState::Superseded, &format!("{} came back, {left} will not: see its parts", gap.filled), now);
    parts
}

/// Splits the positions off a gap whose rows history cannot hold. The ranges between them close as filled, or stay as
/// open as the gap was where `absent` positions remain. Supersedes the gap and returns its parts.
pub(super) fn split_refused(
    gap: &mut Gap,
    refused: &BTreeMap<i64, String>,
    absent: &[Range],
    now: Timestamp,
) -> Vec<Gap> {
    let ranges = refused.iter().filter(|(position, _)| gap.range.contains(**position)).map(|(position, why)| {
        (Range { first: *position, last: *position }, GapState::Refused, format!("history cannot hold the row: {why}"))
    });
    let ranges: Vec<_> = ranges.collect();
    if let [(range, state, reason)] = &ranges[..]
        && *range == gap.range
    {
        gap.advance(*state, reason, now);
        return Vec::new();
    }
    let left = ranges.len();
    let parts = parts(gap, ranges, absent, now);
    gap.advance(GapState::Superseded, &format!("history cannot hold {left} of its rows: see its parts"), now);
    parts
}

/// One row for each of `ranges`, and one for each range between them: filled, or open where `absent` positions remain.
fn parts(gap: &Gap, ranges: Vec<(Range, GapState, String)>, absent: &[Range], now: Timestamp) -> Vec<Gap> {
    let step = gap.stream.channel.step().unwrap_or(1);
    let between = |range: Range| {
        let missing: i64 = absent.iter().filter_map(|part| part.intersect(range)).map(|part| part.len(step)).sum();
        if missing == 0 { gap.closed_part(range, GapState::Filled, "", now) } else { gap.open_part(range, missing) }
    };
    let mut parts = Vec::new();
    let mut next = Some(gap.range.first);
    for (range, state, reason) in ranges {
        parts.extend(next.and_then(|first| Range::new(first, range.first - step)).map(between));
        next = range.last.checked_add(step);
        parts.push(gap.closed_part(range, state, &reason, now));
    }
    parts.extend(next.and_then(|first| Range::new(first, gap.range.last)).map(between));
    parts
}
