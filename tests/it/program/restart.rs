//! The state that a stop leaves and that the next start uses.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tapekeeper::market::Interval;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete, assert_klines_complete};

const STATE: &str = "service_state.json";
const PREVIOUS: &str = "service_state.previous.json";

fn state(app: &TestApp) -> Value {
    serde_json::from_str(&fs::read_to_string(app.data_dir.join(STATE)).unwrap()).unwrap()
}

/// Waits until history has this number of trades.
async fn wait_for_stored(app: &TestApp, trades: i64) {
    let count = || HistoryFile::open(app).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= trades).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_acknowledges_everything() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 5_000.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade", "kline_1m"]));
    app.start().await;
    wait_for_stored(&app, 10_000).await;
    let (status, took) = app.stop().await;
    eprintln!("stopped in {} ms", took.as_millis());
    assert_eq!(status.code(), Some(0));
    // The promise is 5 s; a machine that other tests share gets twice as much.
    assert!(took < Duration::from_secs(10), "the stop took {} ms", took.as_millis());
    let state = state(&app);
    assert!(state["shutdown_time"].is_string());
    let log = Connection::open(app.data_dir.join("log.db")).unwrap();
    let number = |sql: &str| log.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let committed = number("SELECT next FROM committed");
    assert_eq!(state["consumer_offsets"]["0"], committed);
    assert_eq!(number("SELECT max(offset) + 1 FROM frames"), committed, "everything in the log is acknowledged");
    let history = HistoryFile::open(&app);
    assert_eq!(history.open_gaps(), 0);
    for symbol in ["BTCUSDT", "ETHUSDT"] {
        let of = |what: &str| history.number(&format!("SELECT {what} FROM trades WHERE symbol = '{symbol}'"));
        assert_eq!(state["watermarks"][format!("binance:{symbol}:trade")], of("max(trade_id)"));
        assert_eq!(of("count(*)"), of("max(trade_id) - min(trade_id) + 1"), "{symbol} is contiguous");
    }
    drop(log);
    // The next start backfills what it missed while it was down.
    app.start().await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_state_file_loses_nothing() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_stored(&app, 100).await;
    app.stop_cleanly().await;
    let current = app.data_dir.join(STATE);
    let text = fs::read(&current).unwrap();
    fs::write(&current, &text[..text.len() / 2]).unwrap();
    let before: Value = serde_json::from_str(&fs::read_to_string(app.data_dir.join(PREVIOUS)).unwrap()).unwrap();
    app.start().await;
    assert!(app.log().contains("service_state.json is corrupt"), "the log warns of a torn file");
    // The recorder restored the previous generation, so the next one follows it.
    assert!(state(&app)["generation"].as_u64() > before["generation"].as_u64());
    wait_for_stored(&app, 200).await;
    app.stop_cleanly().await;
    for name in [STATE, PREVIOUS] {
        fs::write(app.data_dir.join(name), "{ torn").unwrap();
    }
    app.start().await;
    assert!(app.log().contains("service_state.previous.json is corrupt"), "the log warns of both");
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_history_starts_from_its_own_rows() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    wait_for_stored(&app, 200).await;
    app.stop_cleanly().await;
    for suffix in ["", "-wal", "-shm"] {
        let path = app.data_dir.join(format!("history.db{suffix}"));
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    let before = state(&app)["history_identity"].clone();
    app.start().await;
    assert!(app.log().contains("belong to another history"), "the recorder notices another history");
    assert_ne!(state(&app)["history_identity"], before);
    wait_for_stored(&app, 100).await;
    simulator.stop_publishing().await;
    let last = simulator.control.summary()[0].last;
    let max = || HistoryFile::open(&app).number("SELECT coalesce(max(trade_id), -1) FROM trades");
    wait_for("the newest trade is stored", WAIT_MAX, async || (max() == last).then_some(())).await;
    let history = HistoryFile::open(&app);
    assert_eq!(
        history.number("SELECT count(*) FROM trades"),
        history.number("SELECT max(trade_id) - min(trade_id) + 1 FROM trades"),
    );
    assert_eq!(history.open_gaps(), 0);
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_offsets_of_one_log_are_not_taken_for_anothers() {
    let simulator = start_market(seed(), &["BTCUSDT"], 200.0, "").await;
    let feeds = feed(&simulator, &["BTCUSDT"], &["trade"]);
    let mut app = TestApp::new(&feeds);
    app.start().await;
    wait_for_stored(&app, 100).await;
    app.stop_cleanly().await;
    assert!(state(&app)["consumer_offsets"]["0"].as_i64() > Some(0));
    // While the broker is down its committed offsets are unknown.
    app.configure(&format!("{feeds}[log]\nbackend = \"kafka\"\n[log.kafka]\nbrokers = \"127.0.0.1:1\"\n"));
    app.spawn();
    let is_ready = || app.log().matches("  INFO ready: ").count() == 2;
    wait_for("the recorder is ready", WAIT_MAX, async || is_ready().then_some(())).await;
    assert_eq!(state(&app)["consumer_offsets"], json!({}), "the state has offsets of the embedded log as Kafka's");
    app.kill().await;
    app.configure(&feeds);
    app.start().await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trades_missed_by_a_recorder_killed_before_its_first_row_are_backfilled() {
    // The exchange accepts subscriptions and sends nothing for a while.
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 200.0, "silent:20s@0s").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]));
    app.start().await;
    let published = || simulator.control.summary().iter().map(|symbol| symbol.count).min().unwrap();
    wait_for("trades are published", WAIT_MAX, async || (published() >= 50).then_some(())).await;
    app.kill().await;
    assert_eq!(HistoryFile::open(&app).number("SELECT count(*) FROM trades"), 0, "a row was stored before the kill");
    app.start().await;
    let stored = || HistoryFile::open(&app).number("SELECT count(DISTINCT symbol) FROM trades WHERE is_backfilled = 0");
    wait_for("live trades are stored", WAIT_MAX, async || (stored() == 2).then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    let found = "SELECT count(*) FROM gaps WHERE detected_by = 'restart' AND state = 'filled'";
    assert!(HistoryFile::open(&app).number(found) >= 2, "{:?}", HistoryFile::open(&app).gaps());
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn klines_missed_by_a_recorder_killed_before_its_first_row_are_backfilled() {
    let symbols = ["BTCUSDT", "ETHUSDT"];
    // The exchange accepts subscriptions and sends nothing for a while: four klines of a minute end unseen.
    let simulator = start_market(seed(), &symbols, 50.0, "silent:26s@0s").await;
    let mut app = TestApp::new(&feed(&simulator, &symbols, &["kline_1m", "kline_5m"]));
    app.start().await;
    let ended = |symbol: &str| simulator.control.published_klines(symbol, Interval::M1).len();
    let have_ended = || symbols.iter().all(|symbol| ended(symbol) >= 2);
    wait_for("klines end", WAIT_MAX, async || have_ended().then_some(())).await;
    app.kill().await;
    assert_eq!(HistoryFile::open(&app).number("SELECT count(*) FROM klines"), 0, "a row was stored before the kill");
    app.start().await;
    let stored = || {
        let live = "SELECT count(DISTINCT symbol || interval) FROM klines WHERE is_backfilled = 0";
        HistoryFile::open(&app).number(live)
    };
    wait_for("live klines are stored", WAIT_MAX * 2, async || (stored() == 4).then_some(())).await;
    let refilled = || {
        let filled =
            "SELECT count(DISTINCT symbol || channel) FROM gaps WHERE detected_by = 'restart' AND state = 'filled'";
        HistoryFile::open(&app).number(filled)
    };
    wait_for("the first klines are refilled", WAIT_MAX, async || (refilled() >= 2).then_some(())).await;
    simulator.stop_publishing().await;
    assert_klines_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn klines_missed_between_the_subscription_and_a_cut_are_backfilled() {
    let symbols = ["BTCUSDT", "ETHUSDT"];
    let simulator = start_market(seed(), &symbols, 50.0, "silent:20s@0s,cut@10s").await;
    let mut app = TestApp::new(&feed(&simulator, &symbols, &["kline_1m"]));
    app.start().await;
    let stored = || {
        let live = "SELECT count(DISTINCT symbol) FROM klines WHERE is_backfilled = 0";
        HistoryFile::open(&app).number(live)
    };
    wait_for("live klines are stored", WAIT_MAX * 2, async || (stored() == 2).then_some(())).await;
    simulator.stop_publishing().await;
    assert_klines_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}
