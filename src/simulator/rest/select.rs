//! The rows that REST serves of the truth: what a lagging database shows, what it has not forgotten, and what no lie hides.

use std::time::Duration;

use tokio::time::Instant;

use super::super::candle::Candle;
use super::super::lies::rest::View;
use super::super::truth::Truth;
use crate::exchange::peer::PeerTrades;
use crate::market::{Interval, Timestamp, Trade};

/// Trades, ascending.
pub fn trades(truth: &Truth, view: &View, lag: Duration, now: Instant, which: PeerTrades, limit: usize) -> Vec<Trade> {
    let visible = truth.visible(lag, now);
    let served = &visible[truth.unserved_count().min(visible.len())..];
    let oldest = |start: usize| served[start..].iter().filter(|trade| view.shows_trade(trade.id)).take(limit);
    let newest = |end: usize| {
        let mut rows: Vec<Trade> =
            served[..end].iter().rev().filter(|trade| view.shows_trade(trade.id)).take(limit).copied().collect();
        rows.reverse();
        rows
    };
    match which {
        PeerTrades::Newest => newest(served.len()),
        PeerTrades::Before(id) => newest(served.partition_point(|trade| trade.id < id)),
        PeerTrades::From(id) => oldest(served.partition_point(|trade| trade.id < id)).copied().collect(),
        PeerTrades::Since(at) => oldest(served.partition_point(|trade| trade.ts < at)).copied().collect(),
        PeerTrades::After(at) => oldest(served.partition_point(|trade| trade.ts <= at)).copied().collect(),
    }
}

/// Aggregate trades, ascending. Of an aggregate only the trades that REST shows count.
pub fn aggregates(
    truth: &Truth,
    view: &View,
    lag: Duration,
    now: Instant,
    which: PeerTrades,
    limit: usize,
) -> Vec<Trade> {
    let visible = truth.visible(lag, now).len();
    let end = truth.agg_count(visible);
    let served = truth.agg_count(truth.unserved_count()).min(end);
    let row = |index| truth.aggregate(index, visible, |trade| view.shows_trade(trade.id));
    let oldest = |start: usize| (start.max(served).min(end)..end).filter_map(row).take(limit).collect();
    let newest = |end: usize| {
        let mut rows: Vec<Trade> = (served..end.max(served)).rev().filter_map(row).take(limit).collect();
        rows.reverse();
        rows
    };
    match which {
        PeerTrades::Newest => newest(end),
        PeerTrades::Before(id) => newest(truth.agg_index_of_id(id, visible).min(end)),
        PeerTrades::From(id) => oldest(truth.agg_index_of_id(id, visible)),
        PeerTrades::Since(at) => oldest(truth.agg_index_of_time(at, visible)),
        PeerTrades::After(at) => oldest(truth.agg_index_of_time(at.plus_micros(1), visible)),
    }
}

/// Klines with open times in a range, both ends included; of too many the newest or the oldest.
#[expect(clippy::too_many_arguments, reason = "the view of the database, and the request")]
pub fn klines(
    truth: &Truth,
    view: &View,
    lag: Duration,
    now: Instant,
    interval: Interval,
    (first, last): (Option<Timestamp>, Option<Timestamp>),
    limit: usize,
    newest: bool,
) -> Vec<Candle> {
    let mut candles = truth.klines(interval, lag, now);
    let unserved = truth.trades.partition_point(|trade| trade.id < view.from_id().max(truth.served_from()));
    let oldest = if unserved == 0 { None } else { truth.trades.get(unserved).map(|trade| trade.ts) };
    candles.retain(|candle| {
        let open = candle.kline.open_time;
        oldest.is_none_or(|oldest| candle.kline.close_time >= oldest)
            && first.is_none_or(|first| open >= first)
            && last.is_none_or(|last| open <= last)
            && view.shows_kline(interval, open.millis())
    });
    let skipped = if newest { candles.len().saturating_sub(limit) } else { 0 };
    candles.into_iter().skip(skipped).take(limit).collect()
}
