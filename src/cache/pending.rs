//! The values that wait for the cache: at most one per key, however long the cache is down.
//!
//! Writers add values without waiting, and the write-behind loop takes them. So a cache that is down never delays a
//! commit of the log, and the memory is bounded by the number of keys.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::history::{Batch, TradeRow};
use crate::market::{Book, Channel, Exchange, Interval, Kline, Stream, Symbol, Tick};

use super::Update;

/// Values that wait for the cache, the newest of each key.
#[derive(Debug, Default)]
pub struct PendingUpdates {
    values: Mutex<Pending>,
    offered: Notify,
    /// The recorded streams; none in tests.
    streams: Option<watch::Receiver<Vec<Stream>>>,
}

#[derive(Debug, Default)]
struct Pending {
    ticks: HashMap<(Exchange, Symbol), Tick>,
    klines: HashMap<(Exchange, Symbol, Interval), Kline>,
    books: HashMap<(Exchange, Symbol), Book>,
}

/// Whether a tick replaces another: its time is later, or the same with a higher id. Ids of two channels say nothing about
/// each other.
pub fn tick_is_newer(new: &Tick, old: &Tick) -> bool {
    match new.channel() == old.channel() {
        true => (new.ts, new.id) > (old.ts, old.id),
        false => new.ts >= old.ts,
    }
}

/// Whether a kline replaces another: it opened later; or it opened at the same time and is closed while the other is
/// open; or both are equal in that and it has more trades; or more volume, because not every exchange counts the trades.
pub fn kline_is_newer(new: &Kline, old: &Kline) -> bool {
    let order = |kline: &Kline| (kline.open_time, kline.closed, kline.trade_count, kline.volume);
    order(new) > order(old)
}

impl PendingUpdates {
    /// Values of these streams. An aggregate trade is a symbol's tick only where its trades are not recorded.
    pub fn of(streams: watch::Receiver<Vec<Stream>>) -> Self {
        Self { streams: Some(streams), ..Self::default() }
    }

    fn is_tick(&self, row: &TradeRow) -> bool {
        if row.trade.channel() == Channel::Trade {
            return true;
        }
        let trades = Stream::new(row.exchange, row.symbol.clone(), Channel::Trade);
        self.streams.as_ref().is_none_or(|streams| !streams.borrow().contains(&trades))
    }

    /// Adds the newest trade and kline of each stream of a batch.
    pub fn offer_rows(&self, batch: &Batch) {
        let mut ticks: HashMap<(Exchange, &Symbol), &Tick> = HashMap::new();
        for row in batch.trades.iter().filter(|row| self.is_tick(row)) {
            ticks
                .entry((row.exchange, &row.symbol))
                .and_modify(|old| {
                    if tick_is_newer(&row.trade, old) {
                        *old = &row.trade;
                    }
                })
                .or_insert(&row.trade);
        }
        if ticks.is_empty() && batch.klines.is_empty() {
            return;
        }
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        for ((exchange, symbol), tick) in ticks {
            values.offer_tick(exchange, symbol, *tick);
        }
        for row in &batch.klines {
            values.offer_kline(row.exchange, &row.symbol, row.kline);
        }
        drop(values);
        self.offered.notify_one();
    }

    /// Adds values that are in no batch: open klines, books, repairs, or values of a failed write.
    pub fn offer(&self, update: Update) {
        if update.is_empty() {
            return;
        }
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        for (exchange, symbol, tick) in update.ticks {
            values.offer_tick(exchange, &symbol, tick);
        }
        for (exchange, symbol, kline) in update.klines {
            values.offer_kline(exchange, &symbol, kline);
        }
        for (exchange, symbol, book) in update.books {
            let kept = values.books.entry((exchange, symbol)).or_insert(book);
            if book.update_id > kept.update_id {
                *kept = book;
            }
        }
        drop(values);
        self.offered.notify_one();
    }

    /// Takes all values.
    pub fn take(&self) -> Update {
        let values = std::mem::take(&mut *self.values.lock().unwrap_or_else(PoisonError::into_inner));
        Update {
            ticks: values.ticks.into_iter().map(|((exchange, symbol), tick)| (exchange, symbol, tick)).collect(),
            klines: values.klines.into_iter().map(|((exchange, symbol, _), kline)| (exchange, symbol, kline)).collect(),
            books: values.books.into_iter().map(|((exchange, symbol), book)| (exchange, symbol, book)).collect(),
        }
    }

    /// The number of pending keys.
    pub fn len(&self) -> usize {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.ticks.len() + values.klines.len() + values.books.len()
    }

    /// Whether no value is pending.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until values are added after the last call.
    pub async fn offered(&self) {
        self.offered.notified().await;
    }
}

impl Pending {
    fn offer_tick(&mut self, exchange: Exchange, symbol: &Symbol, tick: Tick) {
        let kept = self.ticks.entry((exchange, symbol.clone())).or_insert(tick);
        if tick_is_newer(&tick, kept) {
            *kept = tick;
        }
    }

    fn offer_kline(&mut self, exchange: Exchange, symbol: &Symbol, kline: Kline) {
        let kept = self.klines.entry((exchange, symbol.clone(), kline.interval)).or_insert(kline);
        if kline_is_newer(&kline, kept) {
            *kept = kline;
        }
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;
    use crate::market::{Side, Timestamp};

    fn tick(id: i64, ts: i64) -> Tick {
        Tick { id, ts: Timestamp(ts), price: Decimal::ONE, quantity: Decimal::ONE, side: Side::Buy, trade_ids: None }
    }

    #[test]
    fn each_key_is_pending_once_with_its_newest_value() {
        let pending = PendingUpdates::default();
        for (id, ts) in [(2, 20), (3, 20), (1, 10), (9, 5)] {
            let symbol = Symbol::new("BTCUSDT");
            pending
                .offer(Update { ticks: vec![(Exchange::named("binance"), symbol, tick(id, ts))], ..Update::default() });
        }
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.take().ticks[0].2, tick(3, 20));
        assert!(pending.is_empty());
    }

    #[test]
    fn an_aggregate_is_a_tick_only_where_trades_are_not_recorded() {
        let (exchange, symbol) = (Exchange::named("binance"), Symbol::new("BTCUSDT"));
        let stream = |channel| Stream::new(exchange, symbol.clone(), channel);
        let aggregate = Tick { trade_ids: Some((1, 2)), ..tick(7, 20) };
        let row = TradeRow {
            exchange,
            symbol: symbol.clone(),
            trade: aggregate,
            received_at: Timestamp(0),
            is_backfilled: false,
            epoch: 0,
            version: 3,
        };
        let batch = Batch { trades: vec![row], ..Batch::default() };
        let (recorded, streams) = watch::channel(vec![stream(Channel::AggTrade), stream(Channel::Trade)]);
        let pending = PendingUpdates::of(streams);
        pending.offer_rows(&batch);
        assert!(pending.is_empty());
        // The feed no longer records trades.
        recorded.send(vec![stream(Channel::AggTrade)]).unwrap();
        pending.offer_rows(&batch);
        assert_eq!(pending.take().ticks[0].2, aggregate);
    }
}
