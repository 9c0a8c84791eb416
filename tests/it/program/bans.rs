//! An exchange that bans this address or blocks its region.

use serde_json::Value;
use tapekeeper::simulator::Source;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::{generated_options, start};
use super::truth::{HistoryFile, assert_complete};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_survives_a_restart_and_the_gap_is_filled_after_it() {
    let mut options = generated_options(seed(), &["BTCUSDT"], 100.0, "");
    // The text of a ban gives its end by the exchange's clock, so that clock must run at the recorder's speed.
    if let Source::Generated(generated) = &mut options.source {
        generated.time_scale = 1.0;
    }
    let simulator = start(options).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 50).then_some(())).await;
    simulator.control.inject(&"ban:15s".parse().unwrap());
    simulator.control.inject(&"drop:BTCUSDT:10".parse().unwrap());
    let reason = || {
        let open = "SELECT reason FROM gaps WHERE closed_at IS NULL AND reason LIKE '%ban%'";
        HistoryFile::open(&app).strings(open).into_iter().next()
    };
    let reason = wait_for("the gap is open because of the ban", WAIT_MAX, async || reason()).await;
    assert!(reason.contains("bans this address until"), "{reason}");
    let banned = simulator.control.counters().rest_banned;
    app.stop_cleanly().await;
    let text = std::fs::read_to_string(app.data_dir.join("service_state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    assert!(state["ban_until"]["binance"].is_i64(), "the deadline is saved: {state}");
    app.start().await;
    assert!(app.get("/api/v1/status").await["rest"]["binance"]["banned_until"].is_string());
    let filled = || HistoryFile::open(&app).number("SELECT count(*) FROM gaps WHERE state = 'filled'") > 0;
    wait_for("the gap is filled after the ban", WAIT_MAX * 2, async || filled().then_some(())).await;
    // Not one request reached the exchange during the ban.
    assert_eq!(simulator.control.counters().rest_banned, banned);
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_saved_when_it_begins_and_survives_a_kill() {
    let simulator = start(generated_options(seed(), &["BTCUSDT"], 100.0, "")).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 50).then_some(())).await;
    simulator.control.inject(&"ratelimit:30s".parse().unwrap());
    simulator.control.inject(&"drop:BTCUSDT:10".parse().unwrap());
    let file = app.data_dir.join("service_state.json");
    let saved = || {
        let state: Value = serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()?;
        state["limit_until"]["binance"].as_i64()
    };
    wait_for("the deadline is saved while the recorder runs", WAIT_MAX, async || saved()).await;
    app.kill().await;
    let limited = simulator.control.counters().rest_rate_limited;
    app.start().await;
    let until = app.get("/api/v1/status").await["rest"]["binance"]["limited_until"].clone();
    assert!(until.as_str().is_some_and(|until| until.ends_with('Z')), "{until}");
    let filled = || HistoryFile::open(&app).number("SELECT count(*) FROM gaps WHERE state = 'filled'") > 0;
    wait_for("the gap is filled after the pause", WAIT_MAX * 2, async || filled().then_some(())).await;
    // Not one request reached the exchange during the pause.
    assert_eq!(simulator.control.counters().rest_rate_limited, limited);
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_websocket_is_saved_when_it_is_refused_and_waits_over_a_kill() {
    let simulator = start(generated_options(seed(), &["BTCUSDT"], 100.0, "")).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let data_dir = app.data_dir.clone();
    let count = || HistoryFile::open_in(&data_dir).number("SELECT count(*) FROM trades");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 50).then_some(())).await;
    simulator.control.inject(&"upgrade:418:25s:10m".parse().unwrap());
    simulator.control.inject(&"cut".parse().unwrap());
    let file = app.data_dir.join("service_state.json");
    let saved = || {
        let state: Value = serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()?;
        state["connect_after"]["binance"].as_i64()
    };
    wait_for("the deadline is saved while the recorder runs", WAIT_MAX, async || saved()).await;
    app.kill().await;
    let refused = simulator.control.counters().upgrades_refused;
    app.start().await;
    let state = async || {
        let state = app.get("/api/v1/status").await["connections"][0]["state"].to_string();
        state.contains("refused the connections of this address").then_some(())
    };
    wait_for("status says why there is no connection", WAIT_MAX, state).await;
    assert_eq!(simulator.control.counters().upgrades_refused, refused, "an attempt during the ban");
    simulator.control.inject(&"upgrade:418:25s:0s".parse().unwrap());
    let before = count();
    wait_for("trades are stored after the ban", WAIT_MAX * 2, async || (count() > before).then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_geo_block_is_explained_and_retried_rarely() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut upgrades) = tokio::sync::mpsc::channel(1_000);
    let server = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let length = socket.read(&mut request).await.unwrap_or(0);
            let upgrade = String::from_utf8_lossy(&request[..length]).to_lowercase().contains("upgrade: websocket");
            let answer = "HTTP/1.1 451 Unavailable For Legal Reasons\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            if socket.write_all(answer.as_bytes()).await.is_err() || (upgrade && sender.send(()).await.is_err()) {
                return;
            }
        }
    });
    let urls = format!("ws_url = \"ws://{address}\"\nrest_url = \"http://{address}\"\n");
    let feeds = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n";
    let mut app = TestApp::new(&format!("{feeds}{urls}"));
    app.start().await;
    let words = || app.log().contains("use a server in a permitted region or set ws_url");
    wait_for("the log names the remedy", WAIT_MAX, async || words().then_some(())).await;
    let degraded = async || {
        let health = app.get("/healthz").await;
        health["degraded"].to_string().contains("permitted region").then_some(())
    };
    wait_for("health names the remedy", WAIT_MAX, degraded).await;
    assert_eq!(app.status("/healthz").await, Some(200), "an exchange that is down never restarts the recorder");
    let mut attempts = 0;
    while upgrades.try_recv().is_ok() {
        attempts += 1;
    }
    assert!(attempts <= 2, "{attempts} attempts in a few seconds");
    assert!(app.is_alive());
    app.stop_cleanly().await;
    server.abort();
}
