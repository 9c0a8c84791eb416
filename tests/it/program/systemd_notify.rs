//! The notify protocol, with a socket of the test in place of systemd's.

use std::collections::VecDeque;
use std::path::Path;

use tokio::net::UnixDatagram;

use super::app::{TestApp, WAIT_MAX, feed, seed};
use super::simulated_exchange::start_market;

/// systemd's end of the socket.
struct Systemd {
    socket: UnixDatagram,
    messages: VecDeque<String>,
}

impl Systemd {
    fn listen(path: &Path) -> Self {
        Self { socket: UnixDatagram::bind(path).unwrap(), messages: VecDeque::new() }
    }

    /// Waits for a message with this assignment and returns the whole message; drops those before it.
    async fn expect(&mut self, assignment: &str) -> String {
        let found = async {
            loop {
                while let Some(message) = self.messages.pop_front() {
                    if message.lines().any(|line| line.starts_with(assignment)) {
                        return message;
                    }
                }
                let mut buffer = [0; 8_192];
                let length = self.socket.recv(&mut buffer).await.unwrap();
                self.messages.push_back(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
        };
        let found = tokio::time::timeout(WAIT_MAX, found).await;
        found.unwrap_or_else(|_| panic!("{assignment} does not come"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_notified_of_start_reload_watchdog_and_stop() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let path = app.directory().join("notify");
    let mut systemd = Systemd::listen(&path);
    app.set_env("NOTIFY_SOCKET", &path.display().to_string());
    app.set_env("WATCHDOG_USEC", "4000000");
    app.spawn();
    systemd.expect("STATUS=restoring").await;
    systemd.expect("EXTEND_TIMEOUT_USEC=").await;
    let ready = systemd.expect("READY=1").await;
    assert!(ready.contains("STATUS="), "{ready:?}");
    assert_eq!(app.status("/readyz").await, Some(200), "READY=1 is sent when the recorder is ready");
    systemd.expect("WATCHDOG=1").await;
    let status = systemd.expect("STATUS=1/1 streams, lag ").await;
    assert!(status.contains(" 0 gaps") && status.contains(", next snapshot "), "{status:?}");
    systemd.expect("WATCHDOG=1").await;
    let process = app.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
    let reloading = systemd.expect("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading:?}");
    systemd.expect("READY=1").await;
    tapekeeper::signals::terminate(app.pid()).unwrap();
    systemd.expect("STOPPING=1").await;
    systemd.expect("EXTEND_TIMEOUT_USEC=").await;
    assert_eq!(systemd.expect("BARRIER=1").await, "BARRIER=1\n");
    assert_eq!(app.wait_for_exit().await.code(), Some(0));
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_reload_ends_for_systemd_too_and_the_status_says_why() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let path = app.directory().join("notify");
    let mut systemd = Systemd::listen(&path);
    app.set_env("NOTIFY_SOCKET", &path.display().to_string());
    app.start().await;
    systemd.expect("READY=1").await;
    app.configure(&feed(&simulator, &["BTCUSDT"], &["trades"]));
    let process = app.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
    systemd.expect("RELOADING=1").await;
    let ready = systemd.expect("READY=1").await;
    assert!(ready.contains("changed nothing") && ready.contains("unknown channel `trades`"), "{ready:?}");
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_loop_is_named_and_the_next_process_names_it_again() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let path = app.directory().join("notify");
    let mut systemd = Systemd::listen(&path);
    app.set_env("NOTIFY_SOCKET", &path.display().to_string());
    app.set_env("WATCHDOG_USEC", "20000000");
    app.set_env("TAPEKEEPER_FAULTS", "wedge:consume@2s");
    app.spawn();
    systemd.expect("READY=1").await;
    let stuck = systemd.expect("WATCHDOG=trigger").await;
    assert!(stuck.contains("STATUS=stuck: consume has made no progress"), "{stuck:?}");
    assert!(app.log().contains("TAPEKEEPER_FAULTS is set"), "the log warns of faults");
    app.kill().await;

    app.set_env("TAPEKEEPER_FAULTS", "");
    app.start().await;
    systemd.expect("STATUS=restarted by the watchdog: consume had made no progress").await;
    let ready = systemd.expect("READY=1").await;
    assert!(ready.contains("; restarted by the watchdog: consume"), "{ready:?}");
    let metrics = app.http().get(format!("{}/metrics", app.base_url())).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tapekeeper_watchdog_restart_timestamp_seconds{loop=\"consume\"} "), "{metrics}");
    assert!(app.log().contains("restarted by the watchdog: consume"));
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_the_start_does_not_wait_for_it() {
    let simulator = start_market(seed(), &["BTCUSDT"], 50.0, "").await;
    // A history that accepts connections and never answers.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let history = format!(
        "[history]\nbackend = \"clickhouse\"\n[history.clickhouse]\nurl = \"http://{}\"\n",
        nobody.local_addr().unwrap()
    );
    let mut app = TestApp::new(&(feed(&simulator, &["BTCUSDT"], &["trade"]) + &history));
    let path = app.directory().join("notify");
    let mut systemd = Systemd::listen(&path);
    app.set_env("NOTIFY_SOCKET", &path.display().to_string());
    app.spawn();
    systemd.expect("STATUS=connected, opening the stores").await;
    let (status, _) = app.stop().await;
    assert_eq!(status.code(), Some(0));
    systemd.expect("STOPPING=1").await;
    assert!(app.log().contains("stopping before the start is over: SIGTERM from process"), "{}", app.log());
    simulator.stop().await;
}

#[tokio::test]
async fn invalid_faults_are_refused() {
    let nobody = "ws_url = \"ws://127.0.0.1:9\"\nrest_url = \"http://127.0.0.1:9\"";
    let feed = format!("[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n{nobody}\n");
    let mut app = TestApp::new(&feed);
    app.set_env("TAPEKEEPER_FAULTS", "wedge:admin@2s");
    app.spawn();
    assert_eq!(app.wait_for_exit().await.code(), Some(64));
    assert!(app.log().contains("TAPEKEEPER_FAULTS: `wedge:admin@2s` is not wedge:LOOP@DURATION"), "{}", app.log());
}
