//! The JSON documents that dashboards and acceptance runs rely on: DESIGN.md section 5, "HTTP".

use serde_json::{Value, json};

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::HistoryFile;

fn has_keys(document: &Value, keys: &[&str]) {
    for key in keys {
        assert!(document.get(key).is_some(), "no `{key}` in {document}");
    }
}

async fn recorder() -> (tapekeeper::simulator::Simulator, TestApp) {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 200.0, "drop:BTCUSDT:5@1s").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade", "kline_1m"]));
    app.start().await;
    let filled = || HistoryFile::open(&app).number("SELECT count(*) FROM gaps WHERE state = 'filled'") > 0;
    wait_for("a gap is filled", WAIT_MAX, async || filled().then_some(())).await;
    let klines = || HistoryFile::open(&app).number("SELECT count(*) FROM klines") > 1;
    wait_for("a kline is closed", WAIT_MAX, async || klines().then_some(())).await;
    (simulator, app)
}

/// Pauses all jobs except one, checks which job runs next, and resumes them.
async fn assert_the_next_run_skips_paused_jobs(app: &TestApp, names: &[&str]) {
    let others = || names.iter().filter(|name| **name != "state-snapshot");
    for name in others() {
        let paused = json!({"job": name, "paused": true, "reason": "by hand"});
        assert_eq!(app.post(&format!("/api/v1/jobs/{name}/pause")).await, (200, paused));
    }
    assert_eq!(app.get("/api/v1/status").await["jobs"]["next"]["job"], "state-snapshot");
    for name in others() {
        assert_eq!(app.post(&format!("/api/v1/jobs/{name}/resume")).await.1["paused"], false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_document_has_its_shape() {
    let (simulator, mut app) = recorder().await;
    has_keys(&app.get("/healthz").await, &["status", "degraded"]);
    assert_eq!(app.get("/readyz").await["ready"], true);
    let status = app.get("/api/v1/status").await;
    has_keys(
        &status,
        &["version", "ready", "degraded", "started_at", "streams", "log", "gaps", "dead_letters", "rest"],
    );
    assert_eq!((&status["streams"]["total"], &status["ready"]), (&json!(4), &json!(true)));

    let streams = app.get("/api/v1/streams").await;
    assert_eq!(streams.as_array().unwrap().len(), 4);
    has_keys(&streams[0], &["exchange", "symbol", "channel", "last", "last_ts", "open_gaps", "receiving"]);
    let gaps = app.get("/api/v1/gaps").await;
    let keys = [
        "gap_id",
        "exchange",
        "symbol",
        "channel",
        "first_missing",
        "last_missing",
        "from_ts",
        "to_ts",
        "state",
        "detected_at",
        "closed_at",
        "filled",
        "attempts",
        "reason",
    ];
    has_keys(&gaps[0], &keys);
    assert_eq!(gaps[0]["filled"], 5, "{gaps}");
    let coverage = app.get("/api/v1/coverage?symbol=BTCUSDT").await;
    assert_eq!(coverage.as_array().unwrap().len(), 2);
    let keys = [
        "exchange",
        "symbol",
        "channel",
        "first",
        "last",
        "expected",
        "present",
        "backfilled",
        "missing",
        "open_gaps",
        "complete",
        "state",
        "recoverable",
        "days",
    ];
    has_keys(&coverage[0], &keys);
    let by_id = json!({
        "by": "trade_id", "rows_per_request": 1_000, "request_weight": 25, "kept_s": null, "oldest_served": null
    });
    assert_eq!((&coverage[0]["recoverable"], &coverage[0]["state"]), (&by_id, &json!("backfilled")), "{coverage}");
    assert_eq!((&coverage[0]["missing"], &coverage[0]["complete"]), (&json!([]), &json!(true)), "{coverage}");
    assert_eq!((&coverage[0]["expected"], &coverage[0]["backfilled"]), (&coverage[0]["present"], &json!(5)));

    let jobs = app.get("/api/v1/jobs").await;
    let names: Vec<&str> = jobs.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    for name in ["state-snapshot", "consistency-audit", "gap-sweep", "cache-preload", "retention"] {
        assert!(names.contains(&name), "no job {name} in {names:?}");
    }
    assert_eq!(app.post("/api/v1/jobs/gap-sweep/run?wait=true").await.1["outcome"], "succeeded");
    assert_the_next_run_skips_paused_jobs(&app, &names).await;
    has_keys(&app.post("/api/v1/reload").await.1, &["changed"]);
    has_keys(&app.get("/api/v1/admin/consistency-check").await, &["checked", "issues"]);
    has_keys(&app.post("/api/v1/admin/repair-data").await.1, &["repaired", "sent_to_backfill", "unrepaired"]);

    let runs = app.get("/api/v1/jobs/history?job=gap-sweep").await;
    assert_eq!(runs[0]["outcome"], "succeeded");
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_the_metrics_are_served() {
    let (simulator, mut app) = recorder().await;
    let page = app.http().get(app.base_url()).send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.text().await.unwrap().contains("BTCUSDT"));
    let metrics = app.http().get(format!("{}/metrics", app.base_url())).send().await.unwrap();
    assert_eq!(metrics.status(), 200);
    assert!(metrics.text().await.unwrap().contains("# TYPE tapekeeper_"));
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_requests_are_refused_with_their_code() {
    let (simulator, mut app) = recorder().await;
    let http = app.http().clone();
    let url = |path: &str| format!("{}{path}", app.base_url());
    let get = |path: &str| http.get(url(path));
    let post = |path: &str| http.post(url(path));
    let backfill = |body: &'static str| post("/api/v1/admin/backfill").body(body);
    let unknown = r#"{"exchange":"binance","symbol":"NONE","from":1,"to":2}"#;
    let cases = [
        (get("/api/v1/nothing"), 404, "not_found"),
        (get("/api/v1/reload"), 405, "method_not_allowed"),
        (post("/api/v1/status"), 405, "method_not_allowed"),
        (get("/api/v1/gaps?state=closed"), 400, "bad_request"),
        (get("/api/v1/gaps?limit=many"), 400, "bad_request"),
        (get("/api/v1/gaps?color=red"), 400, "bad_request"),
        (get("/api/v1/coverage?symbol=NONE"), 404, "unknown_symbol"),
        (post("/api/v1/jobs/none/run"), 404, "unknown_job"),
        (post("/api/v1/jobs/none/pause"), 404, "unknown_job"),
        (backfill("{"), 400, "bad_request"),
        (backfill(unknown), 404, "unknown_symbol"),
        (post("/api/v1/reload").header("origin", "http://evil.example"), 403, "cross_site"),
        (post("/api/v1/admin/repair-data").header("sec-fetch-site", "cross-site"), 403, "cross_site"),
        (get("/api/v1/status").header("host", "evil.example"), 403, "unknown_host"),
    ];
    for (request, status, code) in cases {
        let request = request.build().unwrap();
        let name = format!("{} {}", request.method(), request.url());
        let answer = http.execute(request).await.unwrap();
        let got = answer.status().as_u16();
        let document: Value = answer.json().await.unwrap();
        assert_eq!((got, &document["error"]["code"]), (status, &json!(code)), "{name}: {document}");
        assert!(document["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{document}");
    }
    app.stop_cleanly().await;
    simulator.stop().await;
}
