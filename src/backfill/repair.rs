//! One gap's repair: pages of what is missing, written, and counted afterwards in history itself.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::exchange::rest::RestError;
use crate::gap::{ABSENT_ATTEMPTS, Gap, GapState, Range, RangeSet, next_page};
use crate::market::Timestamp;

use super::absent::{self, Verdict};
use super::pages::{self, Place};
use super::{Parts, report};

/// Pages of one turn: a gap of millions then lets smaller and newer ones go first.
const PAGES_PER_TURN: usize = 50;
/// Ranges of one turn that are asked of history.
pub(super) const RANGES_PER_TURN: usize = 1_000;

/// Repairs one gap as far as it goes now; returns when to look at it again, should it not be closed.
pub async fn repair(parts: &Parts, mut gap: Gap, stop: &CancellationToken) -> Timestamp {
    gap.attempts += 1;
    gap.version += 1;
    let settled = match fill(parts, &mut gap, stop).await {
        Ok(turn) => settle(parts, &mut gap, turn, stop).await,
        Err(trouble) => give_up(parts, &mut gap, trouble).await,
    };
    match settled {
        Settled::Closed(also) => {
            report(&gap);
            also.iter().for_each(report);
            parts.clock.now()
        }
        Settled::Open(again) => {
            if gap.attempts.count_ones() == 1 {
                report(&gap);
            }
            again
        }
        Settled::Later => parts.clock.now(),
    }
}

/// Why a turn ended before its end.
pub(super) enum Trouble {
    Stopped,
    /// Another row speaks for the gap now.
    Superseded,
    /// Not before then, and why.
    Wait(Timestamp, String),
    /// The exchange will not serve it, and why.
    Gone(String),
}

impl Trouble {
    pub(super) fn of(parts: &Parts, error: RestError) -> Self {
        let now = parts.clock.now();
        match error {
            RestError::Stopped => Self::Stopped,
            RestError::Limited { until } => Self::Wait(until, "waiting for the exchange's budget".to_owned()),
            RestError::Banned { until } => Self::Wait(until, format!("the exchange bans this address until {until}")),
            RestError::UnknownSymbol { text } => Self::Gone(format!("the exchange does not know the symbol: {text}")),
            other => Self::Wait(now, other.to_string()),
        }
    }
}

enum Settled {
    /// Rows besides the gap itself that were closed with it.
    Closed(Vec<Gap>),
    /// Not before then.
    Open(Timestamp),
    /// More pages at its next turn, or nothing to say.
    Later,
}

/// What one turn found out.
pub(super) struct Turn {
    /// The lowest and the highest position that the exchange served.
    pub(super) served: Option<(i64, Place)>,
    /// Positions that an answer passed over: it began at or below them and served one above. Two answers prove nothing
    /// of what lies between them, because the database may have caught up from one to the other.
    pub(super) skipped: RangeSet,
    /// Rows came of it.
    pub(super) wrote: bool,
    /// Pages are left that were not asked for in this turn.
    unfinished: bool,
}

impl Turn {
    fn new(step: i64) -> Self {
        Self { served: None, skipped: RangeSet::new(step), wrote: false, unfinished: false }
    }

    /// Takes one answer to a question for what is there from `first` up.
    fn note(&mut self, first: i64, served: &[Place], step: i64) {
        let (Some(low), Some(high)) = (served.first(), served.last()) else { return };
        let (lowest, highest) = self.served.map_or((low.0, *high), |(lowest, highest)| (lowest, highest));
        self.served = Some((lowest.min(low.0), highest.max(*high)));
        let mut next = first;
        for (position, _) in served {
            if let Some(range) = Range::new(next, position - step) {
                self.skipped.insert(range);
            }
            next = position + step;
        }
    }
}

async fn give_up(parts: &Parts, gap: &mut Gap, trouble: Trouble) -> Settled {
    match trouble {
        Trouble::Stopped | Trouble::Superseded => Settled::Later,
        // Once could be a symbol that is just being listed or renamed.
        Trouble::Gone(why) if gap.attempts >= ABSENT_ATTEMPTS => {
            gap.advance(GapState::Unrecoverable, &why, parts.clock.now());
            close(parts, gap, Vec::new()).await
        }
        Trouble::Gone(why) => {
            gap.reason = why;
            keep(parts, gap, parts.again(gap.attempts)).await
        }
        Trouble::Wait(until, why) => {
            gap.reason = why;
            keep(parts, gap, until.max(parts.again(gap.attempts))).await
        }
    }
}

async fn fill(parts: &Parts, gap: &mut Gap, stop: &CancellationToken) -> Result<Turn, Trouble> {
    let step = gap.stream.channel.step().expect("only numbered streams have gaps");
    let page_max = pages::page_max(parts, gap);
    let mut missing = RangeSet::new(step);
    let ranges = parts.history().missing(&gap.stream, gap.range, RANGES_PER_TURN).await;
    let ranges = ranges.map_err(|error| Trouble::Wait(parts.clock.now(), error.to_string()))?;
    let mut turn = Turn { unfinished: ranges.len() == RANGES_PER_TURN, ..Turn::new(step) };
    for range in ranges {
        missing.insert(range);
    }
    for asked in 0.. {
        let Some(page) = next_page(&missing, step, page_max) else { break };
        if asked == PAGES_PER_TURN {
            turn.unfinished = true;
            break;
        }
        let page = page.range;
        let question = if gap.attempts < ABSENT_ATTEMPTS { page } else { with_neighbours(page, step, page_max) };
        let served = pages::fetch(parts, gap, question, &missing, stop).await?;
        turn.note(question.first, &served, step);
        turn.wrote |= served.iter().any(|(position, _)| missing.contains(*position));
        let told = match served.last() {
            // A short answer, or a database that has no more yet: nothing is known of what lies behind its last row.
            Some((last, _)) if *last >= page.first => *last,
            // Below what is still served, or behind what is served yet: further pages would be empty as well.
            _ => match pages::lowest_from(parts, gap, page.first, stop).await {
                Ok(Some(place)) => {
                    turn.note(page.first, &[place], step);
                    place.0 - step
                }
                Ok(None) => break,
                Err(error) => return Err(Trouble::of(parts, error)),
            },
        };
        if let Some(told) = Range::new(page.first, told) {
            missing.remove(told);
        }
    }
    Ok(turn)
}

/// What is asked for when its absence is to be believed: one answer then shows what is served on both sides of it.
fn with_neighbours(page: Range, step: i64, page_max: i64) -> Range {
    let first = (page.first - step).max(0);
    let last = page.last.saturating_add(step).min(first.saturating_add((page_max - 1) * step));
    Range { first, last }
}

/// Counts in history, and decides.
async fn settle(parts: &Parts, gap: &mut Gap, turn: Turn, stop: &CancellationToken) -> Settled {
    let now = parts.clock.now();
    let counted = match parts.history().count(&gap.stream, gap.range).await {
        Ok(counted) => counted,
        Err(error) => {
            gap.reason = error.to_string();
            return keep(parts, gap, parts.again(gap.attempts)).await;
        }
    };
    gap.count(counted.present, if turn.wrote { "rest" } else { "socket" }, now);
    if gap.filled == gap.len() {
        gap.advance(GapState::Filled, "", now);
        return close(parts, gap, Vec::new()).await;
    }
    if turn.unfinished {
        // Progress, not a failed attempt: its turn comes again behind newer and smaller gaps.
        gap.attempts -= 1;
        gap.reason = format!("{} of {} came back so far", gap.filled, gap.len());
        return match parts.record(gap, &[]).await {
            Ok(_written) => Settled::Later,
            Err(_unavailable) => Settled::Open(parts.again(gap.attempts)),
        };
    }
    match absent::judge(parts, gap, &turn, stop).await {
        Ok(Verdict::NotYet(why)) => {
            gap.reason = why;
            keep(parts, gap, parts.again(gap.attempts)).await
        }
        Ok(Verdict::Final(ranges)) => {
            let rows = absent::split(gap, ranges, now);
            close(parts, gap, rows).await
        }
        Err(trouble) => give_up(parts, gap, trouble).await,
    }
}

async fn close(parts: &Parts, gap: &Gap, also: Vec<Gap>) -> Settled {
    match parts.record(gap, &also).await {
        Ok(true) => Settled::Closed(also),
        Ok(false) => Settled::Later,
        Err(error) => {
            warn!("cannot record what became of the gap in {}, trying again: {error}", gap.stream);
            Settled::Open(parts.again(gap.attempts))
        }
    }
}

async fn keep(parts: &Parts, gap: &Gap, again: Timestamp) -> Settled {
    if let Err(error) = parts.record(gap, &[]).await {
        warn!("cannot record the state of the gap in {}, trying again: {error}", gap.stream);
    }
    Settled::Open(again)
}
