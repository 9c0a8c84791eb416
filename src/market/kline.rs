//! A candle.

use rust_decimal::Decimal;

use super::{Interval, Timestamp};

/// Open, high, low, close and volume of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kline {
    /// Its length.
    pub interval: Interval,
    /// First instant of the interval.
    pub open_time: Timestamp,
    /// Last instant of the interval as the exchange gives it (Binance: the last millisecond).
    pub close_time: Timestamp,
    /// First price.
    pub open: Decimal,
    /// Highest price.
    pub high: Decimal,
    /// Lowest price.
    pub low: Decimal,
    /// Last price.
    pub close: Decimal,
    /// Volume in the base asset.
    pub volume: Decimal,
    /// Volume in the quote asset.
    pub quote_volume: Decimal,
    /// Number of trades.
    pub trade_count: i64,
    /// First trade's id, -1 when there was no trade or the source does not say.
    pub first_trade_id: i64,
    /// Last trade's id, -1 when there was no trade or the source does not say.
    pub last_trade_id: i64,
    /// Whether the interval is over and these are its final values.
    pub closed: bool,
}
