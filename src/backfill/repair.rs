//! One gap's repair: pages of what is missing, written, and counted afterwards in history itself.

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::exchange::rest::RestError;
use crate::gap::{Gap, GapState, Range, RangeSet, next_page, verdict};
use crate::history::{Batch, KlineRow, TradeRow};
use crate::market::{Channel, Interval, Kline, Timestamp};
use crate::pulse::Pulses;
use crate::writer::Rows;

use super::{Parts, report};

/// Pages of one turn: a gap of millions then lets smaller and newer ones go first.
const PAGES_PER_TURN: usize = 50;
/// Ranges of one turn that are asked of history.
const RANGES_PER_TURN: usize = 1_000;
/// An id must be skipped by so many answers, each on its own attempt, before it is said never to have
/// existed: the exchange's database lags behind its market by seconds.
const SKIPPED_ATTEMPTS: i64 = 3;

/// Repairs one gap as far as it goes now; returns when to look at it again, should it not be closed.
pub async fn repair(parts: &Parts, mut gap: Gap, stop: &CancellationToken) -> Timestamp {
    gap.attempts += 1;
    gap.version += 1;
    let outcome = fill(parts, &mut gap, stop).await;
    let settled = match outcome {
        Ok(turn) => settle(parts, &mut gap, turn).await,
        Err(Trouble::Stopped) => return parts.clock.now(),
        // Once could be a symbol that is just being listed or renamed.
        Err(Trouble::Gone(why)) if gap.attempts >= SKIPPED_ATTEMPTS => {
            gap.advance(GapState::Unrecoverable, &why, parts.clock.now());
            close(parts, &gap, Vec::new()).await
        }
        Err(Trouble::Gone(why)) => {
            gap.reason = why;
            keep(parts, &gap, parts.again(gap.attempts)).await
        }
        Err(Trouble::Wait(until, why)) => {
            gap.reason = why;
            keep(parts, &gap, until.max(parts.again(gap.attempts))).await
        }
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
        Settled::More => parts.clock.now(),
    }
}

enum Trouble {
    Stopped,
    /// Not before then, and why.
    Wait(Timestamp, String),
    /// The exchange will not serve it, and why.
    Gone(String),
}

enum Settled {
    /// Rows besides the gap itself that were closed with it.
    Closed(Vec<Gap>),
    Open(Timestamp),
    More,
}

/// What one turn found out.
struct Turn {
    skipped: RangeSet,
    behind: Option<Range>,
    /// Pages are left that were not asked for in this turn.
    unfinished: bool,
}

async fn fill(parts: &Parts, gap: &mut Gap, stop: &CancellationToken) -> Result<Turn, Trouble> {
    let step = gap.stream.channel.step().expect("only numbered streams have gaps");
    let page_max = match gap.stream.channel {
        Channel::Trade => dialect(parts, gap).trades_page_max(),
        _ => dialect(parts, gap).klines_page_max(),
    };
    let mut missing = RangeSet::new(step);
    let ranges = parts.history().missing(&gap.stream, gap.range, RANGES_PER_TURN).await;
    let ranges = ranges.map_err(|error| Trouble::Wait(parts.clock.now(), error.to_string()))?;
    let mut unfinished = ranges.len() == RANGES_PER_TURN;
    for range in ranges {
        missing.insert(range);
    }
    let (mut skipped, mut behind) = (RangeSet::new(step), None);
    for turn in 0.. {
        let Some(page) = next_page(&missing, step, page_max) else { break };
        if turn == PAGES_PER_TURN {
            unfinished = true;
            break;
        }
        let served = fetch(parts, gap, page.range, stop).await?;
        let read = verdict(page.range, step, &served);
        for range in read.skipped {
            skipped.insert(range);
        }
        missing.remove(page.range);
        if let Some(range) = read.behind {
            // Nothing was served behind here: further pages would be empty as well.
            let last = missing.iter().last().map_or(range.last, |range| range.last);
            behind = Range::new(range.first, last);
            break;
        }
    }
    Ok(Turn { skipped, behind, unfinished })
}

/// Asks for one page and stores what came of it; returns the positions that were served.
async fn fetch(parts: &Parts, gap: &mut Gap, page: Range, stop: &CancellationToken) -> Result<Vec<i64>, Trouble> {
    let rows = match gap.stream.channel {
        Channel::Trade => trades(parts, gap, page, stop).await,
        Channel::Kline(interval) => klines(parts, gap, interval, page, stop).await,
        Channel::BookTicker => unreachable!("books are not numbered"),
    };
    let (batch, served) = rows.map_err(|error| trouble(parts, error))?;
    if batch.is_empty() {
        return Ok(served);
    }
    if gap.state == GapState::Open {
        gap.advance(GapState::Filling, "", parts.clock.now());
        parts.record(gap).await.map_err(|error| Trouble::Wait(parts.clock.now(), error.to_string()))?;
    }
    let count = batch.rows();
    let rows = Rows { batch, ..Rows::default() };
    let pulse = Pulses::default().watch("repair");
    match parts.writer.write(&rows, &pulse, stop).await {
        Ok(_set_aside) => parts.count_rows(count),
        Err(error) => return Err(Trouble::Wait(parts.clock.now(), error.to_string())),
    }
    Ok(served)
}

async fn trades(
    parts: &Parts,
    gap: &Gap,
    page: Range,
    stop: &CancellationToken,
) -> Result<(Batch, Vec<i64>), RestError> {
    let trades = rest(parts, gap).trades(gap.stream.symbol.as_str(), page, stop).await?;
    let served = trades.iter().map(|trade| trade.id).collect();
    let received_at = parts.clock.now();
    let rows = trades.into_iter().filter(|trade| page.contains(trade.id)).map(|trade| TradeRow {
        exchange: gap.stream.exchange,
        symbol: gap.stream.symbol.clone(),
        trade,
        received_at,
        is_backfilled: true,
    });
    Ok((Batch { trades: rows.collect(), token: token(gap, page), ..Batch::default() }, served))
}

async fn klines(
    parts: &Parts,
    gap: &Gap,
    interval: Interval,
    page: Range,
    stop: &CancellationToken,
) -> Result<(Batch, Vec<i64>), RestError> {
    let rest = rest(parts, gap);
    // Which klines are closed is a matter of the exchange's clock, not ours: ask it (1 of weight). When it does
    // not say, its offset as last measured has to do.
    if let Err(RestError::Stopped) = rest.measure_clock(stop).await {
        return Err(RestError::Stopped);
    }
    let mut klines = rest.klines(gap.stream.symbol.as_str(), interval, page, stop).await?;
    klines.retain(|kline| kline.closed && page.contains(kline.open_time.micros()));
    number(parts, gap, &mut klines, stop).await?;
    let served = klines.iter().map(|kline| kline.open_time.micros()).collect();
    let rows = klines.into_iter().map(|kline| KlineRow {
        exchange: gap.stream.exchange,
        symbol: gap.stream.symbol.clone(),
        kline,
        is_backfilled: true,
    });
    Ok((Batch { klines: rows.collect(), token: token(gap, page), ..Batch::default() }, served))
}

/// Gives klines over REST the first and last trade id they come without. Ids are contiguous, and a kline
/// has n of them: n = L - f + 1, and the next kline with trades begins at L + 1. So one question for the
/// first id numbers the whole run.
async fn number(parts: &Parts, gap: &Gap, klines: &mut [Kline], stop: &CancellationToken) -> Result<(), RestError> {
    let Some(first) = klines.iter().find(|kline| kline.trade_count > 0) else { return Ok(()) };
    let asked = rest(parts, gap).trade_at(gap.stream.symbol.as_str(), first.open_time, stop).await?;
    let Some(mut next) = asked else { return Ok(()) };
    let step = gap.stream.channel.step().unwrap_or(1);
    let mut expected = None;
    for kline in klines {
        if expected.is_some_and(|at| at != kline.open_time.micros()) {
            // A kline is absent from the answer, and its trades were not counted: the rest stays unnumbered.
            return Ok(());
        }
        expected = Some(kline.open_time.micros() + step);
        if kline.trade_count > 0 {
            kline.first_trade_id = next;
            kline.last_trade_id = next + kline.trade_count - 1;
            next += kline.trade_count;
        }
    }
    Ok(())
}

/// Counts in history, and decides.
async fn settle(parts: &Parts, gap: &mut Gap, turn: Turn) -> Settled {
    let now = parts.clock.now();
    let counted = match parts.history().count(&gap.stream, gap.range).await {
        Ok(counted) => counted,
        Err(error) => {
            gap.reason = error.to_string();
            return keep(parts, gap, parts.again(gap.attempts)).await;
        }
    };
    gap.filled = counted.present;
    let absent = gap.len() - counted.present;
    if absent == 0 {
        gap.advance(GapState::Filled, "", now);
        return close(parts, gap, Vec::new()).await;
    }
    if turn.unfinished {
        // Progress, not a failed attempt: its turn comes again behind newer and smaller gaps.
        gap.attempts -= 1;
        gap.reason = format!("{} of {} came back so far", counted.present, gap.len());
        return match parts.record(gap).await {
            Ok(()) => Settled::More,
            Err(_unavailable) => Settled::Open(parts.again(gap.attempts)),
        };
    }
    if turn.skipped.len() >= absent && gap.attempts >= SKIPPED_ATTEMPTS {
        return never_existed(parts, gap, &turn.skipped).await;
    }
    gap.reason = match turn.behind {
        Some(range) => format!("the exchange does not serve {}..{} yet: its database lags", range.first, range.last),
        None => format!("the exchange skips {absent} of {}, asking again before believing it", gap.len()),
    };
    keep(parts, gap, parts.again(gap.attempts)).await
}

/// The exchange has nothing there, on both sides of what it served: the row is closed, and each range
/// that never existed has a row of its own, so that coverage does not miss it.
async fn never_existed(parts: &Parts, gap: &mut Gap, skipped: &RangeSet) -> Settled {
    let now = parts.clock.now();
    let reason = "skipped by the exchange between ids that it serves";
    if gap.filled == 0 {
        gap.advance(GapState::NeverExisted, reason, now);
        return close(parts, gap, Vec::new()).await;
    }
    let mut rows = Vec::new();
    for range in skipped.iter() {
        let mut row = Gap::open(gap.stream.clone(), range, gap.evidence.clone(), gap.detected_at);
        row.attempts = gap.attempts;
        row.advance(GapState::NeverExisted, reason, now);
        rows.push(row);
    }
    gap.advance(GapState::Filled, &format!("{} ids never existed", skipped.len()), now);
    close(parts, gap, rows).await
}

async fn close(parts: &Parts, gap: &Gap, also: Vec<Gap>) -> Settled {
    for row in also.iter().chain([gap]) {
        if let Err(error) = parts.record(row).await {
            warn!("cannot record what became of the gap in {}, trying again: {error}", gap.stream);
            return Settled::Open(parts.again(gap.attempts));
        }
    }
    Settled::Closed(also)
}

async fn keep(parts: &Parts, gap: &Gap, again: Timestamp) -> Settled {
    if let Err(error) = parts.record(gap).await {
        warn!("cannot record the state of the gap in {}, trying again: {error}", gap.stream);
    }
    Settled::Open(again)
}

fn trouble(parts: &Parts, error: RestError) -> Trouble {
    let now = parts.clock.now();
    match error {
        RestError::Stopped => Trouble::Stopped,
        RestError::Limited { until } => Trouble::Wait(until, "waiting for the exchange's budget".to_owned()),
        RestError::Banned { until } => Trouble::Wait(until, format!("the exchange bans this address until {until}")),
        RestError::UnknownSymbol { text } => Trouble::Gone(format!("the exchange does not know the symbol: {text}")),
        other => Trouble::Wait(now, other.to_string()),
    }
}

fn token(gap: &Gap, page: Range) -> String {
    format!("fill:{}:{}-{}:{}", gap.stream, page.first, page.last, gap.attempts)
}

fn rest<'a>(parts: &'a Parts, gap: &Gap) -> &'a crate::exchange::rest::Rest {
    &parts.rest[&gap.stream.exchange]
}

fn dialect<'a>(parts: &'a Parts, gap: &Gap) -> &'a dyn crate::exchange::Dialect {
    &*parts.dialects[&gap.stream.exchange]
}
