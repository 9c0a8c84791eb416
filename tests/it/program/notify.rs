//! The notify protocol, spoken to a socket of our own instead of systemd's.

use std::collections::VecDeque;
use std::path::Path;

use tokio::net::UnixDatagram;

use super::app::{PATIENCE, TestApp, feed, seed};
use super::market::market;

/// systemd's end of the socket.
struct Systemd {
    socket: UnixDatagram,
    seen: VecDeque<String>,
}

impl Systemd {
    fn listen(path: &Path) -> Self {
        Self { socket: UnixDatagram::bind(path).unwrap(), seen: VecDeque::new() }
    }

    /// Waits for a message with this assignment, and gives the whole message; those before it are dropped.
    async fn expect(&mut self, assignment: &str) -> String {
        let found = async {
            loop {
                while let Some(message) = self.seen.pop_front() {
                    if message.lines().any(|line| line.starts_with(assignment)) {
                        return message;
                    }
                }
                let mut buffer = [0; 8_192];
                let length = self.socket.recv(&mut buffer).await.unwrap();
                self.seen.push_back(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("{assignment} does not come"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_of_start_reload_watchdog_and_stop() {
    let simulator = market(seed(), &["BTCUSDT"], 50.0, "").await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT"], &["trade"]));
    let path = app.directory().join("notify");
    let mut systemd = Systemd::listen(&path);
    app.set("NOTIFY_SOCKET", &path.display().to_string());
    app.set("WATCHDOG_USEC", "4000000");
    app.spawn();
    systemd.expect("STATUS=restoring").await;
    let ready = systemd.expect("READY=1").await;
    assert!(ready.contains("STATUS="), "{ready:?}");
    assert_eq!(app.status("/readyz").await, Some(200), "READY=1 is said when it is ready");
    systemd.expect("WATCHDOG=1").await;
    systemd.expect("STATUS=1/1 streams").await;
    systemd.expect("WATCHDOG=1").await;
    let process = app.process().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
    let reloading = systemd.expect("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading:?}");
    systemd.expect("READY=1").await;
    tapekeeper::signals::terminate(app.process()).unwrap();
    systemd.expect("STOPPING=1").await;
    assert_eq!(app.ended().await.code(), Some(0));
    simulator.stop().await;
}
