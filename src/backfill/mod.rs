//! Repairs gaps: requests the missing pages over REST and writes them to history and cache, flagged `is_backfilled`.
//! Backfilled rows never enter the log, so live consumers of the log never see old data.
//!
//! Several gaps are repaired at a time, the newest and smallest first, within the request budget that the REST client
//! enforces. When a repair fails, the gap's row stores the reason and the repair is tried again. Knows no store's
//! backend.

mod answers;
mod appeal;
mod attempt;
mod deps;
mod pages;
pub mod questions;
mod recording_starts;
mod repair;
mod requested_range;
pub mod since;
mod tail;
mod verdict;

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

pub use answers::Answers;
pub use appeal::AppealReport;
pub use deps::Deps;
pub use recording_starts::RecordingStarts;
pub use requested_range::{MissingReport, RangeBound};
pub use tail::{ConnectionHandle, Tail, TailOptions};

use crate::gap::{Gap, repair_order};
use crate::heartbeat::Heartbeat;

/// Gaps repaired at a time: enough to hide the round trips when fifty symbols lose their connection together.
const REPAIRS_MAX: usize = 6;

/// Wait before a gap whose repair panicked is tried again; it doubles with each panic.
const PANIC_RETRY_MIN: Duration = Duration::from_secs(10);
const PANIC_RETRY_MAX: Duration = Duration::from_secs(3_600);

/// When each gap is tried again, by the monotonic clock.
#[derive(Default)]
struct Schedule {
    /// A gap that was not tried yet has no entry.
    due: HashMap<String, Duration>,
    /// Wait after the next panic of a gap's repair.
    panics: HashMap<String, Duration>,
}

/// Repairs open gaps until `stop`.
pub async fn run(deps: Deps, heartbeat: Heartbeat, stop: CancellationToken) {
    let mut running: JoinSet<Duration> = JoinSet::new();
    let mut repaired: HashMap<tokio::task::Id, String> = HashMap::new();
    let mut schedule = Schedule::default();
    while !stop.is_cancelled() {
        heartbeat.beat();
        for gap_id in deps.ledger.with(|ledger| ledger.take_asked_again()) {
            schedule.due.remove(&gap_id);
        }
        for gap in claim_next(&deps, &schedule, REPAIRS_MAX - running.len()) {
            let gap_id = gap.gap_id.clone();
            let (deps, stop) = (deps.clone(), stop.clone());
            // A repair is not a recording loop, so no heartbeat watches it.
            let task = running.spawn(async move { repair::repair(&deps, gap, &stop).await });
            repaired.insert(task.id(), gap_id);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = deps.ledger.gap_opened.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            Some(ended) = running.join_next_with_id() => {
                let task = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(task, _)| *task);
                let Some(gap_id) = repaired.remove(&task) else { continue };
                schedule.ended(&deps, gap_id, ended.map(|(_, pause)| pause));
            }
        }
        deps.ledger.with(|ledger| {
            schedule.due.retain(|gap_id, _| ledger.get(gap_id).is_some());
            schedule.panics.retain(|gap_id, _| ledger.get(gap_id).is_some());
        });
    }
    // Repairs watch `stop` themselves. A page in flight is written, or dropped and requested again after the restart.
    let _ended = tokio::time::timeout(Duration::from_secs(2), running.join_all()).await;
    heartbeat.retire();
}

impl Schedule {
    /// Releases a gap and decides when it is tried again. Only the gap whose repair panicked waits for it.
    fn ended(&mut self, deps: &Deps, gap_id: String, ended: Result<Duration, tokio::task::JoinError>) {
        deps.ledger.with(|ledger| ledger.unclaim(&gap_id));
        let pause = ended.unwrap_or_else(|error| {
            let next = self.panics.entry(gap_id.clone()).or_insert(PANIC_RETRY_MIN);
            let pause = *next;
            *next = (pause * 2).min(PANIC_RETRY_MAX);
            error!("the repair of gap {gap_id} panicked, trying it again in {} s: {error}", pause.as_secs());
            pause
        });
        self.due.insert(gap_id, deps.clock.monotonic().saturating_add(pause));
    }
}

/// Claims the gaps to repair next.
fn claim_next(deps: &Deps, schedule: &Schedule, slots: usize) -> Vec<Gap> {
    if slots == 0 {
        return Vec::new();
    }
    let now = deps.clock.monotonic();
    deps.ledger.with(|ledger| {
        let is_due = |gap: &&Gap| schedule.due.get(&gap.gap_id).is_none_or(|at| *at <= now);
        let mut gaps: Vec<Gap> = ledger.rows().filter(is_due).cloned().collect();
        gaps.sort_by(repair_order);
        gaps.retain(|gap| !ledger.is_claimed(&gap.gap_id));
        gaps.truncate(slots);
        gaps.retain(|gap| ledger.claim(&gap.gap_id));
        gaps
    })
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;

#[cfg(test)]
mod requested_range_tests;
