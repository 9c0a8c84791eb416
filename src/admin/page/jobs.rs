//! The jobs, one lane each: the runs of the last hour with their outcomes, what did not run, and the next run.
//!
//! Colour, shape and text all show the outcome.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::admin::status_model;
use crate::history::JobRun;
use crate::jobs::JobStatus;
use crate::market::Timestamp;

use super::facts::{Facts, RUNS_MAX};
use super::format::{pluralize, span};
use super::html::instant;

/// Time drawn before now, microseconds.
const PAST_US: i64 = 3_600_000_000;
/// Time drawn after now, microseconds.
const FUTURE_US: i64 = 600_000_000;
/// Lanes move in steps of this length: otherwise an open page would receive them every second. Microseconds.
const STEP_US: i64 = 10_000_000;
/// Height of a lane, pixels.
const HEIGHT: i64 = 22;
/// Outcomes in the order of drawing: failures are drawn over the others.
const OUTCOMES: [&str; 7] = ["succeeded", "skipped", "deferred", "cancelled", "timed_out", "failed", "running"];
/// The shape of each mark.
const SHAPES: [(&str, &str); 8] = [
    ("succeeded", "M-1.5 -7h3v14h-3z"),
    ("failed", "M-5 -5L5 5M-5 5L5 -5"),
    ("timed_out", "M-5 -6H5L-5 6H5Z"),
    ("cancelled", "M-4 -4h8v8h-8z"),
    ("skipped", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"),
    ("deferred", "M-5 4L0 -5L5 4Z"),
    ("running", "M-3 -6L5 0L-3 6Z"),
    ("next", "M-5 0L0 -5L5 0L0 5Z"),
];

/// The definitions of the marks, which the lanes use by name; once on the page.
pub fn marks() -> Markup {
    html! {
        svg class="defs" width="0" height="0" aria-hidden="true" {
            defs { @for (name, path) in SHAPES { path id={ "m-" (name) } d=(path) {} } }
        }
    }
}

/// The time that the lanes span.
#[derive(Clone, Copy)]
struct Window {
    now: Timestamp,
}

impl Window {
    /// The x of an instant, in percent of the width.
    fn at(self, at: i64) -> f64 {
        (at - (self.now.micros() - PAST_US)) as f64 / (PAST_US + FUTURE_US) as f64 * 100.0
    }
}

/// Every job.
pub fn jobs(facts: &Facts) -> Markup {
    let jobs = match &facts.jobs {
        Ok(jobs) => jobs.as_slice(),
        Err(why) => return html! { p class="bad" { "the scheduler does not answer: " (why) } },
    };
    let mut runs: BTreeMap<&str, Vec<&JobRun>> = BTreeMap::new();
    let mut begins = None;
    if let Ok(all) = &facts.runs {
        all.iter().for_each(|run| runs.entry(&run.job).or_default().push(run));
        begins = all.last().filter(|_| all.len() == RUNS_MAX).map(|run| run.scheduled_at);
    }
    let begins = begins.filter(|begins| *begins > facts.now.micros() - PAST_US);
    let window = Window { now: Timestamp(facts.now.micros() / STEP_US * STEP_US) };
    html! {
        @if let Err(why) = &facts.runs { p class="bad" { "past runs cannot be read: " (why) } }
        @if jobs.is_empty() {
            p class="dim" { "no job is scheduled" }
        } @else {
            (legend())
            ul class="lanes" {
                @for job in jobs {
                    (row(job, runs.get(job.name.as_str()).map_or(&[], Vec::as_slice), facts, window))
                }
            }
            p class="dim note" {
                "the last hour, now at the upright line, and ten minutes after it; times are UTC"
                @if let Some(begins) = begins {
                    "; runs before " (instant(Timestamp(begins), facts.now)) " are not drawn"
                }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        ul class="legend" {
            @for outcome in OUTCOMES.into_iter().chain(["next"]) {
                li {
                    svg class={ "o-" (outcome) } aria-hidden="true" viewBox="-8 -10 16 20" {
                        use href={ "#m-" (outcome) } {}
                    }
                    (outcome.replace('_', " "))
                }
            }
        }
    }
}

fn row(job: &JobStatus, runs: &[&JobRun], facts: &Facts, window: Window) -> Markup {
    let recent: Vec<&JobRun> =
        runs.iter().copied().filter(|run| drawn_at(run) >= facts.now.micros() - PAST_US).collect();
    let summary = job.last_summary.as_deref().filter(|summary| !summary.is_empty());
    html! {
        li {
            div class="what" { b { (job.name) } " " span class="dim" { (job.when) } }
            (lane(job, &recent, window))
            div class="how" {
                (state(job, facts.now))
                br;
                span class="dim" {
                    (last_hour(&recent))
                    @if let Some(summary) = summary { " \u{b7} " (summary) }
                }
            }
            @if facts.may_change { (buttons(job)) }
        }
    }
}

/// The present state: whether it runs, how the last run ended, when the next one is due.
fn state(job: &JobStatus, now: Timestamp) -> Markup {
    let outcome = if job.running { "running" } else { job.last_outcome.as_deref().unwrap_or("not run yet") };
    let (class, mark) = match outcome {
        "succeeded" => ("good", "\u{2713} "),
        "running" => ("good", "\u{25b8} "),
        _ if status_model::last_run_failed(job) => ("bad", "\u{2715} "),
        "not run yet" => ("dim", ""),
        _ => ("warn", "! "),
    };
    html! {
        span class=(class) { span aria-hidden="true" { (mark) } (outcome.replace('_', " ")) }
        @if let Some(at) = job.last_finished.as_deref().and_then(Timestamp::parse) { " " (instant(at, now)) }
        @match (job.paused, job.enabled, job.next_run.as_deref().and_then(Timestamp::parse)) {
            (true, ..) => { ", " b class="warn" { "paused" } }
            (_, false, _) => { ", off: runs only when a person starts it" }
            (.., Some(next)) => { ", next " (instant(next, now)) }
            (.., None) => {}
        }
    }
}

/// `118 succeeded, 3 skipped in the last hour`.
fn last_hour(recent: &[&JobRun]) -> String {
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

/// The instant at which a run is drawn: its start, or when it was due.
fn drawn_at(run: &JobRun) -> i64 {
    run.started_at.unwrap_or(run.scheduled_at)
}

fn lane(job: &JobStatus, recent: &[&JobRun], window: Window) -> Markup {
    let now = window.at(window.now.micros());
    let next = job.next_run.as_deref().and_then(Timestamp::parse).filter(|_| !job.paused && job.enabled);
    let next = next.filter(|next| (now..99.5).contains(&window.at(next.micros())));
    html! {
        svg class="lane" role="img" aria-label=(format!("{}: {}", job.name, last_hour(recent))) width="100%"
            height=(HEIGHT) {
            rect class="ground" y=(HEIGHT / 2) width="100%" height="1" {}
            @for outcome in OUTCOMES {
                @for (from, to, runs) in marks_of(outcome, recent, window) {
                    (mark(outcome, window.at(from), window.at(to), &title(&runs)))
                }
            }
            rect class="now" x=(format!("{now:.2}%")) width="1.5" height="100%" {}
            @if let Some(next) = next {
                (mark("next", window.at(next.micros()), 0.0, &format!("next at {}", clock(next.micros()))))
            }
        }
    }
}

/// The marks of one outcome: start, end, runs. Marks that would overlap become one, whose title gives the number of runs.
fn marks_of<'a>(outcome: &str, recent: &[&'a JobRun], window: Window) -> Vec<(i64, i64, Vec<&'a JobRun>)> {
    let mut marks: Vec<(i64, i64, Vec<&JobRun>)> = Vec::new();
    let mut runs: Vec<&JobRun> = recent.iter().copied().filter(|run| run.outcome == outcome).collect();
    runs.sort_by_key(|run| drawn_at(run));
    for run in runs {
        let end = run.finished_at.unwrap_or(if outcome == "running" { window.now.micros() } else { drawn_at(run) });
        match marks.last_mut() {
            Some((from, to, runs)) if drawn_at(run) - *from < STEP_US => {
                *to = end.max(*to);
                runs.push(run);
            }
            _ => marks.push((drawn_at(run), end, vec![run])),
        }
    }
    marks
}

fn mark(outcome: &str, from: f64, to: f64, title: &str) -> Markup {
    let (middle, width) = (HEIGHT / 2, to - from);
    let x = format!("{from:.2}%");
    html! {
        g class={ "o-" (outcome) } {
            title { (title) }
            // A run that is long enough to be seen has a length.
            @if width > 0.3 { rect x=(x) y=(middle - 3) width=(format!("{width:.2}%")) height="6" {} }
            use href={ "#m-" (outcome) } x=(x) y=(middle) {}
        }
    }
}

fn title(runs: &[&JobRun]) -> String {
    let Some(run) = runs.first() else { return String::new() };
    let outcome = run.outcome.replace('_', " ");
    if runs.len() > 1 {
        return format!("from {}: {} {outcome}", clock(drawn_at(run)), pluralize(runs.len() as i64, "run", "runs"));
    }
    let mut words = format!("{} {outcome}", clock(drawn_at(run)));
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

fn buttons(job: &JobStatus) -> Markup {
    let name = &job.name;
    let pause = if job.paused { ("resume", "Resume") } else { ("pause", "Pause") };
    html! {
        div class="buttons" {
            @for (verb, label) in [("run", "Run now"), pause] {
                button form="do" name="do" value={ (verb) " " (name) } id={ (verb) "-" (name) }
                    aria-label={ (label) ": " (name) } { (label) }
            }
        }
    }
}
