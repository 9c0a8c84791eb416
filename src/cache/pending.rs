//! What is on its way to the cache: at most one value per key, however long the cache is away.
//!
//! Writers put values in and go on; one loop carries them out. So a dead cache never blocks an offset,
//! and costs no more memory than there are keys.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::history::Batch;
use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};

use super::Update;

/// Values waiting for the cache, the newest per key.
#[derive(Debug, Default)]
pub struct PendingUpdates {
    values: Mutex<Pending>,
    offered: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    ticks: HashMap<(Exchange, Symbol), Tick>,
    klines: HashMap<(Exchange, Symbol, Interval), Kline>,
    books: HashMap<(Exchange, Symbol), Book>,
}

/// Whether a tick replaces another: later, or as late with a higher id.
pub fn tick_is_newer(new: &Tick, old: &Tick) -> bool {
    (new.ts, new.id) > (old.ts, old.id)
}

/// Whether a kline replaces another: a later interval, or the same one closed over open, or with more trades.
pub fn kline_is_newer(new: &Kline, old: &Kline) -> bool {
    (new.open_time, new.closed, new.trade_count) > (old.open_time, old.closed, old.trade_count)
}

impl PendingUpdates {
    /// Offers the last trade and kline of each stream of a batch.
    pub fn offer_rows(&self, batch: &Batch) {
        let mut ticks: HashMap<(Exchange, &Symbol), &Tick> = HashMap::new();
        for row in &batch.trades {
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

    /// Offers values that are in no batch: open klines, books, repairs, or what could not be applied.
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

    /// Takes everything that waits.
    pub fn take(&self) -> Update {
        let values = std::mem::take(&mut *self.values.lock().unwrap_or_else(PoisonError::into_inner));
        Update {
            ticks: values.ticks.into_iter().map(|((exchange, symbol), tick)| (exchange, symbol, tick)).collect(),
            klines: values.klines.into_iter().map(|((exchange, symbol, _), kline)| (exchange, symbol, kline)).collect(),
            books: values.books.into_iter().map(|((exchange, symbol), book)| (exchange, symbol, book)).collect(),
        }
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.ticks.len() + values.klines.len() + values.books.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns once something was offered since the last call.
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
        Tick { id, ts: Timestamp(ts), price: Decimal::ONE, quantity: Decimal::ONE, side: Side::Buy }
    }

    #[test]
    fn a_key_waits_once_with_its_newest_value() {
        let pending = PendingUpdates::default();
        for (id, ts) in [(2, 20), (3, 20), (1, 10), (9, 5)] {
            let symbol = Symbol::new("BTCUSDT");
            pending.offer(Update { ticks: vec![(Exchange::Binance, symbol, tick(id, ts))], ..Update::default() });
        }
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.take().ticks[0].2, tick(3, 20));
        assert!(pending.is_empty());
    }
}
