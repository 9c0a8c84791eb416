//! The status line of `systemctl status`, and the exchanges' part of the health.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use crate::jobs::JobsHandle;
use crate::market::{Exchange, Stream, Timestamp};

use super::Service;

/// A stream counts as receiving when a frame came within this time.
const RECEIVING_US: i64 = 60_000_000;
/// So few frames may wait without anybody being late: a market that trades has more within a minute.
const WAITING_FRAMES_MAX: i64 = 1_000;
/// A part that does not answer within this time is left out: the line must come in any case.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// `14/14 streams, lag 0.3 s, 0 gaps, next snapshot 12 s`, then what is degraded, then why the watchdog restarted us.
pub async fn status_line(service: &Service, jobs: &JobsHandle) -> String {
    let streams = service.streams.borrow().clone();
    let now = service.clock.now();
    let received = |stream: &Stream| service.progress.stream(stream).last_received;
    let receiving = streams.iter().filter(|stream| received(stream).is_some_and(|at| now.micros() - at < RECEIVING_US));
    let mut line = format!("{}/{} streams", receiving.count(), streams.len());
    if let Some(lag) = lag(service, now).await {
        line.push_str(&format!(", lag {lag:.1} s"));
    }
    let (gaps, missing) = service.ledger.with(|ledger| ledger.open_count());
    line.push_str(&format!(", {gaps} gaps"));
    if missing > 0 {
        line.push_str(&format!(" ({missing} missing)"));
    }
    if let Some(at) = next_snapshot(jobs).await {
        line.push_str(&format!(", next snapshot {} s", at.since(now).max(0) / 1_000_000));
    }
    for (part, why) in service.health.degraded_parts() {
        line.push_str(&format!("; {part}: {why}"));
    }
    if let Some(stuck_loop) = service.heartbeats.previous_stuck_loop() {
        line.push_str(&format!("; restarted by the watchdog: {stuck_loop}"));
    }
    line
}

/// Says in the service's health that an exchange is away, or sends nothing. Both are coped with: what is missed meanwhile
/// is a gap, and is filled.
pub async fn update_exchange_health(service: &Service) {
    let sockets = service.connections.snapshot();
    let mut carrying = sockets.iter().filter(|socket| socket.streams > 0);
    let down = carrying.find_map(|socket| {
        let why = socket.state.strip_prefix("waiting: ")?;
        Some(format!("{} is away: {why}", socket.exchange))
    });
    let problem = if down.is_some() { down } else { silent_exchange(service).await };
    match problem {
        Some(why) => service.health.degraded("exchange", &why),
        None => drop(service.health.restored("exchange")),
    }
}

/// Which exchange has sent no frame of any stream for long. Not asked of the connections: silent ones are replaced.
async fn silent_exchange(service: &Service) -> Option<String> {
    let now = service.clock.now();
    let streams = service.streams.borrow().clone();
    let exchanges: BTreeSet<Exchange> = streams.iter().map(|stream| stream.exchange).collect();
    for exchange in exchanges {
        let mine = streams.iter().filter(|stream| stream.exchange == exchange);
        let newest = mine.filter_map(|stream| service.progress.stream(stream).last_received).max();
        let silent = now.micros() - newest.unwrap_or(0).max(service.startup.micros());
        // While frames wait in the log, it is the consumer that is late.
        if silent > RECEIVING_US && lag(service, now).await == Some(0.0) {
            return Some(format!("{exchange} has sent nothing for {} s", silent / 1_000_000));
        }
    }
    None
}

/// How old the newest consumed frame is while others wait behind it, in seconds; nothing waits in a quiet market.
async fn lag(service: &Service, now: Timestamp) -> Option<f64> {
    let usage = timeout(ANSWER_MAX, service.log.usage()).await.ok()?.ok()?;
    if usage.lag() == 0 {
        return Some(0.0);
    }
    let age = now.since(service.progress.last_received()?).max(0);
    // What waits in a silent market are the markers of connections that were replaced for their silence.
    let nobody_is_late = usage.lag() < WAITING_FRAMES_MAX && age > RECEIVING_US;
    Some(if nobody_is_late { 0.0 } else { age as f64 / 1e6 })
}

/// When offsets and watermarks are saved next.
async fn next_snapshot(jobs: &JobsHandle) -> Option<Timestamp> {
    let jobs = timeout(ANSWER_MAX, jobs.list()).await.ok()?.ok()?;
    let next = jobs.iter().filter(|job| job.task == "state-snapshot").filter_map(|job| job.next_run.as_deref());
    next.filter_map(Timestamp::parse).min()
}
