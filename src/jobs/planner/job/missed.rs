//! Missed instants: selects those that run and records the others.

use super::super::next::Next;
use super::{Action, COUNT_MAX, Job, LATE_US, MissedPolicy, Now, PassedInstants, Timestamp, Trigger, When};

impl Job {
    /// Queues the instants that run by the job's `missed` policy and skips the others.
    pub(super) fn choose(&mut self, passed: &PassedInstants, now: Now, actions: &mut Vec<Action>) {
        let late = now.wall.since(passed.latest) > LATE_US;
        let missed = self.spec.missed;
        let too_old = |at: Timestamp| {
            let window = missed.window.map_or(i64::MAX, |window| i64::try_from(window.as_micros()).unwrap_or(i64::MAX));
            now.wall.since(at) > window
        };
        let mut run = Vec::new();
        match missed.policy {
            MissedPolicy::Skip if late => {}
            // Below the counting limit: beyond it the clock was set by years.
            MissedPolicy::RunAll if passed.count < COUNT_MAX || !matches!(self.next, Next::Wall(..)) => {
                // The latest ones, when there are more than the cap.
                let mut at = self.back(passed, missed.cap as u64);
                while let Some(instant) = at.filter(|at| *at <= passed.latest) {
                    run.extend(Some(instant).filter(|instant| !too_old(*instant)));
                    at = self.after(instant);
                }
            }
            _ => {
                run.extend(Some(passed.latest).filter(|latest| !late || !too_old(*latest)));
            }
        }
        let skipped_count = passed.count - (run.len() as u64).min(passed.count);
        if skipped_count > 0 {
            // The last skipped instant; not computed when there were too many to count.
            let counted = !run.is_empty() && passed.count < COUNT_MAX;
            let last = if counted { self.back(passed, run.len() as u64 + 1) } else { None };
            let last = last.unwrap_or(passed.latest);
            let reason = "missed: the service was down, suspended or stalled".to_owned();
            actions.push(Action::Skip(self.skipped(passed.first, last, skipped_count, reason)));
        }
        let many = run.len() > 1;
        for instant in run {
            let trigger = if late || many { Trigger::CatchUp } else { Trigger::Schedule };
            let firing = self.firing(instant, trigger);
            if !many {
                self.enqueue(firing, actions);
            } else if self.waiting.len() < missed.cap {
                self.waiting.push_back(firing);
            } else {
                let reason = format!("{} runs wait already", self.waiting.len());
                actions.push(Action::Skip(self.skipped(instant, instant, 1, reason)));
            }
        }
    }

    /// The first of the latest `count` instants.
    fn back(&self, passed: &PassedInstants, count: u64) -> Option<Timestamp> {
        let mut at = passed.first;
        match &self.spec.when {
            When::Every { period, .. } => {
                let before = passed.count.saturating_sub(count) as i64;
                Some(at.plus_micros(before.saturating_mul(period.as_micros() as i64)))
            }
            _ => {
                for _ in count..passed.count {
                    at = self.after(at)?;
                }
                Some(at)
            }
        }
    }

    fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        match (&self.next, &self.spec.when) {
            (Next::Wall(calendar, _), _) => calendar.next(instant),
            (_, When::Every { period, .. }) => Some(instant.plus_micros(period.as_micros() as i64)),
            _ => None,
        }
    }
}
