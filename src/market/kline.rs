//! A kline (candlestick).

use rust_decimal::Decimal;

use super::{Interval, Timestamp};

/// Open, high, low, close and volume of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kline {
    /// Length of the interval.
    pub interval: Interval,
    /// First instant of the interval.
    pub open_time: Timestamp,
    /// Last instant of the interval as the exchange sends it (Binance: the last millisecond).
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
    /// Id of the first trade; -1 when there was no trade or the source does not provide it.
    pub first_trade_id: i64,
    /// Id of the last trade; -1 when there was no trade or the source does not provide it.
    pub last_trade_id: i64,
    /// Whether the interval is over and the values are final.
    pub closed: bool,
}
