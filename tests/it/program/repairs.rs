//! Repairs of ranges that the exchange does not serve, or no longer serves.

use serde_json::{Value, json};
use tapekeeper::market::Symbol;
use tapekeeper::simulator::Fault;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::{HistoryFile, assert_complete};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trades_that_the_exchange_no_longer_serves_are_unrecoverable_with_the_reason() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 300.0, "").await;
    let feed = feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]);
    let mut app = TestApp::new(&format!("{feed}\n[backfill]\nconfirm_after = \"4s\"\n"));
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades WHERE symbol = 'BTCUSDT'");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 400).then_some(())).await;
    let output = app.command(&["backfill", "--symbol", "BTCUSDT", "--from", "1", "--to", "2"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.out.contains("about less than a minute within the exchange's request weight"), "{output:?}");
    let gone = "SELECT reason FROM gaps WHERE state = 'unrecoverable' AND first_missing = 1 AND last_missing = 2";
    let reason = wait_for("ids below all that is served are unrecoverable", WAIT_MAX * 2, async || {
        HistoryFile::open(&app).strings(gone).pop()
    })
    .await;
    assert!(reason.contains("no longer served") && reason.contains("would have been served until"), "{reason}");
    let waited = app.command(&["backfill", "--symbol", "BTCUSDT", "--from", "1", "--to", "2", "--wait"]).await;
    assert_eq!(waited.code, Some(1), "unrecoverable trades are not filled: {waited:?}");
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    let audit = app.command(&["audit", "--symbol", "BTCUSDT"]).await;
    assert_eq!(audit.code, Some(1), "the requested rows are missing: {audit:?}");
    assert!(audit.out.contains(": NOT complete, 0 missing"), "nothing is missing after the first row: {audit:?}");
    assert!(audit.out.contains("\n  unrecoverable 1..2: no longer served"), "{audit:?}");
    // From here on the exchange does not serve the first trades, and another program deletes some of them.
    let first = HistoryFile::open(&app).number("SELECT min(trade_id) FROM trades WHERE symbol = 'BTCUSDT'");
    simulator.control.inject(&Fault::Forget(Symbol::new("BTCUSDT"), first + 100));
    let connection = rusqlite::Connection::open(app.data_dir.join("history.db")).unwrap();
    connection.busy_timeout(WAIT_MAX).unwrap();
    let sql = "DELETE FROM trades WHERE symbol = 'BTCUSDT' AND trade_id BETWEEN ?1 AND ?2";
    assert_eq!(connection.execute(sql, [first + 50, first + 149]).unwrap(), 100);
    assert_eq!(app.command(&["jobs", "run", "gap-sweep", "--wait"]).await.code, Some(0));
    let closed = format!(
        "SELECT state || ' ' || (first_missing - {first}) || '..' || (last_missing - {first}) FROM gaps
         WHERE detected_by = 'sweep' AND closed_at IS NOT NULL ORDER BY first_missing, last_missing"
    );
    let expected = ["unrecoverable 50..99", "superseded 50..149", "filled 100..149"];
    wait_for("the gap is split into a filled and an unrecoverable one", WAIT_MAX * 2, async || {
        (HistoryFile::open(&app).strings(&closed) == expected).then_some(())
    })
    .await;
    assert_eq!(app.command(&["coverage"]).await.code, Some(1), "unrecoverable trades are missing");
    let gaps = app.command(&["gaps", "--format", "json"]).await.out;
    let gaps: Vec<Value> = gaps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let filled = gaps.iter().find(|gap| gap["state"] == "filled").unwrap();
    assert_eq!((&filled["filled_by"], &filled["evidence"]["by"]), (&json!("rest"), &json!("sweep")), "{filled}");
    assert!(filled["filled_at"].is_string() && filled["detected_at"].is_string(), "{filled}");
    app.stop_cleanly().await;
    simulator.stop().await;
}
