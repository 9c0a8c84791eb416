//! Frames with ids, times and trade numbers that cannot be: they move nothing.

use std::time::Duration;

use super::super::app::{TestApp, WAIT_MAX, wait_for};
use super::super::truth::{HistoryFile, assert_complete, assert_klines_complete};
use super::Recording;

/// Symbols for one lie each; every one is recorded by the same recorder.
const SYMBOLS: [&str; 8] = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "BNBUSDT", "LTCUSDT", "DOTUSDT"];

/// Waits until a kline that closes after now is stored for each symbol.
async fn wait_for_next_klines(recording: &Recording, symbols: &[&str]) {
    let now = recording.simulator.control.exchange_time().micros();
    for symbol in symbols {
        let sql = format!("SELECT count(*) FROM klines WHERE symbol = '{symbol}' AND close_time > {now}");
        let sql = format!("{sql} AND close_time < {}", now + 3_600_000_000);
        recording.wait_for_some(&format!("a kline of {symbol} closes"), &sql, WAIT_MAX * 2).await;
    }
}

/// Fails when a gap of klines reaches into the future.
fn assert_no_gap_of_the_future(recording: &Recording) {
    let now = recording.simulator.control.exchange_time().micros();
    let future = format!("SELECT count(*) FROM gaps WHERE channel = 'kline_1m' AND last_missing > {now}");
    assert_eq!(recording.number(&future), 0, "{}", recording.history().gaps().join("\n"));
}

async fn health(app: &TestApp) -> String {
    app.get("/healthz").await["degraded"].to_string()
}

// Needs: an event time ahead of both clocks moves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_times_ahead_of_the_clock_open_no_gap() {
    let symbols = &SYMBOLS[..4];
    let recording = Recording::begin(symbols, &["trade", "kline_1m"], 100.0).await;
    recording.inject("poison:BTCUSDT:trade.E=*1000:1");
    recording.inject("poison:ETHUSDT:trade.E=year3000:1");
    recording.inject("poisoncopy:SOLUSDT:kline.E=*1000:1");
    recording.inject("poisoncopy:XRPUSDT:kline.E=+3600000:1");
    let poisoned = || recording.simulator.control.counters().frames_poisoned == 4;
    wait_for("every frame is sent", WAIT_MAX, async || poisoned().then_some(())).await;
    wait_for_next_klines(&recording, symbols).await;
    assert_eq!(recording.history().gaps(), Vec::<String>::new(), "nothing was lost");
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.end().await;
}

// Needs: implausible klines are set aside, and a kline that closes too early is replaced by the later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn implausible_klines_move_nothing() {
    let recording = Recording::begin(&SYMBOLS, &["trade", "kline_1m"], 200.0).await;
    let lies = [
        "t=year3000&T=32503680059999",
        "t=year3000&T=32503680059999&x=true",
        "t=*1000&T=1",
        "t=0&x=true",
        "f=1&L=+1000000000000&x=true",
        "f=0&L=max&n=max&x=true",
        "n=-5&x=true",
        "x=true",
    ];
    for (symbol, lie) in SYMBOLS.iter().zip(lies) {
        recording.inject(&format!("poisoncopy:{symbol}:kline.{lie}:1"));
    }
    let poisoned = || recording.simulator.control.counters().frames_poisoned == 8;
    wait_for("every frame is sent", WAIT_MAX, async || poisoned().then_some(())).await;
    for symbol in SYMBOLS {
        recording.lose(symbol, 20).await;
    }
    wait_for_next_klines(&recording, &SYMBOLS).await;
    assert_no_gap_of_the_future(&recording);
    recording.assert_no_wrong_verdict();
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    assert_klines_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.end().await;
}

// Needs: an id far ahead, or at an edge of i64, moves no watermark; the frame is a dead letter and the stream degraded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_far_ahead_hides_no_later_loss() {
    let symbols = &SYMBOLS[..4];
    let mut recording = Recording::begin(symbols, &["trade"], 120.0).await;
    for (symbol, lie) in symbols.iter().zip(["t=1000000000000", "t=max", "t=min", "t=1"]) {
        recording.inject(&format!("poisoncopy:{symbol}:trade.{lie}:1"));
    }
    let poisoned = || recording.simulator.control.counters().frames_poisoned == 4;
    wait_for("every frame is sent", WAIT_MAX, async || poisoned().then_some(())).await;
    let reported = async || health(&recording.app).await.contains("BTCUSDT").then_some(());
    wait_for("the stream is degraded", WAIT_MAX, reported).await;
    for restarted in [false, true] {
        if restarted {
            recording.app.stop_cleanly().await;
            recording.app.start().await;
        }
        for symbol in symbols {
            recording.wait_for_trades(symbol, 10).await;
            recording.lose(symbol, 20).await;
        }
        for symbol in symbols {
            recording.wait_for_trades(symbol, 30).await;
        }
        let missing = "SELECT count(*) FROM gaps WHERE closed_at IS NULL";
        let closed = async || (recording.number(missing) == 0).then_some(());
        wait_for("every loss is repaired", WAIT_MAX, closed).await;
    }
    recording.assert_no_wrong_verdict();
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    let (code, printed) = recording.audit().await;
    assert_eq!(code, Some(0), "{printed}");
    recording.end().await;
}

// Needs: no watermark that follows REST's word about its newest trade without a second source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_implausible_newest_trade_of_rest_opens_no_gap() {
    let symbols = &SYMBOLS[..2];
    let recording = Recording::begin(symbols, &["trade"], 60.0).await;
    recording.inject("newest:BTCUSDT:1000000000000000:ever");
    recording.inject("newest:ETHUSDT:9223372036854775807:ever");
    // Only a silent stream is probed.
    recording.inject("silent:15s");
    recording.wait_for_trades("BTCUSDT", 30).await;
    recording.wait_for_trades("ETHUSDT", 30).await;
    let wide = "SELECT count(*) FROM gaps WHERE last_missing - first_missing > 1000000";
    assert_eq!(recording.number(wide), 0, "{}", recording.history().gaps().join("\n"));
    recording.inject("newest:BTCUSDT:1000000000000000:0s");
    recording.inject("newest:ETHUSDT:9223372036854775807:0s");
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: a stream whose frames are all dead letters is degraded within a minute; the loss is repaired from REST.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_another_type_is_an_outage_of_the_stream() {
    let recording = Recording::begin(&SYMBOLS[..2], &["trade"], 40.0).await;
    recording.inject("poison:trade.p=unquoted&q=unquoted:ever");
    let reported =
        async || (health(&recording.app).await != "{}" && health(&recording.app).await != "[]").then_some(());
    wait_for("the streams are degraded", WAIT_MAX + Duration::from_secs(30), reported).await;
    let warnings = recording.app.log().lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings < 100, "{warnings} warnings");
    assert!(HistoryFile::open(&recording.app).number("SELECT count(*) FROM dead_letters") > 0);
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX * 2).await;
    recording.end().await;
}
