//! The firing table of a schedule, computed without waiting.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Now, Planner, RunOutcome, Seeds};
use crate::jobs::scheduler_state::{JobState, SchedulerState};
use crate::jobs::spec::{Jitter, Schedule, When};
use crate::market::Timestamp;

/// Each job's name and instant in `[from, from + span)`, in order. The service starts at `from` and has missed nothing;
/// each run succeeds at once; no event occurs. The instants are the scheduled ones: jitter only moves starts.
pub fn simulate(mut schedule: Schedule, from: Timestamp, span: Duration) -> Simulation {
    let mut state = SchedulerState::default();
    for job in &mut schedule.jobs {
        job.jitter = Jitter::default();
        if let When::Cron { .. } = job.when {
            // `from` itself is still due, everything before it is done: the tables of adjoining spans adjoin.
            let last = Some(from.plus_micros(-1).micros());
            state.jobs.insert(job.name.clone(), JobState { last, ..JobState::default() });
        }
    }
    let start = Now { wall: from, monotonic: Duration::ZERO };
    let mut planner = Planner::new(schedule, &state, Seeds::default(), start);
    planner.assume_steady_clock(start);
    Simulation { planner, from, span, elapsed: Duration::ZERO, due: VecDeque::new() }
}

/// A schedule that runs without waiting.
#[derive(Debug)]
pub struct Simulation {
    planner: Planner,
    from: Timestamp,
    span: Duration,
    elapsed: Duration,
    due: VecDeque<(String, Timestamp)>,
}

impl Iterator for Simulation {
    type Item = (String, Timestamp);

    fn next(&mut self) -> Option<Self::Item> {
        while self.due.is_empty() {
            let wait = self.planner.wait(self.now())?;
            self.elapsed = self.elapsed.checked_add(wait).filter(|elapsed| *elapsed < self.span)?;
            self.advance();
        }
        self.due.pop_front()
    }
}

impl Simulation {
    fn now(&self) -> Now {
        let micros = i64::try_from(self.elapsed.as_micros()).unwrap_or(i64::MAX);
        Now { wall: self.from.plus_micros(micros), monotonic: self.elapsed }
    }

    fn advance(&mut self) {
        let now = self.now();
        for action in self.planner.due(now) {
            if let Action::Start(firing) = action {
                self.planner.finished(&firing.job, RunOutcome::Succeeded, now);
                self.due.push_back((firing.job, firing.scheduled_at));
            }
        }
    }
}
