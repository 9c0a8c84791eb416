//! Commands that go on until they are interrupted: a status that is watched.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::app::{BINARY, PATIENCE, TestApp, feed, seed};
use super::market::market;

/// A command that runs on, and its lines.
struct Watcher {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watcher {
    fn start(app: &TestApp, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(app.config()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("no line comes");
        line.unwrap().expect("the command has ended")
    }

    async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_status_comes_again_and_outlives_a_restart() {
    let simulator = market(seed(), &["BTCUSDT"], 100.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    app.start().await;
    let mut watcher = Watcher::start(&app, &["status", "--watch", "1", "--format", "json"]);
    let started_at = async |watcher: &mut Watcher| {
        let status: Value = serde_json::from_str(&watcher.line().await).unwrap();
        status["started_at"].clone()
    };
    let first = started_at(&mut watcher).await;
    assert_eq!(started_at(&mut watcher).await, first);
    app.stop_well().await;
    app.start().await;
    while started_at(&mut watcher).await == first {}
    watcher.stop().await;
    let mut watcher = Watcher::start(&app, &["status", "--watch", "1"]);
    for _screen in 0..2 {
        while !watcher.line().await.starts_with("tapekeeper ") {}
    }
    watcher.stop().await;
    app.stop_well().await;
    let output = app.command(&["status", "--watch"]).await;
    assert_eq!(output.code, Some(69), "a service that never was there is no screen: {output:?}");
    simulator.stop().await;
}
