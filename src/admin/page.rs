//! The status page: one document, no build step, no foreign script, whole without JavaScript.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use serde_json::Value;

use crate::audit::{self, Coverage};
use crate::gap::Gap;
use crate::history::GapFilter;
use crate::jobs::JobStatus;

use super::{Desk, view};

/// Ledger rows shown.
const GAPS_MAX: usize = 30;
/// Streams whose coverage is counted for the page; the API has all of them.
const COVERAGE_MAX: usize = 40;
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");
/// Nothing but what stands in the page itself may load or run.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'";

/// Everything a person wants to see first.
pub async fn page(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let status = view::status(&desk).await;
    let streams = view::streams(&desk);
    let filter = GapFilter { limit: GAPS_MAX, ..GapFilter::default() };
    let gaps = desk.history.gaps(&filter).await.unwrap_or_default();
    let jobs = desk.jobs.list().await.unwrap_or_default();
    let recorded: Vec<_> = desk.streams.borrow().iter().take(COVERAGE_MAX).cloned().collect();
    let coverage = audit::coverage(&desk.history, &recorded).await.unwrap_or_default();
    let health = if status["ready"] == true { "ready" } else { "starting" };
    let mut main = String::new();
    head(&mut main, &status);
    tiles(&mut main, &status);
    coverage_table(&mut main, &coverage);
    streams_table(&mut main, &streams);
    gaps_table(&mut main, &gaps);
    jobs_table(&mut main, &jobs);
    connections_table(&mut main, &status);
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Tapekeeper: {health}</title><style>{CSS}</style></head>\
         <body><p id=\"lost\" class=\"bad\" role=\"alert\" hidden>The service does not answer; what is shown is old.</p>\
         <main>{main}</main><script>{JS}</script></body></html>"
    );
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::CACHE_CONTROL, "no-store")];
    (headers, Html(page))
}

fn head(out: &mut String, status: &Value) {
    let degraded = status["degraded"].as_object().cloned().unwrap_or_default();
    let (class, word) = match (status["ready"] == true, degraded.is_empty()) {
        (true, true) => ("good", "recording"),
        (true, false) => ("warn", "recording, degraded"),
        (false, _) => ("warn", if status["stopping"] == true { "stopping" } else { "starting" }),
    };
    put(out, format_args!("<h1>Tapekeeper <span class=\"{class}\">{word}</span></h1>"));
    let instance = status["instance"].as_str().unwrap_or_default();
    put(
        out,
        format_args!(
            "<p class=\"dim\">{} version {}, up {}</p>",
            escape(instance),
            escape(status["version"].as_str().unwrap_or_default()),
            span(status["uptime_s"].as_f64().unwrap_or_default())
        ),
    );
    for (part, why) in degraded {
        put(
            out,
            format_args!(
                "<p class=\"warn\"><b>{}</b>: {}</p>",
                escape(&part),
                escape(why.as_str().unwrap_or_default())
            ),
        );
    }
}

fn tiles(out: &mut String, status: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let open = number(&status["gaps"]["open"]);
    let tiles = [
        ("streams receiving", format!("{} of {}", status["streams"]["receiving"], status["streams"]["total"]), false),
        ("open gaps", format!("{open}"), open > 0.0),
        ("gaps found, filled", format!("{}, {}", status["gaps"]["found"], status["gaps"]["filled"]), false),
        ("rows stored", grouped(number(&status["rows"])), false),
        ("of these backfilled", grouped(number(&status["backfilled"])), false),
        ("frames waiting in the log", grouped(number(&status["log"]["lag_frames"])), false),
        ("dead letters", grouped(number(&status["dead_letters"])), number(&status["dead_letters"]) > 0.0),
        ("connections lost", grouped(number(&status["reconnects"])), false),
    ];
    out.push_str("<div class=\"tiles\">");
    for (label, value, bad) in tiles {
        let class = if bad { "bad" } else { "" };
        put(
            out,
            format_args!(
                "<div class=\"tile\"><span class=\"dim\">{label}</span><b class=\"{class}\">{}</b></div>",
                escape(&value)
            ),
        );
    }
    out.push_str("</div>");
}

fn coverage_table(out: &mut String, coverage: &[Coverage]) {
    let heads = ["stream", "coverage", "first", "last", "stored", "backfilled", "missing"];
    open_table(out, "Coverage", "counted in history itself; a red mark is a hole", &heads);
    for row in coverage {
        let missing = row.expected - row.present;
        let verdict = match (row.first, row.complete) {
            (None, _) => "<span class=\"dim\">nothing yet</span>".to_owned(),
            (_, true) => "<span class=\"good\">complete</span>".to_owned(),
            (_, false) => format!("<span class=\"bad\">{missing}</span>"),
        };
        put(
            out,
            format_args!(
                "<tr><th scope=\"row\">{} {}</th><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{verdict}</td></tr>",
                escape(&row.symbol),
                escape(&row.channel),
                bar(row),
                row.first.map_or(String::new(), |id| id.to_string()),
                row.last.map_or(String::new(), |id| id.to_string()),
                grouped(row.present as f64),
                grouped(row.backfilled as f64),
            ),
        );
    }
    close_table(out);
}

/// The stream from first to last, with its holes where they are.
fn bar(row: &Coverage) -> String {
    let (Some(first), Some(last)) = (row.first, row.last) else { return String::new() };
    let width = (last - first).max(1) as f64;
    let mut bar =
        format!("<span class=\"cover\" role=\"img\" aria-label=\"{} of {} stored\">", row.present, row.expected);
    for (from, to) in row.missing.iter().take(100) {
        let (left, wide) = ((from - first) as f64 / width * 100.0, (to - from) as f64 / width * 100.0);
        put(&mut bar, format_args!("<i style=\"left:{left:.2}%;width:{wide:.2}%\"></i>"));
    }
    bar.push_str("</span>");
    bar
}

fn streams_table(out: &mut String, streams: &[view::StreamView]) {
    let heads = ["stream", "state", "last frame", "last position", "frames", "late or double"];
    open_table(out, "Streams", "as consumed from the log", &heads);
    for row in streams {
        let state =
            if row.receiving { "<span class=\"good\">receiving</span>" } else { "<span class=\"dim\">silent</span>" };
        put(
            out,
            format_args!(
                "<tr><th scope=\"row\">{} {}</th><td>{state}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&row.symbol),
                escape(&row.channel),
                row.age_s.map_or("never".to_owned(), |age| format!("{} ago", span(age))),
                row.last.map_or(String::new(), |id| id.to_string()),
                grouped(row.frames as f64),
                grouped(row.behind as f64),
            ),
        );
    }
    close_table(out);
}

fn gaps_table(out: &mut String, gaps: &[Gap]) {
    let heads = ["stream", "state", "missing", "first", "last", "found by", "found", "closed", "what happened"];
    open_table(out, "Gaps", "the newest rows of the ledger", &heads);
    for gap in gaps {
        let class = if gap.state.is_closed() { "good" } else { "bad" };
        let time = |at: crate::market::Timestamp| at.rfc3339().get(11..19).unwrap_or_default().to_owned();
        put(
            out,
            format_args!(
                "<tr><th scope=\"row\">{} {}</th><td class=\"{class}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
                escape(gap.stream.symbol.as_str()),
                gap.stream.channel,
                gap.state.as_str().replace('_', " "),
                grouped(gap.len() as f64),
                gap.range.first,
                gap.range.last,
                escape(&gap.evidence.by),
                time(gap.detected_at),
                gap.closed_at.map_or(String::new(), time),
                escape(&gap.reason),
            ),
        );
    }
    if gaps.is_empty() {
        out.push_str("<tr><td colspan=\"9\" class=\"dim\">none was ever found</td></tr>");
    }
    close_table(out);
}

fn jobs_table(out: &mut String, jobs: &[JobStatus]) {
    let heads = ["job", "when", "next run", "last run", "outcome", "what it did"];
    open_table(out, "Jobs", "times are UTC", &heads);
    for job in jobs {
        let outcome = job.last_outcome.as_deref().unwrap_or("");
        let class = if matches!(outcome, "" | "succeeded") { "good" } else { "bad" };
        let time = |at: &Option<String>| at.as_deref().and_then(|at| at.get(11..19)).unwrap_or_default().to_owned();
        let next = if job.paused { "paused".to_owned() } else { time(&job.next_run) };
        put(
            out,
            format_args!(
                "<tr><th scope=\"row\">{}</th><td class=\"text\">{}</td><td>{next}</td><td>{}</td><td class=\"{class}\">{}</td>\
             <td class=\"text\">{}</td></tr>",
                escape(&job.name),
                escape(&job.when),
                time(&job.last_finished),
                escape(outcome),
                escape(job.last_summary.as_deref().unwrap_or_default()),
            ),
        );
    }
    close_table(out);
}

fn connections_table(out: &mut String, status: &Value) {
    open_table(out, "Connections and request budget", "to the exchange", &["what", "state"]);
    for connection in status["connections"].as_array().into_iter().flatten() {
        put(
            out,
            format_args!(
                "<tr><th scope=\"row\">socket</th><td class=\"text\">{}</td></tr>",
                escape(&fields(connection))
            ),
        );
    }
    for (exchange, rest) in status["rest"].as_object().into_iter().flatten() {
        put(
            out,
            format_args!(
                "<tr><th scope=\"row\">{} REST</th><td class=\"text\">{}</td></tr>",
                escape(exchange),
                escape(&fields(rest))
            ),
        );
    }
    close_table(out);
}

/// `name value, name value`, without what is null.
fn fields(object: &Value) -> String {
    let pairs = object.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let shown = pairs.map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{} {text}", name.replace('_', " "))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn open_table(out: &mut String, title: &str, caption: &str, heads: &[&str]) {
    put(
        out,
        format_args!(
            "<h2>{title}</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"><table><caption>{caption}</caption><thead><tr>"
        ),
    );
    for head in heads {
        put(out, format_args!("<th scope=\"col\">{head}</th>"));
    }
    out.push_str("</tr></thead><tbody>");
}

fn close_table(out: &mut String) {
    out.push_str("</tbody></table></div>");
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

/// Text that cannot become markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// `1,234,567`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 && digit.is_ascii_digit() && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3_600.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0.0, 999.0, 1e3, 1_234_567.0].map(grouped));
    }
}
