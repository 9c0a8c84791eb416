//! Where the files of a sealed day are, below the directory or bucket of sealed days.

use crate::market::{Channel, Interval, Stream};

use super::Day;

/// The name of the file that names the current revision.
pub const CURRENT: &str = "current.json";

/// The directory of a channel: `trades`, `agg_trades`, `klines_1m`...; `None` for a channel that history does not hold.
pub const fn of_channel(channel: Channel) -> Option<&'static str> {
    Some(match channel {
        Channel::Trade => "trades",
        Channel::AggTrade => "agg_trades",
        Channel::Kline(Interval::M1) => "klines_1m",
        Channel::Kline(Interval::M5) => "klines_5m",
        Channel::Kline(Interval::M15) => "klines_15m",
        Channel::Kline(Interval::H1) => "klines_1h",
        Channel::Kline(Interval::H4) => "klines_4h",
        Channel::Kline(Interval::D1) => "klines_1d",
        Channel::BookTicker => return None,
    })
}

/// The channel of a directory.
pub fn channel(name: &str) -> Option<Channel> {
    Channel::ALL.into_iter().find(|channel| of_channel(*channel) == Some(name))
}

/// A symbol in a path.
pub fn of_symbol(symbol: &str) -> String {
    symbol.replace('/', "-")
}

/// The directory of a stream; `None` for a channel that history does not hold.
pub fn stream_directory(stream: &Stream) -> Option<String> {
    let channel = of_channel(stream.channel)?;
    Some(format!("{channel}/exchange={}/symbol={}", stream.exchange, of_symbol(stream.symbol.as_str())))
}

/// The directory of a day, in that of its stream.
pub fn day_directory(day: Day) -> String {
    format!("date={day}")
}

/// The file of a revision.
pub fn file(channel: &str, revision: u32) -> String {
    format!("{channel}.r{revision}.parquet")
}

/// The manifest of a revision.
pub fn manifest(revision: u32) -> String {
    format!("manifest.r{revision}.json")
}

/// The content of [`CURRENT`].
pub fn current(revision: u32) -> String {
    format!("{{\"revision\": {revision}}}\n")
}

/// The revision in [`CURRENT`], spelled as [`current`] spells it.
pub fn parse_current(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let revision = text.strip_prefix("{\"revision\": ")?.strip_suffix("}\n")?.parse().ok()?;
    (revision > 0 && current(revision) == text).then_some(revision)
}

/// The revision of a manifest's name.
pub fn manifest_revision(name: &str) -> Option<u32> {
    let revision = name.strip_prefix("manifest.r")?.strip_suffix(".json")?.parse().ok()?;
    (revision > 0 && manifest(revision) == name).then_some(revision)
}

/// The revision of a file's name.
pub fn file_revision(name: &str, channel: &str) -> Option<u32> {
    let revision = name.strip_prefix(channel)?.strip_prefix(".r")?.strip_suffix(".parquet")?.parse().ok()?;
    (revision > 0 && file(channel, revision) == name).then_some(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for known in Channel::ALL {
            assert_eq!(of_channel(known).and_then(channel), (known != Channel::BookTicker).then_some(known));
        }
        assert_eq!(manifest_revision(&manifest(12)), Some(12));
        assert_eq!(file_revision(&file("klines_1m", 3), "klines_1m"), Some(3));
        assert_eq!(parse_current(current(2).as_bytes()), Some(2));
        for name in
            ["manifest.r0.json", "manifest.r01.json", "manifest.r+1.json", "manifest.r1.json.tmp", "manifest.json"]
        {
            assert_eq!(manifest_revision(name), None, "{name}");
        }
        for text in ["{\"revision\":2}\n", "{\"revision\": 2}", "{\"revision\": 0}\n", "{\"revision\": 02}\n", ""] {
            assert_eq!(parse_current(text.as_bytes()), None, "{text}");
        }
        let stream: Stream = "kraken:BTC/USD:trade".parse().unwrap();
        assert_eq!(stream_directory(&stream).unwrap(), "trades/exchange=kraken/symbol=BTC-USD");
    }
}
