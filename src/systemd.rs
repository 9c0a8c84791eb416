//! What we tell systemd: READY, STATUS, STOPPING, and the watchdog that is fed by proof of progress.
//!
//! Outside systemd every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, warn};

use crate::pulse::Pulses;

/// Longest status text: systemd cuts longer lines in its own displays.
const STATUS_BYTES_MAX: usize = 400;

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

/// Start or stop takes longer: asks for so much more time from now on.
pub fn extend(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// The watchdog's interval, when systemd watches this process.
pub fn watchdog_interval() -> Option<Duration> {
    // WATCHDOG_USEC=0 is what systemd says for "no watchdog"; an interval of nothing would panic the timer.
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Feeds the watchdog while every pulse beats; says which one does not, and lets systemd act.
///
/// A loop counts as wedged after half the watchdog's interval without a beat: it beats once a second at
/// least, and the other half is for the reason to be written down.
pub async fn feed_watchdog(pulses: Pulses, interval: Duration) {
    let mut ticks = tokio::time::interval((interval / 4).max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        match pulses.wedged(interval / 2) {
            None => send(&[NotifyState::Watchdog]),
            Some(beat) => {
                let reason = format!("{} has not come round for {} ms", beat.name, beat.age_ms);
                error!("wedged: {reason}");
                let status = sanitise(&format!("wedged: {reason}"));
                send(&[NotifyState::Status(&status), NotifyState::WatchdogTrigger]);
            }
        }
    }
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
    fn a_newline_cannot_smuggle_in_an_assignment() {
        assert_eq!(sanitise("symbol A\nSTOPPING=1\0"), "symbol A STOPPING=1 ");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let cut = sanitise(&"é".repeat(500));
        assert!(cut.len() <= STATUS_BYTES_MAX && cut.ends_with('…'));
    }
}
