//! What the user configured to record: exchanges, symbols, channels and where to start. Knows no I/O.

use super::SymbolPattern;
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
    /// Symbols, as the exchange spells them. Of a feed that [`Selection`](super::Selection) made also those that its
    /// patterns select.
    pub symbols: Vec<Symbol>,
    /// Patterns over what the exchange lists as trading.
    pub patterns: Vec<SymbolPattern>,
    /// What the patterns leave out.
    pub exclude: Vec<SymbolPattern>,
    /// Channels to record of each symbol.
    pub channels: Vec<Channel>,
    /// Backfill fetches older trades from here.
    pub since: Since,
    /// The former name of the feed's one symbol.
    pub succeeds: Option<Symbol>,
    /// Replaces the exchange's own WebSocket base; no trailing slash.
    pub ws_url: Option<String>,
    /// Replaces the exchange's own REST base; no trailing slash.
    pub rest_url: Option<String>,
}

impl Feed {
    /// Whether the patterns select a symbol that the exchange lists.
    pub fn selects(&self, symbol: &str) -> bool {
        let any = |patterns: &[SymbolPattern]| patterns.iter().any(|pattern| pattern.matches(symbol));
        any(&self.patterns) && !any(&self.exclude)
    }

    /// Every stream of the feed: each symbol with each channel. What its patterns select is not among them.
    pub fn streams(&self) -> Vec<Stream> {
        self.symbols
            .iter()
            .flat_map(|symbol| self.channels.iter().map(|channel| Stream::new(self.exchange, symbol.clone(), *channel)))
            .collect()
    }
}
