//! What did not come back: never there, no longer served, or not yet.
//!
//! A lagging database, a range that is older than all the exchange keeps, and ids that were never given out all look
//! alike in one answer: nothing. What the exchange serves around the range tells them apart.

use tokio_util::sync::CancellationToken;

use crate::exchange::rest::RestError;
use crate::gap::{ABSENT_ATTEMPTS, Absence, Around, Gap, GapState, Range, absence, served_until};
use crate::market::{Channel, Timestamp};

use super::Parts;
use super::pages::{lowest_from, serves_below};
use super::repair::{RANGES_PER_TURN, Trouble, Turn};

/// Absent ranges of one gap whose surroundings are asked for in one turn; each costs up to three pages.
const PROBES_MAX: usize = 8;

/// What the absent part of a gap amounts to.
pub(super) enum Verdict {
    /// It stays open, and why.
    NotYet(String),
    /// Each absent range with the state and the reason that its row gets.
    Final(Vec<(Range, GapState, String)>),
}

/// Judges what is absent after a whole turn; asks the exchange what it serves around it, when the turn did not tell.
pub(super) async fn judge(parts: &Parts, gap: &Gap, turn: &Turn, stop: &CancellationToken) -> Result<Verdict, Trouble> {
    let absent = parts.history().missing(&gap.stream, gap.range, RANGES_PER_TURN).await;
    let absent = absent.map_err(|error| Trouble::Wait(parts.clock.now(), error.to_string()))?;
    let rest = &parts.rest[&gap.stream.exchange];
    // How old what is served is, is a matter of the exchange's clock (1 of weight); when it does not say, its offset as
    // last measured has to do.
    if gap.attempts >= ABSENT_ATTEMPTS
        && let Err(RestError::Stopped) = rest.measure_clock(stop).await
    {
        return Err(Trouble::Stopped);
    }
    let now = rest.exchange_now();
    let mut probes = 0;
    let mut ranges = Vec::new();
    for range in absent {
        let mut around = Around {
            below: turn.served.is_some_and(|(lowest, _)| lowest < range.first),
            above: turn.served.map(|(_, highest)| highest).filter(|_| turn.skipped.covers(range)),
        };
        let known = around.below && around.above.is_some();
        if !known && gap.attempts >= ABSENT_ATTEMPTS {
            if probes == PROBES_MAX {
                return Ok(Verdict::NotYet("more ranges are absent than are asked about at a time".to_owned()));
            }
            probes += 1;
            around = probe(parts, gap, range, around, stop).await?;
        }
        match (absence(around, gap.attempts, now), around.above) {
            (Absence::NeverExisted, _) => {
                let reason = "skipped by the exchange between ids that it serves".to_owned();
                ranges.push((range, GapState::NeverExisted, reason));
            }
            (Absence::Gone, Some(oldest)) => {
                ranges.push((range, GapState::Unrecoverable, gone(parts, gap, range, oldest, now)));
            }
            (_, above) => return Ok(Verdict::NotYet(not_yet(gap.stream.channel, range, above))),
        }
    }
    // Counted as missing, and there a moment later: it is counted again at the next turn.
    if ranges.is_empty() {
        return Ok(Verdict::NotYet("its last rows have just arrived".to_owned()));
    }
    if ranges.len() == RANGES_PER_TURN {
        return Ok(Verdict::NotYet("more ranges are absent than one turn reads".to_owned()));
    }
    Ok(Verdict::Final(ranges))
}

async fn probe(
    parts: &Parts,
    gap: &Gap,
    range: Range,
    mut around: Around,
    stop: &CancellationToken,
) -> Result<Around, Trouble> {
    let troubled = |error| Trouble::of(parts, error);
    // One answer that begins with the range and shows what is served behind it: were the range passed over in two, the
    // database might have caught up between them.
    let above = lowest_from(parts, gap, range.first, stop).await.map_err(troubled)?;
    around.above = above.filter(|(position, _)| *position > range.last);
    if around.above.is_some() && !around.below {
        around.below = serves_below(parts, gap, range.first, stop).await.map_err(troubled)?;
    }
    Ok(around)
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
fn gone(parts: &Parts, gap: &Gap, range: Range, oldest: (i64, Timestamp), now: Timestamp) -> String {
    let (position, ts) = oldest;
    // When it happened is known of the range's end at best; else no later than the oldest that is left.
    let happened = match gap.stream.channel {
        Channel::Kline(_) => Timestamp(range.last),
        _ => gap.to_ts.filter(|_| range.last == gap.range.last).unwrap_or(ts).min(ts),
    };
    let kept = parts.dialects[&gap.stream.exchange].rest_retention(gap.stream.channel);
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
    let mut fates = Vec::new();
    let mut next = Some(gap.range.first);
    for (range, state, reason) in absent {
        if let Some(filled) = next.and_then(|first| Range::new(first, range.first - step)) {
            fates.push((filled, GapState::Filled, String::new()));
        }
        next = range.last.checked_add(step);
        fates.push((range, state, reason));
    }
    if let Some(filled) = next.and_then(|first| Range::new(first, gap.range.last)) {
        fates.push((filled, GapState::Filled, String::new()));
    }
    let rows: Vec<Gap> = fates.into_iter().map(|(range, state, reason)| gap.part(range, state, &reason, now)).collect();
    let left: i64 = gap.len() - gap.filled;
    gap.advance(GapState::Superseded, &format!("{} came back, {left} will not: see its parts", gap.filled), now);
    rows
}
