//! Decides which jobs are due. Pure: the caller passes both clocks; the planner reads nothing and spawns nothing.
//!
//! `every` and `delay` follow the monotonic clock, so neither a step of the wall clock nor daylight saving moves them.
//! `cron` follows the wall clock; after a step of that clock the planner computes the next instant again. Instants that
//! pass during a stall, a suspend or a stop of the service are missed. The job's `missed` policy selects those that
//! run; each of the others is reported in an [`Action::Skip`].

mod job;
mod next;
mod simulate;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

pub use super::calendar::{Calendar, next_cron, parse_cron};
pub use job::{FollowUp, RunOutcome};
pub use simulate::{Simulation, simulate};

use super::scheduler_state::{JobState, SchedulerState};
use super::spec::{JobEvent, JobSpec, Requirement, Schedule, SchedulerOptions};
use crate::market::Timestamp;
use job::{HotState, Job};

/// When the two clocks' progress differs by more than this, the wall clock was stepped. Microseconds.
const STEP_US: i64 = 1_500_000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock; its origin does not matter.
    pub monotonic: Duration,
}

/// Why a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// It is due.
    Schedule,
    /// Its instant was missed, and it runs later.
    CatchUp,
    /// An operator started it.
    Manual,
    /// Its last attempt failed.
    Retry,
    /// An event occurred.
    Event,
}

impl Trigger {
    /// The name in the run history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::CatchUp => "catch-up",
            Self::Manual => "manual",
            Self::Retry => "retry",
            Self::Event => "event",
        }
    }
}

/// A run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The job.
    pub job: String,
    /// Why it starts.
    pub trigger: Trigger,
    /// When it should have started.
    pub scheduled_at: Timestamp,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The time it covers, `[from, to)`, when the job has windows.
    pub window: Option<(Timestamp, Timestamp)>,
}

/// Instants that do not run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The job.
    pub job: String,
    /// The first instant.
    pub first: Timestamp,
    /// The last instant.
    pub last: Timestamp,
    /// The number of instants.
    pub count: u64,
    /// Why they do not run.
    pub reason: String,
}

/// What the runner must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this run, and call [`Planner::finished`] when it ends.
    Start(Firing),
    /// Cancel the job's current run; its successor waits until it has ended.
    Cancel(String),
    /// Record that these instants do not run.
    Skip(Skipped),
    /// Record that these instants wait because a requirement is not met. The last one runs when it is. A second
    /// deferral with the same first instant replaces the first.
    Defer(Skipped),
}

/// What a new schedule changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of new jobs.
    pub added: Vec<String>,
    /// Names of changed jobs.
    pub changed: Vec<String>,
    /// Names of jobs that are gone.
    pub removed: Vec<String>,
    /// Each job of the new schedule and its next instant, when it has one.
    pub next: Vec<(String, Option<Timestamp>)>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let Self { added, changed, removed, next: _ } = self;
        write!(f, "jobs added: {}, changed: {}, removed: {}", names(added), names(changed), names(removed))
    }
}

/// Seeds of the jitter: the same seeds give the same instants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seeds {
    /// Different in each process.
    pub process: u64,
    /// Always the same on this machine.
    pub machine: u64,
}

/// Plans the runs of a schedule.
#[derive(Debug)]
pub struct Planner {
    options: SchedulerOptions,
    jobs: Vec<Job>,
    /// The part of each job that every tick reads, side by side: a thousand whole jobs do not fit a CPU cache.
    hot_states: Vec<HotState>,
    /// The index in `jobs` of each name.
    indices: HashMap<String, usize>,
    seeds: Seeds,
    previous: Now,
    changed: bool,
    /// Requirements that are not met now, and why.
    unmet: Vec<(Requirement, String)>,
}

/// A critical job without a success for longer than its `max_silence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentJob {
    /// The job.
    pub job: String,
    /// The known time without a success.
    pub silent_for: Duration,
    /// The time allowed without one.
    pub max: Duration,
}

impl Planner {
    /// Plans from `now` on; instants since the saved state count as missed.
    pub fn new(schedule: Schedule, state: &SchedulerState, seeds: Seeds, now: Now) -> Self {
        let saved = |name: &str| state.jobs.get(name).cloned().unwrap_or_default();
        let job = |spec: JobSpec| {
            let saved = saved(&spec.name);
            Job::new(spec, saved, seeds, now)
        };
        let jobs: Vec<Job> = schedule.jobs.into_iter().map(job).collect();
        let indices = indices_by_name(&jobs);
        let hot_states = jobs.iter().map(Job::hot_state).collect();
        Self {
            options: schedule.scheduler,
            jobs,
            hot_states,
            indices,
            seeds,
            previous: now,
            changed: true,
            unmet: Vec::new(),
        }
    }

    /// For clocks that are never set or slewed: no job is checked before its next instant.
    fn assume_steady_clock(&mut self, now: Now) {
        for job in &mut self.jobs {
            job.assume_steady_clock(now);
        }
        self.refresh_all();
    }

    /// All actions due now, with the starts in the order of their scheduled times.
    pub fn due(&mut self, now: Now) -> Vec<Action> {
        let elapsed = now.monotonic.saturating_sub(self.previous.monotonic).as_micros() as i64;
        let stepped = (now.wall.since(self.previous.wall) - elapsed).abs() > STEP_US;
        self.previous = now;
        let mut actions = Vec::new();
        for at in 0..self.jobs.len() {
            if stepped || now.monotonic >= self.hot_states[at].idle_until {
                self.changed |= self.jobs[at].advance(now, stepped, &mut actions);
                self.refresh(at);
            }
        }
        let mut ready: Vec<usize> = (0..self.jobs.len()).filter(|at| self.hot_states[*at].is_ready).collect();
        ready.sort_by(|a, b| self.jobs[*a].priority().cmp(&self.jobs[*b].priority()));
        let mut free_slots = self.free_slots();
        for at in ready {
            if free_slots == 0 {
                break;
            }
            if let Some(why) = self.unmet_requirement(&self.jobs[at].spec) {
                actions.extend(self.jobs[at].defer(why));
                continue;
            }
            free_slots -= usize::from(self.jobs[at].start(now, &mut actions));
            self.refresh(at);
        }
        actions
    }

    /// The time until a job may be due; at most half a minute, because the wall clock may be slewed. `None` when no job
    /// will be due by itself.
    pub fn wait(&self, now: Now) -> Option<Duration> {
        let full = self.free_slots() == 0;
        let wait = |(at, hot): (usize, &HotState)| {
            if hot.is_ready && !full && self.unmet_requirement(&self.jobs[at].spec).is_none() {
                return Some(Duration::ZERO);
            }
            hot.is_active.then(|| hot.idle_until.saturating_sub(now.monotonic))
        };
        self.hot_states.iter().enumerate().filter_map(wait).min()
    }

    /// When a job is next due, by the wall clock.
    pub fn next(&self, name: &str, now: Now) -> Option<Timestamp> {
        Some(after(now, self.job(name)?.wait(now)?))
    }

    /// Starts a run by hand; the error says why it cannot start.
    pub fn start_now(&mut self, name: &str, now: Now) -> Result<Firing, String> {
        let Some(at) = self.indices.get(name).copied() else {
            return Err(format!("there is no job `{name}`"));
        };
        match self.unmet_requirement(&self.jobs[at].spec) {
            Some(why) => Err(why),
            None => {
                let started = self.jobs[at].start_now(now);
                self.refresh(at);
                started
            }
        }
    }

    /// An event occurred: its jobs are due at once.
    pub fn event(&mut self, event: JobEvent, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        for job in &mut self.jobs {
            job.event(event, now, &mut actions);
        }
        self.refresh_all();
        actions
    }

    /// Takes the outcome of a run; returns what follows.
    pub fn finished(&mut self, name: &str, outcome: RunOutcome, now: Now) -> FollowUp {
        let Some(at) = self.indices.get(name).copied() else { return FollowUp::Nothing };
        let follow_up = self.jobs[at].finished(outcome, now);
        self.refresh(at);
        self.changed = true;
        follow_up
    }

    /// Sets the requirements that are not met from now on, with the reasons.
    pub fn set_unmet(&mut self, unmet: Vec<(Requirement, String)>) {
        self.unmet = unmet;
    }

    /// Every requirement of the schedule, once.
    pub fn requirements(&self) -> Vec<Requirement> {
        let mut all = Vec::new();
        for requirement in self.jobs.iter().flat_map(|job| &job.spec.requires) {
            if !all.contains(requirement) {
                all.push(*requirement);
            }
        }
        all
    }

    /// Which of its requirements keeps a job from running now, and why.
    fn unmet_requirement(&self, spec: &JobSpec) -> Option<String> {
        let unmet = |wanted: &Requirement| self.unmet.iter().find(|(requirement, _)| requirement == wanted);
        let (requirement, why) = spec.requires.iter().find_map(unmet)?;
        Some(format!("it requires {requirement}: {why}"))
    }

    /// Critical jobs without a success for longer than `max_silence`.
    pub fn silent_jobs(&self, now: Now) -> Vec<SilentJob> {
        self.jobs.iter().filter_map(|job| job.silent(now)).collect()
    }

    /// Whether a job is among the silent ones.
    pub fn is_silent(&self, name: &str, now: Now) -> bool {
        self.job(name).is_some_and(|job| job.silent(now).is_some())
    }

    /// When a job last succeeded, restarts included.
    pub fn last_success(&self, name: &str) -> Option<Timestamp> {
        self.job(name)?.last_success()
    }

    /// The specification of every job.
    pub fn specs(&self) -> impl Iterator<Item = &JobSpec> {
        self.jobs.iter().map(|job| &job.spec)
    }

    /// The specification of the job with this name.
    pub fn spec(&self, name: &str) -> Option<&JobSpec> {
        self.job(name).map(|job| &job.spec)
    }

    /// `[scheduler]`.
    pub fn options(&self) -> SchedulerOptions {
        self.options
    }

    /// Why a job is paused; `None` when it is not.
    pub fn paused(&self, name: &str) -> Option<&str> {
        self.job(name)?.paused()
    }

    /// Pauses a job; false when no job has this name.
    pub fn pause(&mut self, name: &str, reason: &str) -> bool {
        let Some(at) = self.indices.get(name).copied() else { return false };
        self.jobs[at].pause(reason);
        self.refresh(at);
        self.changed = true;
        true
    }

    /// Resumes a job from `now` on; `None` when no job has this name. The actions report the instants that passed
    /// during the pause.
    pub fn resume(&mut self, name: &str, now: Now) -> Option<Vec<Action>> {
        let at = self.indices.get(name).copied()?;
        let mut actions = Vec::new();
        self.jobs[at].resume(now, &mut actions);
        self.refresh(at);
        self.changed = true;
        Some(actions)
    }

    /// Takes a new schedule; jobs whose timing did not change keep their phase.
    pub fn replace(&mut self, schedule: Schedule, now: Now) -> Changes {
        let changes = self.compare(&schedule, now);
        let mut before = std::mem::take(&mut self.jobs);
        for spec in schedule.jobs {
            let existing = before.iter().position(|job| job.spec.name == spec.name);
            self.jobs.push(match existing.map(|at| before.swap_remove(at)) {
                Some(mut old) => {
                    old.change(spec, now);
                    old
                }
                None => Job::new(spec, JobState::default(), self.seeds, now),
            });
        }
        self.indices = indices_by_name(&self.jobs);
        self.refresh_all();
        self.options = schedule.scheduler;
        self.changed = true;
        changes
    }

    /// What [`Planner::replace`] would change.
    pub fn compare(&self, schedule: &Schedule, now: Now) -> Changes {
        let mut changes = Changes::default();
        for spec in &schedule.jobs {
            let wait = match self.job(&spec.name) {
                Some(job) if job.keeps_phase(spec) => job.wait(now),
                Some(job) if job.paused().is_some() => None,
                _ => Job::new(spec.clone(), JobState::default(), self.seeds, now).wait(now),
            };
            changes.next.push((spec.name.clone(), wait.map(|wait| after(now, wait))));
            match self.spec(&spec.name) {
                None => changes.added.push(spec.name.clone()),
                Some(old) if old != spec => changes.changed.push(spec.name.clone()),
                Some(_) => {}
            }
        }
        let gone = self.specs().filter(|old| !schedule.jobs.iter().any(|spec| spec.name == old.name));
        changes.removed = gone.map(|old| old.name.clone()).collect();
        changes
    }

    /// The state that must survive a restart, when it changed since the last call.
    pub fn take_changed_state(&mut self) -> Option<SchedulerState> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut state = SchedulerState::default();
        for job in &self.jobs {
            let job_state = job.state();
            if !job_state.is_empty() {
                state.jobs.insert(job.spec.name.clone(), job_state);
            }
        }
        Some(state)
    }

    fn job(&self, name: &str) -> Option<&Job> {
        self.jobs.get(*self.indices.get(name)?)
    }

    /// Copies a job's hot state; every change of a job must call it.
    fn refresh(&mut self, at: usize) {
        self.hot_states[at] = self.jobs[at].hot_state();
    }

    fn refresh_all(&mut self) {
        self.hot_states = self.jobs.iter().map(Job::hot_state).collect();
    }

    /// How many more runs may start.
    fn free_slots(&self) -> usize {
        let running = self.hot_states.iter().filter(|hot| hot.is_running).count();
        self.options.max_concurrent.saturating_sub(running)
    }
}

fn after(now: Now, wait: Duration) -> Timestamp {
    now.wall.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
}

fn indices_by_name(jobs: &[Job]) -> HashMap<String, usize> {
    jobs.iter().enumerate().map(|(at, job)| (job.spec.name.clone(), at)).collect()
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
