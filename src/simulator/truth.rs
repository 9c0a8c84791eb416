//! The truth: every trade and closed kline that was published, whether or not a fault lost it on the way. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::candle::{Candle, corrected};
use super::fault::LAG_MAX;
use crate::market::{Interval, Kline, Symbol, Timestamp, Trade};

/// The trades of one numbering of a symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedEpoch {
    /// 0 at first; each change of the numbering begins the next one.
    pub epoch: u32,
    /// Why it began: empty for the first, else `renumbered`, `rolled back` or `wiped`.
    pub reason: &'static str,
    /// Its trades by id, ascending.
    pub trades: Vec<Trade>,
}

/// A closed kline that was sent twice, with two contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorrectedKline {
    /// As sent first.
    pub before: Kline,
    /// As sent later, and as REST serves it.
    pub after: Kline,
}

/// Everything that was published of one symbol.
#[derive(Debug, Default)]
pub struct Truth {
    /// The trades of the present numbering by id, ascending: after a rollback the ones that came again.
    pub trades: Vec<Trade>,
    /// The earlier epochs.
    ended: Vec<PublishedEpoch>,
    /// Where the present epoch begins in `trades`, and why it began.
    epoch_start: usize,
    epoch_reason: &'static str,
    /// Corrected klines, in the order of their corrections.
    corrected: Vec<CorrectedKline>,
    /// Klines that closed before are deleted at the exchange.
    wiped_at: Option<Timestamp>,
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
    /// The number of the present epoch.
    pub epoch: u32,
    /// Number of closed one-minute klines.
    pub klines_1m: u64,
    /// Number of aggregate trades.
    pub agg_trades: u64,
    /// Number of the last aggregate trade, -1 when there was none.
    pub last_agg_trade: i64,
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

    /// Begins an epoch in which only the first `kept` trades remain.
    pub fn begin_epoch(&mut self, kept: usize, reason: &'static str) {
        let kept = kept.min(self.trades.len());
        self.ended.push(self.present_epoch());
        self.trades.truncate(kept);
        self.agg_starts.truncate(self.agg_starts.partition_point(|start| (*start as usize) < kept));
        for (_, length) in &mut self.growth {
            *length = kept.min(*length);
        }
        self.settled_count = kept.min(self.settled_count);
        self.served_from = 0;
        self.open.clear();
        (self.epoch_start, self.epoch_reason) = (kept, reason);
    }

    /// The klines that closed until now are deleted at the exchange.
    pub const fn wipe_klines(&mut self, now: Timestamp) {
        self.wiped_at = Some(now);
    }

    /// Changes the last closed kline, and returns it; `None` when none is closed.
    pub fn correct(&mut self, interval: Interval) -> Option<Candle> {
        let (_, candle) = self.closed.get_mut(&interval)?.last_mut()?;
        let after = corrected(candle);
        self.corrected.push(CorrectedKline { before: candle.kline, after: after.kline });
        *candle = after;
        Some(after)
    }

    /// Every epoch, the present one last.
    pub fn epochs(&self) -> Vec<PublishedEpoch> {
        self.ended.iter().cloned().chain([self.present_epoch()]).collect()
    }

    fn present_epoch(&self) -> PublishedEpoch {
        let trades = self.trades[self.epoch_start.min(self.trades.len())..].to_vec();
        PublishedEpoch { epoch: self.ended.len() as u32, reason: self.epoch_reason, trades }
    }

    /// The corrected klines, in the order of their corrections.
    pub fn corrected(&self) -> &[CorrectedKline] {
        &self.corrected
    }

    /// The number of published trades, those of earlier epochs included.
    pub fn trade_count(&self) -> usize {
        let ended: usize = self.ended.iter().map(|epoch| epoch.trades.len()).sum();
        ended + self.trades.len() - self.epoch_start
    }

    /// From now on REST serves trades from this id only.
    pub fn serve_from(&mut self, id: i64) {
        self.served_from = self.served_from.max(id);
    }

    /// The lowest trade id that REST still serves.
    pub const fn served_from(&self) -> i64 {
        self.served_from
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
        let shown = closed.iter().filter(|(at, _)| now.duration_since(*at) >= lag).map(|(_, candle)| *candle);
        let mut candles: Vec<Candle> =
            shown.filter(|candle| self.wiped_at.is_none_or(|wiped| candle.kline.close_time > wiped)).collect();
        if lag.is_zero() {
            candles.extend(self.open.get(&interval));
        }
        candles
    }

    /// Closed klines of an interval, oldest first.
    pub fn closed(&self, interval: Interval) -> Vec<Candle> {
        let closed = self.closed.get(&interval).map_or(&[][..], Vec::as_slice);
        closed.iter().map(|(_, candle)| *candle).collect()
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

    /// The aggregate trade at this index, of those among the first `visible` trades that `shows` shows; `None` when it
    /// shows none of them.
    pub fn aggregate(&self, index: usize, visible: usize, shows: impl Fn(&Trade) -> bool) -> Option<Trade> {
        let (id, trades) = self.agg(index, visible);
        let mut shown = trades.iter().filter(|trade| shows(trade));
        let first = *shown.next()?;
        let mut aggregate = Trade { id, trade_ids: Some((first.id, first.id)), ..first };
        for trade in shown {
            aggregate.quantity += trade.quantity;
            aggregate.trade_ids = Some((first.id, trade.id));
        }
        Some(aggregate)
    }

    /// The aggregate trades from the trade `id` on. The trades of one aggregate are pushed together.
    pub fn aggregates_from(&self, id: i64) -> Vec<Trade> {
        let count = self.trades.len();
        let begin = self.trades.partition_point(|trade| trade.id < id);
        let indices = self.agg_count(begin)..self.agg_count(count);
        indices.filter_map(|index| self.aggregate(index, count, |_| true)).collect()
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
        let count = self.trades.len();
        let aggregates = self.agg_count(count);
        TruthSummary {
            symbol: symbol.to_string(),
            first: self.trades.first().map_or(-1, |trade| trade.id),
            last: self.trades.last().map_or(-1, |trade| trade.id),
            count: count as u64,
            epoch: self.ended.len() as u32,
            klines_1m: self.closed.get(&Interval::M1).map_or(0, |closed| closed.len() as u64),
            agg_trades: aggregates as u64,
            last_agg_trade: aggregates.checked_sub(1).map_or(-1, |last| self.agg(last, count).0),
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
        Trade {
            id,
            ts: Timestamp::from_millis(ms),
            price: Decimal::new(price, 8),
            quantity,
            side: Side::Buy,
            trade_ids: None,
        }
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
    fn a_rollback_keeps_both_contents() {
        let mut truth = Truth::default();
        truth.push([trade(1, 1, 5), trade(2, 2, 5), trade(3, 3, 5)], true, Instant::now());
        truth.begin_epoch(1, "rolled back");
        truth.push([trade(2, 9, 7), trade(3, 9, 8)], true, Instant::now());
        let content = |trades: &[Trade]| trades.iter().map(|trade| (trade.id, trade.ts.millis())).collect::<Vec<_>>();
        assert_eq!(content(&truth.trades), [(1, 1), (2, 9), (3, 9)]);
        let epochs = truth.epochs();
        assert_eq!(content(&epochs[0].trades), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(content(&epochs[1].trades), [(2, 9), (3, 9)]);
        assert_eq!((epochs[1].epoch, epochs[1].reason), (1, "rolled back"));
        assert_eq!((truth.trade_count(), truth.agg_count(3)), (5, 3));
    }

    #[test]
    fn a_lagging_database_never_shows_a_deleted_trade() {
        let mut truth = Truth::default();
        let start = Instant::now();
        truth.push([trade(7, 1, 5), trade(8, 2, 5)], true, start);
        truth.begin_epoch(0, "wiped");
        truth.push([trade(1, 3, 5)], true, start + Duration::from_secs(9));
        let seen = truth.visible(Duration::from_secs(5), start + Duration::from_secs(10));
        assert_eq!(seen, []);
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
        let ranges = |from| truth.aggregates_from(from).iter().filter_map(|trade| trade.trade_ids).collect::<Vec<_>>();
        assert_eq!((ranges(0), ranges(3)), (vec![(1, 2), (3, 3), (4, 4)], vec![(3, 3), (4, 4)]));
        assert_eq!(truth.aggregates_from(0)[0].quantity, Decimal::new(200_000_000, 8));
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
