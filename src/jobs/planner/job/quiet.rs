//! How long a job has not succeeded.

use std::time::Duration;

use super::super::Silence;
use super::{Job, JobSpec, Now, Timestamp};

/// Since when a job has not succeeded; by the monotonic clock, which nobody sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    pub(super) succeeded: Option<Timestamp>,
    /// What of it was before `since`.
    pub(super) before: Duration,
    pub(super) since: Duration,
}

impl Quiet {
    pub(super) fn new(spec: &JobSpec, succeeded: Option<Timestamp>, now: Now) -> Self {
        // The time before this process counts for half of what is allowed at most, so that a start after a night off
        // is no alarm, and a service that starts again and again is one.
        let known = succeeded.map_or(0, |at| now.wall.since(at).max(0) as u64);
        let before = Duration::from_micros(known).min(spec.max_silence.unwrap_or_default() / 2);
        Self { succeeded, before, since: now.monotonic }
    }

    fn lasts(&self, now: Now) -> Duration {
        self.before + now.monotonic.saturating_sub(self.since)
    }
}

impl Job {
    /// Whether it is critical and has not succeeded for too long; a pause is no excuse.
    pub(in crate::jobs::planner) fn silent(&self, now: Now) -> Option<Silence> {
        let max = self.spec.max_silence.filter(|_| self.spec.enabled)?;
        let lasts = self.quiet.lasts(now);
        (lasts > max).then(|| Silence { job: self.spec.name.clone(), lasts, max })
    }

    pub(in crate::jobs::planner) fn succeeded(&self) -> Option<Timestamp> {
        self.quiet.succeeded
    }
}
