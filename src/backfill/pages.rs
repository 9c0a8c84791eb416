//! Requests pages of missing positions from the exchange and writes their rows; looks up what the exchange serves
//! around a range. Does not decide the state of a gap.

use tokio_util::sync::CancellationToken;

use crate::exchange::RefusedRow;
use crate::exchange::rest::{Rest, RestError};
use crate::exchange::spec::{ChannelKind, Refill};
use crate::gap::{Gap, GapState, Range, RangeSet};
use crate::heartbeat::Heartbeats;
use crate::history::{Batch, DeadLetter, KlineRow, TradeRow};
use crate::market::{Channel, Interval, Kline};
use crate::writer::Rows;

use super::attempt::{Attempt, RepairError, ServedPosition};
use super::deps::Deps;

/// Attempts that leave out trades which are newer than the row behind their gap. Meanwhile a numbering that began again
/// shows itself and supersedes the gap.
const RENUMBERED_ATTEMPTS: i64 = 6;
/// A trade may be this much newer than the next one, in microseconds.
const DISORDER_US: i64 = 1_000_000;

/// Most rows in one page of this gap's channel.
pub(super) fn page_max(deps: &Deps, gap: &Gap) -> i64 {
    deps.dialects[&gap.stream.exchange].spec().page_rows(gap.stream.channel)
}

/// Requests one page and stores its missing rows; returns every position served, and adds what
/// history cannot hold to `learned`.
pub(super) async fn fetch(
    deps: &Deps,
    gap: &mut Gap,
    page: Range,
    missing: &RangeSet,
    learned: &mut Attempt,
    stop: &CancellationToken,
) -> Result<Vec<ServedPosition>, RepairError> {
    let rows = match gap.stream.channel {
        Channel::Trade | Channel::AggTrade => trades(deps, gap, page, stop).await,
        Channel::Kline(interval) => klines(deps, gap, interval, page, stop).await,
        Channel::BookTicker => unreachable!("books are not numbered"),
    };
    let (mut batch, served, unusable) = rows.map_err(|error| RepairError::of(deps, error))?;
    for row in unusable {
        let Some(position) = row.position else {
            learned.unreadable += 1;
            batch.dead_letters.push(dead_letter(deps, gap, row));
            continue;
        };
        if missing.contains(position) && !row.is_conflict {
            let letter = dead_letter(deps, gap, row);
            let why = format!("dead letter {}: {}", letter.id, letter.reason);
            learned.refused.insert(position, why);
            batch.dead_letters.push(letter);
        }
    }
    batch.trades.retain(|row| missing.contains(row.trade.id));
    if gap.attempts <= RENUMBERED_ATTEMPTS {
        let count = batch.trades.len();
        batch.trades.retain(|row| gap.to_ts.is_none_or(|next| row.trade.ts.since(next) <= DISORDER_US));
        learned.too_new += count - batch.trades.len();
    }
    batch.klines.retain(|row| missing.contains(row.kline.open_time.micros()));
    if batch.is_empty() {
        return Ok(served);
    }
    if matches!(gap.state, GapState::Open | GapState::Unconfirmed) {
        gap.advance(GapState::Filling, "", deps.clock.now());
        let recorded = deps.record(gap, &[]).await;
        if !recorded.map_err(RepairError::soon)? {
            return Err(RepairError::Superseded);
        }
    }
    let count = batch.rows();
    let rows = Rows { batch, received_at: deps.clock.now(), ..Rows::default() };
    let heartbeat = Heartbeats::default().watch("repair");
    match deps.writer.write(&rows, &heartbeat, stop).await {
        Ok(rows) => {
            deps.count_rows(count.saturating_sub(rows.len()));
            learned.refused.extend(rows.into_iter().map(|row| (row.position, row.reason)));
        }
        Err(error) => return Err(RepairError::soon(error)),
    }
    Ok(served)
}

/// The dead letter of an element that is no row.
fn dead_letter(deps: &Deps, gap: &Gap, row: RefusedRow) -> DeadLetter {
    let mut letter = DeadLetter::of_rest(&gap.stream.to_string(), row.reason, row.payload, deps.clock.now());
    letter.identify(deps.writer.recorder());
    letter
}

async fn trades(
    deps: &Deps,
    gap: &Gap,
    page: Range,
    stop: &CancellationToken,
) -> Result<(Batch, Vec<ServedPosition>, Vec<RefusedRow>), RestError> {
    let (rest, symbol) = (rest(deps, gap), gap.stream.symbol.as_str());
    for (position, at) in [(gap.evidence.previous, gap.from_ts), (gap.evidence.next, gap.to_ts)] {
        position.zip(at).into_iter().for_each(|(position, at)| rest.learn_time(symbol, position, at));
    }
    let answer = rest.trades(&gap.stream, page, stop).await?;
    // The exchange serves what we refuse: a refused position is not absent.
    let served = answer.positions(|trade| (trade.id, trade.ts));
    let received_at = deps.clock.now();
    let rows = answer.rows.into_iter().map(|trade| TradeRow {
        exchange: gap.stream.exchange,
        symbol: gap.stream.symbol.clone(),
        trade,
        received_at,
        is_backfilled: true,
        epoch: gap.epoch,
        version: crate::history::row_version(true),
    });
    Ok((Batch { trades: rows.collect(), token: token(gap, page), ..Batch::default() }, served, answer.refused))
}

async fn klines(
    deps: &Deps,
    gap: &Gap,
    interval: Interval,
    page: Range,
    stop: &CancellationToken,
) -> Result<(Batch, Vec<ServedPosition>, Vec<RefusedRow>), RestError> {
    let rest = rest(deps, gap);
    // The exchange's clock decides which klines are closed, so measure it (1 of weight). If that fails, use the last
    // measured offset.
    if let Err(RestError::Stopped) = rest.measure_clock(stop).await {
        return Err(RestError::Stopped);
    }
    let mut answer = rest.klines(gap.stream.symbol.as_str(), interval, page, stop).await?;
    answer.rows.retain(|kline| kline.closed);
    // The exchange serves what we refuse: a refused position is not absent.
    let served = answer.positions(|kline| (kline.open_time.micros(), kline.open_time));
    let mut klines = answer.rows;
    assign_trade_ids(deps, gap, &mut klines, stop).await?;
    let rows = klines.into_iter().map(|kline| KlineRow {
        exchange: gap.stream.exchange,
        symbol: gap.stream.symbol.clone(),
        kline,
        is_backfilled: true,
        version: crate::history::row_version(true),
    });
    Ok((Batch { klines: rows.collect(), token: token(gap, page), ..Batch::default() }, served, answer.refused))
}

/// Adds the first and last trade id to klines from REST, which lack them. Ids are contiguous: a kline has n = L - f + 1
/// of them, and the next kline with trades begins at L + 1. So one request for the first id numbers the whole run.
async fn assign_trade_ids(
    deps: &Deps,
    gap: &Gap,
    klines: &mut [Kline],
    stop: &CancellationToken,
) -> Result<(), RestError> {
    let spec = deps.dialects[&gap.stream.exchange].spec();
    let names_trades = spec
        .channel(gap.stream.channel)
        .is_some_and(|channel| matches!(channel.kind, ChannelKind::Kline { names_trades: true, .. }));
    let counted = klines.iter().find(|kline| kline.trade_count > 0).filter(|_| names_trades);
    let Some(first) = counted else { return Ok(()) };
    let answer = rest(deps, gap).trade_at(gap.stream.symbol.as_str(), first.open_time, stop).await?;
    let Some(mut next) = answer else { return Ok(()) };
    let step = gap.stream.channel.step().unwrap_or(1);
    let mut expected = None;
    for kline in klines {
        if expected.is_some_and(|at| at != kline.open_time.micros()) {
            // A kline is absent from the answer and its trade count is unknown, so the later klines get no ids.
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

/// The lowest served position at or above `position`; `None` when the exchange serves none, or ignores where a page
/// begins.
pub(super) async fn lowest_served_from(
    deps: &Deps,
    gap: &Gap,
    position: i64,
    stop: &CancellationToken,
) -> Result<Option<ServedPosition>, RestError> {
    let (rest, symbol) = (rest(deps, gap), gap.stream.symbol.as_str());
    let Channel::Kline(interval) = gap.stream.channel else {
        return Ok(rest.trade_from(&gap.stream, position, stop).await?.map(|trade| (trade.id, trade.ts)));
    };
    let reach = (page_max(deps, gap) - 1) * interval.micros();
    let newest = rest.exchange_now().micros().div_euclid(interval.micros()) * interval.micros();
    // Tries the next page first, then the whole range: a symbol may have been listed long after `position`.
    for last in [position.saturating_add(reach), newest.max(position)] {
        let page = rest.klines(symbol, interval, Range { first: position, last }, stop).await?;
        if let Some(kline) = page.rows.iter().find(|kline| kline.closed) {
            return Ok(Some((kline.open_time.micros(), kline.open_time)));
        }
    }
    Ok(None)
}

/// Why the exchange has these positions and no page shows them; `None` when no answer says so.
pub(super) async fn hidden(
    deps: &Deps,
    gap: &Gap,
    range: Range,
    stop: &CancellationToken,
) -> Result<Option<String>, RestError> {
    let spec = deps.dialects[&gap.stream.exchange].spec().channel(gap.stream.channel);
    if !gap.stream.channel.has_trades() || spec.is_none_or(|spec| spec.refill != Refill::ByTime) {
        return Ok(None);
    }
    let page = rest(deps, gap).trades(&gap.stream, range, stop).await?;
    let covers = |hidden: Range| hidden.first <= range.first && range.last <= hidden.last;
    Ok(page.unreachable.filter(|(hidden, _)| covers(*hidden)).map(|(_, why)| why))
}

/// Whether the exchange serves a position in the page below `position`.
pub(super) async fn serves_below(
    deps: &Deps,
    gap: &Gap,
    position: i64,
    stop: &CancellationToken,
) -> Result<bool, RestError> {
    let step = gap.stream.channel.step().expect("only numbered streams have gaps");
    let first = position.saturating_sub(page_max(deps, gap) * step).max(0);
    let Some(range) = Range::new(first, position - step) else { return Ok(false) };
    let (rest, symbol) = (rest(deps, gap), gap.stream.symbol.as_str());
    Ok(match gap.stream.channel {
        Channel::Kline(interval) => !rest.klines(symbol, interval, range, stop).await?.is_empty(),
        _ => !rest.trades(&gap.stream, range, stop).await?.is_empty(),
    })
}

fn token(gap: &Gap, page: Range) -> String {
    format!("fill:{}:{}-{}:{}", gap.stream, page.first, page.last, gap.attempts)
}

fn rest<'a>(deps: &'a Deps, gap: &Gap) -> &'a Rest {
    &deps.rest[&gap.stream.exchange]
}
