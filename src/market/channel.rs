//! Channels: the kinds of data that a stream carries.

use std::fmt;
use std::str::FromStr;

use super::Timestamp;

/// The length of a kline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interval {
    /// One minute.
    M1,
    /// Five minutes.
    M5,
    /// Fifteen minutes.
    M15,
    /// One hour.
    H1,
    /// Four hours.
    H4,
    /// One UTC day.
    D1,
}

impl Interval {
    /// All intervals, shortest first.
    pub const ALL: [Self; 6] = [Self::M1, Self::M5, Self::M15, Self::H1, Self::H4, Self::D1];

    /// `1m`, `5m`, `15m`, `1h`, `4h` or `1d`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::M1 => "1m",
            Self::M5 => "5m",
            Self::M15 => "15m",
            Self::H1 => "1h",
            Self::H4 => "4h",
            Self::D1 => "1d",
        }
    }

    /// Length in microseconds; open times are multiples of it since 1970.
    pub const fn micros(self) -> i64 {
        let minutes = match self {
            Self::M1 => 1,
            Self::M5 => 5,
            Self::M15 => 15,
            Self::H1 => 60,
            Self::H4 => 240,
            Self::D1 => 1_440,
        };
        minutes * 60_000_000
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Interval {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|interval| interval.as_str() == text).ok_or(())
    }
}

/// A kind of data that the exchange sends for a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Every trade, numbered by the exchange.
    Trade,
    /// Aggregate trades: those of one order at one price are one. They have their own numbers.
    AggTrade,
    /// Open, high, low, close and volume of an interval.
    Kline(Interval),
    /// Best bid and ask: goes to the log and the cache, not to history.
    BookTicker,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 9] = [
        Self::Trade,
        Self::AggTrade,
        Self::Kline(Interval::M1),
        Self::Kline(Interval::M5),
        Self::Kline(Interval::M15),
        Self::Kline(Interval::H1),
        Self::Kline(Interval::H4),
        Self::Kline(Interval::D1),
        Self::BookTicker,
    ];

    /// The channels whose rows are trades.
    pub const TRADES: [Self; 2] = [Self::Trade, Self::AggTrade];

    /// Whether the rows are trades, each with a number.
    pub const fn has_trades(self) -> bool {
        matches!(self, Self::Trade | Self::AggTrade)
    }

    /// The name in configuration, ledger and API: `trade`, `agg_trade`, `kline_1m`, `book_ticker`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trade => "trade",
            Self::AggTrade => "agg_trade",
            Self::Kline(Interval::M1) => "kline_1m",
            Self::Kline(Interval::M5) => "kline_5m",
            Self::Kline(Interval::M15) => "kline_15m",
            Self::Kline(Interval::H1) => "kline_1h",
            Self::Kline(Interval::H4) => "kline_4h",
            Self::Kline(Interval::D1) => "kline_1d",
            Self::BookTicker => "book_ticker",
        }
    }

    /// The distance between two neighbouring positions: 1 for trade ids, the interval in microseconds for kline open
    /// times, `None` for a channel without positions.
    pub const fn step(self) -> Option<i64> {
        match self {
            Self::Trade | Self::AggTrade => Some(1),
            Self::Kline(interval) => Some(interval.micros()),
            Self::BookTicker => None,
        }
    }

    /// Positions from `first` to `last` for people: `7..9` for trade ids, open times for klines.
    pub fn span(self, first: i64, last: i64) -> String {
        match self {
            Self::Kline(_) => {
                // Klines open at whole minutes.
                let [first, last] = [first, last].map(|at| Timestamp(at).rfc3339().replace(":00.000Z", "Z"));
                format!("{first}..{last}")
            }
            Self::Trade | Self::AggTrade | Self::BookTicker => format!("{first}..{last}"),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Channel {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_klines_shows_open_times() {
        assert_eq!(Channel::Trade.span(7, 9), "7..9");
        let minute = Channel::Kline(Interval::M1);
        let (first, last) = (1_795_820_580_000_000, 1_795_820_640_000_000);
        assert_eq!(minute.span(first, last), "2026-11-27T23:03Z..2026-11-27T23:04Z");
    }

    #[test]
    fn every_name_parses_back() {
        for channel in Channel::ALL {
            assert_eq!(channel.as_str().parse(), Ok(channel));
        }
        for interval in Interval::ALL {
            assert_eq!(interval.as_str().parse(), Ok(interval));
        }
        assert_eq!("kline_2m".parse::<Channel>(), Err(()));
    }
}
