//! A trade, and the tick: the latest trade of a symbol.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;

use super::{Channel, Timestamp};

/// The taker's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The taker bought.
    Buy,
    /// The taker sold.
    Sell,
}

impl Side {
    /// `buy` or `sell`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Side {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "buy" => Ok(Self::Buy),
            "sell" => Ok(Self::Sell),
            _ => Err(()),
        }
    }
}

/// One trade of a symbol, identified by the exchange's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// The exchange's id, contiguous per symbol on Binance Spot.
    pub id: i64,
    /// The exchange's trade time (not its event time).
    pub ts: Timestamp,
    /// Price in the quote asset, exactly as sent.
    pub price: Decimal,
    /// Quantity in the base asset, exactly as sent.
    pub quantity: Decimal,
    /// The taker's side.
    pub side: Side,
    /// Of an aggregate trade: the ids of its first and last trade. Its `id` is the aggregate's own number then.
    pub trade_ids: Option<(i64, i64)>,
}

impl Trade {
    /// The channel that it belongs to.
    pub const fn channel(&self) -> Channel {
        match self.trade_ids {
            Some(_) => Channel::AggTrade,
            None => Channel::Trade,
        }
    }
}

/// The latest trade of a symbol, as the cache holds it.
pub type Tick = Trade;
