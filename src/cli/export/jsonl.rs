//! Rows as JSON lines: one object per line, decimals as text so that they stay exact.

use crate::parquet_file::{Cell, Columns};

/// Appends the line of a row.
pub fn push_row(text: &mut String, columns: Columns, cells: &[Cell<'_>]) {
    for (at, ((column, _), cell)) in columns.iter().zip(cells).enumerate() {
        text.push_str(if at > 0 { ",\"" } else { "{\"" });
        text.push_str(column);
        text.push_str("\":");
        match *cell {
            Cell::Text(word) => text.push_str(&serde_json::Value::from(word).to_string()),
            // Neither holds a character that JSON escapes.
            Cell::Timestamp(_) | Cell::Decimal(_) => {
                text.push('"');
                cell.push_to(text);
                text.push('"');
            }
            Cell::Integer(_) | Cell::Boolean(_) => cell.push_to(text),
        }
    }
    text.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use super::super::columns::{self, KLINE};
    use super::*;
    use crate::history::KlineRow;
    use crate::market::{Exchange, Interval, Kline, Symbol, Timestamp};

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
        let row = KlineRow {
            exchange: Exchange::named("binance"),
            symbol: Symbol::new("ETH"),
            kline,
            is_backfilled: true,
            version: crate::history::row_version(true),
        };
        let mut text = String::new();
        push_row(&mut text, KLINE, &columns::kline(&row));
        let read: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(read.as_object().unwrap().len(), KLINE.len());
        assert_eq!((&read["open"], &read["volume"]), (&"1.1".into(), &"123456789012345678.123456789".into()));
        assert_eq!((&read["open_time"], &read["is_backfilled"]), (&"2026-11-24T10:48:00.000000Z".into(), &true.into()));
    }
}
