//! What REST does not serve for a time, although it exists.

use super::super::app::WAIT_MAX;
use super::super::truth::{assert_complete, assert_klines_complete};
use super::Recording;

/// How long REST hides something.
const HELD: &str = "12s";

// Needs: the state `unconfirmed`, and audit that does not count it as complete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_trades_are_unconfirmed_and_then_filled() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.inject(&format!("hole:BTCUSDT:10:{HELD}"));
    let doubted = "SELECT count(*) FROM gaps WHERE channel = 'trade' AND state = 'unconfirmed' AND closed_at IS NULL";
    recording.wait_for_some("the gap is unconfirmed", doubted, WAIT_MAX).await;
    let (code, printed) = recording.audit().await;
    assert_eq!(code, Some(1), "what is in doubt is not complete: {printed}");
    let filled = "SELECT count(*) FROM gaps WHERE channel = 'trade' AND state = 'filled'";
    recording.wait_for_some("the gap is filled", filled, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    let (code, printed) = recording.audit().await;
    assert_eq!(code, Some(0), "{printed}");
    recording.end().await;
}

// Needs: no verdict while REST serves only what is newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trades_that_a_young_database_serves_later_are_filled() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.lose_and_lie("BTCUSDT", 10, |_, last| format!("young:BTCUSDT:{}:{HELD}", last + 5)).await;
    recording.wait_for_trades("BTCUSDT", 400).await;
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: no verdict from an empty page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trades_behind_empty_pages_are_filled() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    recording.lose_and_lie("BTCUSDT", 10, |_, _| format!("empty:{HELD}")).await;
    recording.wait_for_trades("BTCUSDT", 400).await;
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: a symbol that REST calls unknown while its frames come is in doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trades_of_a_symbol_that_rest_calls_unknown_are_filled() {
    let recording = Recording::begin(&["BTCUSDT", "ETHUSDT"], &["trade"], 60.0).await;
    recording.lose_and_lie("BTCUSDT", 10, |_, _| format!("unknown:BTCUSDT:{HELD}")).await;
    recording.wait_for_trades("BTCUSDT", 400).await;
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: the state `unconfirmed` for klines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_klines_are_filled() {
    let recording = Recording::begin_at_speed(&["BTCUSDT"], &["trade", "kline_1m"], 60.0, 10.0).await;
    let now = recording.simulator.control.exchange_time().millis();
    // A minute of this market takes six seconds.
    recording.inject(&format!("hide:BTCUSDT:1m:{}-{}:20s", now - 60_000, now + 120_000));
    recording.inject("mute:BTCUSDT:kline_1m:14s");
    let published = || recording.simulator.control.published_klines("BTCUSDT", tapekeeper::market::Interval::M1).len();
    let goal = published() + 5;
    super::wait_for("klines close", WAIT_MAX, async || (published() >= goal).then_some(())).await;
    recording.simulator.stop_publishing().await;
    assert_klines_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: `[backfill] confirm_after`, and a backfill by a person that asks again after a verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_backfill_reopens_a_verdict() {
    let lines = "[backfill]\nconfirm_after = \"5s\"\n";
    let recording = Recording::begin_with(&["BTCUSDT"], &["trade"], 60.0, 1.0, "", lines).await;
    recording.inject("hole:BTCUSDT:10:ever");
    let verdict = "SELECT count(*) FROM gaps WHERE state = 'never_existed'";
    recording.wait_for_some("the exchange's word is believed after a time", verdict, WAIT_MAX).await;
    let bound = |which| recording.number(&format!("SELECT {which} FROM gaps WHERE state = 'never_existed'"));
    let (first, last) = (bound("min(first_missing)"), bound("max(last_missing)"));
    assert_eq!(last - first + 1, 10);
    (first..=last).for_each(|id| recording.inject(&format!("hide:BTCUSDT:{id}-{id}:0s")));
    let (from, to) = (first.to_string(), last.to_string());
    let arguments = ["backfill", "--symbol", "BTCUSDT", "--from", &from, "--to", &to, "--wait"];
    let output = recording.app.command(&arguments).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.end().await;
}
