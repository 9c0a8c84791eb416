//! Runs that wait only because something they require is not there: one record for a stretch of them.

use super::{Act, Job};

impl Job {
    /// What waits stays so, because something it requires is not there; said once.
    pub(in crate::jobs::planner) fn defer(&mut self, why: String) -> Option<Act> {
        if self.deferred.is_some() {
            return None;
        }
        let at = self.waiting.front()?.scheduled_at;
        let skip = self.skip(at, at, 1, why);
        self.deferred = Some(skip.clone());
        Some(Act::Defer(skip))
    }

    pub(super) fn end_deferral(&mut self, acts: &mut Vec<Act>) {
        acts.extend(self.deferred.take().filter(|skip| skip.count > 1).map(Act::Defer));
    }
}
