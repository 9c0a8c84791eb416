//! Access to the admin API: the unix socket for those who may open it, the port with the bearer token for all others.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use serde_json::json;

use super::app::{TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_use_the_socket_which_survives_a_kill_and_is_removed_by_a_stop() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let feeds = feed(&simulator, &["BTCUSDT"], &["trade"]);
    let mut app = TestApp::new(&feeds);
    let socket = app.directory().join("admin.sock");
    // Without a token this address allows no changes, so a command that changes something has used the socket.
    app.listen_everywhere();
    app.admin(&format!("socket = {:?}\n", socket.display().to_string()));
    app.configure(&feeds);
    app.start().await;
    let found = std::fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    assert_eq!(app.post("/api/v1/jobs/gap-sweep/pause").await.0, 401);
    assert_eq!(app.command(&["jobs", "pause", "gap-sweep"]).await.code, Some(0));
    assert_eq!(app.command(&["status"]).await.code, Some(0));

    let mut other = TestApp::new(&feeds);
    other.admin(&format!("socket = {:?}\n", socket.display().to_string()));
    other.configure(&feeds);
    other.start().await;
    let degraded = other.get("/healthz").await["degraded"]["admin"].as_str().unwrap_or_default().to_owned();
    assert!(degraded.contains("another process serves"), "{degraded}");
    other.stop_cleanly().await;
    assert!(socket.exists(), "a recorder that did not serve the socket removed it");

    app.kill().await;
    let output = app.command(&["jobs", "resume", "gap-sweep"]).await;
    assert_eq!(output.code, Some(69), "{output:?}");
    assert!(output.err.contains("not running") && output.err.contains("admin.sock"), "{}", output.err);
    app.start().await;
    assert_eq!(app.command(&["jobs", "resume", "gap-sweep"]).await.code, Some(0));
    app.stop_cleanly().await;
    assert!(!socket.exists(), "the socket was not removed");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_beyond_loopback_is_logged_and_needs_the_token() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let feeds = feed(&simulator, &["BTCUSDT"], &["trade"]);
    let mut app = TestApp::new(&feeds);
    app.listen_everywhere();
    app.configure(&feeds);
    app.start().await;
    let line_with = |app: &TestApp, words: &str| app.log().lines().find(|line| line.contains(words)).map(str::to_owned);
    let line = line_with(&app, "no token is set").expect("the start warns");
    assert!(line.contains("WARN") && line.contains("admin-token"), "{line}");
    let output = app.command(&["jobs", "pause", "gap-sweep"]).await;
    assert_eq!(output.code, Some(77), "{output:?}");
    assert!(output.err.contains("token"), "{}", output.err);
    app.stop_cleanly().await;

    app.set_env("TAPEKEEPER_ADMIN_TOKEN", "open sesame");
    app.start().await;
    let line = line_with(&app, "need the bearer token").expect("the start logs it");
    assert!(line.contains("INFO"), "{line}");
    let url = format!("{}/api/v1/jobs/gap-sweep/pause", app.base_url());
    assert_eq!(app.http().post(&url).bearer_auth("open").send().await.unwrap().status(), 401);
    assert_eq!(app.http().post(&url).bearer_auth("open sesame").send().await.unwrap().status(), 200);
    let paused = async || {
        let jobs = app.get("/api/v1/jobs").await;
        let job = jobs.as_array().into_iter().flatten().find(|job| job["name"] == "gap-sweep").cloned();
        job.filter(|job| job["paused"] == json!(true))
    };
    wait_for("the job is paused", WAIT_MAX, paused).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}
