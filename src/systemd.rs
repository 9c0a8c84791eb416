//! What we tell systemd and take from it: READY, STATUS, STOPPING, the admin listener, and the watchdog that is fed by
//! proof of progress.
//!
//! Outside systemd every call does nothing.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context;
use sd_notify::NotifyState;
use tracing::{error, warn};

use crate::heartbeat::{Heartbeats, LoopStatus, StuckLoop};
use crate::messages;

/// Longest status text: systemd cuts longer lines in its own displays.
const STATUS_BYTES_MAX: usize = 400;
/// By how much a start or stop that goes on is extended each time.
const EXTEND_BY: Duration = Duration::from_secs(30);
/// How often: a machine that is busy with something else may be late by some seconds.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// How long systemd may take to have read what we told it last.
const BARRIER_MAX: Duration = Duration::from_secs(1);
/// In the state directory: the loop for which the watchdog ends the process, and its age in milliseconds.
const STUCK_LOOP_FILE: &str = "watchdog_reason";
/// Time for the log line that says why.
const LOG_FLUSH_WAIT: Duration = Duration::from_millis(300);

/// Start is over.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&sanitise(status))]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&sanitise(text))]);
}

/// The stop has begun.
pub fn stopping(reason: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&sanitise(reason))]);
}

/// A reload has begun; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => warn!("cannot read the monotonic clock for systemd: {error}"),
    }
}

/// Waits for a part of start or stop that may take longer than the unit's timeouts, and asks for more time while it goes
/// on; for `limit` at most, so that one that hangs is still ended.
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

/// Waits until systemd has read everything that it was told: what is still unread when a process ends cannot be
/// attributed to its unit.
pub async fn barrier() {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // systemd closes its copy of the pipe's end once it comes to this message; it must be the only line of it.
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
        Err(_elapsed) => warn!("systemd has not read our last words within {} s", BARRIER_MAX.as_secs()),
    }
}

/// The listener that systemd holds for us over restarts (`tapekeeper.socket`), once.
pub fn listener() -> anyhow::Result<Option<TcpListener>> {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0).context("take the listener from systemd")?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true).context("set up the listener from systemd")?;
    }
    Ok(listener)
}

/// The watchdog's interval, when systemd watches this process.
pub fn watchdog_interval() -> Option<Duration> {
    // WATCHDOG_USEC=0 is what systemd says for "no watchdog"; an interval of nothing would panic the timer.
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Feeds the watchdog while every heartbeat beats; says which one does not, and lets systemd act. The reason is kept in
/// `state` for the next process, because a restart clears the status.
///
/// From a thread of its own: a runtime that is stuck altogether must be noticed too, with a name. A loop counts as wedged
/// after half the watchdog's interval without a beat: it beats once a second at least, and the other half is for the
/// reason to be written down.
pub fn feed_watchdog(heartbeats: Heartbeats, interval: Duration, state: &Path) -> anyhow::Result<()> {
    let reason_file = state.join(STUCK_LOOP_FILE);
    let every = (interval / 4).max(Duration::from_millis(100));
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    thread
        .spawn(move || {
            loop {
                match heartbeats.stuck_loop(interval / 2) {
                    None => send(&[NotifyState::Watchdog]),
                    Some(beat) => report_stuck_loop(&beat, &reason_file),
                }
                std::thread::park_timeout(every);
            }
        })
        .context("start the watchdog's thread")?;
    Ok(())
}

fn report_stuck_loop(beat: &LoopStatus, reason_file: &Path) {
    let reason = format!("{} has not come round for {:.1} s", beat.name, beat.age_ms as f64 / 1e3);
    error!(MESSAGE_ID = messages::LOOP_STUCK, LOOP = %beat.name, "wedged: {reason}");
    if let Err(error) = write_reason(beat, reason_file) {
        error!("the next process will not know why: cannot write {}: {error}", reason_file.display());
    }
    std::thread::park_timeout(LOG_FLUSH_WAIT);
    let status = sanitise(&format!("wedged: {reason}"));
    send(&[NotifyState::Status(&status), NotifyState::WatchdogTrigger]);
}

fn write_reason(beat: &LoopStatus, reason_file: &Path) -> io::Result<()> {
    let mut file = fs::File::create(reason_file)?;
    writeln!(file, "{} {}", beat.name, beat.age_ms)?;
    file.sync_all()
}

/// For which loop the watchdog ended the process before this one, if it did; told once.
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

/// One line, without control characters: a newline in STATUS would be another assignment, and
/// `...\nSTOPPING=1` stops the unit.
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
        let beat = LoopStatus { name: "consume".to_owned(), age_ms: 10_250, count: 7 };
        write_reason(&beat, &directory.path().join(STUCK_LOOP_FILE)).unwrap();
        let stuck_loop = take_stuck_loop(directory.path()).unwrap();
        assert_eq!((stuck_loop.name.as_str(), stuck_loop.age_ms), ("consume", 10_250));
        assert!(stuck_loop.at > 1_700_000_000, "{stuck_loop:?}");
        assert_eq!(stuck_loop.to_string(), "consume had not come round for 10.2 s");
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
    fn a_long_text_is_cut_between_characters() {
        let cut = sanitise(&"é".repeat(500));
        assert!(cut.len() <= STATUS_BYTES_MAX && cut.ends_with('…'));
    }
}
