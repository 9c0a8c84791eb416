//! What a user asks to have recorded.

use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};

/// From where on a feed's trades are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From the first frame on.
    Now,
    /// From the first trade at or after this instant on.
    Time(Timestamp),
    /// From this trade on.
    TradeId(i64),
}

/// One `[[feed]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Whose market.
    pub exchange: Exchange,
    /// As the exchange spells them.
    pub symbols: Vec<Symbol>,
    /// What of each symbol.
    pub channels: Vec<Channel>,
    /// Older trades are backfilled from here.
    pub since: Since,
    /// Replaces the exchange's own WebSocket base; no trailing slash.
    pub ws_url: Option<String>,
    /// Replaces the exchange's own REST base; no trailing slash.
    pub rest_url: Option<String>,
}

impl Feed {
    /// Every stream it asks for.
    pub fn streams(&self) -> Vec<Stream> {
        self.symbols
            .iter()
            .flat_map(|symbol| self.channels.iter().map(|channel| Stream::new(self.exchange, symbol.clone(), *channel)))
            .collect()
    }
}
