//! The list of problems and notices, the worst first. It is empty when nothing needs attention.

use maud::{Markup, html};

use crate::admin::status_model;
use crate::exchange::catalog;
use crate::gap::{Gap, GapState};
use crate::market::{Stream, Timestamp};

use super::super::time_series;
use super::facts::Facts;
use super::format::{pluralize, size, span};

/// Backfill tries a gap every few seconds: one that is open for longer needs a person. Microseconds.
const OPEN_MAX_US: i64 = 600_000_000;
/// How long the list shows lost rows and dead letters, microseconds.
const LOST_SHOWN_US: i64 = 86_400_000_000;
/// The list shows a disk that all its users together fill within this time, seconds. Others may stop as suddenly as they
/// began, so this is shorter than the limit for our own growth.
const DISK_FULL_SOON_S: f64 = 6.0 * 3_600.0;
/// An exchange clock that differs by more makes receive times misleading, microseconds.
const CLOCK_MAX_US: i64 = 1_000_000;

/// Something that a person should look at.
#[derive(Debug, PartialEq, Eq)]
pub struct ActionItem {
    /// A problem: rows are lost, or recording has stopped. Otherwise a notice.
    pub is_bad: bool,
    /// The affected part.
    pub part: String,
    /// What happened.
    pub why: String,
    /// What to do, as a command where there is one.
    pub hint: String,
}

/// All problems and notices.
pub fn action_items(facts: &Facts) -> Vec<ActionItem> {
    let mut items = Vec::new();
    let mut say = |is_bad: bool, part: &str, why: String, hint: &str| {
        items.push(ActionItem { is_bad, part: part.to_owned(), why, hint: hint.to_owned() });
    };
    let status = &facts.status;
    if let Some(stuck_loop) = facts.stuck_loop() {
        let why = format!("this loop has made no progress for {} s", facts.beat_max_s());
        say(true, stuck_loop, why, "under systemd the watchdog restarts the service; the journal has the reason");
    }
    for (part, why) in status["degraded"].as_object().into_iter().flatten() {
        let why = why.as_str().unwrap_or_default().to_owned();
        // A stream or a whole exchange: refused, or its frames cannot be decoded.
        let is_stream = part.parse::<Stream>().is_ok() || catalog::find(part).is_some();
        let is_bad = is_stream || matches!(part.as_str(), "exchange" | "history" | "ingest" | "log");
        let hint = match is_stream {
            true if why.starts_with("refused") => "the recorder asks again; check the symbol at the exchange",
            true => "the frames are kept: look for a newer version, then run tapekeeper replay",
            false => "the recorder retries by itself",
        };
        say(is_bad, part, why, hint);
    }
    for notice in status["notices"].as_array().into_iter().flatten() {
        let [part, why] = ["part", "why"].map(|name| notice[name].as_str().unwrap_or_default());
        say(false, part, why.to_owned(), "remove it from the feed when it should not be recorded");
    }
    for part in ["log", "history", "jobs"] {
        if let (Some(why), true) = (status[part]["error"].as_str(), status["degraded"][part].is_null()) {
            say(true, part, why.to_owned(), "");
        }
    }
    for (exchange, rest) in status["rest"].as_object().into_iter().flatten() {
        let until = rest["banned_until"].as_str().and_then(Timestamp::parse);
        if let Some(until) = until.filter(|until| *until > facts.now) {
            let why =
                format!("the exchange bans this address until {} UTC; gaps wait until then", clock(until.micros()));
            say(true, &format!("{exchange} REST"), why, "find what else sends requests from this address");
        }
        if let Some(offset) = rest["clock_offset_us"].as_i64().filter(|offset| offset.abs() > CLOCK_MAX_US) {
            let why = format!("its clock differs from ours by {}", span(offset.abs() as f64 / 1e6));
            say(false, &format!("{exchange} clock"), why, "check that the clock of this machine is synchronised");
        }
    }
    for item in gap_items(facts).into_iter().chain(disk_item(facts)).chain(job_items(facts)) {
        items.push(item);
    }
    // History keeps dead letters for weeks; the list shows them for a day.
    let is_recent = |at: Timestamp| facts.now.since(at) < LOST_SHOWN_US;
    if let Some(letter) = facts.letter.as_ref().filter(|letter| is_recent(letter.received_at)) {
        let letters = status["dead_letters"].as_i64().unwrap_or(1);
        let why = format!(
            "{} could not be decoded or stored, the last one at {} UTC: {}",
            pluralize(letters, "frame", "frames"),
            clock(letter.received_at.micros()),
            letter.reason
        );
        let hint = "history keeps the bytes; tapekeeper replay decodes frames again";
        items.push(ActionItem { is_bad: false, part: "dead letters".to_owned(), why, hint: hint.to_owned() });
    }
    items.sort_by_key(|item| !item.is_bad);
    items
}

fn gap_items(facts: &Facts) -> Vec<ActionItem> {
    let mut items = Vec::new();
    let now = facts.now;
    if let Ok(open) = &facts.open {
        let old: Vec<&Gap> = open.iter().filter(|gap| is_stuck(gap, now)).collect();
        if let Some(oldest) = old.iter().min_by_key(|gap| gap.detected_at) {
            let missing: i64 = old.iter().map(|gap| gap.missing()).sum();
            let why = format!(
                "{} open for longer than {}, {} missing; the oldest since {} UTC{}",
                pluralize(old.len() as i64, "gap is", "gaps are"),
                span(OPEN_MAX_US as f64 / 1e6),
                pluralize(missing, "row is", "rows are"),
                clock(oldest.detected_at.micros()),
                if oldest.reason.is_empty() { String::new() } else { format!(": {}", oldest.reason) },
            );
            items.push(ActionItem {
                is_bad: true,
                part: "gaps".to_owned(),
                why,
                hint: "tapekeeper gaps --open".to_owned(),
            });
        }
    }
    if let Ok(newest) = &facts.newest {
        let is_recent = |gap: &&Gap| {
            matches!(gap.state, GapState::Unrecoverable | GapState::Refused)
                && gap.closed_at.is_some_and(|at| now.since(at) < LOST_SHOWN_US)
        };
        let lost: Vec<&Gap> = newest.iter().filter(is_recent).collect();
        if let Some(last) = lost.first() {
            let rows: i64 = lost.iter().map(|gap| gap.missing()).sum();
            let (symbol, channel) = (last.stream.symbol.as_str(), last.stream.channel.as_str());
            let why = format!(
                "{} lost in the last day, the newest in {symbol} {channel}: {}",
                pluralize(rows, "row was", "rows were"),
                last.reason
            );
            items.push(ActionItem { is_bad: true, part: "lost".to_owned(), why, hint: String::new() });
        }
    }
    items
}

/// Whether a gap should have been filled by now. A requested backfill may take longer, and a gap in doubt is asked for
/// for hours.
fn is_stuck(gap: &Gap, now: Timestamp) -> bool {
    now.since(gap.detected_at) > OPEN_MAX_US && !gap.evidence.is_requested() && gap.state != GapState::Unconfirmed
}

fn disk_item(facts: &Facts) -> Option<ActionItem> {
    let free = facts.free?;
    let forecast = time_series::forecast(&facts.samples);
    let own_full_in_s = forecast.own_full_in_s.filter(|seconds| *seconds < time_series::FULL_SOON_S);
    let any_full_in_s = forecast.any_full_in_s.filter(|seconds| *seconds < DISK_FULL_SOON_S);
    let left = size(free as f64);
    let why = match (own_full_in_s, any_full_in_s) {
        (_, Some(seconds)) => format!("{left} free: full in {} at the present rate", span(seconds)),
        (Some(seconds), None) => format!("{left} free: full in {} as history and log grow", span(seconds)),
        (None, None) if free < time_series::FREE_MIN => format!("{left} free"),
        (None, None) => return None,
    };
    let hint = "free some space, or shorten [log] retention";
    Some(ActionItem { is_bad: free < time_series::FREE_MIN, part: "disk".to_owned(), why, hint: hint.to_owned() })
}

fn job_items(facts: &Facts) -> Vec<ActionItem> {
    let mut items = Vec::new();
    for job in facts.jobs.iter().flatten() {
        let mut say = |why: String, hint: String| {
            items.push(ActionItem { is_bad: false, part: format!("job {}", job.name), why, hint });
        };
        let is_degraded = facts.status["degraded"][format!("job {}", job.name)].is_string();
        if status_model::last_run_failed(job) && !is_degraded {
            let outcome = job.last_outcome.as_deref().unwrap_or_default().replace('_', " ");
            say(format!("the last run {outcome}"), format!("tapekeeper jobs history {}", job.name));
        }
        if job.paused {
            let reason = job.paused_reason.clone().unwrap_or_default();
            say(format!("paused: {reason}"), format!("tapekeeper jobs resume {}", job.name));
        }
    }
    items
}

fn clock(at: i64) -> String {
    Timestamp(at).rfc3339().get(..16).unwrap_or_default().replacen('T', " ", 1)
}

/// The list; nothing when it is empty.
pub fn list(items: &[ActionItem]) -> Markup {
    let is_bad = items.iter().any(|item| item.is_bad);
    let (class, title) = if is_bad { ("bad", "Problems") } else { ("warn", "Notices") };
    html! {
        @if !items.is_empty() {
            div class={ "action-items " (class) } {
                h2 { (title) }
                ul { @for item in items { (row(item)) } }
            }
        }
    }
}

fn row(item: &ActionItem) -> Markup {
    let (class, mark) = if item.is_bad { ("bad", "\u{2715}") } else { ("warn", "!") };
    html! {
        li {
            span class={ "mark " (class) } aria-hidden="true" { (mark) }
            p {
                b class=(class) { (item.part) } " " (item.why)
                @if !item.hint.is_empty() { " " span class="dim" { (item.hint) } }
            }
        }
    }
}
