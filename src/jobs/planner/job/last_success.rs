//! The time since a job's last success.

use std::time::Duration;

use super::super::SilentJob;
use super::{Job, JobSpec, Now, Timestamp};

/// The last success and the time since, by the monotonic clock, which is never set.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastSuccess {
    pub(super) at: Option<Timestamp>,
    /// The time without a success before `since`.
    pub(super) silent_before: Duration,
    pub(super) since: Duration,
}

impl LastSuccess {
    pub(super) fn new(spec: &JobSpec, succeeded: Option<Timestamp>, now: Now) -> Self {
        // The time before this process counts for at most half of the limit: a start after a night off raises no alarm,
        // and a service that restarts again and again does.
        let elapsed = succeeded.map_or(0, |at| now.wall.since(at).max(0) as u64);
        let silent_before = Duration::from_micros(elapsed).min(spec.max_silence.unwrap_or_default() / 2);
        Self { at: succeeded, silent_before, since: now.monotonic }
    }

    fn silent_for(&self, now: Now) -> Duration {
        self.silent_before + now.monotonic.saturating_sub(self.since)
    }
}

impl Job {
    /// Whether it is critical and silent for too long; a paused job counts too.
    pub(in crate::jobs::planner) fn silent(&self, now: Now) -> Option<SilentJob> {
        let max = self.spec.max_silence.filter(|_| self.spec.enabled)?;
        let silent_for = self.last_success.silent_for(now);
        (silent_for > max).then(|| SilentJob { job: self.spec.name.clone(), silent_for, max })
    }

    pub(in crate::jobs::planner) fn last_success(&self) -> Option<Timestamp> {
        self.last_success.at
    }
}
