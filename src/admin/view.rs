//! What the API and the page show, gathered from the rooms that know it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gap::Gap;
use crate::history::JobRun;
use crate::jobs::JobStatus;
use crate::jobs::planner::Changes;
use crate::market::{Stream, Timestamp};

use super::{BEAT_MAX, Desk, Reloaded};

/// How long a store that is away may keep whoever looks at the rest.
const PATIENCE: Duration = Duration::from_secs(2);

/// A frame within this time means that a stream is receiving. Microseconds.
const RECEIVING_US: i64 = 60_000_000;

/// One stream as shown.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StreamView {
    pub exchange: String,
    pub symbol: String,
    pub channel: String,
    /// The last position that is durable or in the ledger.
    pub last: Option<i64>,
    /// The exchange's time of the newest row, RFC 3339.
    pub last_ts: Option<String>,
    /// When its newest frame arrived, RFC 3339.
    pub last_received: Option<String>,
    /// Seconds since then.
    pub age_s: Option<f64>,
    pub connection: Option<i64>,
    pub frames: u64,
    pub behind: u64,
    pub open_gaps: usize,
    pub receiving: bool,
}

/// Every recorded stream.
pub fn streams(desk: &Desk) -> Vec<StreamView> {
    let now = desk.clock.now();
    let standings = desk.board.standings();
    let streams = desk.streams.borrow().clone();
    let view = |stream: Stream| {
        let standing = standings.get(&stream).copied().unwrap_or_default();
        let step = stream.channel.step().unwrap_or(1);
        let age = standing.last_received.map(|at| now.micros() - at);
        StreamView {
            exchange: stream.exchange.to_string(),
            symbol: stream.symbol.to_string(),
            channel: stream.channel.to_string(),
            last: standing.next.map(|next| next - step),
            last_ts: standing.last_ts.map(|at| Timestamp(at).rfc3339()),
            last_received: standing.last_received.map(|at| Timestamp(at).rfc3339()),
            age_s: age.map(|age| (age.max(0) / 1_000) as f64 / 1e3),
            connection: standing.connection,
            frames: standing.frames,
            behind: standing.behind,
            open_gaps: desk.ledger.with(|ledger| ledger.of(&stream).count()),
            receiving: age.is_some_and(|age| age < RECEIVING_US),
        }
    };
    streams.into_iter().map(view).collect()
}

/// A ledger row as shown; the names are history's.
pub fn gap(gap: &Gap) -> Value {
    json!({
        "gap_id": gap.gap_id,
        "exchange": gap.stream.exchange.as_str(),
        "symbol": gap.stream.symbol.as_str(),
        "channel": gap.stream.channel.as_str(),
        "first_missing": gap.range.first,
        "last_missing": gap.range.last,
        "missing": gap.len(),
        "from_ts": gap.from_ts.map(Timestamp::rfc3339),
        "to_ts": gap.to_ts.map(Timestamp::rfc3339),
        "state": gap.state.as_str(),
        "detected_at": gap.detected_at.rfc3339(),
        "closed_at": gap.closed_at.map(Timestamp::rfc3339),
        "filled": gap.filled,
        "filled_by": gap.filled_by,
        "filled_at": gap.filled_at.map(Timestamp::rfc3339),
        "attempts": gap.attempts,
        "reason": gap.reason,
        "evidence": gap.evidence,
    })
}

/// A run as shown: history's columns, how late it started, and its report as the document that it is.
pub fn run(run: &JobRun) -> Value {
    let mut shown = json!(run);
    shown["lateness_ms"] = json!(run.lateness_us().map(|late| late / 1_000));
    shown["report"] = serde_json::from_str(&run.report).unwrap_or(Value::Null);
    shown
}

/// What a reload changed; `next_runs` are those of the schedule as it is afterwards.
pub fn reloaded(reloaded: &Reloaded) -> Value {
    let Changes { added, changed, removed, next } = &reloaded.jobs;
    let next_run =
        |(job, at): &(String, Option<Timestamp>)| json!({ "job": job, "next_run": at.map(Timestamp::rfc3339) });
    json!({
        "changed": reloaded.said,
        "jobs": { "added": added, "changed": changed, "removed": removed },
        "next_runs": next.iter().map(next_run).collect::<Vec<_>>(),
    })
}

/// An answer that comes soon, or why there is none: one store that is away must not hide the others.
pub async fn soon<T, E: Display>(answer: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(_elapsed) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The whole service in one document.
pub async fn status(desk: &Desk) -> Value {
    use std::sync::atomic::Ordering::Relaxed;
    let streams = streams(desk);
    let (usage, bytes, dead_letters, jobs) = tokio::join!(
        soon(desk.log.usage()),
        soon(desk.history.bytes()),
        soon(desk.history.dead_letter_count()),
        soon(desk.jobs.list()),
    );
    let (open, missing, totals) = desk.ledger.with(|ledger| {
        let (open, missing) = ledger.open_count();
        (open, missing, ledger.totals())
    });
    let rest = rest(desk);
    let connections = serde_json::to_value(desk.connections.snapshot()).unwrap_or_default();
    let log = match &usage {
        Ok(usage) => json!({ "lag_frames": usage.lag(), "usage": usage }),
        Err(error) => json!({ "error": error }),
    };
    let history = match bytes {
        Ok(bytes) => json!({ "bytes": bytes }),
        Err(error) => json!({ "error": error }),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "instance": desk.instance,
        "ready": desk.health.is_ready(),
        "stopping": desk.health.is_stopping(),
        "wedged": desk.pulses.wedged(BEAT_MAX).map(|beat| beat.name),
        "degraded": desk.health.parts(),
        "started_at": desk.startup.rfc3339(),
        "uptime_s": desk.clock.now().since(desk.startup) / 1_000_000,
        "streams": { "total": streams.len(), "receiving": streams.iter().filter(|s| s.receiving).count() },
        "log": log,
        "history": history,
        "cache": { "waiting": desk.backfill.writer.latest().len() },
        "gaps": {
            "open": open, "missing": missing, "found": totals.found, "filled": totals.filled,
            "closed_otherwise": totals.closed_otherwise,
        },
        "frames": { "received": desk.counters.frames.load(Relaxed), "consumed": desk.board.frames.load(Relaxed) },
        "rows": desk.board.rows.load(Relaxed),
        "backfilled": desk.backfill.rows.load(Relaxed),
        "dead_letters": dead_letters.ok(),
        "last_errors": last_errors(&connections, &rest, jobs.as_deref().unwrap_or_default()),
        "connections": connections,
        "reconnects": desk.counters.disconnects.load(Relaxed),
        "rest": rest,
        "jobs": jobs.map_or_else(|error| json!({ "error": error }), |jobs| jobs_summary(&jobs)),
        "beats": desk.pulses.beats(),
    })
}

fn rest(desk: &Desk) -> BTreeMap<String, Value> {
    let clients = desk.backfill.rest.iter();
    clients.map(|(exchange, rest)| (exchange.to_string(), json!(rest.status()))).collect()
}

fn jobs_summary(jobs: &[JobStatus]) -> Value {
    let count = |is: fn(&&JobStatus) -> bool| jobs.iter().filter(is).count();
    let failing: Vec<&str> = jobs.iter().filter(|job| failed(job)).map(|job| job.name.as_str()).collect();
    json!({
        "total": jobs.len(), "running": count(|job| job.running), "paused": count(|job| job.paused), "failing": failing,
    })
}

/// Whether a job's last run ended and not well.
pub fn failed(job: &JobStatus) -> bool {
    let outcome = job.last_outcome.as_deref().unwrap_or_default();
    matches!(outcome, "failed" | "timed_out" | "cancelled")
}

/// What went wrong last, part by part, whether or not it works again.
fn last_errors(connections: &Value, rest: &BTreeMap<String, Value>, jobs: &[JobStatus]) -> Vec<Value> {
    let mut errors = Vec::new();
    let mut say = |part: String, error: &str| {
        if !error.is_empty() {
            errors.push(json!({ "part": part, "error": error }));
        }
    };
    for (at, connection) in connections.as_array().into_iter().flatten().enumerate() {
        let exchange = connection["exchange"].as_str().unwrap_or_default();
        say(format!("{exchange} socket {}", at + 1), connection["last_error"].as_str().unwrap_or_default());
    }
    for (exchange, client) in rest {
        say(format!("{exchange} REST"), client["last_error"].as_str().unwrap_or_default());
    }
    for job in jobs.iter().filter(|job| failed(job)) {
        say(format!("job {}", job.name), job.last_outcome.as_deref().unwrap_or_default());
    }
    errors
}
