//! Exchange, symbol, and stream: one channel of one symbol.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Channel;

/// An exchange that this program can record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exchange {
    /// Binance Spot.
    Binance,
}

impl Exchange {
    /// All exchanges.
    pub const ALL: [Self; 1] = [Self::Binance];

    /// The name in configuration and storage, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Binance => "binance",
        }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Exchange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|exchange| exchange.as_str() == text).ok_or(())
    }
}

/// A traded pair in the exchange's spelling; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// A symbol in the exchange's spelling.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The symbol in the exchange's spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Symbol {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// One channel of one symbol of one exchange; written `binance:BTCUSDT:trade`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The exchange that sends it.
    pub exchange: Exchange,
    /// The traded pair.
    pub symbol: Symbol,
    /// The kind of data.
    pub channel: Channel,
}

impl Stream {
    /// A stream of these three parts.
    pub fn new(exchange: Exchange, symbol: Symbol, channel: Channel) -> Self {
        Self { exchange, symbol, channel }
    }

    /// The key of its frames in the log. All channels of a symbol share it, so the log keeps their order.
    pub fn log_key(&self) -> String {
        format!("{}:{}", self.exchange, self.symbol)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.exchange, self.symbol, self.channel)
    }
}

impl FromStr for Stream {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, ':');
        let (Some(exchange), Some(symbol), Some(channel)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(());
        };
        Ok(Self::new(exchange.parse()?, Symbol::new(symbol), channel.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_parses_back() {
        let stream: Stream = "binance:BTCUSDT:kline_1m".parse().unwrap();
        assert_eq!(stream.to_string(), "binance:BTCUSDT:kline_1m");
        assert!("binance:BTCUSDT".parse::<Stream>().is_err());
    }
}
