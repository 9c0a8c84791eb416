//! The truth: every trade and closed kline that was published, whether or not a fault lost it on the way. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::candle::Candle;
use super::fault::LAG_MAX;
use crate::market::{Interval, Symbol, Timestamp, Trade};

/// Everything that was published of one symbol.
#[derive(Debug, Default)]
pub struct Truth {
    /// Trades by id, ascending.
    pub trades: Vec<Trade>,
    /// The index in `trades` of each aggregate's first trade; empty when every trade is its own aggregate.
    agg_starts: Vec<u32>,
    /// Closed klines with the instant they were published.
    closed: BTreeMap<Interval, Vec<(Instant, Candle)>>,
    /// The open kline of each interval as last sent.
    open: BTreeMap<Interval, Candle>,
    /// The length of `trades` at past instants, for as long as [`LAG_MAX`].
    growth: VecDeque<(Instant, usize)>,
    /// The length before the oldest entry of `growth`.
    settled_count: usize,
    /// REST serves trades from this id on.
    served_from: i64,
}

/// A summary of a symbol's truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TruthSummary {
    /// The symbol.
    pub symbol: String,
    /// First trade id, -1 when there was none.
    pub first: i64,
    /// Last trade id, -1 when there was none.
    pub last: i64,
    /// Number of trades.
    pub count: u64,
    /// Number of closed one-minute klines.
    pub klines_1m: u64,
}

/// The first aggregate id, far from trade ids, so that the two cannot be confused.
const AGG_BASE: i64 = 400_000_000;

impl Truth {
    /// Adds trades of now, in the order of their ids. It skips a trade whose id is not above the last one (a capture
    /// that repeats itself).
    pub fn push(&mut self, trades: impl IntoIterator<Item = Trade>, aggregated: bool, now: Instant) {
        for trade in trades {
            if self.trades.last().is_some_and(|last| last.id >= trade.id) {
                continue;
            }
            let joins = self
                .trades
                .last()
                .is_some_and(|last| last.ts == trade.ts && last.price == trade.price && last.side == trade.side);
            if aggregated && !joins {
                self.agg_starts.push(self.trades.len() as u32);
            }
            self.trades.push(trade);
        }
        self.growth.push_back((now, self.trades.len()));
        while self.growth.front().is_some_and(|(at, _)| now.duration_since(*at) > LAG_MAX) {
            self.settled_count = self.growth.pop_front().map_or(self.settled_count, |(_, length)| length);
        }
    }

    /// Adds a kline, open or closed.
    pub fn push_kline(&mut self, candle: Candle, now: Instant) {
        let interval = candle.kline.interval;
        if candle.kline.closed {
            let closed = self.closed.entry(interval).or_default();
            if closed.last().is_none_or(|(_, last)| last.kline.open_time < candle.kline.open_time) {
                closed.push((now, candle));
            }
            self.open.remove(&interval);
        } else {
            self.open.insert(interval, candle);
        }
    }

    /// From now on REST serves trades from this id only.
    pub fn serve_from(&mut self, id: i64) {
        self.served_from = self.served_from.max(id);
    }

    /// How many of the oldest trades REST no longer serves.
    pub fn unserved_count(&self) -> usize {
        self.trades.partition_point(|trade| trade.id < self.served_from)
    }

    /// The trades that a database `lag` behind shows.
    pub fn visible(&self, lag: Duration, now: Instant) -> &[Trade] {
        if lag.is_zero() {
            return &self.trades;
        }
        let seen = self.growth.iter().rev().find(|(at, _)| now.duration_since(*at) >= lag);
        &self.trades[..seen.map_or(self.settled_count, |(_, length)| *length)]
    }

    /// The klines of an interval that a database `lag` behind shows; the last one may be open.
    pub fn klines(&self, interval: Interval, lag: Duration, now: Instant) -> Vec<Candle> {
        let closed = self.closed.get(&interval).map_or(&[][..], Vec::as_slice);
        let mut candles: Vec<Candle> =
            closed.iter().filter(|(at, _)| now.duration_since(*at) >= lag).map(|(_, candle)| *candle).collect();
        if lag.is_zero() {
            candles.extend(self.open.get(&interval));
        }
        candles
    }

    /// Closed klines of an interval, oldest first.
    pub fn closed(&self, interval: Interval) -> Vec<Candle> {
        self.klines(interval, Duration::ZERO, self.growth.back().map_or_else(Instant::now, |(at, _)| *at))
            .into_iter()
            .filter(|candle| candle.kline.closed)
            .collect()
    }

    /// The number of aggregate trades among the first `visible` trades.
    pub fn agg_count(&self, visible: usize) -> usize {
        if self.agg_starts.is_empty() {
            return visible;
        }
        self.agg_starts.partition_point(|start| (*start as usize) < visible)
    }

    /// The aggregate at this index: its id, and its trades among the first `visible` trades.
    pub fn agg(&self, index: usize, visible: usize) -> (i64, &[Trade]) {
        if self.agg_starts.is_empty() {
            let trade = &self.trades[index..=index];
            return (trade[0].id, trade);
        }
        let start = self.agg_starts[index] as usize;
        let end = self.agg_starts.get(index + 1).map_or(visible, |end| (*end as usize).min(visible));
        (AGG_BASE + index as i64, &self.trades[start..end])
    }

    /// The index of the first aggregate whose id is at least `id`.
    pub fn agg_index_of_id(&self, id: i64, visible: usize) -> usize {
        if self.agg_starts.is_empty() {
            return self.trades[..visible].partition_point(|trade| trade.id < id);
        }
        usize::try_from(id - AGG_BASE).unwrap_or(0)
    }

    /// The index of the first aggregate at or after `at`.
    pub fn agg_index_of_time(&self, at: Timestamp, visible: usize) -> usize {
        let trade = self.trades[..visible].partition_point(|trade| trade.ts < at);
        if self.agg_starts.is_empty() {
            return trade;
        }
        self.agg_starts.partition_point(|start| (*start as usize) < trade)
    }

    /// First and last id, and the number of trades.
    pub fn summary(&self, symbol: &Symbol) -> TruthSummary {
        TruthSummary {
            symbol: symbol.to_string(),
            first: self.trades.first().map_or(-1, |trade| trade.id),
            last: self.trades.last().map_or(-1, |trade| trade.id),
            count: self.trades.len() as u64,
            klines_1m: self.closed.get(&Interval::M1).map_or(0, |closed| closed.len() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;
    use crate::market::Side;

    fn trade(id: i64, ms: i64, price: i64) -> Trade {
        let quantity = Decimal::new(100_000_000, 8);
        Trade { id, ts: Timestamp::from_millis(ms), price: Decimal::new(price, 8), quantity, side: Side::Buy }
    }

    #[test]
    fn a_lagging_database_shows_the_newest_later() {
        let mut truth = Truth::default();
        let start = Instant::now();
        truth.push([trade(1, 1, 5)], true, start);
        truth.push([trade(2, 2, 5)], true, start + Duration::from_secs(1));
        let seen = |lag: u64, at: u64| truth.visible(Duration::from_secs(lag), start + Duration::from_secs(at)).len();
        assert_eq!((seen(0, 1), seen(1, 1), seen(2, 1), seen(2, 3)), (2, 1, 0, 2));
    }

    #[test]
    fn aggregates_join_the_trades_of_one_order() {
        let mut truth = Truth::default();
        truth.push([trade(1, 1, 5), trade(2, 1, 5), trade(3, 1, 6), trade(4, 2, 6)], true, Instant::now());
        assert_eq!(truth.agg_count(4), 3);
        assert_eq!(truth.agg(0, 4).1.len(), 2);
        assert_eq!(truth.agg(0, 1).1.len(), 1);
        assert_eq!(truth.agg(2, 4), (AGG_BASE + 2, &truth.trades[3..]));
        assert_eq!(truth.agg_index_of_id(AGG_BASE + 1, 4), 1);
        assert_eq!(truth.agg_index_of_time(Timestamp::from_millis(2), 4), 2);
    }

    #[test]
    fn each_trade_of_a_capture_is_its_own_aggregate() {
        let mut truth = Truth::default();
        truth.push([trade(7, 1, 5), trade(7, 1, 5), trade(8, 1, 5)], false, Instant::now());
        assert_eq!((truth.trades.len(), truth.agg_count(2)), (2, 2));
        assert_eq!(truth.agg(1, 2).0, 8);
        assert_eq!(truth.agg_index_of_id(8, 2), 1);
    }
}
