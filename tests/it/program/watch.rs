//! Commands that run until they are interrupted: `status --watch` and `tail`.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::app::{BINARY, TestApp, WAIT_MAX, feed, seed, wait_for};
use super::simulated_exchange::start_market;
use super::truth::HistoryFile;

/// A running command and the lines that it prints.
pub(super) struct RunningCommand {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl RunningCommand {
    pub(super) fn start(app: &TestApp, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(app.config_path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(super) async fn next_line(&mut self) -> String {
        let line = tokio::time::timeout(WAIT_MAX, self.lines.next_line()).await.expect("no line comes");
        line.unwrap().expect("the command has ended")
    }

    pub(super) async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_status_repeats_and_survives_a_restart_of_the_service() {
    let simulator = start_market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let mut watcher = RunningCommand::start(&app, &["status", "--watch", "1", "--format", "json"]);
    let started_at = async |watcher: &mut RunningCommand| {
        let status: Value = serde_json::from_str(&watcher.next_line().await).unwrap();
        status["started_at"].clone()
    };
    let first = started_at(&mut watcher).await;
    assert_eq!(started_at(&mut watcher).await, first);
    app.stop_cleanly().await;
    app.start().await;
    while started_at(&mut watcher).await == first {}
    watcher.stop().await;
    let mut watcher = RunningCommand::start(&app, &["status", "--watch", "1"]);
    for _screen in 0..2 {
        while !watcher.next_line().await.starts_with("tapekeeper ") {}
    }
    watcher.stop().await;
    app.stop_cleanly().await;
    let output = app.command(&["status", "--watch"]).await;
    assert_eq!(output.code, Some(69), "without a service there is no screen: {output:?}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_shows_every_trade_as_it_is_recorded() {
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 200.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade"]));
    app.start().await;
    let count = || HistoryFile::open(&app).number("SELECT count(*) FROM trades WHERE symbol = 'ETHUSDT'");
    wait_for("trades are stored", WAIT_MAX, async || (count() >= 20).then_some(())).await;
    let mut tail = RunningCommand::start(&app, &["tail", "--symbol", "ETHUSDT", "-n", "3", "--format", "json"]);
    let mut shown = Vec::new();
    while shown.len() < 300 {
        let row: Value = serde_json::from_str(&tail.next_line().await).unwrap();
        assert_eq!(row["symbol"], "ETHUSDT");
        shown.push(row["trade_id"].as_i64().unwrap());
    }
    tail.stop().await;
    let expected: Vec<i64> = (shown[0]..shown[0] + 300).collect();
    assert_eq!(shown, expected, "every trade once and in order");
    let mut tail = RunningCommand::start(&app, &["tail"]);
    let line = tail.next_line().await;
    assert!(line.contains("USDT") && line.contains(" at ") && line.contains("  id "), "{line}");
    tail.stop().await;
    app.stop_cleanly().await;
    let output = app.command(&["tail", "--symbol", "NOSUCH"]).await;
    assert_eq!(output.code, Some(64), "{output:?}");
    simulator.stop().await;
}
