//! What history holds, written out: the same rows, and an honest word when something is missing.

use rusqlite::Connection;
use serde_json::Value;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::sample_history::{self, FIRST_ID, MISSING, NEVER_EXISTED};
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete};

/// A recorder that has stopped with at least so many trades and klines, complete.
async fn record(trades: i64, klines: i64, channels: &[&str]) -> TestApp {
    let simulator = start_market(seed(), &["BTCUSDT"], 300.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], channels));
    app.start().await;
    let count = |table: &str| HistoryFile::open(&app).number(&format!("SELECT count(*) FROM {table}"));
    let enough = || count("trades") >= trades && count("klines") >= klines;
    wait_for("rows are stored", WAIT_MAX, async || enough().then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_exactly_the_rows_of_history() {
    let app = record(200, 2, &["trade", "kline_1m"]).await;
    let sql = "SELECT trade_id || ',' || ts || ',' || price || ',' || quantity || ',' || side FROM trades
               ORDER BY trade_id";
    let stored = HistoryFile::open(&app).strings(sql);
    let file = app.directory().join("trades.csv");
    let output = app.command(&["export", "--symbol", "BTCUSDT", "-o", file.to_str().unwrap()]).await;
    assert_eq!((output.code, &*output.out), (Some(0), ""), "{output:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    let rows = lines.map(|line| {
        let cell = |name: &str| line[head.iter().position(|column| *column == name).unwrap()];
        assert_eq!((cell("exchange"), cell("symbol"), line.len()), ("binance", "BTCUSDT", head.len()));
        ["trade_id", "ts_us", "price", "quantity", "side"].map(cell).join(",")
    });
    assert_eq!(rows.collect::<Vec<_>>(), stored);

    let kline = ["export", "--symbol", "BTCUSDT", "--channel", "kline_1m", "--format", "jsonl"];
    let output = app.command(&kline).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let rows = output.out.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        format!("{},{},{}", row["open_time_us"], row["close"].as_str().unwrap(), row["trade_count"])
    });
    let sql = "SELECT open_time || ',' || close || ',' || trade_count FROM klines ORDER BY open_time";
    assert_eq!(rows.collect::<Vec<_>>(), HistoryFile::open(&app).strings(sql));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_range_is_exported_and_reported_as_incomplete() {
    let app = record(100, 0, &["trade"]).await;
    let first = HistoryFile::open(&app).number("SELECT min(trade_id) FROM trades");
    let connection = Connection::open(app.data_dir.join("history.db")).unwrap();
    let gone = format!("DELETE FROM trades WHERE trade_id BETWEEN {} AND {}", first + 10, first + 12);
    assert_eq!(connection.execute(&gone, []).unwrap(), 3);
    let export = async |from: i64, to: i64| {
        let (from, to) = (from.to_string(), to.to_string());
        app.command(&["export", "--symbol", "BTCUSDT", "--from", &from, "--to", &to]).await
    };
    let output = export(first + 5, first + 20).await;
    assert_eq!((output.code, output.out.lines().count()), (Some(1), 1 + 13), "{output:?}");
    let words = format!("NOT complete: 3 missing\n  missing {}..{}\n", first + 10, first + 12);
    assert!(output.err.contains(&words), "{}", output.err);
    assert_eq!(export(first + 13, first + 20).await.code, Some(0), "what is asked for is complete");
    let output = export(first - 2, first + 3).await;
    assert!(output.code == Some(1) && output.err.contains(&format!("{}..{}", first - 2, first - 1)), "{output:?}");
    let output = app.command(&["export", "--symbol", "BTCUSDT", "--from", "2020-01-01"]).await;
    assert!(output.code == Some(1) && output.err.contains("history begins at"), "{output:?}");
    let output = app.command(&["export", "--symbol", "NOSUCH"]).await;
    assert!(output.code == Some(1) && output.err.contains("history holds no row"), "{output:?}");
    let output = app.command(&["export", "--symbol", "BTCUSDT", "--channel", "book_ticker"]).await;
    assert_eq!(output.code, Some(64), "{output:?}");
}

/// A Parquet file's rows as the objects that `jsonl` writes, and its notes.
pub(super) fn read_parquet(path: &std::path::Path) -> (Vec<Value>, Vec<(String, String)>) {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let value = |field: &Field| match field {
        Field::Str(text) => Value::from(text.clone()),
        Field::Long(number) => Value::from(*number),
        Field::Bool(flag) => Value::from(*flag),
        Field::TimestampMicros(at) => {
            let at = chrono::DateTime::from_timestamp_micros(*at).unwrap();
            Value::from(at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
        }
        Field::Decimal(value) => {
            assert_eq!((value.precision(), value.scale()), (38, 18));
            let scaled = i128::from_be_bytes(value.data().try_into().unwrap());
            Value::from(tapekeeper::market::plain(tapekeeper::market::unscaled(scaled).unwrap()))
        }
        other => panic!("{other:?}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
    });
    let notes = reader.metadata().file_metadata().key_value_metadata().unwrap().iter();
    (rows.collect(), notes.map(|note| (note.key.clone(), note.value.clone().unwrap_or_default())).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parquet_file_has_the_rows_of_jsonl_and_names_the_missing_ids() {
    let app = TestApp::new(sample_history::FEED);
    sample_history::write(&app.data_dir, 1_000, 5).await;
    let file = app.directory().join("rows.parquet");
    let path = file.to_str().unwrap();
    for (channel, code, complete) in [("trade", 1, "false"), ("kline_1m", 0, "true")] {
        let export = ["export", "--symbol", "BTCUSDT", "--channel", channel, "--format"];
        let output = app.command(&[&export[..], &["parquet", "-o", path]].concat()).await;
        assert_eq!((output.code, &*output.out), (Some(code), ""), "{output:?}");
        let (rows, notes) = read_parquet(&file);
        let note = |name: &str| {
            let note = notes.iter().find(|(key, _)| *key == format!("tapekeeper.{name}"));
            note.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {notes:?}"))
        };
        assert_eq!((note("complete"), note("version")), (complete, env!("CARGO_PKG_VERSION")));
        assert_eq!(note("stream"), format!("binance:BTCUSDT:{channel}"));
        if channel == "trade" {
            assert_eq!((note("first"), note("last")), ("1000", "1999"));
            assert_eq!((note("missing"), note("missing_ranges")), ("3", "[[1300,1302]]"));
        }
        let output = app.command(&[&export[..], &["jsonl"]].concat()).await;
        let lines: Vec<Value> = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), if channel == "trade" { 992 } else { 5 });
        assert_eq!(rows, lines);
    }
    let leftovers = std::fs::read_dir(app.directory()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(leftovers.into_iter().all(|name| !name.to_string_lossy().contains("partial")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_never_existed_are_not_missing() {
    let app = TestApp::new(sample_history::FEED);
    sample_history::write(&app.data_dir, 1_000, 5).await;
    let asked = async |command: &[&str], from: i64, to: i64| {
        let (from, to) = (from.to_string(), to.to_string());
        app.command(&[command, &["--symbol", "BTCUSDT", "--from", &from, "--to", &to]].concat()).await
    };
    for command in [&["audit"][..], &["export"]] {
        let output = asked(command, NEVER_EXISTED.first - 5, NEVER_EXISTED.last + 5).await;
        let is_kline = |line: &&str| line.contains("kline");
        assert_eq!(output.out.lines().filter(is_kline).count(), usize::from(command == ["audit"]), "{output:?}");
        assert_eq!(output.code, Some(0), "{output:?}");
        let output = asked(command, NEVER_EXISTED.first, MISSING.last).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        let said = [&*output.out, &*output.err].concat();
        assert!(said.contains("3 missing") && said.contains("missing 1300..1302"), "{output:?}");
    }
    let output = app.command(&["audit", "--format", "json"]).await;
    let rows: Vec<Value> = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((output.code, &rows[0]["missing_count"], &rows[1]["complete"]), (Some(1), &3.into(), &true.into()));
    assert_eq!((&rows[0]["first"], &rows[0]["last"]), (&FIRST_ID.into(), &(FIRST_ID + 999).into()));
    let output = app.command(&["audit", "--from", "2026-11-24", "--to", "2026-11-24", "--format", "json"]).await;
    let rows: Vec<Value> = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // A minute of a day: the trades and the kline of it, not those of the next day.
    assert_eq!((&rows[0]["last"], &rows[1]["first"]), (&1_599.into(), &rows[1]["last"]), "{output:?}");
}
