//! Runs that wait for a requirement: one record for each series of instants.

use super::{Action, Job};

impl Job {
    /// Keeps the waiting runs because a requirement is not met; returns the deferral once.
    pub(in crate::jobs::planner) fn defer(&mut self, why: String) -> Option<Action> {
        if self.deferred.is_some() {
            return None;
        }
        let at = self.waiting.front()?.scheduled_at;
        let skipped = self.skipped(at, at, 1, why);
        self.deferred = Some(skipped.clone());
        Some(Action::Defer(skipped))
    }

    pub(super) fn end_deferral(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.deferred.take().filter(|skipped| skipped.count > 1).map(Action::Defer));
    }
}
