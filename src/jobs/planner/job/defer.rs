//! Runs that wait only because something they require is not there: one record for a stretch of them.

use super::{Action, Job};

impl Job {
    /// What waits stays so, because something it requires is not there; said once.
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
