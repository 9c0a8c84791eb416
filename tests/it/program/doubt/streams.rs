//! Streams that are refused, never delivered, or that nobody subscribed to.

use super::super::app::{WAIT_MAX, wait_for};
use super::super::truth::assert_complete;
use super::Recording;

/// Bytes of the log's files.
fn log_bytes(recording: &Recording) -> u64 {
    let files = std::fs::read_dir(&recording.app.data_dir).unwrap().map(Result::unwrap);
    let of_log = files.filter(|file| file.file_name().to_string_lossy().starts_with("log"));
    of_log.map(|file| file.metadata().unwrap().len()).sum()
}

// Needs: frames of streams that nobody subscribed to are counted and dropped before the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_foreign_symbols_is_not_recorded() {
    const INVENTED: u64 = 60_000;
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    let before = log_bytes(&recording);
    recording.inject(&format!("foreign:{INVENTED}"));
    let sent = || recording.simulator.control.counters().frames_foreign == INVENTED;
    wait_for("the flood is sent", WAIT_MAX, async || sent().then_some(())).await;
    recording.wait_for_trades("BTCUSDT", 60).await;
    assert_eq!(recording.number("SELECT count(DISTINCT symbol) FROM trades"), 1);
    assert_eq!(recording.number("SELECT count(*) FROM dead_letters"), 0);
    assert_eq!(recording.app.get("/api/v1/streams").await.as_array().map(Vec::len), Some(1));
    // Each of the invented frames has more than 150 bytes.
    let grown = log_bytes(&recording).saturating_sub(before);
    assert!(grown < INVENTED * 50, "the log grew by {grown} bytes");
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.end().await;
}

// Needs: one refused stream of a shared connection is asked for alone; the others stay on their connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_does_not_cost_the_others_their_connection() {
    let mut recording = Recording::begin(&["BTCUSDT", "ETHUSDT"], &["trade"], 60.0).await;
    recording.app.stop_cleanly().await;
    recording.inject("refusestream:ETHUSDT:trade:ever");
    recording.app.start().await;
    recording.wait_for_trades("BTCUSDT", 100).await;
    recording.wait_for_trades("BTCUSDT", 400).await;
    let reconnects = recording.app.get("/api/v1/status").await["reconnects"].as_u64();
    assert!(reconnects.is_some_and(|count| count <= 1), "{reconnects:?} reconnects");
    recording.inject("refusestream:ETHUSDT:trade:0s");
    recording.wait_for_trades("ETHUSDT", 30).await;
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: a stream that is acknowledged and never delivered, while REST shows that it trades, does not cost the others
// their connection again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_muted_stream_does_not_cost_the_others_their_connection() {
    let recording = Recording::begin(&["BTCUSDT", "ETHUSDT"], &["trade"], 60.0).await;
    recording.inject("mute:ETHUSDT:trade:30s");
    recording.wait_for_trades("BTCUSDT", 800).await;
    let reconnects = recording.app.get("/api/v1/status").await["reconnects"].as_u64();
    assert!(reconnects.is_some_and(|count| count <= 2), "{reconnects:?} reconnects");
    recording.inject("mute:ETHUSDT:trade:0s");
    recording.wait_for_trades("ETHUSDT", 30).await;
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}

// Needs: a stream that was refused (any code) is asked for again; wrong answers, or none, end in a recording once the
// exchange answers rightly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_answers_to_subscriptions_end_in_a_recording() {
    let recording = Recording::begin(&["BTCUSDT"], &["trade"], 60.0).await;
    for lie in ["wrong", "text", "null", "absent", "error", "close"] {
        let wrongly = || recording.simulator.control.counters().requests_answered_wrongly;
        let before = wrongly();
        recording.inject(&format!("ack:{lie}:ever"));
        recording.inject("cut");
        wait_for(&format!("an answer is {lie}"), WAIT_MAX, async || (wrongly() > before).then_some(())).await;
        recording.inject(&format!("ack:{lie}:0s"));
        recording.wait_for_trades("BTCUSDT", 30).await;
    }
    recording.simulator.stop_publishing().await;
    assert_complete(&recording.app, &recording.simulator, WAIT_MAX).await;
    recording.assert_no_wrong_verdict();
    recording.end().await;
}
