//! A job as people see it.

use std::time::Duration;

use super::planner::Calendar;
use super::spec::{Align, JobEvent, When};
use crate::history::JobRun;

/// A job as people see it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Its task.
    pub task: String,
    /// For people.
    pub description: String,
    /// When it runs, in words.
    pub when: String,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// Whether somebody paused it, or its failures did.
    pub paused: bool,
    /// Why it is paused.
    pub paused_reason: Option<String>,
    /// Whether it runs now.
    pub running: bool,
    /// When it runs next, RFC 3339.
    pub next_run: Option<String>,
    /// How its last run ended.
    pub last_outcome: Option<String>,
    /// What its last run said.
    pub last_summary: Option<String>,
    /// When its last run ended, RFC 3339.
    pub last_finished: Option<String>,
    /// How much later than scheduled its last run started, milliseconds.
    pub last_lateness_ms: Option<i64>,
    /// Runs since the process began.
    pub runs: u64,
    /// Of these, how many did not succeed.
    pub failures: u64,
    /// Instants that passed without a run since the process began.
    pub missed: u64,
}

/// What is known of a job's runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    pub(super) running: bool,
    pub(super) last: Option<JobRun>,
    pub(super) summary: Option<String>,
    pub(super) runs: u64,
    pub(super) failures: u64,
    pub(super) missed: u64,
}

impl Past {
    pub(super) fn lateness_ms(&self) -> Option<i64> {
        let run = self.last.as_ref()?;
        Some((run.started_at? - run.scheduled_at).max(0) / 1_000)
    }
}

/// When a job runs, in English.
pub fn words(when: &When) -> String {
    match when {
        When::Every { period, align: Align::Start } => format!("every {}", humane(*period)),
        When::Every { period, align: Align::Wall } => format!("every {}, on the clock", humane(*period)),
        When::Delay(delay) => format!("{} after its end", humane(*delay)),
        When::Cron { text, timezone } => match Calendar::parse(text, *timezone) {
            Ok(calendar) => calendar.words(),
            Err(_) => text.clone(),
        },
        When::On(events) => {
            let names = JobEvent::ALL.iter().filter(|(_, event)| events.contains(event)).map(|(name, _)| *name);
            format!("on {}", names.collect::<Vec<_>>().join(", "))
        }
    }
}

fn humane(period: Duration) -> String {
    let seconds = period.as_secs_f64();
    if seconds >= 3_600.0 && seconds % 3_600.0 == 0.0 {
        format!("{} h", seconds / 3_600.0)
    } else if seconds >= 60.0 && seconds % 60.0 == 0.0 {
        format!("{} min", seconds / 60.0)
    } else {
        format!("{seconds} s")
    }
}
