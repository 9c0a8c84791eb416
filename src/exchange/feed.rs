//! What the user configured to record: exchanges, symbols, channels and where to start. Knows no I/O.

use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};

/// The first trade that a feed wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The trade of the first frame received.
    Now,
    /// The first trade at or after this instant.
    Time(Timestamp),
    /// The trade with this id.
    TradeId(i64),
}

/// One `[[feed]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The exchange to record.
    pub exchange: Exchange,
    /// Symbols, as the exchange spells them.
    pub symbols: Vec<Symbol>,
    /// Channels to record of each symbol.
    pub channels: Vec<Channel>,
    /// Backfill fetches older trades from here.
    pub since: Since,
    /// Replaces the exchange's own WebSocket base; no trailing slash.
    pub ws_url: Option<String>,
    /// Replaces the exchange's own REST base; no trailing slash.
    pub rest_url: Option<String>,
}

impl Feed {
    /// Every stream of the feed: each symbol with each channel.
    pub fn streams(&self) -> Vec<Stream> {
        self.symbols
            .iter()
            .flat_map(|symbol| self.channels.iter().map(|channel| Stream::new(self.exchange, symbol.clone(), *channel)))
            .collect()
    }
}
