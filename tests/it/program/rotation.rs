//! Connections whose end the exchange announces, and symbols that it no longer lists.

use serde_json::json;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete, assert_klines_complete};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_leaves_no_gap_and_no_reconnect() {
    // Three times the exchange announces that it will end the present connections 6 s later.
    let faults = "shutdown:6s@1s,shutdown:6s@8s,shutdown:6s@15s";
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT", "TUSDUSDT:quiet"], 600.0, faults).await;
    let symbols = ["BTCUSDT", "ETHUSDT", "TUSDUSDT"];
    let mut app = TestApp::new(&feed(&simulator, &symbols, &["trade", "kline_1m", "book_ticker"]));
    app.start().await;
    let rotations = async || {
        let status = app.get("/api/v1/status").await;
        (status["connections"][0]["rotations"].as_u64()? >= 3).then_some(status)
    };
    let status = wait_for("three rotations", WAIT_MAX * 2, rotations).await;
    assert_eq!(status["connections"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!((&status["connections"][0]["reconnects"], &status["reconnects"]), (&json!(0), &json!(0)), "{status}");
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    assert_klines_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    let history = HistoryFile::open(&app);
    assert_eq!(history.gaps(), Vec::<String>::new(), "nothing was missed");
    assert_eq!(history.number("SELECT count(*) FROM trades WHERE is_backfilled = 1"), 0);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symbol_that_is_not_listed_is_named_and_the_others_are_recorded() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "GONEUSDT", "ETHUSDT"], &["trade", "kline_1m"]));
    app.start().await;
    let named = async || {
        let status = app.get("/api/v1/status").await;
        assert!(status["degraded"]["binance:GONEUSDT"].is_null(), "it is no fault: {status}");
        let notices = status["notices"].to_string();
        assert!(!notices.contains("BTCUSDT"), "{notices}");
        notices.contains("GONEUSDT").then_some(())
    };
    wait_for("the symbol is named", WAIT_MAX, named).await;
    let live = |symbol: &str| {
        let sql = format!("SELECT count(*) FROM trades WHERE symbol = '{symbol}' AND is_backfilled = 0");
        HistoryFile::open(&app).number(&sql)
    };
    let recorded = || ["BTCUSDT", "ETHUSDT"].iter().all(|symbol| live(symbol) >= 300);
    wait_for("the other symbols are recorded", WAIT_MAX, async || recorded().then_some(())).await;
    simulator.stop_publishing().await;
    // The subscriptions are confirmed one after the other, so the recording of each stream begins at another time.
    for symbol in ["BTCUSDT", "ETHUSDT"] {
        let last = simulator.control.published(symbol).last().unwrap().id;
        let stored =
            || HistoryFile::open(&app).number(&format!("SELECT max(trade_id) FROM trades WHERE symbol = '{symbol}'"));
        wait_for("the last trade is stored", WAIT_MAX, async || (stored() == last).then_some(())).await;
    }
    // The trades between a subscription and its first frame are backfilled; no others are missing.
    let history = HistoryFile::open(&app);
    let others = "SELECT count(*) FROM gaps WHERE detected_by != 'begin'";
    assert_eq!(history.number(others), 0, "{:?}", history.gaps());
    assert_eq!(app.get("/api/v1/status").await["reconnects"], 0, "the unlisted symbol ends no connection");
    app.stop_cleanly().await;
    simulator.stop().await;
}
