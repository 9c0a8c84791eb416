//! Repairs one gap: fetches pages of the missing positions, then counts the rows in history and decides the gap's
//! state.

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::gap::{ABSENT_ATTEMPTS, Gap, GapState, Range, RangeSet, next_page};
use crate::market::Timestamp;
use crate::messages;
use crate::supervisor;

use super::attempt::{Attempt, RANGES_PER_ATTEMPT, RepairError};
use super::deps::Deps;
use super::pages;
use super::verdict::{self, Verdict};

/// Pages per attempt: after it, a gap of millions lets smaller and newer gaps go first.
const PAGES_PER_ATTEMPT: usize = 50;

/// Makes one attempt to repair a gap; returns when to try again if it stays open.
pub async fn repair(deps: &Deps, mut gap: Gap, stop: &CancellationToken) -> Timestamp {
    gap.attempts += 1;
    gap.version += 1;
    let outcome = match fill(deps, &mut gap, stop).await {
        Ok(attempt) => evaluate(deps, &mut gap, attempt, stop).await,
        Err(error) => handle_error(deps, &mut gap, error).await,
    };
    match outcome {
        Outcome::Closed(also) => {
            report(&gap);
            also.iter().for_each(report);
            deps.clock.now()
        }
        Outcome::Open(again) => {
            if gap.attempts.count_ones() == 1 {
                report(&gap);
            }
            again
        }
        Outcome::Requeue => deps.clock.now(),
    }
}

/// Stores why a repair panicked; returns when to try again. `panics` counts its panics in a row: the attempts of the row
/// may not include them.
pub(super) async fn record_panic(deps: &Deps, gap_id: &str, panics: i64, error: JoinError) -> Timestamp {
    let why = match error.try_into_panic() {
        Ok(payload) => format!("panic: {}", supervisor::panic_message(&*payload)),
        Err(error) => error.to_string(),
    };
    let Some(mut gap) = deps.ledger.with(|ledger| ledger.get(gap_id).cloned()) else { return deps.clock.now() };
    error!(
        EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = gap.range.first,
        GAP_LAST = gap.range.last, "a repair of the gap in {} failed by a bug, please report it: {why}", gap.stream
    );
    gap.attempts += 1;
    gap.version += 1;
    gap.reason = format!("the repair failed by a bug: {why}");
    let again = deps.next_retry(gap.attempts.max(panics));
    keep_open(deps, &gap, again).await;
    again
}

enum Outcome {
    /// Closed, with these rows split off.
    Closed(Vec<Gap>),
    /// Still open; try again at this time.
    Open(Timestamp),
    /// Try again soon without a report: more pages follow, or the attempt was stopped.
    Requeue,
}

async fn handle_error(deps: &Deps, gap: &mut Gap, error: RepairError) -> Outcome {
    match error {
        RepairError::Stopped | RepairError::Superseded => Outcome::Requeue,
        // A single such answer may mean that the symbol is being listed or renamed.
        RepairError::Gone(why) if gap.attempts >= ABSENT_ATTEMPTS => {
            gap.advance(GapState::Unrecoverable, &why, deps.clock.now());
            close(deps, gap, Vec::new()).await
        }
        RepairError::Gone(why) => {
            gap.reason = why;
            keep_open(deps, gap, deps.next_retry(gap.attempts)).await
        }
        RepairError::Wait(until, why) => {
            gap.reason = why;
            keep_open(deps, gap, until.max(deps.next_retry(gap.attempts))).await
        }
    }
}

async fn fill(deps: &Deps, gap: &mut Gap, stop: &CancellationToken) -> Result<Attempt, RepairError> {
    let step = gap.stream.channel.step().expect("only numbered streams have gaps");
    let page_max = pages::page_max(deps, gap);
    let mut missing = RangeSet::new(step);
    let ranges = deps.history().missing(&gap.stream, gap.range, RANGES_PER_ATTEMPT).await;
    let ranges = ranges.map_err(|error| RepairError::Wait(deps.clock.now(), error.to_string()))?;
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
        let served = pages::fetch(deps, gap, request, &missing, stop).await?;
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
        Err(error) => {
            gap.reason = error.to_string();
            return keep_open(deps, gap, deps.next_retry(gap.attempts)).await;
        }
    };
    gap.count_filled(counted.present, if attempt.wrote { "rest" } else { "socket" }, now);
    if gap.filled == gap.len() {
        gap.advance(GapState::Filled, "", now);
        return close(deps, gap, Vec::new()).await;
    }
    if attempt.unfinished {
        // This is progress, not a failed attempt: the gap continues after newer and smaller ones.
        gap.attempts -= 1;
        gap.reason = format!("{} of {} came back so far", gap.filled, gap.len());
        return match deps.record(gap, &[]).await {
            Ok(_written) => Outcome::Requeue,
            Err(_unavailable) => Outcome::Open(deps.next_retry(gap.attempts)),
        };
    }
    match verdict::judge(deps, gap, &attempt, stop).await {
        Ok(Verdict::NotYet(why)) => {
            gap.reason = why;
            keep_open(deps, gap, deps.next_retry(gap.attempts)).await
        }
        Ok(Verdict::Final(ranges)) => {
            let rows = verdict::split(gap, ranges, now);
            close(deps, gap, rows).await
        }
        Err(error) => handle_error(deps, gap, error).await,
    }
}

async fn close(deps: &Deps, gap: &Gap, also: Vec<Gap>) -> Outcome {
    match deps.record(gap, &also).await {
        Ok(true) => Outcome::Closed(also),
        Ok(false) => Outcome::Requeue,
        Err(error) => {
            warn!("cannot store the closed gap in {}, trying again: {error}", gap.stream);
            Outcome::Open(deps.next_retry(gap.attempts))
        }
    }
}

async fn keep_open(deps: &Deps, gap: &Gap, again: Timestamp) -> Outcome {
    if let Err(error) = deps.record(gap, &[]).await {
        warn!("cannot store the state of the gap in {}, trying again: {error}", gap.stream);
    }
    Outcome::Open(again)
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
