//! `/metrics`, in Prometheus' text format.
//!
//! Names follow Prometheus' conventions. Labels are few and bounded: exchanges, recorded streams, jobs, loops, states.

mod exposition;
mod jobs;
mod process;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::exchange::rest::RestStatus;
use crate::ingest::ExchangeCounters;

use super::documents::StreamView;
use super::response::{CommonErrors, UnavailableErrors};
use super::stream_state::StreamState;
use super::{AppState, status_model};
use exposition::{CONTENT_TYPE, Metrics};

/// Metrics for graphs and alerts
#[utoipa::path(get, path = "/metrics", tag = "status", responses(
    (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"),
    CommonErrors, UnavailableErrors,
))]
pub async fn metrics(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    let mut metrics = Metrics::default();
    let version = env!("CARGO_PKG_VERSION");
    metrics.gauge("tapekeeper_build_info", "The running version.").add(&[("version", version)], 1.0);
    counters(&mut metrics, &state);
    gaps(&mut metrics, &state);
    stores(&mut metrics, &state).await;
    let ready = f64::from(u8::from(state.health.is_ready()));
    metrics.gauge("tapekeeper_ready", "1 after READY until STOPPING.").set(ready);
    exchanges(&mut metrics, &state);
    streams(&mut metrics, &state);
    watchdog(&mut metrics, &state);
    configuration(&mut metrics, &state);
    let degraded = state.health.degraded_parts();
    let family = metrics.gauge("tapekeeper_degraded", "1 for each degraded part.");
    family.add_each("part", degraded.keys().map(|part| (part.as_str(), 1.0)));
    jobs::jobs(&mut metrics, &state).await;
    process::process(&mut metrics, &state);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.text())
}

fn streams(metrics: &mut Metrics, state: &AppState) {
    let views = status_model::streams(state);
    let idle = [StreamState::NotTrading, StreamState::Ended].map(StreamState::as_str);
    let name = |view: &StreamView| format!("{}:{}:{}", view.exchange, view.symbol, view.channel);
    let idle: HashSet<String> = views.iter().filter(|view| idle.contains(&view.state)).map(name).collect();
    let help = "When a stream's newest frame arrived; without the streams of symbols that do not trade.";
    let family = metrics.gauge("tapekeeper_stream_last_received_timestamp_seconds", help);
    for (stream, progress) in state.progress.streams() {
        let Some(at) = progress.last_received.filter(|_at| !idle.contains(&stream.to_string())) else { continue };
        let (symbol, channel) = (stream.symbol.as_str(), stream.channel.as_str());
        let labels = [("exchange", stream.exchange.as_str()), ("symbol", symbol), ("channel", channel)];
        family.add(&labels, at as f64 / 1e6);
    }
    let count = |state: StreamState| views.iter().filter(|view| view.state == state.as_str()).count() as f64;
    let family = metrics.gauge("tapekeeper_streams", "Recorded streams, by state.");
    family.add_each("state", StreamState::ALL.map(|state| (state.as_str(), count(state))));
    let receiving = views.iter().filter(|stream| stream.receiving).count();
    metrics.gauge("tapekeeper_streams_receiving", "Streams with a frame in the last minute.").set(receiving as f64);
}

fn counters(metrics: &mut Metrics, state: &AppState) {
    let ingest = &state.counters;
    let totals = [
        ("tapekeeper_frames_total", "Frames made durable in the log.", ingest.total(|of| &of.frames)),
        ("tapekeeper_frame_bytes_total", "Bytes of these frames.", ingest.total(|of| &of.bytes)),
        (
            "tapekeeper_frames_unrequested_total",
            "Frames of streams that nobody subscribed to: dropped before the log.",
            ingest.unrequested.frames(),
        ),
        ("tapekeeper_log_appends_refused_total", "Appends that the log refused.", ingest.total(|of| &of.refused)),
        ("tapekeeper_connects_total", "Connections opened.", ingest.total(|of| &of.connects)),
        ("tapekeeper_disconnects_total", "Connections ended.", ingest.total(|of| &of.disconnects)),
        ("tapekeeper_frames_consumed_total", "Frames consumed.", state.progress.frames.load(Relaxed)),
        ("tapekeeper_rows_total", "Live rows made durable in history.", state.progress.rows.load(Relaxed)),
        ("tapekeeper_batches_total", "Batches made durable in history.", state.progress.batches.load(Relaxed)),
        ("tapekeeper_dead_letters_total", "Frames stored as dead letters.", state.progress.dead_letters.load(Relaxed)),
        (
            "tapekeeper_backfilled_rows_total",
            "Backfilled rows made durable in history.",
            state.backfill.rows.load(Relaxed),
        ),
    ];
    for (name, help, value) in totals {
        metrics.counter(name, help).set(value as f64);
    }
    type Counter = fn(&ExchangeCounters) -> &AtomicU64;
    let families: [(&'static str, &'static str, Counter); 3] = [
        ("tapekeeper_exchange_frames_total", "Frames made durable in the log, by exchange.", |of| &of.frames),
        ("tapekeeper_exchange_connects_total", "Connections opened, by exchange.", |of| &of.connects),
        ("tapekeeper_exchange_disconnects_total", "Connections ended, by exchange.", |of| &of.disconnects),
    ];
    let exchanges = ingest.exchanges();
    for (name, help, counter) in families {
        let family = metrics.counter(name, help);
        for (exchange, counters) in &exchanges {
            family.add(&[("exchange", exchange.as_str())], counter(counters).load(Relaxed) as f64);
        }
    }
    let dropped = crate::telemetry::lines_dropped() as f64;
    metrics.counter("tapekeeper_log_lines_dropped_total", "Log lines that the journal did not accept.").set(dropped);
    let batches = state.progress.batch_times();
    metrics.histogram(
        "tapekeeper_insert_duration_seconds",
        "How long batches took to become durable.",
        &batches.insert,
    );
    let help = "Time from the arrival of a batch's newest frame until it was durable.";
    metrics.histogram("tapekeeper_batch_delay_seconds", help, &batches.delay);
}

fn gaps(metrics: &mut Metrics, state: &AppState) {
    let (states, (open, missing), (in_doubt, missing_in_doubt), totals, heal) = state.ledger.with(|ledger| {
        let heal = ledger.repair_times().clone();
        (ledger.open_states(), ledger.open_count(), ledger.unconfirmed_count(), ledger.totals(), heal)
    });
    let family = metrics.gauge("tapekeeper_gaps", "Gaps that are not closed, by state.");
    family.add_each("state", states.map(|(state, count)| (state.as_str(), count as f64)));
    let help = "Gaps that are not closed, without those in doubt.";
    metrics.gauge("tapekeeper_gaps_open", help).set((open - in_doubt) as f64);
    let help = "Missing positions in gaps that are not closed, without those in doubt.";
    metrics.gauge("tapekeeper_gaps_missing", help).set((missing - missing_in_doubt) as f64);
    let help = "Gaps in doubt: the exchange does not serve their positions, and the recorder asks again for hours.";
    metrics.gauge("tapekeeper_gaps_unconfirmed", help).set(in_doubt as f64);
    metrics.counter("tapekeeper_gaps_found_total", "Gaps found.").set(totals.found as f64);
    metrics.counter("tapekeeper_gaps_filled_total", "Gaps closed as filled.").set(totals.filled as f64);
    let closed = [
        ("filled", totals.filled),
        ("never_existed", totals.never_existed),
        ("unrecoverable", totals.unrecoverable),
        ("refused", totals.refused),
        ("superseded", totals.superseded),
    ];
    let family = metrics.counter("tapekeeper_gaps_closed_total", "Gaps closed, by state.");
    family.add_each("state", closed.map(|(state, count)| (state, count as f64)));
    metrics.histogram("tapekeeper_gap_heal_seconds", "Time from the detection of a gap until it was filled.", &heal);
}

async fn stores(metrics: &mut Metrics, state: &AppState) {
    if let Ok(usage) = status_model::within_timeout(state.log.usage()).await {
        let lag = usage.lag();
        metrics.gauge("tapekeeper_log_lag_frames", "Frames in the log that are not consumed yet.").set(lag as f64);
        let newest = state.progress.last_received().filter(|_| lag > 0);
        let seconds = newest.map_or(0.0, |at| state.clock.now().since(at).max(0) as f64 / 1e6);
        let help = "Age of the newest consumed frame while others wait; 0 when none does.";
        metrics.gauge("tapekeeper_log_lag_seconds", help).set(seconds);
        if let Some(bytes) = usage.bytes {
            metrics.gauge("tapekeeper_log_bytes", "Bytes of the log on disk.").set(bytes as f64);
        }
    }
    if let Ok(Some(bytes)) = status_model::within_timeout(state.history.bytes()).await {
        metrics.gauge("tapekeeper_history_bytes", "Bytes of history on disk.").set(bytes as f64);
    }
    let waiting = state.backfill.writer.pending_updates().len() as f64;
    metrics.gauge("tapekeeper_cache_waiting_keys", "Keys of the cache that wait to be written.").set(waiting);
}

fn watchdog(metrics: &mut Metrics, state: &AppState) {
    let beats = state.heartbeats.statuses();
    let family =
        metrics.gauge("tapekeeper_watchdog_beat_age_seconds", "Time since the last heartbeat of a recording loop.");
    family.add_each("loop", beats.iter().map(|beat| (beat.name.as_str(), beat.age_ms as f64 / 1e3)));
    let family = metrics.counter("tapekeeper_watchdog_beats_total", "Heartbeats of a recording loop.");
    family.add_each("loop", beats.iter().map(|beat| (beat.name.as_str(), beat.count as f64)));
    if let Some(stuck_loop) = state.heartbeats.previous_stuck_loop() {
        let help = "When the watchdog killed the previous process, and which loop was stuck.";
        let family = metrics.gauge("tapekeeper_watchdog_restart_timestamp_seconds", help);
        family.add_each("loop", [(stuck_loop.name.as_str(), stuck_loop.at as f64)]);
    }
}

fn configuration(metrics: &mut Metrics, state: &AppState) {
    let reloaded = &state.reload_count;
    let outcomes = [("applied", &reloaded.applied), ("refused", &reloaded.refused)];
    let family =
        metrics.counter("tapekeeper_config_reloads_total", "Reloads of configuration and schedule, by outcome.");
    family.add_each("outcome", outcomes.map(|(outcome, count)| (outcome, count.load(Relaxed) as f64)));
    let is_good = f64::from(u8::from(!reloaded.last_refused.load(Relaxed)));
    let help = "1 unless the last reload was refused.";
    metrics.gauge("tapekeeper_config_last_reload_successful", help).set(is_good);
}

fn exchanges(metrics: &mut Metrics, state: &AppState) {
    let connected = state.connections.snapshot().iter().filter(|socket| socket.connected_since.is_some()).count();
    metrics.gauge("tapekeeper_connections_open", "Open connections to exchanges.").set(connected as f64);
    let mut sockets: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for socket in state.connections.snapshot() {
        let sums = sockets.entry(socket.exchange).or_default();
        *sums = (sums.0 + socket.reconnects, sums.1 + socket.rotations);
    }
    let family = metrics.counter("tapekeeper_reconnects_total", "Reconnects after a lost connection.");
    family.add_each("exchange", sockets.iter().map(|(exchange, sums)| (*exchange, sums.0 as f64)));
    let family = metrics.counter("tapekeeper_rotations_total", "Connections replaced before the exchange ended them.");
    family.add_each("exchange", sockets.iter().map(|(exchange, sums)| (*exchange, sums.1 as f64)));
    let clients: Vec<_> =
        state.backfill.rest.iter().map(|(exchange, rest)| (exchange.as_str(), rest.status())).collect();
    let by_exchange = |value: fn(&RestStatus) -> f64| {
        clients.iter().map(move |(exchange, rest)| (*exchange, value(rest))).collect::<Vec<_>>()
    };
    metrics
        .gauge("tapekeeper_rest_weight_used", "Request weight used in this minute.")
        .add_each("exchange", by_exchange(|rest| f64::from(rest.used)));
    metrics
        .gauge("tapekeeper_rest_weight_limit", "Request weight allowed per minute.")
        .add_each("exchange", by_exchange(|rest| f64::from(rest.limit)));
    let is_banned = |rest: &RestStatus| f64::from(u8::from(rest.banned_until.is_some()));
    metrics
        .gauge("tapekeeper_rest_banned", "1 while the exchange bans this address.")
        .add_each("exchange", clients.iter().map(|(exchange, rest)| (*exchange, is_banned(rest))));
    metrics
        .counter("tapekeeper_rest_requests_total", "Requests sent.")
        .add_each("exchange", by_exchange(|rest| rest.requests as f64));
    metrics
        .counter("tapekeeper_rest_failures_total", "Requests without a usable response.")
        .add_each("exchange", by_exchange(|rest| rest.failures as f64));
    let offsets = clients.iter().filter_map(|(exchange, rest)| Some((*exchange, rest.clock_offset_us? as f64 / 1e6)));
    metrics
        .gauge("tapekeeper_exchange_clock_offset_seconds", "The exchange's clock minus ours.")
        .add_each("exchange", offsets);
}
