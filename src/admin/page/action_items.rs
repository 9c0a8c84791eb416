//! What needs a person, the worst first. Nothing when there is nothing.

use crate::admin::status_model;
use crate::gap::{Gap, GapState};
use crate::market::Timestamp;

use super::super::time_series;
use super::html::{Escaped, pluralize, put, size, span};
use super::render::Facts;

/// A gap that is open for longer does not heal by itself: repairs are tried every few seconds.
const OPEN_MAX_US: i64 = 600_000_000;
/// What was lost for good or set aside is said for so long.
const LOST_SHOWN_US: i64 = 86_400_000_000;
/// The same of one that others fill, who may stop as suddenly, seconds.
const DISK_FULL_SOON_S: f64 = 6.0 * 3_600.0;
/// A clock that is further off makes times of receipt wrong, microseconds.
const CLOCK_MAX_US: i64 = 1_000_000;

/// Something that a person should look at.
#[derive(Debug, PartialEq, Eq)]
pub struct ActionItem {
    /// Whether data is lost or recording stands, or it only copes.
    pub is_bad: bool,
    /// Which part.
    pub part: String,
    /// What is the matter.
    pub why: String,
    /// What to do, a command where there is one.
    pub hint: String,
}

/// Everything that needs a person.
pub fn action_items(facts: &Facts) -> Vec<ActionItem> {
    let mut items = Vec::new();
    let mut say = |is_bad: bool, part: &str, why: String, hint: &str| {
        items.push(ActionItem { is_bad, part: part.to_owned(), why, hint: hint.to_owned() });
    };
    let status = &facts.status;
    if let Some(wedged) = facts.wedged() {
        let why = format!("this loop has made no progress for {} s", facts.beat_max_s());
        say(true, wedged, why, "under systemd the watchdog restarts the service; the journal has the reason");
    }
    for (part, why) in status["degraded"].as_object().into_iter().flatten() {
        let why = why.as_str().unwrap_or_default().to_owned();
        say(
            matches!(part.as_str(), "exchange" | "history" | "ingest" | "log"),
            part,
            why,
            "it copes, and tries again by itself",
        );
    }
    for part in ["log", "history", "jobs"] {
        if let (Some(why), true) = (status[part]["error"].as_str(), status["degraded"][part].is_null()) {
            say(true, part, why.to_owned(), "");
        }
    }
    for (exchange, rest) in status["rest"].as_object().into_iter().flatten() {
        if let Some(until) = rest["banned_until"].as_i64().filter(|until| *until > facts.now.micros()) {
            let why = format!("it bans this address until {} UTC: no gap is repaired until then", clock(until));
            say(true, &format!("{exchange} REST"), why, "look for what else asks from this address");
        }
        if let Some(offset) = rest["clock_offset_us"].as_i64().filter(|offset| offset.abs() > CLOCK_MAX_US) {
            let why = format!("its clock and ours are {} apart", span(offset.abs() as f64 / 1e6));
            say(false, &format!("{exchange} clock"), why, "is the clock of this machine synchronised?");
        }
    }
    for item in gap_items(facts).into_iter().chain(disk_item(facts)).chain(job_items(facts)) {
        items.push(item);
    }
    // Letters are kept for weeks; what is known for longer than a day is no news.
    let is_news = |at: Timestamp| facts.now.since(at) < LOST_SHOWN_US;
    if let Some(letter) = facts.letter.as_ref().filter(|letter| is_news(letter.received_at)) {
        let letters = status["dead_letters"].as_i64().unwrap_or(1);
        let why = format!(
            "{} could not be decoded or stored, the last one at {} UTC: {}",
            pluralize(letters, "frame", "frames"),
            clock(letter.received_at.micros()),
            letter.reason
        );
        let hint = "kept with its bytes; tapekeeper replay reads frames again";
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
            gap.state == GapState::Unrecoverable && gap.closed_at.is_some_and(|at| now.since(at) < LOST_SHOWN_US)
        };
        let lost: Vec<&Gap> = newest.iter().filter(is_recent).collect();
        if let Some(last) = lost.first() {
            let rows: i64 = lost.iter().map(|gap| gap.missing()).sum();
            let (symbol, channel) = (last.stream.symbol.as_str(), last.stream.channel.as_str());
            let why = format!(
                "{} lost for good in the last day, of {symbol} {channel} last: {}",
                pluralize(rows, "row was", "rows were"),
                last.reason
            );
            items.push(ActionItem { is_bad: true, part: "lost".to_owned(), why, hint: String::new() });
        }
    }
    items
}

/// Whether a gap should have been filled by now; what a person asked for may take its time.
fn is_stuck(gap: &Gap, now: Timestamp) -> bool {
    now.since(gap.detected_at) > OPEN_MAX_US && !gap.evidence.is_requested()
}

fn disk_item(facts: &Facts) -> Option<ActionItem> {
    let free = facts.free?;
    let forecast = time_series::forecast(&facts.samples);
    let own_full_in_s = forecast.own_full_in_s.filter(|seconds| *seconds < time_series::FULL_SOON_S);
    let any_full_in_s = forecast.any_full_in_s.filter(|seconds| *seconds < DISK_FULL_SOON_S);
    let left = size(free as f64);
    let why = match (own_full_in_s, any_full_in_s) {
        (_, Some(seconds)) => format!("{left} are free: full in {} if it goes on like this", span(seconds)),
        (Some(seconds), None) => format!("{left} are free: full in {} as history and log grow", span(seconds)),
        (None, None) if free < time_series::FREE_MIN => format!("{left} are free"),
        (None, None) => return None,
    };
    let hint = "make room, or shorten [log] retention";
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
            say(format!("its last run {outcome}"), format!("tapekeeper jobs history {}", job.name));
        }
        if job.paused {
            let reason = job.paused_reason.clone().unwrap_or_default();
            say(format!("it is paused: {reason}"), format!("tapekeeper jobs resume {}", job.name));
        }
    }
    items
}

fn clock(at: i64) -> String {
    Timestamp(at).rfc3339().get(..16).unwrap_or_default().replacen('T', " ", 1)
}

/// Draws them; nothing when there are none.
pub fn list(out: &mut String, items: &[ActionItem]) {
    if items.is_empty() {
        return;
    }
    let is_bad = items.iter().any(|item| item.is_bad);
    let (class, title) = if is_bad { ("bad", "Needs a person") } else { ("warn", "Worth a look") };
    put(out, format_args!("<div class=\"action-items {class}\"><h2>{title}</h2><ul>"));
    for item in items {
        let (class, mark) = if item.is_bad { ("bad", "\u{2715}") } else { ("warn", "!") };
        put(
            out,
            format_args!(
                "<li><span class=\"mark {class}\" aria-hidden=\"true\">{mark}</span><p><b class=\"{class}\">{}</b> {}",
                Escaped(&item.part),
                Escaped(&item.why)
            ),
        );
        if !item.hint.is_empty() {
            put(out, format_args!(" <span class=\"dim\">{}</span>", Escaped(&item.hint)));
        }
        out.push_str("</p></li>");
    }
    out.push_str("</ul></div>");
}
