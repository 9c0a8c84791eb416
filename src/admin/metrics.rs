//! `/metrics`, in Prometheus' text format.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::exchange::rest::RestStatus;
use crate::jobs::JobStatus;
use crate::market::Timestamp;

use super::answer::{Always, Busy};
use super::{Desk, view};

/// Everything worth a graph or an alert
#[utoipa::path(get, path = "/metrics", tag = "status", responses(
    (status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"), Always, Busy,
))]
pub async fn metrics(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let mut page = Page::default();
    page.one("tapekeeper_build_info", "gauge", "The running version.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    counters(&mut page, &desk);
    let (open, missing, totals) = desk.ledger.with(|ledger| {
        let (open, missing) = ledger.open_count();
        (open, missing, ledger.totals())
    });
    page.one("tapekeeper_gaps_open", "gauge", "Gaps that are not closed.", &[], open as f64);
    page.one("tapekeeper_gaps_missing", "gauge", "Positions that open gaps miss.", &[], missing as f64);
    page.one("tapekeeper_gaps_found_total", "counter", "Gaps found.", &[], totals.found as f64);
    page.one("tapekeeper_gaps_filled_total", "counter", "Gaps closed as filled.", &[], totals.filled as f64);
    if let Ok(usage) = view::soon(desk.log.usage()).await {
        page.one("tapekeeper_log_lag_frames", "gauge", "Frames logged and not consumed.", &[], usage.lag() as f64);
        if let Some(bytes) = usage.bytes {
            page.one("tapekeeper_log_bytes", "gauge", "Bytes of the log on disk.", &[], bytes as f64);
        }
    }
    if let Ok(Some(bytes)) = view::soon(desk.history.bytes()).await {
        page.one("tapekeeper_history_bytes", "gauge", "Bytes of history on disk.", &[], bytes as f64);
    }
    let ready = f64::from(u8::from(desk.health.is_ready()));
    page.one("tapekeeper_ready", "gauge", "1 after READY until STOPPING.", &[], ready);
    exchanges(&mut page, &desk);
    page.head("tapekeeper_stream_last_received_timestamp_seconds", "gauge", "When a stream's newest frame arrived.");
    for (stream, standing) in desk.board.standings() {
        let Some(at) = standing.last_received else { continue };
        let (symbol, channel) = (stream.symbol.as_str(), stream.channel.as_str());
        let labels = [("exchange", stream.exchange.as_str()), ("symbol", symbol), ("channel", channel)];
        page.sample("tapekeeper_stream_last_received_timestamp_seconds", &labels, at as f64 / 1e6);
    }
    page.head("tapekeeper_watchdog_beat_age_seconds", "gauge", "Time since a spine loop last came round.");
    for beat in desk.pulses.beats() {
        page.sample("tapekeeper_watchdog_beat_age_seconds", &[("loop", &beat.name)], beat.age_ms as f64 / 1e3);
    }
    if let Some(wedge) = desk.pulses.before() {
        let name = "tapekeeper_watchdog_restart_timestamp_seconds";
        page.head(name, "gauge", "When the watchdog ended the process before this one, and for which loop.");
        page.sample(name, &[("loop", &wedge.name)], wedge.at as f64);
    }
    page.head("tapekeeper_degraded", "gauge", "1 for each part that copes with a fault.");
    for part in desk.health.parts().keys() {
        page.sample("tapekeeper_degraded", &[("part", part)], 1.0);
    }
    let receiving = view::streams(&desk).iter().filter(|stream| stream.receiving).count();
    page.one(
        "tapekeeper_streams_receiving",
        "gauge",
        "Streams with a frame in the last minute.",
        &[],
        receiving as f64,
    );
    jobs(&mut page, &desk).await;
    process(&mut page, &desk);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.0)
}

fn counters(page: &mut Page, desk: &Desk) {
    let ingest = &desk.counters;
    let totals = [
        ("tapekeeper_frames_total", "Frames made durable in the log.", ingest.frames.load(Relaxed)),
        ("tapekeeper_frame_bytes_total", "Their bytes.", ingest.bytes.load(Relaxed)),
        ("tapekeeper_log_appends_refused_total", "Appends that the log refused.", ingest.refused.load(Relaxed)),
        ("tapekeeper_connects_total", "Connections opened.", ingest.connects.load(Relaxed)),
        ("tapekeeper_disconnects_total", "Connections ended.", ingest.disconnects.load(Relaxed)),
        ("tapekeeper_frames_consumed_total", "Frames consumed.", desk.board.frames.load(Relaxed)),
        ("tapekeeper_rows_total", "Rows made durable in history.", desk.board.rows.load(Relaxed)),
        ("tapekeeper_batches_total", "Batches made durable in history.", desk.board.batches.load(Relaxed)),
        ("tapekeeper_dead_letters_total", "Frames set aside.", desk.board.dead_letters.load(Relaxed)),
        ("tapekeeper_backfilled_rows_total", "Rows that came back over REST.", desk.backfill.rows.load(Relaxed)),
    ];
    for (name, help, value) in totals {
        page.one(name, "counter", help, &[], value as f64);
    }
    let seconds = desk.board.insert_us.load(Relaxed) as f64 / 1e6;
    page.one("tapekeeper_insert_seconds_total", "counter", "Time batches took to become durable.", &[], seconds);
}

fn exchanges(page: &mut Page, desk: &Desk) {
    let connected = desk.connections.snapshot().iter().filter(|socket| socket.connected_since.is_some()).count();
    page.one("tapekeeper_connections_open", "gauge", "Connections to exchanges.", &[], connected as f64);
    let now = desk.clock.now().micros();
    let clients: Vec<_> =
        desk.backfill.rest.iter().map(|(exchange, rest)| (exchange.as_str(), rest.status())).collect();
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
        page.head(name, kind, help);
        for (exchange, rest) in &clients {
            page.sample(name, &[("exchange", exchange)], value(rest, now));
        }
    }
    let name = "tapekeeper_exchange_clock_offset_seconds";
    page.head(name, "gauge", "The exchange's clock minus ours.");
    for (exchange, rest) in &clients {
        if let Some(offset) = rest.clock_offset_us {
            page.sample(name, &[("exchange", exchange)], offset as f64 / 1e6);
        }
    }
}

async fn jobs(page: &mut Page, desk: &Desk) {
    let Ok(jobs) = view::soon(desk.jobs.list()).await else { return };
    let counters: [(&str, &str, Measure<JobStatus>); 3] = [
        ("tapekeeper_job_runs_total", "Runs of a job.", |job, _| job.runs as f64),
        ("tapekeeper_job_failures_total", "Runs that failed or took too long.", |job, _| job.failures as f64),
        ("tapekeeper_job_missed_total", "Instants that passed without a run.", |job, _| job.missed as f64),
    ];
    for (name, help, value) in counters {
        page.head(name, "counter", help);
        for job in &jobs {
            page.sample(name, &[("job", &job.name)], value(job, 0));
        }
    }
    let name = "tapekeeper_job_outcomes_total";
    page.head(name, "counter", "Rows of the run history, by how the run ended or why there was none.");
    for job in &jobs {
        for (outcome, count) in &job.outcomes {
            page.sample(name, &[("job", &job.name), ("outcome", outcome)], *count as f64);
        }
    }
    let gauges: [(&str, &str, Told); 5] = [
        ("tapekeeper_job_lateness_seconds", "How late its last run started.", |job| {
            Some(job.last_lateness_ms? as f64 / 1e3)
        }),
        ("tapekeeper_job_last_success_timestamp_seconds", "When a run last succeeded.", |job| {
            seconds(&job.last_success)
        }),
        ("tapekeeper_job_next_run_timestamp_seconds", "When it runs next.", |job| seconds(&job.next_run)),
        ("tapekeeper_job_paused", "1 while it is paused.", |job| Some(f64::from(u8::from(job.paused)))),
        ("tapekeeper_job_silent", "1 while a critical job has not succeeded for too long.", |job| {
            job.max_silence_s.map(|_| f64::from(u8::from(job.silent)))
        }),
    ];
    for (name, help, value) in gauges {
        page.head(name, "gauge", help);
        for (job, value) in jobs.iter().filter_map(|job| Some((job, value(job)?))) {
            page.sample(name, &[("job", &job.name)], value);
        }
    }
}

/// Reads one number off a job, when there is one.
type Told = fn(&JobStatus) -> Option<f64>;

fn seconds(at: &Option<String>) -> Option<f64> {
    Some(Timestamp::parse(at.as_deref()?)?.micros() as f64 / 1e6)
}

/// Reads one number off a row, at this time in microseconds since 1970.
type Measure<Row> = fn(&Row, i64) -> f64;

/// The text being written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a String cannot fail");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("writing to a String cannot fail");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.head(name, kind, help);
        self.sample(name, labels, value);
    }
}

/// Named as every Prometheus client names them.
fn process(page: &mut Page, desk: &Desk) {
    let started = desk.startup.micros() as f64 / 1e6;
    page.one("process_start_time_seconds", "gauge", "When the process started, since 1970.", &[], started);
    if let Some(bytes) = resident_bytes() {
        page.one("process_resident_memory_bytes", "gauge", "Resident memory.", &[], bytes as f64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.one("process_open_fds", "gauge", "Open file descriptors.", &[], files.count() as f64);
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
