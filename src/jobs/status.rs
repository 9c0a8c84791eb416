//! The status of a job, as the API and the status page show it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::planner::{Calendar, Now, Planner};
use super::spec::{Align, JobEvent, JobSpec, When};
use crate::history::JobRun;
use crate::market::Timestamp;

/// The status of a job.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// Its task.
    pub task: String,
    /// Its description in the schedule.
    pub description: String,
    /// When it runs, in English.
    pub when: String,
    /// Whether the schedule starts it.
    pub enabled: bool,
    /// Whether an operator or consecutive failures paused it.
    pub paused: bool,
    /// Why it is paused.
    pub paused_reason: Option<String>,
    /// Whether a run is in progress.
    pub running: bool,
    /// When it runs next, RFC 3339.
    pub next_run: Option<String>,
    /// How its last run ended.
    pub last_outcome: Option<String>,
    /// The summary of its last run.
    pub last_summary: Option<String>,
    /// When its last run ended, RFC 3339.
    pub last_finished: Option<String>,
    /// The delay of its last run's start after its scheduled time, milliseconds.
    pub last_lateness_ms: Option<i64>,
    /// When a run last succeeded, restarts included, RFC 3339.
    pub last_success: Option<String>,
    /// How long a critical job may be without a success, seconds; absent for other jobs.
    pub max_silence_s: Option<f64>,
    /// Whether a critical job has exceeded that.
    pub silent: bool,
    /// Runs since the process began.
    pub runs: u64,
    /// Runs that failed or timed out since the process began.
    pub failures: u64,
    /// Instants without a run since the process began.
    pub missed: u64,
    /// Rows of the run history since the process began, by outcome; a series of skipped or deferred instants is one
    /// row.
    pub outcomes: BTreeMap<String, u64>,
}

impl JobStatus {
    pub(super) fn new(spec: &JobSpec, stats: RunStats, planner: &Planner, now: Now) -> Self {
        let paused_reason = planner.paused(&spec.name).map(str::to_owned);
        let last = stats.last.as_ref();
        Self {
            name: spec.name.clone(),
            task: spec.task.as_str().to_owned(),
            description: spec.description.clone(),
            when: describe(&spec.when),
            enabled: spec.enabled,
            paused: paused_reason.is_some(),
            paused_reason,
            running: stats.running,
            next_run: planner.next(&spec.name, now).map(Timestamp::rfc3339),
            last_outcome: last.map(|run| run.outcome.clone()),
            last_finished: last.and_then(|run| run.finished_at).map(|at| Timestamp(at).rfc3339()),
            last_lateness_ms: stats.started.as_ref().and_then(JobRun::lateness_us).map(|late| late / 1_000),
            last_summary: stats.summary,
            last_success: planner.last_success(&spec.name).map(Timestamp::rfc3339),
            max_silence_s: spec.max_silence.map(|max| max.as_secs_f64()),
            silent: planner.is_silent(&spec.name, now),
            runs: stats.runs,
            failures: stats.failures,
            missed: stats.missed,
            outcomes: stats.outcomes,
        }
    }
}

/// The runs of a job since the process began.
#[derive(Clone, Debug, Default)]
pub(super) struct RunStats {
    pub(super) running: bool,
    pub(super) last: Option<JobRun>,
    /// The last run that started.
    started: Option<JobRun>,
    /// The row of the current deferral.
    deferred: Option<String>,
    summary: Option<String>,
    runs: u64,
    failures: u64,
    missed: u64,
    outcomes: BTreeMap<String, u64>,
}

impl RunStats {
    pub(super) fn started(&mut self, run: &JobRun) {
        self.running = true;
        self.runs += 1;
        self.started = Some(run.clone());
    }

    pub(super) fn ended(&mut self, run: &JobRun, summary: Option<String>) {
        self.running = false;
        self.summary = summary;
        self.last = Some(run.clone());
        self.failures += u64::from(matches!(run.outcome.as_str(), "failed" | "timed_out"));
        self.count(&run.outcome);
    }

    /// Counts instants that were skipped or deferred; a continued deferral overwrites its row.
    pub(super) fn not_run(&mut self, run: &mut JobRun, count: u64) {
        let is_deferred = run.outcome == "deferred";
        match &self.deferred {
            Some(run_id) if is_deferred && count > 1 => run.run_id.clone_from(run_id),
            _ => self.count(&run.outcome),
        }
        if is_deferred {
            self.deferred = Some(run.run_id.clone());
        } else {
            self.missed += count;
        }
        self.last = Some(run.clone());
    }

    fn count(&mut self, outcome: &str) {
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
    }
}

/// Describes when a job runs, in English.
pub fn describe(when: &When) -> String {
    match when {
        When::Every { period, align: Align::Start } => format!("every {}", format_period(*period)),
        When::Every { period, align: Align::Wall } => format!("every {}, on the clock", format_period(*period)),
        When::Delay(delay) => format!("{} after its end", format_period(*delay)),
        When::Cron { text, timezone } => match Calendar::parse(text, *timezone) {
            Ok(calendar) => calendar.describe(),
            Err(_) => text.clone(),
        },
        When::On(events) => {
            let names = JobEvent::ALL.iter().filter(|(_, event)| events.contains(event)).map(|(name, _)| *name);
            format!("on {}", names.collect::<Vec<_>>().join(", "))
        }
    }
}

fn format_period(period: Duration) -> String {
    let seconds = period.as_secs_f64();
    if seconds >= 3_600.0 && seconds % 3_600.0 == 0.0 {
        format!("{} h", seconds / 3_600.0)
    } else if seconds >= 60.0 && seconds % 60.0 == 0.0 {
        format!("{} min", seconds / 60.0)
    } else {
        format!("{seconds} s")
    }
}
