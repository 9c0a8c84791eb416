//! The latest row of a key in a check's report, from the cache or from history.

use serde::Serialize;
use utoipa::ToSchema;

use crate::market::{Kline, Tick, plain};

/// A trade or a kline.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum LatestRow {
    /// A trade.
    Tick(LatestTick),
    /// A kline.
    Kline(LatestKline),
}

/// A trade; decimals in plain notation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LatestTick {
    /// The exchange's trade id; of an aggregate trade its own number.
    pub trade_id: i64,
    /// The exchange's time, microseconds since 1970.
    pub ts: i64,
    /// Decimal.
    pub price: String,
    /// Decimal.
    pub quantity: String,
    /// The taker's side: `buy` or `sell`.
    pub side: &'static str,
}

/// A kline; decimals in plain notation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LatestKline {
    /// Microseconds since 1970.
    pub open_time: i64,
    /// Decimal.
    pub open: String,
    /// Decimal.
    pub high: String,
    /// Decimal.
    pub low: String,
    /// Decimal.
    pub close: String,
    /// Decimal.
    pub volume: String,
    /// Trades in it.
    pub trade_count: i64,
    /// Whether its interval is over.
    pub closed: bool,
}

impl LatestRow {
    pub(super) fn tick(tick: &Tick) -> Self {
        Self::Tick(LatestTick {
            trade_id: tick.id,
            ts: tick.ts.micros(),
            price: plain(tick.price),
            quantity: plain(tick.quantity),
            side: tick.side.as_str(),
        })
    }

    pub(super) fn kline(kline: &Kline) -> Self {
        Self::Kline(LatestKline {
            open_time: kline.open_time.micros(),
            open: plain(kline.open),
            high: plain(kline.high),
            low: plain(kline.low),
            close: plain(kline.close),
            volume: plain(kline.volume),
            trade_count: kline.trade_count,
            closed: kline.closed,
        })
    }
}
