//! The jobs, a lane each: what ran in the last hour and how it ended, what did not run, and what is next.
//!
//! An outcome is told by colour, by shape and in words.

use std::collections::BTreeMap;

use crate::admin::status_model;
use crate::history::JobRun;
use crate::jobs::JobStatus;
use crate::market::Timestamp;

use super::html::{Escaped, instant, pluralize, put, span};
use super::render::{Facts, RUNS_MAX};

/// Time drawn before now.
const PAST_US: i64 = 3_600_000_000;
/// Time drawn after now.
const FUTURE_US: i64 = 600_000_000;
/// Lanes move by so much at a time: a page that is looked at is not sent anew every second.
const STEP_US: i64 = 10_000_000;
/// Height of a lane, pixels.
const HEIGHT: i64 = 22;
/// What is drawn of a run, in the order of drawing: what went wrong stands above.
const OUTCOMES: [&str; 7] = ["succeeded", "skipped", "deferred", "cancelled", "timed_out", "failed", "running"];

/// The marks, to be used by name; they stand once on the page.
pub const MARKS: &str = "<svg class=\"defs\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>\
    <path id=\"m-succeeded\" d=\"M-1.5 -7h3v14h-3z\"/><path id=\"m-failed\" d=\"M-5 -5L5 5M-5 5L5 -5\"/>\
    <path id=\"m-timed_out\" d=\"M-5 -6H5L-5 6H5Z\"/><path id=\"m-cancelled\" d=\"M-4 -4h8v8h-8z\"/>\
    <circle id=\"m-skipped\" r=\"4\"/><path id=\"m-deferred\" d=\"M-5 4L0 -5L5 4Z\"/>\
    <path id=\"m-running\" d=\"M-3 -6L5 0L-3 6Z\"/><path id=\"m-next\" d=\"M-5 0L0 -5L5 0L0 5Z\"/></defs></svg>";

/// Where lanes begin and end.
#[derive(Clone, Copy)]
struct Window {
    now: Timestamp,
}

impl Window {
    /// Percent of the width at which an instant lies.
    fn at(self, at: i64) -> f64 {
        (at - (self.now.micros() - PAST_US)) as f64 / (PAST_US + FUTURE_US) as f64 * 100.0
    }
}

/// Every job.
pub fn jobs(out: &mut String, facts: &Facts) {
    let jobs = match &facts.jobs {
        Ok(jobs) => jobs.as_slice(),
        Err(why) => {
            put(out, format_args!("<p class=\"bad\">the scheduler cannot be asked: {}</p>", Escaped(why)));
            return;
        }
    };
    let mut runs: BTreeMap<&str, Vec<&JobRun>> = BTreeMap::new();
    let mut begins = None;
    match &facts.runs {
        Ok(all) => {
            all.iter().for_each(|run| runs.entry(&run.job).or_default().push(run));
            begins = all.last().filter(|_| all.len() == RUNS_MAX).map(|run| run.scheduled_at);
        }
        Err(why) => put(out, format_args!("<p class=\"bad\">past runs cannot be read: {}</p>", Escaped(why))),
    }
    if jobs.is_empty() {
        out.push_str("<p class=\"dim\">none is scheduled</p>");
        return;
    }
    legend(out);
    let window = Window { now: Timestamp(facts.now.micros() / STEP_US * STEP_US) };
    out.push_str("<ul class=\"lanes\">");
    for job in jobs {
        row(out, job, runs.get(job.name.as_str()).map_or(&[], Vec::as_slice), facts, window);
    }
    out.push_str(
        "</ul><p class=\"dim note\">the last hour, now at the upright line, and ten minutes after it; times are UTC",
    );
    if let Some(begins) = begins.filter(|begins| *begins > facts.now.micros() - PAST_US) {
        put(out, format_args!("; runs before {} are not drawn", instant(Timestamp(begins), facts.now)));
    }
    out.push_str("</p>");
}

fn legend(out: &mut String) {
    out.push_str("<ul class=\"legend\">");
    for outcome in OUTCOMES.into_iter().chain(["next"]) {
        put(
            out,
            format_args!(
                "<li><svg class=\"o-{outcome}\" aria-hidden=\"true\" viewBox=\"-8 -10 16 20\"><use href=\"#m-{outcome}\"/>\
                 </svg>{}</li>",
                outcome.replace('_', " ")
            ),
        );
    }
    out.push_str("</ul>");
}

fn row(out: &mut String, job: &JobStatus, runs: &[&JobRun], facts: &Facts, window: Window) {
    let recent: Vec<&JobRun> = runs.iter().copied().filter(|run| when(run) >= facts.now.micros() - PAST_US).collect();
    put(
        out,
        format_args!(
            "<li><div class=\"what\"><b>{}</b> <span class=\"dim\">{}</span></div>",
            Escaped(&job.name),
            Escaped(&job.when)
        ),
    );
    lane(out, job, &recent, window);
    out.push_str("<div class=\"how\">");
    state(out, job, facts.now);
    put(out, format_args!("<br><span class=\"dim\">{}", Escaped(&hour(&recent))));
    if let Some(summary) = job.last_summary.as_deref().filter(|summary| !summary.is_empty()) {
        put(out, format_args!(" &middot; {}", Escaped(summary)));
    }
    out.push_str("</span></div>");
    buttons(out, job, facts.may_change);
    out.push_str("</li>");
}

/// How it stands now: what it does, how the last run ended, when it runs next.
fn state(out: &mut String, job: &JobStatus, now: Timestamp) {
    let outcome = if job.running { "running" } else { job.last_outcome.as_deref().unwrap_or("not run yet") };
    let (class, mark) = match outcome {
        "succeeded" => ("good", "\u{2713} "),
        "running" => ("good", "\u{25b8} "),
        _ if status_model::last_run_failed(job) => ("bad", "\u{2715} "),
        "not run yet" => ("dim", ""),
        _ => ("warn", "! "),
    };
    put(
        out,
        format_args!(
            "<span class=\"{class}\"><span aria-hidden=\"true\">{mark}</span>{}</span>",
            Escaped(&outcome.replace('_', " "))
        ),
    );
    if let Some(at) = job.last_finished.as_deref().and_then(Timestamp::parse) {
        put(out, format_args!(" {}", instant(at, now)));
    }
    match (job.paused, job.enabled, job.next_run.as_deref().and_then(Timestamp::parse)) {
        (true, ..) => out.push_str(", <b class=\"warn\">paused</b>"),
        (_, false, _) => out.push_str(", off: runs by hand only"),
        (.., Some(next)) => put(out, format_args!(", next {}", instant(next, now))),
        (.., None) => {}
    }
}

/// `118 succeeded, 3 skipped in the last hour`.
fn hour(recent: &[&JobRun]) -> String {
    let mut parts = Vec::new();
    for outcome in OUTCOMES {
        let count = recent.iter().filter(|run| run.outcome == outcome).count();
        if count > 0 {
            parts.push(format!("{count} {}", outcome.replace('_', " ")));
        }
    }
    if parts.is_empty() {
        "no run in the last hour".to_owned()
    } else {
        format!("{} in the last hour", parts.join(", "))
    }
}

/// When a run is drawn: when it started, or should have.
fn when(run: &JobRun) -> i64 {
    run.started_at.unwrap_or(run.scheduled_at)
}

fn lane(out: &mut String, job: &JobStatus, recent: &[&JobRun], window: Window) {
    put(
        out,
        format_args!(
            "<svg class=\"lane\" role=\"img\" aria-label=\"{}: {}\" width=\"100%\" height=\"{HEIGHT}\">\
             <rect class=\"ground\" y=\"{}\" width=\"100%\" height=\"1\"/>",
            Escaped(&job.name),
            Escaped(&hour(recent)),
            HEIGHT / 2
        ),
    );
    for outcome in OUTCOMES {
        let mut drawn: Vec<(i64, i64, Vec<&JobRun>)> = Vec::new();
        let mut of: Vec<&JobRun> = recent.iter().copied().filter(|run| run.outcome == outcome).collect();
        of.sort_by_key(|run| when(run));
        for run in of {
            let end = run.finished_at.unwrap_or(if outcome == "running" { window.now.micros() } else { when(run) });
            // Marks that would stand on each other are one, which says how many.
            match drawn.last_mut() {
                Some((from, to, runs)) if when(run) - *from < STEP_US => {
                    *to = end.max(*to);
                    runs.push(run);
                }
                _ => drawn.push((when(run), end, vec![run])),
            }
        }
        for (from, to, runs) in drawn {
            mark(out, outcome, window.at(from), window.at(to), &title(&runs));
        }
    }
    let now = window.at(window.now.micros());
    put(out, format_args!("<rect class=\"now\" x=\"{now:.2}%\" width=\"1.5\" height=\"100%\"/>"));
    let next = job.next_run.as_deref().and_then(Timestamp::parse).filter(|_| !job.paused && job.enabled);
    if let Some(next) = next.filter(|next| (now..99.5).contains(&window.at(next.micros()))) {
        mark(out, "next", window.at(next.micros()), 0.0, &format!("next at {}", clock(next.micros())));
    }
    out.push_str("</svg>");
}

fn mark(out: &mut String, outcome: &str, from: f64, to: f64, title: &str) {
    let (middle, wide) = (HEIGHT / 2, to - from);
    put(out, format_args!("<g class=\"o-{outcome}\"><title>{}</title>", Escaped(title)));
    // A run that took long enough to be seen has a length.
    if wide > 0.3 {
        put(out, format_args!("<rect x=\"{from:.2}%\" y=\"{}\" width=\"{wide:.2}%\" height=\"6\"/>", middle - 3));
    }
    put(out, format_args!("<use href=\"#m-{outcome}\" x=\"{from:.2}%\" y=\"{middle}\"/></g>"));
}

fn title(runs: &[&JobRun]) -> String {
    let Some(run) = runs.first() else { return String::new() };
    let outcome = run.outcome.replace('_', " ");
    if runs.len() > 1 {
        return format!("from {}: {} {outcome}", clock(when(run)), pluralize(runs.len() as i64, "run", "runs"));
    }
    let mut words = format!("{} {outcome}", clock(when(run)));
    if let (Some(from), Some(to)) = (run.started_at, run.finished_at) {
        words.push_str(&format!(" in {}", span(to.saturating_sub(from).max(0) as f64 / 1e6)));
    }
    if !run.reason.is_empty() {
        words.push_str(&format!(": {}", run.reason));
    }
    words
}

fn clock(at: i64) -> String {
    Timestamp(at).rfc3339().get(11..19).unwrap_or_default().to_owned()
}

fn buttons(out: &mut String, job: &JobStatus, may_change: bool) {
    if !may_change {
        return;
    }
    let name = Escaped(&job.name);
    out.push_str("<div class=\"buttons\">");
    let (verb, label) = if job.paused { ("resume", "Resume") } else { ("pause", "Pause") };
    for (verb, label) in [("run", "Run now"), (verb, label)] {
        put(
            out,
            format_args!(
                "<button form=\"do\" name=\"do\" value=\"{verb} {name}\" id=\"{verb}-{name}\" \
                 aria-label=\"{label}: {name}\">{label}</button>"
            ),
        );
    }
    out.push_str("</div>");
}
