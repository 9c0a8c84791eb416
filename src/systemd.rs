//! The protocol with systemd: READY, STATUS, RELOADING, STOPPING, timeout extensions, the admin listener, and the
//! watchdog, which is fed while the heartbeats prove progress. Must not know what the loops do.
//!
//! Outside systemd every call does nothing.

use std::fs;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context;
use sd_notify::NotifyState;
use tracing::{error, warn};

use crate::atomic_file;
use crate::heartbeat::{Heartbeats, LoopStatus, StuckLoop};
use crate::messages;

/// Longest status text: systemd cuts longer lines in its own displays.
const STATUS_BYTES_MAX: usize = 400;
/// By how much one request extends the timeout of a start or a stop.
const EXTEND_BY: Duration = Duration::from_secs(30);
/// Time between two such requests: a busy machine may delay one by some seconds.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for systemd to read our last message.
const BARRIER_MAX: Duration = Duration::from_secs(1);
/// In the state directory: the name of the loop for which the watchdog ends the process, and milliseconds since its
/// last beat.
const STUCK_LOOP_FILE: &str = "watchdog_reason";
/// Time for the journal to take the log line with the reason.
const LOG_FLUSH_WAIT: Duration = Duration::from_millis(300);

/// Reports that the start is over.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&sanitise(status))]);
}

/// Sets the status line of `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&sanitise(text))]);
}

/// Reports that the stop has begun.
pub fn stopping(reason: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&sanitise(reason))]);
}

/// Reports that a reload has begun; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => warn!("cannot read the monotonic clock for systemd: {error}"),
    }
}

/// Runs a part of the start or the stop that may take longer than the unit's timeouts, and asks systemd for more time
/// meanwhile. It asks for at most `limit`, so that systemd still ends a part that hangs.
pub async fn extend_timeout_while<T>(limit: Duration, part: impl Future<Output = T>) -> T {
    let mut part = std::pin::pin!(part);
    let began = Instant::now();
    loop {
        if began.elapsed() < limit {
            send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(EXTEND_BY.as_micros()).unwrap_or(u32::MAX))]);
        }
        if let Ok(outcome) = tokio::time::timeout(EXTEND_EVERY, &mut part).await {
            return outcome;
        }
    }
}

/// Waits until systemd has read all our messages: it cannot attribute a message to the unit once the sending process
/// has ended.
pub async fn barrier() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // systemd closes its copy of the pipe's end when it reads this message. BARRIER must be the only line of the
    // message.
    let waited = tokio::task::spawn_blocking(|| -> io::Result<()> {
        let (mut reader, writer) = io::pipe()?;
        sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
        drop(writer);
        reader.read_to_end(&mut Vec::new()).map(drop)
    });
    match tokio::time::timeout(BARRIER_MAX, waited).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => warn!("cannot wait for systemd: {error}"),
        Ok(Err(error)) => warn!("the wait for systemd ended in a panic: {error}"),
        Err(_elapsed) => warn!("systemd has not read our last message within {} s", BARRIER_MAX.as_secs()),
    }
}

/// The listener that systemd keeps open across restarts (`tapekeeper.socket`). Returns it once.
pub fn listener() -> anyhow::Result<Option<TcpListener>> {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0).context("take the listener from systemd")?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true).context("set up the listener from systemd")?;
    }
    Ok(listener)
}

/// The watchdog's interval, when systemd watches this process.
pub fn watchdog_interval() -> Option<Duration> {
    // systemd sends WATCHDOG_USEC=0 for "no watchdog"; a timer panics on an interval of zero.
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Feeds the watchdog while every loop beats. When one does not, logs its name, writes the reason into the directory
/// `state` for the next process (a restart clears the status), and triggers the watchdog.
///
/// It runs on its own thread, so that it also notices a runtime that is stuck as a whole. A loop counts as stuck after
/// half the watchdog's interval without a beat: a healthy loop beats at least once a second, and the other half leaves
/// time to write the reason.
pub fn feed_watchdog(heartbeats: Heartbeats, interval: Duration, state: &Path) -> anyhow::Result<()> {
    let reason_file = state.join(STUCK_LOOP_FILE);
    let every = (interval / 4).max(Duration::from_millis(100));
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    thread
        .spawn(move || {
            loop {
                match heartbeats.stuck_loop(interval / 2) {
                    None => send(&[NotifyState::Watchdog]),
                    Some(status) => report_stuck_loop(&status, &reason_file),
                }
                std::thread::park_timeout(every);
            }
        })
        .context("start the watchdog's thread")?;
    Ok(())
}

fn report_stuck_loop(status: &LoopStatus, reason_file: &Path) {
    let reason = format!("{} has made no progress for {:.1} s", status.name, status.age_ms as f64 / 1e3);
    error!(MESSAGE_ID = messages::LOOP_STUCK, LOOP = %status.name, "stuck: {reason}");
    if let Err(error) = write_reason(status, reason_file) {
        error!("cannot write {}: {error:#}; the next process will not report the stuck loop", reason_file.display());
    }
    std::thread::park_timeout(LOG_FLUSH_WAIT);
    let line = sanitise(&format!("stuck: {reason}"));
    send(&[NotifyState::Status(&line), NotifyState::WatchdogTrigger]);
}

fn write_reason(status: &LoopStatus, reason_file: &Path) -> anyhow::Result<()> {
    atomic_file::write(reason_file, format!("{} {}\n", status.name, status.age_ms).as_bytes())
}

/// The loop for which the watchdog ended the previous process, if it did. Removes the file, so that it is reported
/// once.
pub fn take_stuck_loop(state: &Path) -> Option<StuckLoop> {
    let reason_file: PathBuf = state.join(STUCK_LOOP_FILE);
    let text = fs::read_to_string(&reason_file).ok()?;
    let written = fs::metadata(&reason_file).and_then(|metadata| metadata.modified()).ok();
    if let Err(error) = fs::remove_file(&reason_file) {
        warn!("cannot remove {}: {error}", reason_file.display());
    }
    let (name, age_ms) = text.trim().rsplit_once(' ')?;
    let at = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs());
    Some(StuckLoop { name: name.to_owned(), age_ms: age_ms.parse().ok()?, at })
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot notify systemd: {error}");
    }
}

/// One line without control characters: a newline in STATUS begins another assignment, and `...\nSTOPPING=1` stops the
/// unit.
fn sanitise(text: &str) -> String {
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() > STATUS_BYTES_MAX {
        let end = (0..=STATUS_BYTES_MAX - 3).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
        clean.truncate(end);
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_does_not_add_an_assignment() {
        assert_eq!(sanitise("symbol A\nSTOPPING=1\0"), "symbol A STOPPING=1 ");
    }

    #[test]
    fn the_next_process_reads_the_stuck_loop_once() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(take_stuck_loop(directory.path()), None);
        let status = LoopStatus { name: "consume".to_owned(), age_ms: 10_250, count: 7 };
        write_reason(&status, &directory.path().join(STUCK_LOOP_FILE)).unwrap();
        let stuck_loop = take_stuck_loop(directory.path()).unwrap();
        assert_eq!((stuck_loop.name.as_str(), stuck_loop.age_ms), ("consume", 10_250));
        assert!(stuck_loop.at > 1_700_000_000, "{stuck_loop:?}");
        assert_eq!(stuck_loop.to_string(), "consume had made no progress for 10.2 s");
        assert_eq!(take_stuck_loop(directory.path()), None);
    }

    #[test]
    fn a_torn_reason_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "consume", "consume soon"] {
            fs::write(directory.path().join(STUCK_LOOP_FILE), text).unwrap();
            assert_eq!(take_stuck_loop(directory.path()), None, "{text:?}");
        }
    }

    #[test]
    fn a_long_status_is_cut_between_characters() {
        let cut = sanitise(&"é".repeat(500));
        assert!(cut.len() <= STATUS_BYTES_MAX && cut.ends_with('…'));
    }
}
