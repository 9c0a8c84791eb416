//! The status page: one document, no build step, no foreign script, whole without JavaScript.

mod html;
mod tables;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use serde_json::Value;

use crate::history::GapFilter;

use super::recount::Recount;
use super::{Desk, view};
use html::{Text, grouped, put, span};

/// Ledger rows shown of each kind, open and closed; the API has all of them.
const GAPS_MAX: usize = 30;
/// Streams whose coverage is counted for the page; the API has all of them.
const COVERAGE_MAX: usize = 40;
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");
/// Nothing but what stands in the page itself may load or run.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'";

/// Everything a person wants to see first.
pub async fn page(State(desk): State<Arc<Desk>>, Extension(recount): Extension<Arc<Recount>>) -> impl IntoResponse {
    let now = desk.clock.now();
    let recorded: Vec<_> = desk.streams.borrow().iter().take(COVERAGE_MAX).cloned().collect();
    let open = GapFilter { open_only: true, limit: GAPS_MAX, ..GapFilter::default() };
    let newest = GapFilter { limit: GAPS_MAX, ..GapFilter::default() };
    let (status, counted, open, newest, jobs) = tokio::join!(
        view::status(&desk),
        recount.coverage(&desk.history, recorded),
        view::soon(desk.history.gaps(&open)),
        view::soon(desk.history.gaps(&newest)),
        view::soon(desk.jobs.list()),
    );
    let mut main = String::new();
    let state = Standing::of(&status);
    head(&mut main, &status, state);
    tiles(&mut main, &status);
    tables::coverage(&mut main, now, &counted);
    tables::streams(&mut main, now, &view::streams(&desk));
    tables::gaps(&mut main, now, open, newest);
    tables::jobs(&mut main, now, jobs);
    tables::stores(&mut main, now, &status);
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Tapekeeper: {}</title><style>{CSS}</style></head>\
         <body><p id=\"lost\" class=\"bad\" role=\"alert\" hidden>The service does not answer; what is shown is old.</p>\
         <main>{main}</main><script>{JS}</script></body></html>",
        state.words
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(page))
}

/// The service in one word and a colour.
#[derive(Clone, Copy)]
struct Standing {
    class: &'static str,
    words: &'static str,
}

impl Standing {
    fn of(status: &Value) -> Self {
        let is = |name: &str| status[name] == true;
        let (class, words) = match () {
            () if !status["wedged"].is_null() => ("bad", "wedged"),
            () if is("stopping") => ("warn", "stopping"),
            () if !is("ready") => ("warn", "starting"),
            () if status["degraded"].as_object().is_some_and(|parts| !parts.is_empty()) => ("warn", "degraded"),
            () => ("good", "recording"),
        };
        Self { class, words }
    }
}

fn head(out: &mut String, status: &Value, state: Standing) {
    put(out, format_args!("<h1>Tapekeeper <span class=\"{}\">{}</span></h1>", state.class, state.words));
    let instance = status["instance"].as_str().unwrap_or_default();
    let version = status["version"].as_str().unwrap_or_default();
    let uptime = span(status["uptime_s"].as_f64().unwrap_or_default());
    put(out, format_args!("<p class=\"dim\">{} version {}, up {uptime}</p>", Text(instance), Text(version)));
    if let Some(wedged) = status["wedged"].as_str() {
        put(out, format_args!("<p class=\"bad\"><b>{}</b>: this loop makes no progress</p>", Text(wedged)));
    }
    for (part, why) in status["degraded"].as_object().into_iter().flatten() {
        let why = why.as_str().unwrap_or_default();
        put(out, format_args!("<p class=\"warn\"><b>{}</b>: {}</p>", Text(part), Text(why)));
    }
}

fn tiles(out: &mut String, status: &Value) {
    // What cannot be known now is a dash, never a zero.
    let number = |value: &Value| value.as_f64().map_or("-".to_owned(), grouped);
    let some = |value: &Value| value.as_f64().is_some_and(|number| number > 0.0);
    let (streams, gaps) = (&status["streams"], &status["gaps"]);
    let tiles = [
        ("streams receiving", format!("{} of {}", streams["receiving"], streams["total"]), false),
        ("open gaps", number(&gaps["open"]), some(&gaps["open"])),
        ("gaps found, filled", format!("{}, {}", number(&gaps["found"]), number(&gaps["filled"])), false),
        ("rows stored", number(&status["rows"]), false),
        ("of these backfilled", number(&status["backfilled"]), false),
        ("frames waiting in the log", number(&status["log"]["lag_frames"]), false),
        ("dead letters", number(&status["dead_letters"]), some(&status["dead_letters"])),
        ("connections lost", number(&status["reconnects"]), false),
    ];
    out.push_str("<dl class=\"tiles\">");
    for (label, value, bad) in tiles {
        let class = if bad { "bad" } else { "" };
        put(
            out,
            format_args!(
                "<div class=\"tile\"><dt class=\"dim\">{label}</dt><dd class=\"{class}\">{}</dd></div>",
                Text(&value)
            ),
        );
    }
    out.push_str("</dl>");
}
