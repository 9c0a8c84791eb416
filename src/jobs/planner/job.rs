//! One job of the plan: when it is next due, which of its runs wait, and the state that it keeps.

mod defer;
mod last_success;
mod missed;

use std::collections::VecDeque;
use std::time::Duration;

use super::next::{Next, draw, until_multiple};
use super::{Action, Firing, Now, Seeds, Skipped, Trigger};
use crate::jobs::calendar::{COUNT_MAX, PassedInstants};
use crate::jobs::scheduler_state::JobState;
use crate::jobs::spec::{Align, JobEvent, JobSpec, MissedPolicy, Overlap, When};
use crate::market::Timestamp;
use crate::retry::doubled;
use last_success::LastSuccess;

/// An instant that is found later than this was missed, not late. Microseconds.
const LATE_US: i64 = 10_000_000;
/// The longest wait between two retries.
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);
/// A saved instant that lies further ahead was written by a wrong clock. More than any change of a timezone.
const AHEAD_US: i64 = 25 * 3_600_000_000;
/// Longest time between two checks of a job: a slewed wall clock delays a calendar by no more than this times its rate
/// (500 ppm).
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What follows from a run's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowUp {
    /// The job continues as scheduled.
    Nothing,
    /// The runner retries it after this time.
    Retry(Duration),
    /// The job is paused after this number of consecutive failures.
    Paused(u32),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// The task succeeded.
    Succeeded,
    /// The task failed or exceeded its timeout.
    Failed,
    /// The runner cancelled it.
    Cancelled,
}

/// The few bytes of a job that every tick reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct HotState {
    /// No check is needed before this monotonic instant.
    pub(super) idle_until: Duration,
    /// Whether the job will be due, or waits.
    pub(super) is_active: bool,
    pub(super) is_running: bool,
    /// Whether a run waits and the job itself can start it.
    pub(super) is_ready: bool,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) spec: JobSpec,
    next: Next,
    paused: Option<String>,
    /// The current run.
    running: Option<Firing>,
    /// Due, but not started: the scheduler is full, or the job's last run has not ended. At most `missed.cap` + 1.
    waiting: VecDeque<Firing>,
    /// When the failed run is retried, by the monotonic clock.
    retry: Option<(Duration, Firing)>,
    failures: u32,
    /// The last calendar instant that ran or was skipped.
    last: Option<Timestamp>,
    /// When the current plan began.
    planned_since: Timestamp,
    covered_to: Timestamp,
    /// Instants that passed during a pause.
    passed_in_pause: Option<Skipped>,
    /// Instants that wait only for a requirement; recorded when the wait begins and, with their number, when it ends.
    deferred: Option<Skipped>,
    last_success: LastSuccess,
    seeds: Seeds,
    /// No check is needed before this monotonic instant.
    idle_until: Duration,
    idle_max: Duration,
}

impl Job {
    pub(super) fn new(spec: JobSpec, saved: JobState, seeds: Seeds, now: Now) -> Self {
        let last = saved.last().filter(|last| last.since(now.wall) < AHEAD_US);
        let next = Next::new(&spec, last, now);
        let last_success = LastSuccess::new(&spec, saved.succeeded.map(Timestamp), now);
        let mut job = Self {
            spec,
            next,
            paused: saved.paused,
            running: None,
            waiting: VecDeque::new(),
            retry: None,
            failures: 0,
            last,
            planned_since: now.wall,
            covered_to: saved.covered_to.map_or(now.wall, Timestamp),
            passed_in_pause: None,
            deferred: None,
            last_success,
            seeds,
            idle_until: now.monotonic,
            idle_max: IDLE_MAX,
        };
        job.update_idle_until(now);
        job
    }

    pub(super) fn assume_steady_clock(&mut self, now: Now) {
        self.idle_max = Duration::MAX;
        self.update_idle_until(now);
    }

    pub(super) fn state(&self) -> JobState {
        let by_calendar = self.spec.enabled && matches!(self.next, Next::Wall(..));
        JobState {
            paused: self.paused.clone(),
            last: by_calendar.then_some(self.last.unwrap_or(self.planned_since).micros()),
            covered_to: self.spec.window.then_some(self.covered_to.micros()),
            succeeded: self.last_success.at.map(Timestamp::micros),
        }
    }

    /// Whether another specification has the same timing.
    pub(super) fn keeps_phase(&self, spec: &JobSpec) -> bool {
        (&spec.when, spec.enabled) == (&self.spec.when, self.spec.enabled)
    }

    /// Takes another specification; the phase stays when the timing did not change.
    pub(super) fn change(&mut self, spec: JobSpec, now: Now) {
        if !self.keeps_phase(&spec) {
            self.next = Next::new(&spec, None, now);
            (self.last, self.planned_since) = (None, now.wall);
        }
        if spec.window && !self.spec.window {
            self.covered_to = now.wall;
        }
        if spec.max_silence != self.spec.max_silence || spec.enabled != self.spec.enabled {
            // The time before the limit was set does not count.
            self.last_success =
                LastSuccess { silent_before: Duration::ZERO, since: now.monotonic, ..self.last_success };
        }
        self.spec = spec;
        self.update_idle_until(now);
    }

    /// Advances to `now`: queues the instants that are due and skips those that do not run. Returns whether the state
    /// to save changed.
    pub(super) fn advance(&mut self, now: Now, stepped: bool, actions: &mut Vec<Action>) -> bool {
        if stepped {
            self.realign(now);
        }
        let passed = self.take_passed(now);
        let state_changed = passed.is_some() && matches!(self.next, Next::Wall(..));
        if let Some(passed) = passed.filter(|_| self.spec.enabled) {
            match self.paused.clone() {
                Some(reason) => self.note_passed_in_pause(&passed, &reason),
                None => self.choose(&passed, now, actions),
            }
        }
        if let Some(reason) = self.paused.clone() {
            // Runs that wait when the job is paused would be stale when it is resumed.
            let retry = self.retry.take().map(|(_, firing)| firing);
            for firing in std::mem::take(&mut self.waiting).into_iter().chain(retry) {
                let at = firing.scheduled_at;
                actions.push(Action::Skip(self.skipped(at, at, 1, format!("paused: {reason}"))));
            }
        } else if let Some((_, firing)) = self.retry.take_if(|(at, _)| *at <= now.monotonic) {
            self.waiting.push_front(firing);
        }
        self.expire(now, actions);
        if self.waiting.is_empty() {
            self.end_deferral(actions);
        }
        self.update_idle_until(now);
        state_changed
    }

    /// The wall clock was stepped: computes again what follows it. Instants that are already due stay due.
    fn realign(&mut self, now: Now) {
        match (&mut self.next, &self.spec.when) {
            (Next::Monotonic(next), When::Every { period, align: Align::Wall }) => {
                *next = now.monotonic + until_multiple(*period, now.wall);
            }
            (Next::Wall(calendar, next), _) if next.is_none_or(|at| at > now.wall) => {
                // A time of day does not run again when the clock goes back over it; a period continues at once. A
                // clock that was days ahead was wrong, and so was the last instant.
                let run = self.last.filter(|last| calendar.is_fixed() && last.since(now.wall) < AHEAD_US);
                *next = calendar.next(run.map_or(now.wall, |run| run.max(now.wall)));
            }
            _ => {}
        }
    }

    /// Takes the instants up to `now`; the next one then lies ahead.
    fn take_passed(&mut self, now: Now) -> Option<PassedInstants> {
        let jitter = self.jitter(now);
        match (&mut self.next, &self.spec.when) {
            (Next::Monotonic(next), When::Every { period, .. }) => {
                let late = now.monotonic.checked_sub(*next + jitter)?;
                let before = u32::try_from(late.as_nanos() / period.as_nanos().max(1)).unwrap_or(u32::MAX);
                let latest = *next + *period * before;
                let wall = |at: Duration| now.wall.plus_micros(-(now.monotonic.saturating_sub(at).as_micros() as i64));
                let passed = PassedInstants {
                    first: wall(*next),
                    latest: wall(latest),
                    count: u64::from(before) + 1,
                    next: None,
                };
                *next = latest + *period;
                Some(passed)
            }
            (Next::Monotonic(next), _) => {
                let at = now.monotonic.checked_sub(*next + jitter)?;
                let at = now.wall.plus_micros(-(at.as_micros() as i64));
                self.next = Next::Unknown;
                Some(PassedInstants { first: at, latest: at, count: 1, next: None })
            }
            (Next::Wall(calendar, next), _) => {
                let until = now.wall.plus_micros(-(jitter.as_micros() as i64));
                let passed = calendar.passed((*next)?, until)?;
                *next = passed.next;
                self.last = Some(passed.latest);
                Some(passed)
            }
            (Next::Unknown, _) => None,
        }
    }

    fn firing(&self, scheduled_at: Timestamp, trigger: Trigger) -> Firing {
        Firing { job: self.spec.name.clone(), trigger, scheduled_at, attempt: 1, window: None }
    }

    fn skipped(&self, first: Timestamp, last: Timestamp, count: u64, reason: String) -> Skipped {
        Skipped { job: self.spec.name.clone(), first, last, count, reason }
    }

    /// Queues a run that is due, unless the job's `overlap` policy skips it.
    fn enqueue(&mut self, firing: Firing, actions: &mut Vec<Action>) {
        let at = firing.scheduled_at;
        if let Some((_, retry)) = self.retry.take() {
            // Its window begins where the failed one began, so the dropped retry loses nothing.
            let reason = "its next run was due before its retry".to_owned();
            actions.push(Action::Skip(self.skipped(retry.scheduled_at, retry.scheduled_at, 1, reason)));
        }
        if self.running.is_none() && self.waiting.is_empty() {
            self.waiting.push_back(firing);
            return;
        }
        if let Some(deferred) = &mut self.deferred {
            (deferred.last, deferred.count) = (at, deferred.count + 1);
            // Only the latest deferred instant runs, or each of them with `run-all`.
            if self.spec.missed.policy != MissedPolicy::RunAll || self.waiting.len() >= self.spec.missed.cap {
                self.waiting.pop_front();
            }
            self.waiting.push_back(firing);
            return;
        }
        let running = self.running.is_some();
        match self.spec.overlap {
            Overlap::Queue if self.waiting.is_empty() => self.waiting.push_back(firing),
            Overlap::Replace => {
                for old in std::mem::take(&mut self.waiting) {
                    let reason = "a later run replaced it".to_owned();
                    actions.push(Action::Skip(self.skipped(old.scheduled_at, old.scheduled_at, 1, reason)));
                }
                self.waiting.push_back(firing);
                if running {
                    actions.push(Action::Cancel(self.spec.name.clone()));
                }
            }
            Overlap::Skip | Overlap::Queue => {
                let reason = if running { "its last run has not ended" } else { "its last run still waits to start" };
                actions.push(Action::Skip(self.skipped(at, at, 1, reason.to_owned())));
            }
        }
    }

    /// Skips the runs that have waited longer than the deadline.
    fn expire(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(deadline) = self.spec.deadline else { return };
        let limit = deadline.as_micros() as i64;
        let (kept, expired): (VecDeque<Firing>, VecDeque<Firing>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|firing| firing.trigger != Trigger::Schedule || now.wall.since(firing.scheduled_at) <= limit);
        self.waiting = kept;
        for firing in expired {
            let reason = format!("it could not start within {} s", deadline.as_secs_f64());
            actions.push(Action::Skip(self.skipped(firing.scheduled_at, firing.scheduled_at, 1, reason)));
        }
    }

    /// Computes when the job must be checked next.
    fn update_idle_until(&mut self, now: Now) {
        let limit = self.spec.deadline.and_then(|deadline| {
            let first = self.waiting.iter().map(|firing| firing.scheduled_at).min()?;
            let left = first.plus_micros(deadline.as_micros() as i64 + 1).since(now.wall);
            Some(Duration::from_micros(left.max(0) as u64))
        });
        let wait = self.wait(now).into_iter().chain(limit).min().unwrap_or(self.idle_max);
        self.idle_until = now.monotonic.saturating_add(wait.min(self.idle_max));
    }

    /// The part that the planner reads in every tick.
    pub(super) fn hot_state(&self) -> HotState {
        let planned = !matches!(self.next, Next::Unknown | Next::Wall(_, None)) || self.retry.is_some();
        let (is_running, waits) = (self.running.is_some(), !self.waiting.is_empty());
        HotState {
            idle_until: self.idle_until,
            is_active: self.spec.enabled && self.paused.is_none() && planned || waits,
            is_running,
            is_ready: !is_running && self.paused.is_none() && waits,
        }
    }

    /// The order in which jobs start when not all can.
    pub(super) fn priority(&self) -> (Option<Timestamp>, &str) {
        (self.waiting.front().map(|firing| firing.scheduled_at), &self.spec.name)
    }

    /// Starts the first waiting run; returns whether one started.
    pub(super) fn start(&mut self, now: Now, actions: &mut Vec<Action>) -> bool {
        self.end_deferral(actions);
        let Some(firing) = self.waiting.pop_front() else { return false };
        let action = match self.begin(firing.clone(), now) {
            Ok(firing) => Action::Start(firing),
            Err(reason) => Action::Skip(self.skipped(firing.scheduled_at, firing.scheduled_at, 1, reason)),
        };
        let started = matches!(action, Action::Start(_));
        actions.push(action);
        started
    }

    pub(super) fn start_now(&mut self, now: Now) -> Result<Firing, String> {
        if self.running.is_some() {
            return Err("its last run has not ended".to_owned());
        }
        let firing = self.begin(self.firing(now.wall, Trigger::Manual), now)?;
        // This run replaces the retry: the same window twice would overlap.
        self.retry = None;
        self.update_idle_until(now);
        Ok(firing)
    }

    fn begin(&mut self, mut firing: Firing, now: Now) -> Result<Firing, String> {
        // A retry keeps the window that it failed on.
        if self.spec.window && firing.window.is_none() {
            let to = firing.scheduled_at.min(now.wall);
            if to <= self.covered_to {
                return Err(format!("its window is empty: everything up to {} is done", self.covered_to));
            }
            firing.window = Some((self.covered_to, to));
        }
        self.running = Some(firing.clone());
        Ok(firing)
    }

    pub(super) fn event(&mut self, event: JobEvent, now: Now, actions: &mut Vec<Action>) {
        let wanted = matches!(&self.spec.when, When::On(events) if events.contains(&event));
        if !wanted || !self.spec.enabled {
            return;
        }
        match self.paused.clone() {
            None => self.enqueue(self.firing(now.wall, Trigger::Event), actions),
            Some(reason) => {
                let reason = format!("paused: {reason}");
                actions.push(Action::Skip(self.skipped(now.wall, now.wall, 1, reason)));
            }
        }
    }

    pub(super) fn finished(&mut self, outcome: RunOutcome, now: Now) -> FollowUp {
        let follow_up = self.follow_up(outcome, now);
        self.update_idle_until(now);
        follow_up
    }

    fn follow_up(&mut self, outcome: RunOutcome, now: Now) -> FollowUp {
        let Some(firing) = self.running.take() else { return FollowUp::Nothing };
        if let (Some((_, to)), RunOutcome::Succeeded) = (firing.window, outcome) {
            self.covered_to = self.covered_to.max(to);
        }
        if let When::Delay(delay) = self.spec.when {
            self.next = Next::Monotonic(now.monotonic + delay);
        }
        match outcome {
            RunOutcome::Succeeded => {
                self.failures = 0;
                self.last_success =
                    LastSuccess { at: Some(now.wall), silent_before: Duration::ZERO, since: now.monotonic };
            }
            RunOutcome::Failed => self.failures += 1,
            RunOutcome::Cancelled => {}
        }
        if outcome != RunOutcome::Failed {
            return FollowUp::Nothing;
        }
        if self.spec.pause_after > 0 && self.failures >= self.spec.pause_after && self.paused.is_none() {
            self.paused = Some(format!("it failed {} times in a row", self.failures));
            return FollowUp::Paused(self.failures);
        }
        if firing.attempt > self.spec.retry.max || !self.waiting.is_empty() {
            return FollowUp::Nothing;
        }
        let backoff = doubled(self.spec.retry.backoff, firing.attempt - 1, BACKOFF_MAX);
        let jitter = self.spec.retry.jitter.unwrap_or(backoff / 4);
        let wait = backoff + draw(self.seeds.process, &self.spec.name, now.monotonic.as_nanos() as i64, jitter);
        let again = Firing { trigger: Trigger::Retry, attempt: firing.attempt + 1, ..firing };
        self.retry = Some((now.monotonic + wait, again));
        FollowUp::Retry(wait)
    }

    pub(super) fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    pub(super) fn pause(&mut self, reason: &str) {
        self.paused = Some(reason.to_owned());
        self.idle_until = Duration::ZERO;
    }

    pub(super) fn resume(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.paused.is_none() {
            return;
        }
        self.idle_until = Duration::ZERO;
        self.advance(now, false, actions);
        self.paused = None;
        self.next = Next::new(&self.spec, None, now);
        self.planned_since = now.wall;
        self.failures = 0;
        actions.extend(self.passed_in_pause.take().map(Action::Skip));
        self.update_idle_until(now);
    }

    fn note_passed_in_pause(&mut self, passed: &PassedInstants, reason: &str) {
        let mut skipped = match self.passed_in_pause.take() {
            Some(skipped) => skipped,
            None => self.skipped(passed.first, passed.latest, 0, format!("paused: {reason}")),
        };
        skipped.last = passed.latest;
        skipped.count += passed.count;
        self.passed_in_pause = Some(skipped);
    }

    /// The time until it is due by itself.
    pub(super) fn wait(&self, now: Now) -> Option<Duration> {
        if !self.spec.enabled || self.paused.is_some() {
            return None;
        }
        let jitter = self.jitter(now);
        let next = match &self.next {
            Next::Monotonic(next) => Some((*next + jitter).saturating_sub(now.monotonic)),
            Next::Wall(_, next) => next.map(|at| {
                let at = at.plus_micros(jitter.as_micros() as i64);
                Duration::from_micros(at.since(now.wall).max(0) as u64)
            }),
            Next::Unknown => None,
        };
        let retry = self.retry.as_ref().map(|(at, _)| at.saturating_sub(now.monotonic));
        next.into_iter().chain(retry).min()
    }

    /// The delay of its start after its next instant.
    fn jitter(&self, now: Now) -> Duration {
        let jitter = self.spec.jitter;
        if jitter.max.is_zero() {
            return Duration::ZERO;
        }
        if jitter.is_stable {
            return draw(self.seeds.machine, &self.spec.name, 0, jitter.max);
        }
        let instant = match &self.next {
            Next::Monotonic(next) => next.as_nanos() as i64,
            Next::Wall(_, next) => next.unwrap_or(now.wall).micros(),
            Next::Unknown => 0,
        };
        draw(self.seeds.process, &self.spec.name, instant, jitter.max)
    }
}
