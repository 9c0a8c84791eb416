//! A kline that the exchange builds from trades. Pure.

use rust_decimal::Decimal;

use crate::market::{Interval, Kline, Side, Timestamp, Trade};

/// A kline and the volume bought by takers, which only REST and the raw frame contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candle {
    /// The part that a recorder stores.
    pub kline: Kline,
    /// Base volume bought by takers.
    pub taker_base: Decimal,
    /// Quote volume bought by takers.
    pub taker_quote: Decimal,
}

/// Zero with the eight decimals that Binance sends.
pub const ZERO: Decimal = Decimal::from_parts(0, 0, 0, false, 8);

impl Candle {
    /// The kline of `interval` that contains `at`, before its first trade: all four prices are the previous close,
    /// `n=0`, `f=-1`, `L=-1` (as in a real capture).
    pub fn open(interval: Interval, at: Timestamp, previous_close: Decimal) -> Self {
        let open_time = Timestamp(at.micros() - at.micros().rem_euclid(interval.micros()));
        let kline = Kline {
            interval,
            open_time,
            close_time: open_time.plus_micros(interval.micros() - 1_000),
            open: previous_close,
            high: previous_close,
            low: previous_close,
            close: previous_close,
            volume: ZERO,
            quote_volume: ZERO,
            trade_count: 0,
            first_trade_id: -1,
            last_trade_id: -1,
            closed: false,
        };
        Self { kline, taker_base: ZERO, taker_quote: ZERO }
    }

    /// Adds a trade; trades come in the order of their ids.
    pub fn add(&mut self, trade: &Trade) {
        let kline = &mut self.kline;
        if kline.trade_count == 0 {
            kline.open = trade.price;
            kline.high = trade.price;
            kline.low = trade.price;
            kline.first_trade_id = trade.id;
        }
        kline.high = kline.high.max(trade.price);
        kline.low = kline.low.min(trade.price);
        kline.close = trade.price;
        kline.last_trade_id = trade.id;
        kline.trade_count += 1;
        let quote = quote_quantity(trade);
        kline.volume += trade.quantity;
        kline.quote_volume += quote;
        if trade.side == Side::Buy {
            self.taker_base += trade.quantity;
            self.taker_quote += quote;
        }
    }
}

/// The same kline with a close that is a hundredth higher, as a correction: its other prices include the new close.
pub fn corrected(candle: &Candle) -> Candle {
    let mut candle = *candle;
    let mut close = candle.kline.close * Decimal::new(101, 2);
    close.rescale(candle.kline.close.scale());
    candle.kline.close = close;
    candle.kline.high = candle.kline.high.max(close);
    candle
}

/// Price times quantity with eight decimals; exact when tick and step together have at most eight.
pub fn quote_quantity(trade: &Trade) -> Decimal {
    let mut quote = trade.price * trade.quantity;
    quote.rescale(8);
    quote
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trade(id: i64, price: i64, quantity: i64, side: Side) -> Trade {
        let ts = Timestamp(61_000_000);
        Trade { id, ts, price: Decimal::new(price, 8), quantity: Decimal::new(quantity, 8), side, trade_ids: None }
    }

    #[test]
    fn a_kline_without_a_trade_repeats_the_previous_close() {
        let candle = Candle::open(Interval::M1, Timestamp(61_500_000), Decimal::new(500, 8));
        assert_eq!(candle.kline.open_time, Timestamp(60_000_000));
        assert_eq!(candle.kline.close_time, Timestamp(119_999_000));
        assert_eq!(candle.kline.low, Decimal::new(500, 8));
        assert_eq!((candle.kline.trade_count, candle.kline.first_trade_id, candle.kline.last_trade_id), (0, -1, -1));
    }

    #[test]
    fn a_kline_sums_up_its_trades() {
        let mut candle = Candle::open(Interval::M1, Timestamp(61_000_000), ZERO);
        candle.add(&trade(7, 300_000_000, 100_000_000, Side::Buy));
        candle.add(&trade(8, 200_000_000, 300_000_000, Side::Sell));
        let kline = candle.kline;
        assert_eq!((kline.first_trade_id, kline.last_trade_id, kline.trade_count), (7, 8, 2));
        assert_eq!(kline.open.to_string(), "3.00000000");
        assert_eq!(kline.low.to_string(), "2.00000000");
        assert_eq!(kline.volume.to_string(), "4.00000000");
        assert_eq!(kline.quote_volume.to_string(), "9.00000000");
        assert_eq!(candle.taker_base.to_string(), "1.00000000");
    }
}
