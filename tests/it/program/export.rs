//! What history holds, written out: the same rows, and an honest word when something is missing.

use rusqlite::Connection;
use serde_json::Value;

use super::app::{PATIENCE, TestApp, eventually, feed, seed};
use super::market::market;
use super::truth::{History, assert_complete};

/// A recorder that has stopped with at least so many trades and klines, complete.
async fn recorded(trades: i64, klines: i64, channels: &[&str]) -> TestApp {
    let simulator = market(seed(), &["BTCUSDT"], 300.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], channels));
    app.start().await;
    let count = |table: &str| History::open(&app).number(&format!("SELECT count(*) FROM {table}"));
    let enough = || count("trades") >= trades && count("klines") >= klines;
    eventually("rows are stored", PATIENCE, async || enough().then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, PATIENCE).await;
    app.stop_well().await;
    simulator.stop().await;
    app
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_what_history_holds() {
    let app = recorded(200, 2, &["trade", "kline_1m"]).await;
    let sql = "SELECT trade_id || ',' || ts || ',' || price || ',' || quantity || ',' || side FROM trades
               ORDER BY trade_id";
    let stored = History::open(&app).texts(sql);
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
    assert_eq!(rows.collect::<Vec<_>>(), History::open(&app).texts(sql));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_range_says_so_and_is_written_all_the_same() {
    let app = recorded(100, 0, &["trade"]).await;
    let first = History::open(&app).number("SELECT min(trade_id) FROM trades");
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
    assert!(output.code == Some(1) && output.err.contains("nothing is stored"), "{output:?}");
    let output = app.command(&["export", "--symbol", "BTCUSDT", "--channel", "book_ticker"]).await;
    assert_eq!(output.code, Some(64), "{output:?}");
}
