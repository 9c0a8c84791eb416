//! Repairs one gap: fetches pages of the missing positions, then counts the rows in history and decides the gap's
//! state.

use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::exchange::spec::Refill;
use crate::gap::{ABSENT_ATTEMPTS, Gap, GapState, Range, RangeSet, next_page, retry_after};
use crate::market::Channel;
use crate::messages;
use crate::supervisor;

use super::attempt::{Attempt, RANGES_PER_ATTEMPT, RepairError};
use super::deps::Deps;
use super::kline_check;
use super::pages;
use super::verdict::{self, Verdict};

/// Pages per attempt: after it, a gap of millions lets smaller and newer gaps go first.
const PAGES_PER_ATTEMPT: usize = 50;

/// Makes one attempt to repair a gap; returns how long to wait before the next one if it stays open.
pub async fn repair(deps: &Deps, mut gap: Gap, stop: &CancellationToken) -> Duration {
    gap.attempts += 1;
    gap.version += 1;
    let outcome = match verdict::refill(deps, &gap) {
        Some(Refill::Never) => close_unreturned(deps, &mut gap).await,
        _ => match fill(deps, &mut gap, stop).await {
            Ok(attempt) => evaluate(deps, &mut gap, attempt, stop).await,
            Err(error) => handle_error(deps, &mut gap, error).await,
        },
    };
    match outcome {
        Outcome::Closed(also) => {
            report(&gap);
            also.iter().for_each(report);
            Duration::ZERO
        }
        Outcome::Open(pause) => {
            if gap.attempts.count_ones() == 1 {
                report(&gap);
            }
            pause
        }
        Outcome::Requeue => Duration::ZERO,
    }
}

/// Stores why a repair panicked; returns when to try again. `panics` counts its panics in a row: the attempts of the row
/// may not include them.
pub(super) async fn record_panic(deps: &Deps, gap_id: &str, panics: i64, error: JoinError) -> Duration {
    let why = match error.try_into_panic() {
        Ok(payload) => format!("panic: {}", supervisor::panic_message(&*payload)),
        Err(error) => error.to_string(),
    };
    let Some(mut gap) = deps.ledger.with(|ledger| ledger.get(gap_id).cloned()) else { return Duration::ZERO };
    error!(
        EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = gap.range.first,
        GAP_LAST = gap.range.last, "a repair of the gap in {} failed by a bug, please report it: {why}", gap.stream
    );
    gap.attempts += 1;
    gap.version += 1;
    gap.reason = format!("the repair failed by a bug: {why}");
    let pause = retry_after(gap.attempts.max(panics));
    keep_open(deps, &gap, pause).await;
    pause
}

/// How long an exchange that serves only its newest rows is asked for older ones.
const RECENT_CONFIRM: Duration = Duration::from_secs(60);

enum Outcome {
    /// Closed, with these rows split off.
    Closed(Vec<Gap>),
    /// Still open; try again after this time.
    Open(Duration),
    /// Try again soon without a report: more pages follow, or the attempt was stopped.
    Requeue,
}

async fn handle_error(deps: &Deps, gap: &mut Gap, error: RepairError) -> Outcome {
    match error {
        RepairError::Stopped | RepairError::Superseded => Outcome::Requeue,
        RepairError::UnknownSymbol(why) | RepairError::NotServed(why) if gap.attempts >= ABSENT_ATTEMPTS => {
            match verdict::not_served(deps, gap, &why).await {
                Ok(verdict) => apply(deps, gap, verdict).await,
                Err(error) => Box::pin(handle_error(deps, gap, error)).await,
            }
        }
        // A single such answer may mean that the symbol is being listed or renamed.
        RepairError::UnknownSymbol(why) | RepairError::NotServed(why) => {
            gap.reason = why;
            keep_open(deps, gap, Duration::ZERO).await
        }
        RepairError::Wait(pause, why) => {
            gap.reason = why;
            keep_open(deps, gap, pause).await
        }
    }
}

/// Closes a gap of a channel of which REST returns no lost row. There is no request that could bring one later, so nothing is
/// waited for; what history has of the gap came over a socket.
async fn close_unreturned(deps: &Deps, gap: &mut Gap) -> Outcome {
    let now = deps.clock.now();
    let counted = match deps.history().count(&gap.stream, gap.range).await {
        Ok(counted) => counted,
        Err(error) => return handle_error(deps, gap, RepairError::soon(error)).await,
    };
    gap.count_filled(counted.present, "socket", now);
    if gap.filled == gap.len() {
        gap.advance(GapState::Filled, "", now);
        return close(deps, gap, Vec::new()).await;
    }
    let title = deps.dialects[&gap.stream.exchange].spec().title;
    let why = format!("{title} returns no lost {} over its public REST", gap.stream.channel);
    match verdict::not_served(deps, gap, &why).await {
        Ok(Verdict::Absent(ranges)) => {
            let rows = verdict::split(gap, ranges, now);
            close(deps, gap, rows).await
        }
        Ok(Verdict::NotYet(why)) => {
            gap.reason = why;
            keep_open(deps, gap, Duration::ZERO).await
        }
        Err(error) => handle_error(deps, gap, error).await,
    }
}

/// Applies what the answers say: waits, doubts, or closes the gap when the exchange has been asked for long enough.
async fn apply(deps: &Deps, gap: &mut Gap, verdict: Verdict) -> Outcome {
    let ranges = match verdict {
        Verdict::NotYet(why) => {
            gap.evidence.note_answer(&why, deps.clock.now());
            gap.reason = why;
            return keep_open(deps, gap, Duration::ZERO).await;
        }
        Verdict::Absent(ranges) => ranges,
    };
    let why = match &ranges[..] {
        [(_, _, why)] => why.clone(),
        ranges => format!("{} ranges are not served; the first: {}", ranges.len(), ranges[0].2),
    };
    gap.doubt(&why, deps.answers.note(&gap.gap_id, deps.clock.monotonic()), deps.clock.now());
    if gap.asked_for() < confirm_after(deps, gap, &ranges) {
        return keep_open(deps, gap, Duration::ZERO).await;
    }
    let asked = format!("asked for {} s", gap.asked_for().as_secs());
    let ranges = ranges.into_iter().map(|(range, state, why)| (range, state, format!("{why}; {asked}"))).collect();
    let rows = verdict::split(gap, ranges, deps.clock.now());
    close(deps, gap, rows).await
}

/// How long the exchange must be asked before these ranges close.
fn confirm_after(deps: &Deps, gap: &Gap, ranges: &[(Range, GapState, String)]) -> Duration {
    let only_older = ranges.iter().all(|(_, state, _)| *state == GapState::Unrecoverable);
    match verdict::refill(deps, gap) {
        // It serves its newest rows only: what is older never comes back. The pause lets a shard catch up.
        Some(Refill::Recent(_)) if only_older => deps.confirm_after.min(RECENT_CONFIRM),
        _ => deps.confirm_after,
    }
}

async fn fill(deps: &Deps, gap: &mut Gap, stop: &CancellationToken) -> Result<Attempt, RepairError> {
    let step = gap.stream.channel.step().expect("only numbered streams have gaps");
    let page_max = pages::page_max(deps, gap);
    let mut missing = RangeSet::new(step);
    let ranges = deps.history().missing(&gap.stream, gap.range, RANGES_PER_ATTEMPT).await;
    let ranges = ranges.map_err(RepairError::soon)?;
    let mut attempt = Attempt { unfinished: ranges.len() == RANGES_PER_ATTEMPT, ..Attempt::new(step) };
    for range in ranges {
        missing.insert(range);
    }
    for pages_asked in 0.. {
        let Some(page) = next_page(&missing, step, page_max) else { break };
        if pages_asked == PAGES_PER_ATTEMPT {
            attempt.unfinished = true;
            break;
        }
        let page = page.range;
        let request = if gap.attempts < ABSENT_ATTEMPTS { page } else { with_neighbours(page, step, page_max) };
        let served = pages::fetch(deps, gap, request, &missing, &mut attempt, stop).await?;
        attempt.note_answer(request.first, &served, step);
        attempt.wrote |= served.iter().any(|(position, _)| missing.contains(*position));
        let answered_to = match served.last() {
            // The answer may be short, or the database may lag: it proves nothing about positions above its last row.
            Some((last, _)) if *last >= page.first => *last,
            // The page lies below or above everything that is served now, so the next pages would be empty as well.
            _ => match pages::lowest_served_from(deps, gap, page.first, stop).await {
                Ok(Some(position)) => {
                    attempt.note_answer(page.first, &[position], step);
                    position.0 - step
                }
                Ok(None) => break,
                Err(error) => return Err(RepairError::of(deps, error)),
            },
        };
        if let Some(answered) = Range::new(page.first, answered_to) {
            missing.remove(answered);
        }
    }
    Ok(attempt)
}

/// Widens a page so that one answer also shows both neighbours of the missing positions.
fn with_neighbours(page: Range, step: i64, page_max: i64) -> Range {
    let first = (page.first - step).max(0);
    let last = page.last.saturating_add(step).min(first.saturating_add((page_max - 1) * step));
    Range { first, last }
}

/// Counts the gap's rows in history and decides its state.
async fn evaluate(deps: &Deps, gap: &mut Gap, attempt: Attempt, stop: &CancellationToken) -> Outcome {
    let now = deps.clock.now();
    let counted = match deps.history().count(&gap.stream, gap.range).await {
        Ok(counted) => counted,
        Err(error) => return handle_error(deps, gap, RepairError::soon(error)).await,
    };
    gap.count_filled(counted.present, if attempt.wrote { "rest" } else { "socket" }, now);
    if gap.filled == gap.len() {
        gap.advance(GapState::Filled, "", now);
        return close(deps, gap, Vec::new()).await;
    }
    if attempt.wrote {
        gap.clear_doubt();
    }
    if !attempt.refused.is_empty() {
        return match deps.history().missing(&gap.stream, gap.range, RANGES_PER_ATTEMPT).await {
            Ok(absent) => {
                let rows = verdict::split_refused(gap, &attempt.refused, &absent, now);
                close(deps, gap, rows).await
            }
            Err(error) => handle_error(deps, gap, RepairError::soon(error)).await,
        };
    }
    if attempt.unfinished {
        // This is progress, not a failed attempt: the gap continues after newer and smaller ones.
        gap.attempts -= 1;
        gap.reason = format!("{} of {} came back so far", gap.filled, gap.len());
        return match deps.record(gap, &[]).await {
            Ok(_written) => Outcome::Requeue,
            Err(_unavailable) => Outcome::Open(deps.pause_after(gap)),
        };
    }
    match verdict::judge(deps, gap, &attempt, stop).await {
        Ok(verdict) => apply(deps, gap, verdict).await,
        Err(error) => handle_error(deps, gap, error).await,
    }
}

async fn close(deps: &Deps, gap: &Gap, also: Vec<Gap>) -> Outcome {
    match deps.record(gap, &also).await {
        Ok(true) => {
            if gap.stream.channel == Channel::Trade && kline_check::is_needed(deps, gap.stream.exchange) {
                deps.answers.note_refilled(&gap.stream);
            }
            Outcome::Closed(also)
        }
        Ok(false) => Outcome::Requeue,
        Err(error) => {
            warn!("cannot store the closed gap in {}, trying again: {error}", gap.stream);
            Outcome::Open(deps.pause_after(gap))
        }
    }
}

/// Stores the row. The next attempt follows after the usual pause, or after `pause` if that is longer.
async fn keep_open(deps: &Deps, gap: &Gap, pause: Duration) -> Outcome {
    if let Err(error) = deps.record(gap, &[]).await {
        warn!("cannot store the state of the gap in {}, trying again: {error}", gap.stream);
    }
    Outcome::Open(pause.max(deps.pause_after(gap)))
}

/// Logs the new state of a gap.
fn report(gap: &Gap) {
    let (first, last, span) = (gap.range.first, gap.range.last, gap.span());
    match gap.state {
        GapState::Filled => info!(
            MESSAGE_ID = messages::GAP_FILLED,
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "filled the gap in {}: {} of {} came back, {span}", gap.stream, gap.filled, gap.len()
        ),
        GapState::Unconfirmed => info!(
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "the gap in {} is in doubt, asking again: {span}: {}", gap.stream, gap.reason
        ),
        state if state.is_closed() => warn!(
            MESSAGE_ID = messages::GAP_CLOSED,
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "closed the gap in {} as {state}: {span}: {}", gap.stream, gap.reason
        ),
        _ => info!(
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "the gap in {} stays open after {} attempts: {span}: {}", gap.stream, gap.attempts, gap.reason
        ),
    }
}
