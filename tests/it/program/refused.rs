//! An exchange that bans or refuses this address.

use serde_json::Value;
use tapekeeper::simulator::Source;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::app::{PATIENCE, TestApp, eventually, feed, seed};
use super::market::{generated, open};
use super::truth::{History, assert_complete};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_is_kept_over_a_restart_and_heals() {
    let mut options = generated(seed(), &["BTCUSDT"], 100.0, "");
    // The words of a ban name its end by the exchange's clock: here it runs as ours does.
    if let Source::Generated(generated) = &mut options.source {
        generated.time_scale = 1.0;
    }
    let simulator = open(options).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let count = || History::open(&app).number("SELECT count(*) FROM trades");
    eventually("trades are stored", PATIENCE, async || (count() >= 50).then_some(())).await;
    simulator.control.inject(&"ban:15s".parse().unwrap());
    simulator.control.inject(&"drop:BTCUSDT:10".parse().unwrap());
    let reason = || {
        let open = "SELECT reason FROM gaps WHERE closed_at IS NULL AND reason LIKE '%ban%'";
        History::open(&app).texts(open).into_iter().next()
    };
    let reason = eventually("the gap is open because of the ban", PATIENCE, async || reason()).await;
    assert!(reason.contains("bans this address until"), "{reason}");
    let banned = simulator.control.counters().rest_banned;
    app.stop_well().await;
    let text = std::fs::read_to_string(app.data_dir.join("service_state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    assert!(state["ban_until"]["binance"].is_i64(), "the deadline is kept: {state}");
    app.start().await;
    assert!(app.get("/api/v1/status").await["rest"]["binance"]["banned_until"].is_i64());
    let filled = || History::open(&app).number("SELECT count(*) FROM gaps WHERE state = 'filled'") > 0;
    eventually("the gap is filled after the ban", PATIENCE * 2, async || filled().then_some(())).await;
    // Not one request reached the exchange during the ban.
    assert_eq!(simulator.control.counters().rest_banned, banned);
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, PATIENCE).await;
    app.stop_well().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_geo_block_is_said_in_plain_words_and_not_hammered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, mut upgrades) = tokio::sync::mpsc::channel(1_000);
    let server = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let length = socket.read(&mut request).await.unwrap_or(0);
            let upgrade = String::from_utf8_lossy(&request[..length]).to_lowercase().contains("upgrade: websocket");
            let answer = "HTTP/1.1 451 Unavailable For Legal Reasons\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            if socket.write_all(answer.as_bytes()).await.is_err() || (upgrade && seen.send(()).await.is_err()) {
                return;
            }
        }
    });
    let urls = format!("ws_url = \"ws://{address}\"\nrest_url = \"http://{address}\"\n");
    let feeds = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n";
    let mut app = TestApp::new(&format!("{feeds}{urls}"));
    app.start().await;
    let words = || app.log().contains("use a server in a permitted region or set ws_url");
    eventually("the log says what to do", PATIENCE, async || words().then_some(())).await;
    let degraded = async || {
        let health = app.get("/healthz").await;
        health["degraded"].to_string().contains("permitted region").then_some(())
    };
    eventually("health says what to do", PATIENCE, degraded).await;
    assert_eq!(app.status("/healthz").await, Some(200), "a dead exchange never restarts us");
    let mut attempts = 0;
    while upgrades.try_recv().is_ok() {
        attempts += 1;
    }
    assert!(attempts <= 2, "{attempts} attempts in a few seconds");
    assert!(app.is_alive());
    app.stop_well().await;
    server.abort();
}
