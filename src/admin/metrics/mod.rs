//! `/metrics`, in Prometheus' text format.
//!
//! Names follow Prometheus' conventions. Labels are few and bounded: exchanges, recorded streams, jobs, loops, states.

mod exposition;
mod jobs;
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::exchange::rest::RestStatus;

use super::response::{CommonErrors, UnavailableErrors};
use super::{AppState, status_model};
use exposition::MetricsText;

/// Everything worth a graph or an alert
#[utoipa::path(get, path = "/metrics", tag = "status", responses(
    (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"),
    CommonErrors, UnavailableErrors,
))]
pub async fn metrics(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let mut text = MetricsText::default();
    text.one("tapekeeper_build_info", "gauge", "The running version.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    counters(&mut text, &state);
    gaps(&mut text, &state);
    stores(&mut text, &state).await;
    let ready = f64::from(u8::from(state.health.is_ready()));
    text.one("tapekeeper_ready", "gauge", "1 after READY until STOPPING.", &[], ready);
    exchanges(&mut text, &state);
    text.head("tapekeeper_stream_last_received_timestamp_seconds", "gauge", "When a stream's newest frame arrived.");
    for (stream, progress) in state.progress.streams() {
        let Some(at) = progress.last_received else { continue };
        let (symbol, channel) = (stream.symbol.as_str(), stream.channel.as_str());
        let labels = [("exchange", stream.exchange.as_str()), ("symbol", symbol), ("channel", channel)];
        text.sample("tapekeeper_stream_last_received_timestamp_seconds", &labels, at as f64 / 1e6);
    }
    watchdog(&mut text, &state);
    configuration(&mut text, &state);
    text.head("tapekeeper_degraded", "gauge", "1 for each part that copes with a fault.");
    for part in state.health.degraded_parts().keys() {
        text.sample("tapekeeper_degraded", &[("part", part)], 1.0);
    }
    let receiving = status_model::streams(&state).iter().filter(|stream| stream.receiving).count();
    text.one(
        "tapekeeper_streams_receiving",
        "gauge",
        "Streams with a frame in the last minute.",
        &[],
        receiving as f64,
    );
    jobs::jobs(&mut text, &state).await;
    process::process(&mut text, &state);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0)
}

fn counters(text: &mut MetricsText, state: &AppState) {
    let ingest = &state.counters;
    let totals = [
        ("tapekeeper_frames_total", "Frames made durable in the log.", ingest.frames.load(Relaxed)),
        ("tapekeeper_frame_bytes_total", "Their bytes.", ingest.bytes.load(Relaxed)),
        ("tapekeeper_log_appends_refused_total", "Appends that the log refused.", ingest.refused.load(Relaxed)),
        ("tapekeeper_connects_total", "Connections opened.", ingest.connects.load(Relaxed)),
        ("tapekeeper_disconnects_total", "Connections ended.", ingest.disconnects.load(Relaxed)),
        ("tapekeeper_frames_consumed_total", "Frames consumed.", state.progress.frames.load(Relaxed)),
        ("tapekeeper_rows_total", "Rows made durable in history.", state.progress.rows.load(Relaxed)),
        ("tapekeeper_batches_total", "Batches made durable in history.", state.progress.batches.load(Relaxed)),
        ("tapekeeper_dead_letters_total", "Frames set aside.", state.progress.dead_letters.load(Relaxed)),
        ("tapekeeper_backfilled_rows_total", "Rows that came back over REST.", state.backfill.rows.load(Relaxed)),
    ];
    for (name, help, value) in totals {
        text.one(name, "counter", help, &[], value as f64);
    }
    let dropped = crate::telemetry::lines_dropped() as f64;
    text.one("tapekeeper_log_lines_dropped_total", "counter", "Log lines that the journal did not take.", &[], dropped);
    let batches = state.progress.batch_times();
    text.histogram("tapekeeper_insert_duration_seconds", "How long batches took to become durable.", &batches.insert);
    let help = "From the arrival of a batch's newest frame until it was durable.";
    text.histogram("tapekeeper_batch_delay_seconds", help, &batches.delay);
}

fn gaps(text: &mut MetricsText, state: &AppState) {
    let (states, (open, missing), totals, heal) = state
        .ledger
        .with(|ledger| (ledger.open_states(), ledger.open_count(), ledger.totals(), ledger.repair_times().clone()));
    let kind = ("tapekeeper_gaps", "gauge", "Gaps that are not closed, by state.");
    text.each(kind, "state", states.map(|(state, count)| (state.as_str(), count as f64)));
    text.one("tapekeeper_gaps_open", "gauge", "Gaps that are not closed.", &[], open as f64);
    text.one("tapekeeper_gaps_missing", "gauge", "Positions that open gaps miss.", &[], missing as f64);
    text.one("tapekeeper_gaps_found_total", "counter", "Gaps found.", &[], totals.found as f64);
    text.one("tapekeeper_gaps_filled_total", "counter", "Gaps closed as filled.", &[], totals.filled as f64);
    let closed = [
        ("filled", totals.filled),
        ("never_existed", totals.never_existed),
        ("unrecoverable", totals.unrecoverable),
        ("superseded", totals.superseded),
    ];
    let kind = ("tapekeeper_gaps_closed_total", "counter", "Gaps closed, by state.");
    text.each(kind, "state", closed.map(|(state, count)| (state, count as f64)));
    text.histogram("tapekeeper_gap_heal_seconds", "From the finding of a gap until it was filled.", &heal);
}

async fn stores(text: &mut MetricsText, state: &AppState) {
    if let Ok(usage) = status_model::within_timeout(state.log.usage()).await {
        let lag = usage.lag();
        text.one("tapekeeper_log_lag_frames", "gauge", "Frames logged and not consumed.", &[], lag as f64);
        let newest = state.progress.last_received().filter(|_| lag > 0);
        let seconds = newest.map_or(0.0, |at| state.clock.now().since(at).max(0) as f64 / 1e6);
        let help = "Age of the newest consumed frame while others wait; 0 when none does.";
        text.one("tapekeeper_log_lag_seconds", "gauge", help, &[], seconds);
        if let Some(bytes) = usage.bytes {
            text.one("tapekeeper_log_bytes", "gauge", "Bytes of the log on disk.", &[], bytes as f64);
        }
    }
    if let Ok(Some(bytes)) = status_model::within_timeout(state.history.bytes()).await {
        text.one("tapekeeper_history_bytes", "gauge", "Bytes of history on disk.", &[], bytes as f64);
    }
    let waiting = state.backfill.writer.pending_updates().len() as f64;
    text.one("tapekeeper_cache_waiting_keys", "gauge", "Keys of the cache that wait to be written.", &[], waiting);
}

fn watchdog(text: &mut MetricsText, state: &AppState) {
    let beats = state.heartbeats.statuses();
    let kind = ("tapekeeper_watchdog_beat_age_seconds", "gauge", "Time since a spine loop last came round.");
    text.each(kind, "loop", beats.iter().map(|beat| (beat.name.as_str(), beat.age_ms as f64 / 1e3)));
    let kind = ("tapekeeper_watchdog_beats_total", "counter", "How often a spine loop came round.");
    text.each(kind, "loop", beats.iter().map(|beat| (beat.name.as_str(), beat.count as f64)));
    if let Some(stuck_loop) = state.heartbeats.previous_stuck_loop() {
        let help = "When the watchdog ended the process before this one, and for which loop.";
        let kind = ("tapekeeper_watchdog_restart_timestamp_seconds", "gauge", help);
        text.each(kind, "loop", [(stuck_loop.name.as_str(), stuck_loop.at as f64)]);
    }
}

fn configuration(text: &mut MetricsText, state: &AppState) {
    let reloaded = &state.reload_count;
    let outcomes = [("applied", &reloaded.applied), ("refused", &reloaded.refused)];
    let kind = ("tapekeeper_config_reloads_total", "counter", "Reloads of configuration and schedule, by outcome.");
    text.each(kind, "outcome", outcomes.map(|(outcome, count)| (outcome, count.load(Relaxed) as f64)));
    let is_good = f64::from(u8::from(!reloaded.last_refused.load(Relaxed)));
    let help = "1 unless the last reload was refused.";
    text.one("tapekeeper_config_last_reload_successful", "gauge", help, &[], is_good);
}

fn exchanges(text: &mut MetricsText, state: &AppState) {
    let connected = state.connections.snapshot().iter().filter(|socket| socket.connected_since.is_some()).count();
    text.one("tapekeeper_connections_open", "gauge", "Connections to exchanges.", &[], connected as f64);
    let mut sockets: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for socket in state.connections.snapshot() {
        let sums = sockets.entry(socket.exchange).or_default();
        *sums = (sums.0 + socket.reconnects, sums.1 + socket.rotations);
    }
    let kind = ("tapekeeper_reconnects_total", "counter", "Connections made again after one was lost.");
    text.each(kind, "exchange", sockets.iter().map(|(exchange, sums)| (*exchange, sums.0 as f64)));
    let kind = ("tapekeeper_rotations_total", "counter", "Connections replaced before the exchange ended them.");
    text.each(kind, "exchange", sockets.iter().map(|(exchange, sums)| (*exchange, sums.1 as f64)));
    let now = state.clock.now().micros();
    let clients: Vec<_> =
        state.backfill.rest.iter().map(|(exchange, rest)| (exchange.as_str(), rest.status())).collect();
    let kinds: [(&str, &str, &str, Measure<RestStatus>); 5] = [
        ("tapekeeper_rest_weight_used", "gauge", "Request weight used in this minute.", |rest, _| f64::from(rest.used)),
        ("tapekeeper_rest_weight_limit", "gauge", "Request weight a minute allows.", |rest, _| f64::from(rest.limit)),
        ("tapekeeper_rest_banned", "gauge", "1 while the exchange bans this address.", |rest, now| {
            f64::from(u8::from(rest.banned_until.is_some_and(|until| until > now)))
        }),
        ("tapekeeper_rest_requests_total", "counter", "Requests sent.", |rest, _| rest.requests as f64),
        ("tapekeeper_rest_failures_total", "counter", "Requests without a usable answer.", |rest, _| {
            rest.failures as f64
        }),
    ];
    for (name, kind, help, value) in kinds {
        text.head(name, kind, help);
        for (exchange, rest) in &clients {
            text.sample(name, &[("exchange", exchange)], value(rest, now));
        }
    }
    let name = "tapekeeper_exchange_clock_offset_seconds";
    text.head(name, "gauge", "The exchange's clock minus ours.");
    for (exchange, rest) in &clients {
        if let Some(offset) = rest.clock_offset_us {
            text.sample(name, &[("exchange", exchange)], offset as f64 / 1e6);
        }
    }
}

/// Reads one number off a row, at this time in microseconds since 1970.
type Measure<Row> = fn(&Row, i64) -> f64;
