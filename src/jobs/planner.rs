//! Decides what is due. Pure: both clocks are given, nothing is read, nothing is spawned.
//!
//! `every` follows the monotonic clock, so neither a step of the wall clock nor daylight saving moves it.
//! `cron` follows the wall clock; when that is stepped, the next instant is looked up anew. Instants that pass
//! while nobody looks (a stall, a suspended machine) are one run and a count of what was missed.

use std::time::Duration;

use chrono::TimeZone;
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::market::Timestamp;

use super::spec::{JobSpec, Schedule, When};

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

/// A run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The job.
    pub job: String,
    /// When it should have started.
    pub scheduled_at: Timestamp,
    /// Instants that passed unseen before it.
    pub missed: u64,
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
}

/// Plans a schedule.
#[derive(Debug)]
pub struct Planner {
    jobs: Vec<Planned>,
    seen: Now,
}

#[derive(Debug)]
struct Planned {
    spec: JobSpec,
    next: Next,
    paused: bool,
}

#[derive(Debug)]
enum Next {
    /// Due at this monotonic instant.
    Monotonic(Duration),
    /// Due at this wall instant; `None` when the pattern never fires again.
    Wall(Box<Cron>, Tz, Option<Timestamp>),
    Never,
}

impl Planner {
    /// Plans from `now` on.
    pub fn new(schedule: Schedule, now: Now) -> Self {
        let jobs = schedule.jobs.into_iter().map(|spec| Planned::new(spec, now)).collect();
        Self { jobs, seen: now }
    }

    /// Everything due, in the order it was scheduled.
    pub fn due(&mut self, now: Now) -> Vec<Firing> {
        let expected = self.seen.wall.micros() + (now.monotonic.saturating_sub(self.seen.monotonic)).as_micros() as i64;
        let stepped = (now.wall.micros() - expected).abs() > STEP_US;
        self.seen = now;
        let mut firings: Vec<Firing> = self.jobs.iter_mut().filter_map(|job| job.due(now, stepped)).collect();
        firings.sort_by(|a, b| (a.scheduled_at, &a.job).cmp(&(b.scheduled_at, &b.job)));
        firings
    }

    /// How long until something is due, as far as can be said now.
    pub fn wait(&self, now: Now) -> Option<Duration> {
        self.jobs.iter().filter(|job| job.runs()).filter_map(|job| job.wait(now)).min()
    }

    /// When a job is due next, by the wall clock.
    pub fn next(&self, name: &str, now: Now) -> Option<Timestamp> {
        let job = self.jobs.iter().find(|job| job.spec.name == name && job.runs())?;
        job.wait(now).map(|wait| now.wall.plus_micros(wait.as_micros() as i64))
    }

    /// Every job as it was written.
    pub fn specs(&self) -> impl Iterator<Item = &JobSpec> {
        self.jobs.iter().map(|job| &job.spec)
    }

    /// The job of this name.
    pub fn spec(&self, name: &str) -> Option<&JobSpec> {
        self.specs().find(|spec| spec.name == name)
    }

    /// Whether a job is paused.
    pub fn is_paused(&self, name: &str) -> bool {
        self.jobs.iter().any(|job| job.spec.name == name && job.paused)
    }

    /// Pauses or resumes a job; false when there is none of this name. A resumed one goes on from `now`.
    pub fn pause(&mut self, name: &str, paused: bool, now: Now) -> bool {
        let Some(job) = self.jobs.iter_mut().find(|job| job.spec.name == name) else { return false };
        if job.paused && !paused {
            *job = Planned::new(job.spec.clone(), now);
        }
        job.paused = paused;
        true
    }

    /// Takes a new schedule over; jobs that did not change keep their phase.
    pub fn replace(&mut self, schedule: Schedule, now: Now) -> Changes {
        let changes = self.compare(&schedule);
        let mut before: Vec<Planned> = std::mem::take(&mut self.jobs);
        for spec in schedule.jobs {
            let known = before.iter().position(|job| job.spec.name == spec.name);
            let old = known.map(|at| before.swap_remove(at));
            self.jobs.push(match old {
                Some(old) if old.spec == spec => old,
                Some(old) => Planned { paused: old.paused, ..Planned::new(spec, now) },
                None => Planned::new(spec, now),
            });
        }
        changes
    }

    /// What [`Planner::replace`] would change.
    pub fn compare(&self, schedule: &Schedule) -> Changes {
        let mut changes = Changes::default();
        for spec in &schedule.jobs {
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
}

impl Planned {
    fn new(spec: JobSpec, now: Now) -> Self {
        let next = match &spec.when {
            When::Every(period) => Next::Monotonic(now.monotonic + *period),
            When::Cron { text, timezone } => match parse_cron(text) {
                Ok(cron) => {
                    let at = next_cron(&cron, *timezone, now.wall);
                    Next::Wall(Box::new(cron), *timezone, at)
                }
                // Unreachable behind the configuration's own check.
                Err(_) => Next::Never,
            },
            When::On(_) => Next::Never,
        };
        Self { spec, next, paused: false }
    }

    fn runs(&self) -> bool {
        self.spec.enabled && !self.paused
    }

    fn due(&mut self, now: Now, stepped: bool) -> Option<Firing> {
        let runs = self.runs();
        match (&mut self.next, &self.spec.when) {
            (Next::Monotonic(next), When::Every(period)) => {
                let late = now.monotonic.checked_sub(*next)?;
                let passed = late.as_nanos() / period.as_nanos().max(1);
                // The latest instant that has passed is the run; those before it were missed.
                let scheduled = *next + *period * u32::try_from(passed).unwrap_or(u32::MAX);
                *next = scheduled + *period;
                let behind = now.monotonic.saturating_sub(scheduled).as_micros() as i64;
                let scheduled_at = now.wall.plus_micros(-behind);
                let missed = u64::try_from(passed).unwrap_or(u64::MAX);
                runs.then(|| Firing { job: self.spec.name.clone(), scheduled_at, missed })
            }
            (Next::Wall(cron, timezone, next), _) => {
                if stepped && next.is_none_or(|at| at > now.wall) {
                    // Stepped back: without this an hour would pass in silence. What was due is still due.
                    *next = next_cron(cron, *timezone, now.wall);
                    return None;
                }
                let first = next.filter(|at| *at <= now.wall)?;
                let (mut latest, mut missed) = (first, 0);
                while let Some(at) = next_cron(cron, *timezone, latest).filter(|at| *at <= now.wall) {
                    latest = at;
                    missed += 1;
                }
                *next = next_cron(cron, *timezone, latest);
                runs.then(|| Firing { job: self.spec.name.clone(), scheduled_at: latest, missed })
            }
            _ => None,
        }
    }

    fn wait(&self, now: Now) -> Option<Duration> {
        match &self.next {
            Next::Monotonic(next) => Some(next.saturating_sub(now.monotonic)),
            Next::Wall(_, _, next) => {
                let wait = next.as_ref()?.since(now.wall);
                Some(Duration::from_micros(wait.max(0) as u64))
            }
            Next::Never => None,
        }
    }
}

/// Reads a pattern of five fields, or of six with seconds in front.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    CronParser::builder().seconds(Seconds::Optional).build().parse(text).map_err(|error| error.to_string())
}

/// The first instant after `after`, whole seconds; `None` when there is none.
pub fn next_cron(cron: &Cron, timezone: Tz, after: Timestamp) -> Option<Timestamp> {
    // The parser keeps the sub-second part of where it begins: cut it off, or every instant carries it.
    let whole = after.micros().div_euclid(1_000_000);
    let local = timezone.timestamp_opt(whole, 0).single()?;
    let next = cron.find_next_occurrence(&local, false).ok()?;
    Some(Timestamp(next.timestamp() * 1_000_000))
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
