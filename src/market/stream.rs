//! Exchange, symbol, and stream: one channel of one symbol.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use super::Channel;

/// The name of an exchange in configuration, log and storage: `binance`. Any exchange: the catalog of the module
/// `exchange` lists those that this program can record, and a shared history may have rows of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exchange(&'static str);

/// Names that were parsed. A name lives as long as the process, so their number is limited.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
/// Most names that are parsed in one process.
const NAMES_MAX: usize = 1_000;
/// Most characters of a name.
const NAME_CHARS_MAX: usize = 32;

impl Exchange {
    /// The exchange of this name: small letters, digits and `_`.
    pub const fn named(name: &'static str) -> Self {
        Self(name)
    }

    /// The name in configuration and storage, in lower case.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// The streams of each exchange.
pub fn by_exchange<'a>(streams: impl IntoIterator<Item = &'a Stream>) -> BTreeMap<Exchange, Vec<&'a Stream>> {
    let mut of_each: BTreeMap<Exchange, Vec<&Stream>> = BTreeMap::new();
    for stream in streams {
        of_each.entry(stream.exchange).or_default().push(stream);
    }
    of_each
}

impl std::borrow::Borrow<str> for Exchange {
    fn borrow(&self) -> &str {
        self.0
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
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(text) {
            return Ok(Self(known));
        }
        let is_name = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if text.is_empty() || text.len() > NAME_CHARS_MAX || !is_name || names.len() >= NAMES_MAX {
            return Err(());
        }
        let name: &'static str = Box::leak(text.to_owned().into_boxed_str());
        names.insert(name);
        Ok(Self(name))
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
    fn an_exchange_is_a_short_name_in_small_letters() {
        assert_eq!("okx".parse(), Ok(Exchange::named("okx")));
        assert_eq!("binance_usdm".parse::<Exchange>().unwrap().as_str(), "binance_usdm");
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        for no_name in ["", "OKX", "a b", "a:b", "a/b", "\u{5e01}", &long] {
            assert_eq!(no_name.parse::<Exchange>(), Err(()), "{no_name:?}");
        }
    }

    #[test]
    fn a_stream_parses_back() {
        let stream: Stream = "binance:BTCUSDT:kline_1m".parse().unwrap();
        assert_eq!(stream.to_string(), "binance:BTCUSDT:kline_1m");
        assert!("binance:BTCUSDT".parse::<Stream>().is_err());
    }
}
