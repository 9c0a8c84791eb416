//! Rows as lines of text, decimals and numbers exactly as stored.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::market::{Timestamp, plain};

use super::columns::{Cell, Columns};

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// Values with commas between.
    Csv,
    /// An object.
    Jsonl,
}

/// What stands before the first row; nothing when rows name their columns themselves.
pub fn header(columns: Columns, format: TextFormat) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    match format {
        TextFormat::Csv => format!("{}\n", names.join(",")),
        TextFormat::Jsonl => String::new(),
    }
}

/// Appends a row's line.
pub fn push_row(text: &mut String, columns: Columns, cells: &[Cell<'_>], format: TextFormat) {
    for (at, ((column, _), cell)) in columns.iter().zip(cells).enumerate() {
        match format {
            TextFormat::Csv if at > 0 => text.push(','),
            TextFormat::Csv => {}
            TextFormat::Jsonl => {
                text.push_str(if at > 0 { ",\"" } else { "{\"" });
                text.push_str(column);
                text.push_str("\":");
            }
        }
        match *cell {
            Cell::Text(word) => push_text(text, word, format),
            Cell::Timestamp(at) => push_text(text, &format_timestamp(at), format),
            Cell::Decimal(value) => push_text(text, &plain(value), format),
            Cell::Integer(value) => write!(text, "{value}").expect("a String takes all that is written"),
            Cell::Boolean(value) => text.push_str(if value { "true" } else { "false" }),
        }
    }
    text.push_str(if format == TextFormat::Jsonl { "}\n" } else { "\n" });
}

fn push_text(text: &mut String, value: &str, format: TextFormat) {
    match format {
        TextFormat::Csv => text.push_str(&quoted(value)),
        TextFormat::Jsonl => text.push_str(&serde_json::Value::from(value).to_string()),
    }
}

/// As RFC 4180 wants a value that holds what separates values.
fn quoted(value: &str) -> Cow<'_, str> {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\"")).into()
    } else {
        value.into()
    }
}

/// RFC 3339 with microseconds, or the bare number when the year is out of range.
fn format_timestamp(at: Timestamp) -> String {
    match at.to_chrono() {
        Some(at) => at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        None => at.micros().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::{self, KLINE, TRADE};
    use super::*;
    use crate::history::{KlineRow, TradeRow};
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
        let mut text = header(TRADE, TextFormat::Csv);
        push_row(&mut text, TRADE, &columns::trade(&trade()), TextFormat::Csv);
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
        let mut text = header(KLINE, TextFormat::Jsonl);
        push_row(&mut text, KLINE, &columns::kline(&row), TextFormat::Jsonl);
        let read: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(read.as_object().unwrap().len(), KLINE.len());
        assert_eq!((&read["open"], &read["volume"]), (&"1.1".into(), &"123456789012345678.123456789".into()));
        assert_eq!((&read["open_time"], &read["is_backfilled"]), (&"2026-11-24T10:48:00.000000Z".into(), &true.into()));
    }
}
