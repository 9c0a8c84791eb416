//! Decides what is due. Pure: both clocks are given, nothing is read, nothing is spawned.
//!
//! `every` and `delay` follow the monotonic clock, so neither a step of the wall clock nor daylight saving moves them.
//! `cron` follows the wall clock; when that is stepped, the next instant is looked up anew. Instants that pass while
//! nobody looks (a stall, a suspended machine, a stopped service) are missed: the job says which of them are run, and
//! for the others there is an [`Action::Skip`]. Nothing is skipped in silence.

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

/// A difference between the two clocks' progress beyond this is a step of the wall clock. Microseconds.
const STEP_US: i64 = 1_500_000;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// The monotonic clock, since any origin.
    pub monotonic: Duration,
}

/// Why a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Its time has come.
    Schedule,
    /// Its time had passed unseen.
    CatchUp,
    /// Somebody asked.
    Manual,
    /// It failed before.
    Retry,
    /// Something happened.
    Event,
}

impl Trigger {
    /// As recorded.
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
    /// Why.
    pub trigger: Trigger,
    /// When it should have started.
    pub scheduled_at: Timestamp,
    /// 1 for the first try.
    pub attempt: u32,
    /// `[from, to)`, when the job has windows.
    pub window: Option<(Timestamp, Timestamp)>,
}

/// Instants that are not run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The job.
    pub job: String,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this run, and say [`Planner::finished`] when it ends.
    Start(Firing),
    /// Cancel the job's run; its successor waits for its end.
    Cancel(String),
    /// Record that these do not run.
    Skip(Skipped),
    /// Record that these do not run yet: what they require is not there. The last of them runs when it is. A second
    /// one with the same first instant replaces the first.
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
    /// Each job of the new schedule and when it is due next, if it is by itself.
    pub next: Vec<(String, Option<Timestamp>)>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let Self { added, changed, removed, next: _ } = self;
        write!(f, "jobs added: {}, changed: {}, removed: {}", names(added), names(changed), names(removed))
    }
}

/// What jitter is drawn from: the same seeds, the same instants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seeds {
    /// Another one in each process.
    pub process: u64,
    /// The same one on this machine always.
    pub machine: u64,
}

/// Plans a schedule.
#[derive(Debug)]
pub struct Planner {
    options: SchedulerOptions,
    jobs: Vec<Job>,
    /// What is looked at in every turn, job by job: a thousand jobs do not fit a cache.
    hot_states: Vec<HotState>,
    /// Where each name is in `jobs`.
    indices: HashMap<String, usize>,
    seeds: Seeds,
    previous: Now,
    changed: bool,
    /// What is not there now, and why.
    unmet: Vec<(Requirement, String)>,
}

/// A critical job that has not succeeded for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentJob {
    /// The job.
    pub job: String,
    /// How long it has not succeeded, as far as is known.
    pub silent_for: Duration,
    /// How long it may.
    pub max: Duration,
}

impl Planner {
    /// Plans from `now` on, and deals with what was missed since what is remembered.
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

    /// Neither clock is ever set or slewed: jobs need not be looked at before their instants.
    fn assume_steady_clock(&mut self, now: Now) {
        for job in &mut self.jobs {
            job.assume_steady_clock(now);
        }
        self.refresh_all();
    }

    /// Everything that is to be done now, starts in the order in which they were scheduled.
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

    /// How long until something may be due, as far as can be said now; half a minute at most, because the wall clock
    /// may be slewed. `None` when nothing will be.
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

    /// When a job is due next, by the wall clock.
    pub fn next(&self, name: &str, now: Now) -> Option<Timestamp> {
        Some(after(now, self.job(name)?.wait(now)?))
    }

    /// A run that somebody asked for starts now, or there is a reason why not.
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

    /// Something happened: its jobs are due at once.
    pub fn event(&mut self, event: JobEvent, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        for job in &mut self.jobs {
            job.event(event, now, &mut actions);
        }
        self.refresh_all();
        actions
    }

    /// A run has ended, well or not; says what follows from it.
    pub fn finished(&mut self, name: &str, outcome: RunOutcome, now: Now) -> FollowUp {
        let Some(at) = self.indices.get(name).copied() else { return FollowUp::Nothing };
        let follow_up = self.jobs[at].finished(outcome, now);
        self.refresh(at);
        self.changed = true;
        follow_up
    }

    /// What runs require and is not there from now on, with the reason.
    pub fn set_unmet(&mut self, unmet: Vec<(Requirement, String)>) {
        self.unmet = unmet;
    }

    /// What runs require, each once.
    pub fn requirements(&self) -> Vec<Requirement> {
        let mut all = Vec::new();
        for requirement in self.jobs.iter().flat_map(|job| &job.spec.requires) {
            if !all.contains(requirement) {
                all.push(*requirement);
            }
        }
        all
    }

    /// Why a job cannot run now, as far as it says what it requires.
    fn unmet_requirement(&self, spec: &JobSpec) -> Option<String> {
        let unmet = |wanted: &Requirement| self.unmet.iter().find(|(requirement, _)| requirement == wanted);
        let (requirement, why) = spec.requires.iter().find_map(unmet)?;
        Some(format!("it requires {requirement}: {why}"))
    }

    /// Critical jobs that have not succeeded for too long.
    pub fn silent_jobs(&self, now: Now) -> Vec<SilentJob> {
        self.jobs.iter().filter_map(|job| job.silent(now)).collect()
    }

    /// Whether a job is one of them.
    pub fn is_silent(&self, name: &str, now: Now) -> bool {
        self.job(name).is_some_and(|job| job.silent(now).is_some())
    }

    /// When a job last succeeded, as far as is remembered.
    pub fn last_success(&self, name: &str) -> Option<Timestamp> {
        self.job(name)?.last_success()
    }

    /// Every job as it was written.
    pub fn specs(&self) -> impl Iterator<Item = &JobSpec> {
        self.jobs.iter().map(|job| &job.spec)
    }

    /// The job of this name.
    pub fn spec(&self, name: &str) -> Option<&JobSpec> {
        self.job(name).map(|job| &job.spec)
    }

    /// `[scheduler]`.
    pub fn options(&self) -> SchedulerOptions {
        self.options
    }

    /// Why a job is paused, if it is.
    pub fn paused(&self, name: &str) -> Option<&str> {
        self.job(name)?.paused()
    }

    /// Pauses a job; false when there is none of this name.
    pub fn pause(&mut self, name: &str, reason: &str) -> bool {
        let Some(at) = self.indices.get(name).copied() else { return false };
        self.jobs[at].pause(reason);
        self.refresh(at);
        self.changed = true;
        true
    }

    /// Resumes a job, which goes on from `now`; `None` when there is none of this name. The actions tell which instants
    /// passed during the pause.
    pub fn resume(&mut self, name: &str, now: Now) -> Option<Vec<Action>> {
        let at = self.indices.get(name).copied()?;
        let mut actions = Vec::new();
        self.jobs[at].resume(now, &mut actions);
        self.refresh(at);
        self.changed = true;
        Some(actions)
    }

    /// Takes a new schedule over; jobs whose time did not change keep their phase.
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

    /// What must survive a restart, when it changed since the last call.
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

    /// Whoever changes a job looks at it again.
    fn refresh(&mut self, at: usize) {
        self.hot_states[at] = self.jobs[at].hot_state();
    }

    fn refresh_all(&mut self) {
        self.hot_states = self.jobs.iter().map(Job::hot_state).collect();
    }

    /// How many more runs may go on.
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
