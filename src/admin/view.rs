//! What the API and the page show, gathered from the rooms that know it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::gap::Gap;
use crate::market::{Stream, Timestamp};

use super::Desk;

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
        "attempts": gap.attempts,
        "reason": gap.reason,
        "evidence": gap.evidence,
    })
}

/// The whole service in one document.
pub async fn status(desk: &Desk) -> Value {
    use std::sync::atomic::Ordering::Relaxed;
    let streams = streams(desk);
    let usage = desk.log.usage().await;
    let (open, missing, totals) = desk.ledger.with(|ledger| {
        let (open, missing) = ledger.open_count();
        (open, missing, ledger.totals())
    });
    let rest: BTreeMap<String, Value> = desk
        .backfill
        .rest
        .iter()
        .map(|(exchange, rest)| (exchange.to_string(), serde_json::to_value(rest.status()).unwrap_or_default()))
        .collect();
    let log = match &usage {
        Ok(usage) => json!({ "lag_frames": usage.lag(), "usage": usage }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "instance": desk.instance,
        "ready": desk.health.is_ready(),
        "stopping": desk.health.is_stopping(),
        "degraded": desk.health.parts(),
        "started_at": desk.startup.rfc3339(),
        "uptime_s": desk.clock.now().since(desk.startup) / 1_000_000,
        "streams": { "total": streams.len(), "receiving": streams.iter().filter(|s| s.receiving).count() },
        "log": log,
        "history": { "bytes": desk.history.bytes().await.ok().flatten() },
        "cache": { "waiting": desk.backfill.writer.latest().len() },
        "gaps": {
            "open": open, "missing": missing, "found": totals.found, "filled": totals.filled,
            "closed_otherwise": totals.closed_otherwise,
        },
        "frames": { "received": desk.counters.frames.load(Relaxed), "consumed": desk.board.frames.load(Relaxed) },
        "rows": desk.board.rows.load(Relaxed),
        "backfilled": desk.backfill.rows.load(Relaxed),
        "dead_letters": desk.history.dead_letter_count().await.ok(),
        "connections": desk.connections.snapshot(),
        "reconnects": desk.counters.disconnects.load(Relaxed),
        "rest": rest,
        "beats": desk.pulses.beats(),
    })
}
