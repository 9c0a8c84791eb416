//! The page's tables. What could not be read is said in the table's place: an empty table means that there is nothing.

use serde_json::Value;

use crate::admin::recount::Counted;
use crate::admin::view::{self, StreamView};
use crate::audit::Coverage;
use crate::gap::{Evidence, Gap};
use crate::jobs::JobStatus;
use crate::market::{Channel, Timestamp};

use super::html::{Cell, Table, grouped, put, size, span};

/// Closed gaps shown.
const CLOSED_MAX: usize = 15;
/// Holes drawn in one bar; more would be finer than a pixel.
const HOLES_MAX: usize = 100;

pub fn coverage(out: &mut String, now: Timestamp, counted: &Counted) {
    let heads = ["stream", "missing#", "coverage", "stored#", "backfilled#", "first#", "last#"];
    let caption = "counted in history itself; a red mark is a hole";
    let mut table = Table::begin(out, now, "coverage", "Coverage", caption, &heads);
    if let Some(problem) = &counted.problem {
        table.note("warn", problem);
    }
    for row in counted.coverage.iter() {
        let verdict = match (row.first, row.complete) {
            (None, _) => Cell::Mark("n dim", "nothing yet".to_owned()),
            (_, true) => Cell::Mark("n good", "complete".to_owned()),
            // A gap before the first or after the last row is none of the positions between them.
            (_, false) if row.expected == row.present => Cell::Mark("n bad", format!("{} open gaps", row.open_gaps)),
            (_, false) => Cell::Mark("n bad", grouped((row.expected - row.present) as f64)),
        };
        let place = |position: Option<i64>| Cell::Number(position.map_or(String::new(), |at| place(&row.channel, at)));
        table.row(&[
            Cell::Head(format!("{} {}", row.symbol, row.channel)),
            verdict,
            Cell::Markup(bar(row)),
            Cell::Number(grouped(row.present as f64)),
            Cell::Number(grouped(row.backfilled as f64)),
            place(row.first),
            place(row.last),
        ]);
    }
    table.end("nothing was counted yet");
}

/// A trade id as it is, a kline's open time as people read it.
fn place(channel: &str, position: i64) -> String {
    match channel.parse() {
        Ok(Channel::Kline(_)) => Timestamp(position).rfc3339().get(..16).unwrap_or_default().replacen('T', " ", 1),
        _ => position.to_string(),
    }
}

/// The stream from first to last, with its holes where they are.
fn bar(row: &Coverage) -> String {
    let (Some(first), Some(last)) = (row.first, row.last) else { return String::new() };
    let width = (last - first).max(1) as f64;
    let words = format!("{} of {} stored", row.present, row.expected);
    let mut bar = format!("<span class=\"cover\" role=\"img\" aria-label=\"{words}\" title=\"{words}\">");
    for (from, to) in row.missing.iter().take(HOLES_MAX) {
        let (left, wide) = ((from - first) as f64 / width * 100.0, (to - from) as f64 / width * 100.0);
        put(&mut bar, format_args!("<i style=\"left:{left:.2}%;width:{wide:.2}%\"></i>"));
    }
    bar.push_str("</span>");
    bar
}

pub fn streams(out: &mut String, now: Timestamp, streams: &[StreamView]) {
    let heads =
        ["stream", "state", "last frame#", "last position#", "its time", "frames#", "late or double#", "open gaps#"];
    let mut table = Table::begin(out, now, "streams", "Streams", "as consumed from the log", &heads);
    for row in streams {
        let (class, state) = if row.receiving { ("good", "receiving") } else { ("dim", "silent") };
        let gaps = if row.open_gaps > 0 { "n bad" } else { "n" };
        table.row(&[
            Cell::Head(format!("{} {}", row.symbol, row.channel)),
            Cell::Mark(class, state.to_owned()),
            Cell::Number(row.age_s.map_or("never".to_owned(), |age| format!("{} ago", span(age)))),
            Cell::Number(row.last.map_or(String::new(), |at| place(&row.channel, at))),
            Cell::At(row.last_ts.as_deref().and_then(Timestamp::parse)),
            Cell::Number(grouped(row.frames as f64)),
            Cell::Number(grouped(row.behind as f64)),
            Cell::Mark(gaps, row.open_gaps.to_string()),
        ]);
    }
    table.end("no feed is configured");
}

pub fn gaps(out: &mut String, now: Timestamp, open: Result<Vec<Gap>, String>, newest: Result<Vec<Gap>, String>) {
    let heads = ["stream", "state", "missing#", "first#", "last#", "found", "evidence", "closed", "what happened"];
    let mut table = Table::begin(out, now, "gaps", "Gaps", "open ones, then the last that were closed", &heads);
    let (open, newest) = match (open, newest) {
        (Ok(open), Ok(newest)) => (open, newest),
        (Err(why), _) | (_, Err(why)) => {
            table.note("bad", &format!("the gap ledger cannot be read: {why}"));
            return table.end("");
        }
    };
    let closed = newest.iter().filter(|gap| gap.state.is_closed()).take(CLOSED_MAX);
    for gap in open.iter().chain(closed) {
        let class = if gap.state.is_closed() { "good" } else { "bad" };
        let channel = gap.stream.channel.as_str();
        table.row(&[
            Cell::Head(format!("{} {channel}", gap.stream.symbol.as_str())),
            Cell::Mark(class, gap.state.as_str().replace('_', " ")),
            Cell::Number(grouped(gap.len() as f64)),
            Cell::Number(place(channel, gap.range.first)),
            Cell::Number(place(channel, gap.range.last)),
            Cell::At(Some(gap.detected_at)),
            Cell::Words(evidence(&gap.evidence)),
            Cell::At(gap.closed_at),
            Cell::Words(what_happened(gap)),
        ]);
    }
    table.end("none was ever found");
}

fn evidence(evidence: &Evidence) -> String {
    let mut words = evidence.by.clone();
    if evidence.previous.is_some() || evidence.next.is_some() {
        let id = |id: Option<i64>| id.map_or_else(|| "?".to_owned(), |id| id.to_string());
        words.push_str(&format!(", between {} and {}", id(evidence.previous), id(evidence.next)));
    }
    if let Some(connection) = evidence.connection {
        words.push_str(&format!(", connection {connection}"));
    }
    if let (Some(partition), Some(offset)) = (evidence.partition, evidence.offset) {
        words.push_str(&format!(", log {partition}/{offset}"));
    }
    words
}

fn what_happened(gap: &Gap) -> String {
    let tries = match gap.attempts {
        0 => "not tried yet".to_owned(),
        1 => "1 try".to_owned(),
        tries => format!("{tries} tries"),
    };
    let came_back = if gap.filled > 0 {
        format!(", {} came back by {}", grouped(gap.filled as f64), gap.filled_by)
    } else {
        String::new()
    };
    let reason = if gap.reason.is_empty() { String::new() } else { format!(": {}", gap.reason) };
    format!("{tries}{came_back}{reason}")
}

pub fn jobs(out: &mut String, now: Timestamp, jobs: Result<Vec<JobStatus>, String>) {
    let heads = ["job", "when", "next run", "last run", "outcome", "runs#", "failed#", "what it did"];
    let mut table = Table::begin(out, now, "jobs", "Jobs", "times are UTC", &heads);
    let jobs = jobs.unwrap_or_else(|why| {
        table.note("bad", &format!("the scheduler cannot be asked: {why}"));
        Vec::new()
    });
    for job in &jobs {
        let outcome = if job.running { "running" } else { job.last_outcome.as_deref().unwrap_or("") };
        let class = match outcome {
            "" | "succeeded" | "running" => "good",
            _ if view::failed(job) => "bad",
            _ => "warn",
        };
        let next = match (job.paused, job.enabled, &job.next_run) {
            (true, _, _) => Cell::Mark("warn", "paused".to_owned()),
            (_, false, _) => Cell::Mark("dim", "off".to_owned()),
            (_, _, next) => Cell::At(next.as_deref().and_then(Timestamp::parse)),
        };
        table.row(&[
            Cell::Head(job.name.clone()),
            Cell::Words(job.when.clone()),
            next,
            Cell::At(job.last_finished.as_deref().and_then(Timestamp::parse)),
            Cell::Mark(class, outcome.replace('_', " ")),
            Cell::Number(grouped(job.runs as f64)),
            Cell::Number(grouped(job.failures as f64)),
            Cell::Words(job.last_summary.clone().unwrap_or_default()),
        ]);
    }
    table.end("none is scheduled");
}

pub fn stores(out: &mut String, now: Timestamp, status: &Value) {
    let heads = ["part", "state", "details"];
    let mut table = Table::begin(out, now, "stores", "Stores and connections", "what the recorder stands on", &heads);
    let bytes = |bytes: &Value| bytes.as_f64().map_or(String::new(), size);
    let degraded = &status["degraded"];
    let stores = [
        ("log", &status["log"]["error"], bytes(&status["log"]["usage"]["bytes"])),
        ("history", &status["history"]["error"], bytes(&status["history"]["bytes"])),
        ("cache", &Value::Null, format!("{} keys wait to be written", status["cache"]["waiting"])),
    ];
    for (part, error, details) in stores {
        let why = degraded[part].as_str().or(error.as_str());
        let (class, state) = if why.is_some() { ("bad", "degraded") } else { ("good", "ok") };
        let details = why.unwrap_or(&details);
        table.row(&[Cell::Head(part.to_owned()), Cell::Mark(class, state.to_owned()), Cell::Words(details.to_owned())]);
    }
    for connection in status["connections"].as_array().into_iter().flatten() {
        let state = connection["state"].as_str().unwrap_or_default();
        let class = if state == "connected" { "good" } else { "warn text" };
        let at = |name: &str| connection[name].as_i64().map(|at| span(now.micros().saturating_sub(at) as f64 / 1e6));
        let mut details = format!(
            "{} streams, {} frames, {} reconnects",
            connection["streams"],
            grouped(connection["frames"].as_f64().unwrap_or_default()),
            connection["reconnects"]
        );
        for (name, words) in [("connected_since", "connected for"), ("last_frame_at", "last frame before")] {
            details.push_str(&at(name).map_or(String::new(), |span| format!(", {words} {span}")));
        }
        if let Some(error) = connection["last_error"].as_str().filter(|error| !error.is_empty()) {
            details.push_str(&format!("; before: {error}"));
        }
        let exchange = connection["exchange"].as_str().unwrap_or_default();
        table.row(&[
            Cell::Head(format!("{exchange} socket")),
            Cell::Mark(class, state.to_owned()),
            Cell::Words(details),
        ]);
    }
    for (exchange, rest) in status["rest"].as_object().into_iter().flatten() {
        table.row(&rest_row(exchange, rest, now));
    }
    table.end("");
}

fn rest_row(exchange: &str, rest: &Value, now: Timestamp) -> [Cell; 3] {
    let until = |name: &str| rest[name].as_i64().filter(|until| *until > now.micros()).map(Timestamp);
    let (class, state) = match (until("banned_until"), until("limited_until")) {
        (Some(until), _) => ("bad", format!("banned until {until}")),
        (_, Some(until)) => ("warn", format!("told to wait until {until}")),
        _ => ("good", "ok".to_owned()),
    };
    let mut details =
        format!("weight {} of {} used in this minute, {} requests", rest["used"], rest["limit"], rest["requests"]);
    if let Some(offset) = rest["clock_offset_us"].as_i64() {
        details.push_str(&format!(", its clock is {:.1} ms ahead of ours", offset as f64 / 1e3));
    }
    if let Some(error) = rest["last_error"].as_str().filter(|error| !error.is_empty()) {
        details.push_str(&format!("; last failure: {error}"));
    }
    [Cell::Head(format!("{exchange} REST")), Cell::Mark(class, state), Cell::Words(details)]
}
