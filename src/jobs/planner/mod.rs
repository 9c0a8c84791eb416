//! Decides what is due. Pure: both clocks are given, nothing is read, nothing is spawned.
//!
//! `every` and `delay` follow the monotonic clock, so neither a step of the wall clock nor daylight saving moves them.
//! `cron` follows the wall clock; when that is stepped, the next instant is looked up anew. Instants that pass while
//! nobody looks (a stall, a suspended machine, a stopped service) are missed: the job says which of them are run, and
//! for the others there is an [`Act::Skip`]. Nothing is skipped in silence.

mod job;
mod next;
mod simulate;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

pub use super::calendar::{Calendar, next_cron, parse_cron};
pub use job::{Afterwards, Ended};
pub use simulate::{Simulation, simulate};

use super::memory::{Memory, Remembered};
use super::spec::{JobEvent, JobSpec, Requirement, Schedule, SchedulerOptions};
use crate::market::Timestamp;
use job::{Glance, Job};

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
pub struct Skip {
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
pub enum Act {
    /// Start this run, and say [`Planner::finished`] when it ends.
    Start(Firing),
    /// Cancel the job's run; its successor waits for its end.
    Cancel(String),
    /// Record that these do not run.
    Skip(Skip),
    /// Record that these do not run yet: what they require is not there. The last of them runs when it is. A second
    /// one with the same first instant replaces the first.
    Defer(Skip),
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
    glances: Vec<Glance>,
    /// Where each name is in `jobs`.
    places: HashMap<String, usize>,
    seeds: Seeds,
    seen: Now,
    changed: bool,
    /// What is not there now, and why.
    unmet: Vec<(Requirement, String)>,
}

/// A critical job that has not succeeded for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The job.
    pub job: String,
    /// How long it has not succeeded, as far as is known.
    pub lasts: Duration,
    /// How long it may.
    pub max: Duration,
}

impl Planner {
    /// Plans from `now` on, and deals with what was missed since what is remembered.
    pub fn new(schedule: Schedule, memory: &Memory, seeds: Seeds, now: Now) -> Self {
        let remembered = |name: &str| memory.jobs.get(name).cloned().unwrap_or_default();
        let job = |spec: JobSpec| {
            let remembered = remembered(&spec.name);
            Job::new(spec, remembered, seeds, now)
        };
        let jobs: Vec<Job> = schedule.jobs.into_iter().map(job).collect();
        let places = places(&jobs);
        let glances = jobs.iter().map(Job::glance).collect();
        Self { options: schedule.scheduler, jobs, glances, places, seeds, seen: now, changed: true, unmet: Vec::new() }
    }

    /// Neither clock is ever set or slewed: jobs need not be looked at before their instants.
    fn trust_the_clock(&mut self, now: Now) {
        for job in &mut self.jobs {
            job.trust_the_clock(now);
        }
        self.look_at_all();
    }

    /// Everything that is to be done now, starts in the order in which they were scheduled.
    pub fn due(&mut self, now: Now) -> Vec<Act> {
        let elapsed = now.monotonic.saturating_sub(self.seen.monotonic).as_micros() as i64;
        let stepped = (now.wall.since(self.seen.wall) - elapsed).abs() > STEP_US;
        self.seen = now;
        let mut acts = Vec::new();
        for at in 0..self.jobs.len() {
            if stepped || now.monotonic >= self.glances[at].idle_until {
                self.changed |= self.jobs[at].pass(now, stepped, &mut acts);
                self.look_at(at);
            }
        }
        let mut ready: Vec<usize> = (0..self.jobs.len()).filter(|at| self.glances[*at].is_ready).collect();
        ready.sort_by(|a, b| self.jobs[*a].order().cmp(&self.jobs[*b].order()));
        let mut room = self.room();
        for at in ready {
            if room == 0 {
                break;
            }
            if let Some(why) = self.lacks(&self.jobs[at].spec) {
                acts.extend(self.jobs[at].defer(why));
                continue;
            }
            room -= usize::from(self.jobs[at].start(now, &mut acts));
            self.look_at(at);
        }
        acts
    }

    /// How long until something may be due, as far as can be said now; half a minute at most, because the wall clock
    /// may be slewed. `None` when nothing will be.
    pub fn wait(&self, now: Now) -> Option<Duration> {
        let full = self.room() == 0;
        let wait = |(at, glance): (usize, &Glance)| {
            if glance.is_ready && !full && self.lacks(&self.jobs[at].spec).is_none() {
                return Some(Duration::ZERO);
            }
            glance.is_active.then(|| glance.idle_until.saturating_sub(now.monotonic))
        };
        self.glances.iter().enumerate().filter_map(wait).min()
    }

    /// When a job is due next, by the wall clock.
    pub fn next(&self, name: &str, now: Now) -> Option<Timestamp> {
        Some(after(now, self.job(name)?.wait(now)?))
    }

    /// A run that somebody asked for starts now, or there is a reason why not.
    pub fn ask(&mut self, name: &str, now: Now) -> Result<Firing, String> {
        let Some(at) = self.places.get(name).copied() else {
            return Err(format!("there is no job `{name}`"));
        };
        match self.lacks(&self.jobs[at].spec) {
            Some(why) => Err(why),
            None => {
                let asked = self.jobs[at].ask(now);
                self.look_at(at);
                asked
            }
        }
    }

    /// Something happened: its jobs are due at once.
    pub fn event(&mut self, event: JobEvent, now: Now) -> Vec<Act> {
        let mut acts = Vec::new();
        for job in &mut self.jobs {
            job.event(event, now, &mut acts);
        }
        self.look_at_all();
        acts
    }

    /// A run has ended, well or not; says what follows from it.
    pub fn finished(&mut self, name: &str, ended: Ended, now: Now) -> Afterwards {
        let Some(at) = self.places.get(name).copied() else { return Afterwards::Nothing };
        let afterwards = self.jobs[at].finished(ended, now);
        self.look_at(at);
        self.changed = true;
        afterwards
    }

    /// What runs require and is not there from now on, with the reason.
    pub fn observe(&mut self, unmet: Vec<(Requirement, String)>) {
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
    fn lacks(&self, spec: &JobSpec) -> Option<String> {
        let unmet = |wanted: &Requirement| self.unmet.iter().find(|(requirement, _)| requirement == wanted);
        let (requirement, why) = spec.requires.iter().find_map(unmet)?;
        Some(format!("it requires {requirement}: {why}"))
    }

    /// Critical jobs that have not succeeded for too long.
    pub fn silent(&self, now: Now) -> Vec<Silence> {
        self.jobs.iter().filter_map(|job| job.silent(now)).collect()
    }

    /// Whether a job is one of them.
    pub fn is_silent(&self, name: &str, now: Now) -> bool {
        self.job(name).is_some_and(|job| job.silent(now).is_some())
    }

    /// When a job last succeeded, as far as is remembered.
    pub fn succeeded(&self, name: &str) -> Option<Timestamp> {
        self.job(name)?.succeeded()
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
        let Some(at) = self.places.get(name).copied() else { return false };
        self.jobs[at].pause(reason);
        self.look_at(at);
        self.changed = true;
        true
    }

    /// Resumes a job, which goes on from `now`; `None` when there is none of this name. The acts tell which instants
    /// passed during the pause.
    pub fn resume(&mut self, name: &str, now: Now) -> Option<Vec<Act>> {
        let at = self.places.get(name).copied()?;
        let mut acts = Vec::new();
        self.jobs[at].resume(now, &mut acts);
        self.look_at(at);
        self.changed = true;
        Some(acts)
    }

    /// Takes a new schedule over; jobs whose time did not change keep their phase.
    pub fn replace(&mut self, schedule: Schedule, now: Now) -> Changes {
        let changes = self.compare(&schedule, now);
        let mut before = std::mem::take(&mut self.jobs);
        for spec in schedule.jobs {
            let known = before.iter().position(|job| job.spec.name == spec.name);
            self.jobs.push(match known.map(|at| before.swap_remove(at)) {
                Some(mut old) => {
                    old.change(spec, now);
                    old
                }
                None => Job::new(spec, Remembered::default(), self.seeds, now),
            });
        }
        self.places = places(&self.jobs);
        self.look_at_all();
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
                _ => Job::new(spec.clone(), Remembered::default(), self.seeds, now).wait(now),
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
    pub fn news(&mut self) -> Option<Memory> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut memory = Memory::default();
        for job in &self.jobs {
            let remembered = job.remembered();
            if !remembered.is_empty() {
                memory.jobs.insert(job.spec.name.clone(), remembered);
            }
        }
        Some(memory)
    }

    fn job(&self, name: &str) -> Option<&Job> {
        self.jobs.get(*self.places.get(name)?)
    }

    /// Whoever changes a job looks at it again.
    fn look_at(&mut self, at: usize) {
        self.glances[at] = self.jobs[at].glance();
    }

    fn look_at_all(&mut self) {
        self.glances = self.jobs.iter().map(Job::glance).collect();
    }

    /// How many more runs may go on.
    fn room(&self) -> usize {
        let running = self.glances.iter().filter(|glance| glance.is_running).count();
        self.options.max_concurrent.saturating_sub(running)
    }
}

fn after(now: Now, wait: Duration) -> Timestamp {
    now.wall.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX))
}

fn places(jobs: &[Job]) -> HashMap<String, usize> {
    jobs.iter().enumerate().map(|(at, job)| (job.spec.name.clone(), at)).collect()
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
