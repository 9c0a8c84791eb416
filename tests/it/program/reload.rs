//! Reloads: what applies to the running recorder, what is refused, and that a bad file changes nothing.

use std::time::Duration;

use serde_json::Value;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::HistoryFile;

async fn is_recorded(app: &TestApp, symbol: &str) -> bool {
    let streams = app.get("/api/v1/streams").await;
    streams.as_array().unwrap().iter().any(|stream| stream["symbol"] == symbol)
}

async fn has_trades(app: &TestApp, symbol: &str) {
    let sql = format!("SELECT count(*) FROM trades WHERE symbol = '{symbol}'");
    let count = || HistoryFile::open(app).number(&sql);
    wait_for("trades of a symbol are stored", WAIT_MAX, async || (count() > 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_adds_and_removes_symbols_live() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT", "SOLUSDT"], 100.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    has_trades(&app, "BTCUSDT").await;
    let process = app.pid();

    app.configure(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]));
    let dry = app.command(&["reload", "--dry-run"]).await;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(!is_recorded(&app, "ETHUSDT").await, "a dry run changes nothing");
    let output = app.command(&["reload"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.out.contains("1 streams added, 0 removed"), "{output:?}");
    has_trades(&app, "ETHUSDT").await;

    app.configure(&feed(&simulator, &["BTCUSDT", "ETHUSDT", "SOLUSDT"], &["trade"]));
    let process_text = process.to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &process_text]).status().unwrap().success());
    has_trades(&app, "SOLUSDT").await;
    assert!(app.log().contains("SIGHUP from process"), "the sender is named");

    // A gap that cannot be filled now, in a feed that is removed.
    simulator.control.inject(&"rest:503:60s".parse().unwrap());
    simulator.control.inject(&"drop:BTCUSDT:20".parse().unwrap());
    let open = "SELECT count(*) FROM gaps WHERE symbol = 'BTCUSDT' AND closed_at IS NULL";
    let found = || HistoryFile::open(&app).number(open) > 0;
    wait_for("the gap is found", WAIT_MAX, async || found().then_some(())).await;
    app.configure(&feed(&simulator, &["ETHUSDT", "SOLUSDT"], &["trade"]));
    let (status, answer) = app.post("/api/v1/reload").await;
    assert_eq!(status, 200, "{answer}");
    assert!(!is_recorded(&app, "BTCUSDT").await);
    let superseded = "SELECT count(*) FROM gaps WHERE symbol = 'BTCUSDT' AND state = 'superseded'";
    let done = || {
        let history = HistoryFile::open(&app);
        history.number(superseded) > 0 && history.number(open) == 0
    };
    wait_for("no gap of the removed feed is open", WAIT_MAX, async || done().then_some(())).await;
    assert_eq!(app.pid(), process, "the process is the same");
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_reload_changes_nothing_and_says_why() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 100.0, "").await;
    let good = feed(&simulator, &["BTCUSDT"], &["trade"]);
    let mut app = TestApp::new(&good);
    app.start().await;

    app.configure(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trades"]));
    let output = app.command(&["reload"]).await;
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.err.contains("trades"), "{output:?}");
    let (status, answer) = app.post("/api/v1/reload").await;
    assert_eq!((status, &answer["error"]["code"]), (422, &Value::from("not_reloaded")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("unknown channel `trades`") && message.contains("tapekeeper.toml:"), "{message}");

    app.configure(&format!("{good}[log]\nretention = \"3d\"\n"));
    let (status, answer) = app.post("/api/v1/reload").await;
    let message = answer["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(status, 422, "{answer}");
    assert!(message.contains("retention") && message.contains("restart"), "{message}");

    assert!(!is_recorded(&app, "ETHUSDT").await);
    assert!(app.is_alive());
    // Still recording.
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades");
    let before = count();
    wait_for("more trades are stored", Duration::from_secs(30), async || (count() > before).then_some(())).await;
    app.configure(&good);
    assert_eq!(app.post("/api/v1/reload").await.0, 200);
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_replaces_the_admin_token() {
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let feeds = feed(&simulator, &["BTCUSDT"], &["trade"]);
    let mut app = TestApp::new(&feeds);
    app.admin("token = \"before\"\n");
    app.configure(&feeds);
    app.start().await;
    // A token identifies the caller, so that it may use a foreign name of the service.
    let answers = async |token: &str| {
        let request = app.http().get(format!("{}/api/v1/streams", app.base_url())).bearer_auth(token);
        request.header("host", "recorder.example").send().await.unwrap().status().as_u16()
    };
    assert_eq!((answers("before").await, answers("after").await), (200, 403));
    app.admin("token = \"after\"\n");
    app.configure(&feeds);
    let output = app.command(&["reload"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.out.contains("the admin token changes"), "{output:?}");
    let answers = async |token: &str| {
        let request = app.http().get(format!("{}/api/v1/streams", app.base_url())).bearer_auth(token);
        request.header("host", "recorder.example").send().await.unwrap().status().as_u16()
    };
    assert_eq!((answers("before").await, answers("after").await), (403, 200));
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_reload_that_hangs() {
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    has_trades(&app, "BTCUSDT").await;
    // Nobody writes to this pipe: whoever reads it waits, as for a file system that is gone.
    std::fs::remove_file(app.config_path()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(app.config_path()).status().unwrap().success());
    let process = app.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
    let begun = async || app.log().contains("SIGHUP from process").then_some(());
    wait_for("the reload begins", WAIT_MAX, begun).await;
    // The API and the recording continue meanwhile.
    assert!(is_recorded(&app, "BTCUSDT").await);
    let (status, took) = app.stop().await;
    assert_eq!(status.code(), Some(0), "{}", app.log());
    assert!(took < Duration::from_secs(15), "stopped after {took:?}");
    assert!(app.log().contains("stopped in order"), "{}", app.log());
    simulator.stop().await;
}
