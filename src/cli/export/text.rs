//! Rows as lines of text, decimals and numbers exactly as stored.
//!
//! An instant is in two columns: RFC 3339 in UTC with microseconds for people, and `_us`, microseconds since 1970, for
//! programs.

use crate::history::{KlineRow, TradeRow};
use crate::market::{Timestamp, plain};

use super::super::format::RowFormat;

/// Columns of a trade.
pub const TRADE_COLUMNS: [&str; 11] = [
    "exchange",
    "symbol",
    "trade_id",
    "ts",
    "ts_us",
    "price",
    "quantity",
    "side",
    "received_at",
    "received_at_us",
    "is_backfilled",
];

/// Columns of a kline.
pub const KLINE_COLUMNS: [&str; 17] = [
    "exchange",
    "symbol",
    "interval",
    "open_time",
    "open_time_us",
    "close_time",
    "close_time_us",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trade_count",
    "first_trade_id",
    "last_trade_id",
    "is_backfilled",
];

/// One value of a row.
enum Cell {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// What stands before the first row; nothing when rows name their columns themselves.
pub fn head(columns: &[&str], format: RowFormat) -> String {
    match format {
        RowFormat::Csv => format!("{}\n", columns.join(",")),
        RowFormat::Jsonl => String::new(),
    }
}

/// Appends a trade's line.
pub fn push_trade(text: &mut String, row: &TradeRow, format: RowFormat) {
    let trade = &row.trade;
    let cells = [
        Cell::Text(row.exchange.to_string()),
        Cell::Text(row.symbol.to_string()),
        Cell::Number(trade.id),
        Cell::Text(instant(trade.ts)),
        Cell::Number(trade.ts.micros()),
        Cell::Text(plain(trade.price)),
        Cell::Text(plain(trade.quantity)),
        Cell::Text(trade.side.to_string()),
        Cell::Text(instant(row.received_at)),
        Cell::Number(row.received_at.micros()),
        Cell::Flag(row.is_backfilled),
    ];
    push_line(text, &TRADE_COLUMNS, &cells, format);
}

/// Appends a kline's line.
pub fn push_kline(text: &mut String, row: &KlineRow, format: RowFormat) {
    let kline = &row.kline;
    let cells = [
        Cell::Text(row.exchange.to_string()),
        Cell::Text(row.symbol.to_string()),
        Cell::Text(kline.interval.to_string()),
        Cell::Text(instant(kline.open_time)),
        Cell::Number(kline.open_time.micros()),
        Cell::Text(instant(kline.close_time)),
        Cell::Number(kline.close_time.micros()),
        Cell::Text(plain(kline.open)),
        Cell::Text(plain(kline.high)),
        Cell::Text(plain(kline.low)),
        Cell::Text(plain(kline.close)),
        Cell::Text(plain(kline.volume)),
        Cell::Text(plain(kline.quote_volume)),
        Cell::Number(kline.trade_count),
        Cell::Number(kline.first_trade_id),
        Cell::Number(kline.last_trade_id),
        Cell::Flag(row.is_backfilled),
    ];
    push_line(text, &KLINE_COLUMNS, &cells, format);
}

fn push_line(text: &mut String, columns: &[&str], cells: &[Cell], format: RowFormat) {
    for (at, (column, cell)) in columns.iter().zip(cells).enumerate() {
        match format {
            RowFormat::Csv if at > 0 => text.push(','),
            RowFormat::Csv => {}
            RowFormat::Jsonl => {
                text.push(if at > 0 { ',' } else { '{' });
                text.push_str(&format!("\"{column}\":"));
            }
        }
        match (cell, format) {
            (Cell::Text(value), RowFormat::Csv) => text.push_str(&quoted(value)),
            (Cell::Text(value), RowFormat::Jsonl) => text.push_str(&serde_json::Value::from(&**value).to_string()),
            (Cell::Number(value), _) => text.push_str(&value.to_string()),
            (Cell::Flag(value), _) => text.push_str(if *value { "true" } else { "false" }),
        }
    }
    text.push_str(if format == RowFormat::Jsonl { "}\n" } else { "\n" });
}

/// As RFC 4180 wants a value that holds what separates values.
fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// RFC 3339 with microseconds, or the bare number when the year is out of range.
pub fn instant(at: Timestamp) -> String {
    match at.to_chrono() {
        Some(at) => at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        None => at.micros().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Exchange, Interval, Kline, Side, Symbol, Trade};

    fn trade() -> TradeRow {
        TradeRow {
            exchange: Exchange::Binance,
            symbol: Symbol::new("BTC,\"USDT"),
            trade: Trade {
                id: 7,
                ts: Timestamp(1_795_517_280_000_001),
                price: "0.00001000".parse().unwrap(),
                quantity: "100".parse().unwrap(),
                side: Side::Sell,
            },
            received_at: Timestamp(1_795_517_280_100_000),
            is_backfilled: false,
        }
    }

    #[test]
    fn a_trade_in_csv_is_quoted_only_where_it_must_be() {
        let mut text = head(&TRADE_COLUMNS, RowFormat::Csv);
        push_trade(&mut text, &trade(), RowFormat::Csv);
        assert_eq!(
            text,
            "exchange,symbol,trade_id,ts,ts_us,price,quantity,side,received_at,received_at_us,is_backfilled\n\
             binance,\"BTC,\"\"USDT\",7,2026-11-24T10:48:00.000001Z,1795517280000001,0.00001,100,sell,\
             2026-11-24T10:48:00.100000Z,1795517280100000,false\n"
        );
    }

    #[test]
    fn a_kline_in_json_keeps_its_decimals_as_text() {
        let price = |text: &str| text.parse().unwrap();
        let kline = Kline {
            interval: Interval::M1,
            open_time: Timestamp(1_795_517_280_000_000),
            close_time: Timestamp(1_795_517_339_999_000),
            open: price("1.10"),
            high: price("2"),
            low: price("0.5"),
            close: price("1.5"),
            volume: price("123456789012345678.123456789"),
            quote_volume: price("0"),
            trade_count: 3,
            first_trade_id: -1,
            last_trade_id: -1,
            closed: true,
        };
        let row = KlineRow { exchange: Exchange::Binance, symbol: Symbol::new("ETH"), kline, is_backfilled: true };
        let mut text = head(&KLINE_COLUMNS, RowFormat::Jsonl);
        push_kline(&mut text, &row, RowFormat::Jsonl);
        let read: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(read.as_object().unwrap().len(), KLINE_COLUMNS.len());
        assert_eq!((&read["open"], &read["volume"]), (&"1.1".into(), &"123456789012345678.123456789".into()));
        assert_eq!((&read["open_time"], &read["is_backfilled"]), (&"2026-11-24T10:48:00.000000Z".into(), &true.into()));
    }
}
