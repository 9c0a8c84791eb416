//! The firing table of a schedule on a clock that nobody waits for.

use std::time::Duration;

use super::{Act, Ended, Now, Planner, Seeds};
use crate::jobs::memory::Memory;
use crate::jobs::spec::Schedule;
use crate::market::Timestamp;

/// Calls `fired` with each job's name and instant in `[from, from + span)`, in order; a run ends at once and well.
/// Events do not happen. The service starts at `from`.
pub fn simulate(schedule: Schedule, from: Timestamp, span: Duration, mut fired: impl FnMut(&str, Timestamp)) {
    let at = |elapsed: Duration| Now {
        wall: from.plus_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)),
        monotonic: elapsed,
    };
    let mut elapsed = Duration::ZERO;
    let mut planner = Planner::new(schedule, &Memory::default(), Seeds::default(), at(elapsed));
    while let Some(wait) = planner.wait(at(elapsed)) {
        elapsed += wait;
        if elapsed >= span {
            return;
        }
        for act in planner.due(at(elapsed)) {
            if let Act::Start(firing) = act {
                fired(&firing.job, firing.scheduled_at);
                planner.finished(&firing.job, Ended::Succeeded, at(elapsed));
            }
        }
    }
}
