//! The status line of `systemctl status`, and the health of the exchanges.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::exchange::TradingState;
use crate::jobs::JobsHandle;
use crate::market::{Exchange, Stream, Timestamp};
use crate::systemd;

use super::Service;
use super::listing_report::newest_frame;
use super::stream_health::RefusedParts;

/// Time between two updates of the status line.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(5);
/// A stream counts as receiving when a frame arrived within this time.
const RECEIVING_US: i64 = 60_000_000;
/// With fewer waiting frames the consumer may still be on time: a market that trades sends more within a minute.
const WAITING_FRAMES_MAX: i64 = 1_000;
/// Longest wait for one part of the line: a part that does not answer is left out.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Keeps the status line and the exchanges' health up to date, until `stop`.
pub async fn publish(service: Service, jobs: JobsHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let publishing = async {
        let mut refused_parts = RefusedParts::default();
        loop {
            update_exchange_health(&service).await;
            refused_parts.update(&service);
            systemd::status(&status_line(&service, &jobs).await);
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
    };
    stop.run_until_cancelled(publishing).await;
    Ok(())
}

/// `14/14 streams, lag 0.3 s, 0 gaps, next snapshot 12 s`, then the degraded parts, then why the watchdog restarted the
/// service.
pub async fn status_line(service: &Service, jobs: &JobsHandle) -> String {
    let streams = service.streams.borrow().clone();
    let now = service.clock.now();
    let received = |stream: &Stream| service.progress.stream(stream).last_received;
    let receiving = streams.iter().filter(|stream| received(stream).is_some_and(|at| now.micros() - at < RECEIVING_US));
    let mut line = format!("{}/{} streams", receiving.count(), streams.len());
    if let Some(lag) = lag(service, now).await {
        line.push_str(&format!(", lag {lag:.1} s"));
    }
    let ((gaps, missing), (in_doubt, missing_in_doubt)) =
        service.ledger.with(|ledger| (ledger.open_count(), ledger.unconfirmed_count()));
    line.push_str(&format!(", {} gaps", gaps - in_doubt));
    if missing > missing_in_doubt {
        line.push_str(&format!(" ({} missing)", missing - missing_in_doubt));
    }
    if in_doubt > 0 {
        line.push_str(&format!(", {in_doubt} in doubt"));
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

/// Marks the part `exchange` as degraded while an exchange is down or sends nothing. The service works around both:
/// missed trades are a gap, and backfill repairs it.
async fn update_exchange_health(service: &Service) {
    let sockets = service.connections.snapshot();
    let mut carrying = sockets.iter().filter(|socket| socket.streams > 0);
    let down = carrying.find_map(|socket| {
        let why = socket.state.strip_prefix("waiting: ")?;
        Some(format!("{} is down: {why}", socket.exchange))
    });
    let problem = if down.is_some() { down } else { silent_exchange(service).await };
    match problem {
        Some(why) => service.health.degraded("exchange", &why),
        None => drop(service.health.restored("exchange")),
    }
}

/// An exchange that has sent no frame of any stream for long. The connections cannot show it, because silent ones are
/// replaced.
async fn silent_exchange(service: &Service) -> Option<String> {
    let now = service.clock.now();
    let streams = service.streams.borrow().clone();
    let exchanges: BTreeSet<Exchange> = streams.iter().map(|stream| stream.exchange).collect();
    for exchange in exchanges {
        let mine: Vec<&Stream> = streams.iter().filter(|stream| stream.exchange == exchange).collect();
        let newest = mine.iter().filter_map(|stream| service.progress.stream(stream).last_received).max();
        let silent = now.micros() - newest.unwrap_or(0).max(service.startup.micros());
        // A wall clock that was set forward proves no silence from before this process.
        let silent = silent.min(i64::try_from(service.started.elapsed().as_micros()).unwrap_or(i64::MAX));
        if silent <= RECEIVING_US {
            continue;
        }
        let trades = |stream: &&Stream| {
            let newest = newest_frame(service, &streams, exchange, &stream.symbol);
            service.listings.state(exchange, &stream.symbol, newest) == TradingState::Trading
        };
        // Symbols that do not trade send nothing. While frames wait in the log, the consumer is late, not the exchange.
        if mine.into_iter().any(|stream| trades(&stream)) && lag(service, now).await == Some(0.0) {
            return Some(format!("{exchange} has sent nothing for {} s", silent / 1_000_000));
        }
    }
    None
}

/// The age of the newest consumed frame while others wait behind it, in seconds; 0 when no frame waits.
async fn lag(service: &Service, now: Timestamp) -> Option<f64> {
    let usage = timeout(ANSWER_MAX, service.log.usage()).await.ok()?.ok()?;
    if usage.lag() == 0 {
        return Some(0.0);
    }
    let age = now.since(service.progress.last_received()?).max(0);
    // In a silent market only the markers of replaced connections wait.
    let nobody_is_late = usage.lag() < WAITING_FRAMES_MAX && age > RECEIVING_US;
    Some(if nobody_is_late { 0.0 } else { age as f64 / 1e6 })
}

/// The time of the next snapshot.
async fn next_snapshot(jobs: &JobsHandle) -> Option<Timestamp> {
    let jobs = timeout(ANSWER_MAX, jobs.list()).await.ok()?.ok()?;
    let next = jobs.iter().filter(|job| job.task == "state-snapshot").filter_map(|job| job.next_run.as_deref());
    next.filter_map(Timestamp::parse).min()
}
