//! What `coverage` prints: a line per stream, with `--days` a line per day, totals, and how the exchange returns
//! missing rows.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::output::{Format, position, print_line, print_rows};

/// Prints the API's response.
pub fn show(coverage: Value, days: bool, format: Format) {
    if format == Format::Json {
        print_rows(&coverage, &[], format);
        return;
    }
    let rows = coverage.as_array().map_or(&[][..], Vec::as_slice);
    let streams: Vec<Value> = rows.iter().map(with_missing_count).collect();
    // Most symbols have only one numbering.
    let has_epochs = streams.iter().any(|row| row["epoch"].as_i64() != Some(0));
    let columns: &[&str] = if has_epochs {
        &["symbol", "channel", "epoch", "first", "last", "present", "backfilled", "missing", "state"]
    } else {
        &["symbol", "channel", "first", "last", "present", "backfilled", "missing", "state"]
    };
    print_rows(&json!(streams), columns, format);
    if days {
        print_line!("");
        let columns = ["symbol", "channel", "date", "first", "last", "present", "backfilled", "missing", "state"];
        print_rows(&json!(day_rows(rows)), &columns, format);
    }
    for line in totals(rows).into_iter().chain(succeeding(rows)).chain(recoverable(rows)) {
        print_line!("{line}");
    }
}

/// The row, with the number of missing positions in place of their ranges.
fn with_missing_count(row: &Value) -> Value {
    let mut row = row.clone();
    row["missing"] = json!(missing(&row));
    row
}

fn missing(row: &Value) -> i64 {
    let [expected, present] = ["expected", "present"].map(|name| row[name].as_i64().unwrap_or_default());
    (expected - present).max(0)
}

fn day_rows(rows: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for row in rows {
        for day in row["days"].as_array().into_iter().flatten() {
            let mut day = with_missing_count(day);
            day["symbol"] = row["symbol"].clone();
            day["channel"] = row["channel"].clone();
            // The date is in a column of its own.
            for column in ["first", "last"] {
                day[column] = position(&day, column, 11..16);
            }
            all.push(day);
        }
    }
    all
}

fn totals(rows: &[Value]) -> Option<String> {
    let sum = |name: &str| -> i64 { rows.iter().filter_map(|row| row[name].as_i64()).sum() };
    let complete = rows.iter().filter(|row| row["complete"] == true).count();
    let missing: i64 = rows.iter().map(missing).sum();
    (!rows.is_empty()).then(|| {
        format!(
            "{complete} of {} streams complete: {} expected, {} present ({} backfilled), {missing} missing, {} gaps open",
            rows.len(),
            sum("expected"),
            sum("present"),
            sum("backfilled"),
            sum("open_gaps"),
        )
    })
}

/// One line per renamed symbol: where its older rows are.
fn succeeding(rows: &[Value]) -> BTreeSet<String> {
    let line = |row: &Value| {
        let [exchange, symbol, former] = ["exchange", "symbol", "succeeds"].map(|name| row[name].as_str());
        Some(format!(
            "{exchange}:{symbol} succeeds {former}: its older rows have that name",
            exchange = exchange?,
            symbol = symbol?,
            former = former?
        ))
    };
    rows.iter().filter_map(line).collect()
}

/// One line per exchange and kind of channel: how it returns missing rows, and how old they may be.
fn recoverable(rows: &[Value]) -> BTreeSet<String> {
    let line = |row: &Value| {
        let how = row["recoverable"].as_object()?;
        let kind = if row["channel"] == "trade" { "trades" } else { "klines" };
        let by = how["by"].as_str()?.replace('_', " ");
        let age = match how["kept_s"].as_u64() {
            None => "no documented limit of age".to_owned(),
            Some(seconds) => format!("up to {:.1} days old", seconds as f64 / 86_400.0),
        };
        let exchange = row["exchange"].as_str()?;
        Some(format!("{exchange} returns missing {kind} by {by}, {} per request, {age}", how["rows_per_request"]))
    };
    rows.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(channel: &str, expected: i64, present: i64, kept_s: Value) -> Value {
        json!({
            "exchange": "binance", "symbol": "BTCUSDT", "channel": channel, "expected": expected, "present": present,
            "backfilled": 2, "missing": [[4, 6]], "open_gaps": 1, "complete": expected == present,
            "recoverable": { "by": "trade_id", "rows_per_request": 1_000, "request_weight": 25, "kept_s": kept_s },
            "days": [{ "date": "2026-01-01", "expected": expected, "present": present, "missing": [[4, 6]] }],
        })
    }

    #[test]
    fn totals_add_up_the_streams() {
        let rows = [row("trade", 8, 5, Value::Null), row("kline_1m", 4, 4, Value::Null)];
        let output = totals(&rows).unwrap();
        assert_eq!(output, "1 of 2 streams complete: 12 expected, 9 present (4 backfilled), 3 missing, 2 gaps open");
        assert_eq!(totals(&[]), None);
    }

    #[test]
    fn each_exchange_and_kind_of_channel_has_one_line() {
        let rows =
            [row("trade", 1, 1, Value::Null), row("trade", 2, 2, Value::Null), row("kline_1m", 1, 1, json!(129_600))];
        assert_eq!(
            recoverable(&rows).into_iter().collect::<Vec<_>>(),
            [
                "binance returns missing klines by trade id, 1000 per request, up to 1.5 days old",
                "binance returns missing trades by trade id, 1000 per request, no documented limit of age",
            ]
        );
        let unknown = json!({ "exchange": "binance", "channel": "trade", "recoverable": null });
        assert!(recoverable(&[unknown]).is_empty());
    }

    #[test]
    fn a_renamed_symbol_names_its_former_name() {
        let mut renamed = row("trade", 1, 1, Value::Null);
        renamed["succeeds"] = json!("OMUSDT");
        let lines = succeeding(&[renamed, row("trade", 1, 1, Value::Null)]);
        assert_eq!(Vec::from_iter(lines), ["binance:BTCUSDT succeeds OMUSDT: its older rows have that name"]);
    }

    #[test]
    fn a_day_shows_its_stream_and_how_much_is_missing() {
        let days = day_rows(&[row("trade", 8, 5, Value::Null)]);
        assert_eq!((days.len(), &days[0]["missing"], &days[0]["symbol"]), (1, &json!(3), &json!("BTCUSDT")));
    }
}
