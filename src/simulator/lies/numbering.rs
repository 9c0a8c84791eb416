//! Changes of the numbering: ids that begin again, come once more, or vanish; and klines that are corrected.

use super::super::generator::Listing;
use crate::market::{Interval, Symbol};

/// A change of the market. The truth keeps what was published before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// `renumber:BTCUSDT:1`: the next trade has this id, lower or higher, and REST serves only trades of the new
    /// numbering.
    Renumber(Symbol, i64),
    /// `rollback:BTCUSDT:5`: the last 5 ids come once more, for other trades, and REST serves the new ones.
    Rollback(Symbol, u64),
    /// `wipe`, `wipe:BTCUSDT`: everything is deleted, klines too, and the ids begin at 1.
    Wipe(Option<Symbol>),
    /// `correct:BTCUSDT:1m`: the last closed kline is sent once more with a later event time and a higher close, and
    /// REST serves the corrected one. Without a closed kline the first one is corrected.
    Correct(Symbol, Interval),
}

impl Numbering {
    /// Reads its text form, in parts; `None` for another kind.
    pub fn parse(parts: &[&str]) -> Result<Option<Self>, String> {
        let wrong = || format!("cannot read the fault `{}`", parts.join(":"));
        let read = match parts {
            ["renumber", symbol, first] => {
                let first = first.parse().ok().filter(|first| *first >= 0).ok_or_else(wrong)?;
                Self::Renumber(Symbol::new(symbol), first)
            }
            ["rollback", symbol, count] => {
                let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
                Self::Rollback(Symbol::new(symbol), count)
            }
            ["wipe"] => Self::Wipe(None),
            ["wipe", symbol] => Self::Wipe(Some(Symbol::new(symbol))),
            ["correct", symbol, interval] => {
                Self::Correct(Symbol::new(symbol), interval.parse().map_err(|()| wrong())?)
            }
            _ => return Ok(None),
        };
        Ok(Some(read))
    }

    /// Whether it concerns this symbol.
    pub fn concerns(&self, listing: &Listing) -> bool {
        match self {
            Self::Renumber(symbol, _) | Self::Rollback(symbol, _) | Self::Correct(symbol, _) => {
                *symbol == listing.symbol
            }
            Self::Wipe(symbol) => symbol.as_ref().is_none_or(|symbol| *symbol == listing.symbol),
        }
    }
}
