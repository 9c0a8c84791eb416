//! Rows that another program deletes from history: sweeps, checks and repairs restore them.

use rusqlite::Connection;
use serde_json::Value;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete, assert_klines_complete};

fn delete(app: &TestApp, sql: &str) -> usize {
    let connection = Connection::open(app.data_dir.join("history.db")).unwrap();
    connection.busy_timeout(WAIT_MAX).unwrap();
    connection.execute(sql, []).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_rows_are_found_by_a_sweep_and_backfilled() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 300.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade", "kline_1m"]));
    app.start().await;
    let klines = || HistoryFile::open(&app).number("SELECT count(*) FROM klines WHERE symbol = 'BTCUSDT'");
    wait_for("four klines are closed", WAIT_MAX, async || (klines() >= 4).then_some(())).await;
    let middle = "(SELECT (min(trade_id) + max(trade_id)) / 2 FROM trades WHERE symbol = 'BTCUSDT')";
    let gone = format!("DELETE FROM trades WHERE symbol = 'BTCUSDT' AND abs(trade_id - {middle}) <= 20");
    let middle = HistoryFile::open(&app).number(&format!("SELECT {middle}"));
    assert_eq!(delete(&app, &gone), 41);
    let second = "(SELECT open_time FROM klines WHERE symbol = 'BTCUSDT' ORDER BY open_time LIMIT 1 OFFSET 1)";
    let open_time = HistoryFile::open(&app).number(&format!("SELECT {second}"));
    assert_eq!(delete(&app, &format!("DELETE FROM klines WHERE symbol = 'BTCUSDT' AND open_time = {open_time}")), 1);
    let output = app.command(&["jobs", "run", "gap-sweep", "--wait"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    assert_klines_complete(&app, &simulator, WAIT_MAX).await;
    let history = HistoryFile::open(&app);
    let back =
        format!("SELECT sum(is_backfilled) FROM trades WHERE symbol = 'BTCUSDT' AND abs(trade_id - {middle}) <= 20");
    assert_eq!(history.number(&back), 41);
    let back = format!("SELECT is_backfilled FROM klines WHERE symbol = 'BTCUSDT' AND open_time = {open_time}");
    assert_eq!(history.number(&back), 1);
    let filled = "SELECT sum(filled) FROM gaps WHERE state = 'filled'";
    assert_eq!(history.number(filled), 42, "{:?}", history.gaps());
    assert_eq!(app.command(&["coverage"]).await.code, Some(0));
    app.stop_cleanly().await;
    assert_eq!(app.command(&["audit"]).await.code, Some(0));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_fails_when_rows_are_missing() {
    let simulator = start_market(seed(), &["BTCUSDT"], 300.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 100).then_some(())).await;
    app.stop_cleanly().await;
    let first = HistoryFile::open(&app).number("SELECT min(trade_id) FROM trades");
    delete(&app, &format!("DELETE FROM trades WHERE trade_id BETWEEN {} AND {}", first + 10, first + 12));
    let output = app.command(&["audit", "--format", "json"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let line: Value = serde_json::from_str(output.out.lines().next().unwrap()).unwrap();
    assert_eq!((&line["complete"], &line["missing_count"]), (&Value::Bool(false), &Value::from(3)));
    assert_eq!(line["missing"], serde_json::json!([[first + 10, first + 12]]));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_cache_has_and_history_lacks_are_backfilled() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]));
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades WHERE symbol = 'ETHUSDT'");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 100).then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    let clean = async || {
        let report = app.get("/api/v1/admin/consistency-check").await;
        assert_eq!(report["checked"], 2, "{report}");
        report["issues"].as_array().unwrap().is_empty().then_some(())
    };
    wait_for("cache and history agree", WAIT_MAX, clean).await;
    let last = HistoryFile::open(&app).number("SELECT max(trade_id) FROM trades WHERE symbol = 'ETHUSDT'");
    delete(&app, &format!("DELETE FROM trades WHERE symbol = 'ETHUSDT' AND trade_id > {}", last - 3));
    let report = app.get("/api/v1/admin/consistency-check").await;
    let issue = &report["issues"][0];
    assert_eq!(report["issues"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(issue["kind"], "missing_in_history", "{report}");
    assert_eq!((&issue["exchange"], &issue["symbol"]), (&Value::from("binance"), &Value::from("ETHUSDT")));
    assert_eq!(issue["cache"]["trade_id"], last);
    let (status, report) = app.post("/api/v1/admin/repair-data").await;
    assert_eq!(status, 200, "{report}");
    assert_eq!((&report["sent_to_backfill"], &report["unrepaired"]), (&Value::from(1), &serde_json::json!([])));
    assert!(report["repaired"].is_u64());
    // The repair restores the newest row; the sweep finds those before it.
    let back = || HistoryFile::open(&app).number(&format!("SELECT count(*) FROM trades WHERE trade_id = {last}"));
    wait_for("the newest row is back", WAIT_MAX, async || (back() == 1).then_some(())).await;
    assert_eq!(app.command(&["jobs", "run", "gap-sweep", "--wait"]).await.code, Some(0));
    assert_complete(&app, &simulator, WAIT_MAX).await;
    wait_for("cache and history agree again", WAIT_MAX, clean).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn klines_are_verified_against_the_exchange_and_their_trades() {
    let mut options = super::simulated_exchange::generated_options(seed(), &["BTCUSDT"], 300.0, "");
    // Klines are verified a minute after they closed, so this exchange's clock is half an hour behind.
    let system = tapekeeper::clock::Clock::system();
    options.clock = tapekeeper::clock::Clock::from_fn(move || system.now().plus_micros(-1_800_000_000));
    let simulator = super::simulated_exchange::start(options).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade", "kline_1m"]));
    app.start().await;
    let klines = || HistoryFile::open(&app).number("SELECT count(*) FROM klines");
    wait_for("three klines are closed", WAIT_MAX, async || (klines() >= 3).then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    let verify = async || {
        let output = app.command(&["jobs", "run", "kline-verify", "--wait", "--format", "json"]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let run: Value = serde_json::from_str(&output.out).unwrap();
        run["report"].clone()
    };
    let report = verify().await;
    let verified = report["klines"].as_u64().unwrap();
    assert!(verified >= 3 && report["against_rest"] == verified && report["differences"] == 0, "{report}");
    assert!(report["against_trades"].as_u64().unwrap() >= 1, "{report}");
    let last = "(SELECT max(open_time) FROM klines)";
    assert_eq!(
        delete(&app, &format!("UPDATE klines SET low = '0.5', trade_count = trade_count + 1 WHERE open_time = {last}")),
        1
    );
    let report = verify().await;
    let mut found: Vec<String> = report["listed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| format!("{} {}", found["against"].as_str().unwrap(), found["field"].as_str().unwrap()))
        .collect();
    found.sort();
    assert_eq!(found, ["rest low", "rest trade_count", "trades low", "trades trade_count"], "{report}");
    assert!(app.log().contains("differs from trades: low is stored as 0.5"), "the difference is logged");
    app.stop_cleanly().await;
    simulator.stop().await;
}
