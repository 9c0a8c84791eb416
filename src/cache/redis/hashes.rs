//! The keys and hashes of DESIGN.md section 5: how values are written, and how they are read.
//!
//! Times are microseconds since 1970 UTC, decimals are plain text, `closed` is 0 or 1.

use std::collections::HashMap;
use std::str::FromStr;

use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick, Timestamp, parse_decimal, plain, scaled};

/// A hash to write. The first `order` fields decide whether it is newer than the stored one.
#[derive(Debug)]
pub(super) struct HashWrite {
    pub(super) key: String,
    pub(super) order: usize,
    pub(super) fields: Vec<(&'static str, String)>,
}

const TICK: [&str; 5] = ["ts", "trade_id", "price", "quantity", "side"];
/// Of an aggregate trade. Its `trade_id` is empty: a symbol whose channel changes keeps the fields of the other one.
const AGG_TICK: [&str; 8] =
    ["ts", "agg_id", "price", "quantity", "side", "trade_id", "first_trade_id", "last_trade_id"];
const KLINE: [&str; 14] = [
    "open_time",
    "closed",
    "trade_count",
    // The volume as an integer, 10^18 times as large: the function of the server compares integers.
    "volume_units",
    "interval",
    "close_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "first_trade_id",
    "last_trade_id",
];
const BOOK: [&str; 5] = ["update_id", "bid", "bid_quantity", "ask", "ask_quantity"];

// The text between the braces selects the hash slot (a Redis hash tag): all keys of a symbol share one.

/// `tick:{binance:BTCUSDT}`
pub(super) fn tick_key(exchange: Exchange, symbol: &Symbol) -> String {
    format!("tick:{{{exchange}:{symbol}}}")
}

/// `kline:{binance:BTCUSDT}:1m`
pub(super) fn kline_key(exchange: Exchange, symbol: &Symbol, interval: Interval) -> String {
    format!("kline:{{{exchange}:{symbol}}}:{interval}")
}

/// `book:{binance:BTCUSDT}`
pub(super) fn book_key(exchange: Exchange, symbol: &Symbol) -> String {
    format!("book:{{{exchange}:{symbol}}}")
}

/// `service_state:market_data[:INSTANCE]`
pub(super) fn state_key(instance: &str) -> String {
    match instance {
        "" => "service_state:market_data".to_owned(),
        named => format!("service_state:market_data:{named}"),
    }
}

/// The hash of a tick: a later time is newer, then a higher id.
pub(super) fn tick(exchange: Exchange, symbol: &Symbol, tick: &Tick) -> HashWrite {
    let values = [
        tick.ts.micros().to_string(),
        tick.id.to_string(),
        plain(tick.price),
        plain(tick.quantity),
        tick.side.to_string(),
    ];
    let fields = match tick.trade_ids {
        None => TICK.into_iter().zip(values).collect(),
        Some((first, last)) => {
            let ids = [String::new(), first.to_string(), last.to_string()];
            AGG_TICK.into_iter().zip(values.into_iter().chain(ids)).collect()
        }
    };
    HashWrite { key: tick_key(exchange, symbol), order: 2, fields }
}

/// The hash of a kline: a later open time is newer, then closed before open, then more trades, then more volume.
pub(super) fn kline(exchange: Exchange, symbol: &Symbol, kline: &Kline) -> HashWrite {
    let values = [
        kline.open_time.micros().to_string(),
        i32::from(kline.closed).to_string(),
        kline.trade_count.to_string(),
        scaled(kline.volume).unwrap_or_default().to_string(),
        kline.interval.to_string(),
        kline.close_time.micros().to_string(),
        plain(kline.open),
        plain(kline.high),
        plain(kline.low),
        plain(kline.close),
        plain(kline.volume),
        plain(kline.quote_volume),
        kline.first_trade_id.to_string(),
        kline.last_trade_id.to_string(),
    ];
    let key = kline_key(exchange, symbol, kline.interval);
    HashWrite { key, order: 4, fields: KLINE.into_iter().zip(values).collect() }
}

/// The hash of a book: a higher update id is newer.
pub(super) fn book(exchange: Exchange, symbol: &Symbol, book: &Book) -> HashWrite {
    let values = [
        book.update_id.to_string(),
        plain(book.bid),
        plain(book.bid_quantity),
        plain(book.ask),
        plain(book.ask_quantity),
    ];
    HashWrite { key: book_key(exchange, symbol), order: 1, fields: BOOK.into_iter().zip(values).collect() }
}

/// The response to HGETALL.
pub(super) type HashFields = HashMap<String, String>;

fn field<T: FromStr>(stored: &HashFields, name: &str) -> Option<T> {
    stored.get(name)?.parse().ok()
}

fn decimal(stored: &HashFields, name: &str) -> Option<rust_decimal::Decimal> {
    parse_decimal(stored.get(name)?)
}

fn time(stored: &HashFields, name: &str) -> Option<Timestamp> {
    field(stored, name).map(Timestamp)
}

/// Reads the hash of a tick; `None` if a field is missing or invalid.
pub(super) fn read_tick(stored: &HashFields) -> Option<Tick> {
    let trade_id = field(stored, "trade_id");
    let trade_ids = match trade_id {
        Some(_) => None,
        None => Some((field(stored, "first_trade_id")?, field(stored, "last_trade_id")?)),
    };
    Some(Tick {
        id: trade_id.or_else(|| field(stored, "agg_id"))?,
        ts: time(stored, "ts")?,
        price: decimal(stored, "price")?,
        quantity: decimal(stored, "quantity")?,
        side: field(stored, "side")?,
        trade_ids,
    })
}

/// Reads the hash of a kline; `None` if a field is missing or invalid.
pub(super) fn read_kline(stored: &HashFields) -> Option<Kline> {
    Some(Kline {
        interval: field(stored, "interval")?,
        open_time: time(stored, "open_time")?,
        close_time: time(stored, "close_time")?,
        open: decimal(stored, "open")?,
        high: decimal(stored, "high")?,
        low: decimal(stored, "low")?,
        close: decimal(stored, "close")?,
        volume: decimal(stored, "volume")?,
        quote_volume: decimal(stored, "quote_volume")?,
        trade_count: field(stored, "trade_count")?,
        first_trade_id: field(stored, "first_trade_id")?,
        last_trade_id: field(stored, "last_trade_id")?,
        closed: field::<u8>(stored, "closed")? == 1,
    })
}

/// Reads the hash of a book; `None` if a field is missing or invalid.
pub(super) fn read_book(stored: &HashFields) -> Option<Book> {
    Some(Book {
        update_id: field(stored, "update_id")?,
        bid: decimal(stored, "bid")?,
        bid_quantity: decimal(stored, "bid_quantity")?,
        ask: decimal(stored, "ask")?,
        ask_quantity: decimal(stored, "ask_quantity")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Side;

    #[test]
    fn keys_are_the_documented_ones() {
        let symbol = Symbol::new("BTCUSDT");
        assert_eq!(tick_key(Exchange::named("binance"), &symbol), "tick:{binance:BTCUSDT}");
        assert_eq!(kline_key(Exchange::named("binance"), &symbol, Interval::M1), "kline:{binance:BTCUSDT}:1m");
        assert_eq!(book_key(Exchange::named("binance"), &symbol), "book:{binance:BTCUSDT}");
        assert_eq!(state_key(""), "service_state:market_data");
        assert_eq!(state_key("b"), "service_state:market_data:b");
    }

    #[test]
    fn a_tick_is_plain_text() {
        let price = "61234.560000".parse().unwrap();
        let value = Tick {
            id: 7,
            ts: Timestamp(9),
            price,
            quantity: "0.00".parse().unwrap(),
            side: Side::Sell,
            trade_ids: None,
        };
        let hash = tick(Exchange::named("binance"), &Symbol::new("BTCUSDT"), &value);
        let fields = [("ts", "9"), ("trade_id", "7"), ("price", "61234.56"), ("quantity", "0"), ("side", "sell")];
        assert_eq!(hash.fields, fields.map(|(name, text)| (name, text.to_owned())));
        let stored = fields.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        assert_eq!(read_tick(&stored), Some(value));
        assert_eq!(read_tick(&HashFields::new()), None);
    }

    #[test]
    fn of_two_channels_the_one_that_was_written_last_is_read() {
        let raw = Tick {
            id: 70,
            ts: Timestamp(9),
            price: "1.5".parse().unwrap(),
            quantity: "2".parse().unwrap(),
            side: Side::Buy,
            trade_ids: None,
        };
        let aggregate = Tick { id: 7, trade_ids: Some((68, 70)), ..raw };
        let mut stored = HashFields::new();
        for value in [raw, aggregate, raw, aggregate] {
            let hash = tick(Exchange::named("binance"), &Symbol::new("BTCUSDT"), &value);
            stored.extend(hash.fields.into_iter().map(|(name, text)| (name.to_owned(), text)));
            assert_eq!(read_tick(&stored), Some(value), "{stored:?}");
        }
    }
}
