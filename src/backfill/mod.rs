//! Repairs gaps: requests the missing pages over REST and writes them to history and cache, flagged `is_backfilled`.
//! Backfilled rows never enter the log, so live consumers of the log never see old data.
//!
//! Several gaps are repaired at a time, the newest and smallest first, within the request budget that the REST client
//! enforces. When a repair fails, the gap's row stores the reason and the repair is tried again. Knows no store's
//! backend.

mod answers;
mod appeal;
mod attempt;
pub mod conflicts;
mod deps;
mod first_klines;
pub mod kline_check;
mod numbering;
mod pages;
pub mod questions;
mod recording_starts;
mod recovery;
mod repair;
mod requested_range;
mod silent_klines;
pub mod since;
mod tail;
mod unstored;
mod verdict;

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use answers::Answers;
pub use appeal::AppealReport;
pub use deps::Deps;
pub use recording_starts::RecordingStarts;
pub use requested_range::{MissingReport, RangeBound};
pub use tail::{ConnectionHandle, Tail, TailOptions};

use crate::gap::{Gap, repair_order};
use crate::heartbeat::Heartbeat;

use unstored::UnstoredRows;

/// Gaps repaired at a time: enough to hide the round trips when fifty symbols lose their connection together.
const REPAIRS_MAX: usize = 6;
/// Longest time to store that a repair panicked.
const PANIC_STORE_MAX: Duration = Duration::from_secs(60);

/// Repairs open gaps until `stop`.
pub async fn run(deps: Deps, heartbeat: Heartbeat, stop: CancellationToken) {
    let repair = |deps: Deps, gap: Gap, stop: CancellationToken| async move { repair::repair(&deps, gap, &stop).await };
    run_repairs(deps, heartbeat, stop, repair).await;
}

/// Runs `repair` for the open gaps until `stop`, and stores the rows that their finders could not store; a repair returns how long to wait before the next attempt.
async fn run_repairs<F>(
    deps: Deps,
    heartbeat: Heartbeat,
    stop: CancellationToken,
    repair: impl Fn(Deps, Gap, CancellationToken) -> F,
) where
    F: Future<Output = Duration> + Send + 'static,
{
    let mut running: JoinSet<Duration> = JoinSet::new();
    // The gap that each task repairs, because a panic leaves only the task's id.
    let mut gap_ids: HashMap<Id, String> = HashMap::new();
    let mut panics: HashMap<String, i64> = HashMap::new();
    // When to try each gap again, by the monotonic clock; a gap that was not tried yet has no entry.
    let mut due: HashMap<String, Duration> = HashMap::new();
    let mut unstored = UnstoredRows::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        unstored.store(&deps, &heartbeat, &stop).await;
        for gap_id in deps.ledger.with(|ledger| ledger.take_asked_again()) {
            due.remove(&gap_id);
        }
        for gap in claim_next(&deps, &due, REPAIRS_MAX - running.len()) {
            let gap_id = gap.gap_id.clone();
            // A repair is not a recording loop, so no heartbeat watches it.
            let task = running.spawn(repair(deps.clone(), gap, stop.clone()));
            gap_ids.insert(task.id(), gap_id);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = deps.ledger.gap_opened.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            Some(ended) = running.join_next_with_id() => {
                let task = ended.as_ref().map_or_else(JoinError::id, |(task, _)| *task);
                let gap_id = gap_ids.remove(&task).expect("every task was added with its gap");
                let pause = match ended {
                    Ok((_, pause)) => {
                        panics.remove(&gap_id);
                        pause
                    }
                    // A bug: the same answer would meet it again at once. Only this gap waits, and its row says why.
                    Err(error) => {
                        let count = panics.entry(gap_id.clone()).and_modify(|count| *count += 1).or_insert(1);
                        let storing = repair::record_panic(&deps, &gap_id, *count, error);
                        heartbeat.beat_while(PANIC_STORE_MAX, storing).await
                    }
                };
                deps.ledger.with(|ledger| ledger.unclaim(&gap_id));
                due.insert(gap_id, deps.clock.monotonic().saturating_add(pause));
            }
        }
        let is_open = |gap_id: &String| deps.ledger.with(|ledger| ledger.get(gap_id).is_some());
        due.retain(|gap_id, _| is_open(gap_id));
        panics.retain(|gap_id, _| is_open(gap_id));
    }
    // Repairs watch `stop` themselves. A page in flight is written, or dropped and requested again after the restart.
    let _ended = tokio::time::timeout(Duration::from_secs(2), running.join_all()).await;
    heartbeat.retire();
}

/// Claims the gaps to repair next.
fn claim_next(deps: &Deps, due: &HashMap<String, Duration>, slots: usize) -> Vec<Gap> {
    if slots == 0 {
        return Vec::new();
    }
    let now = deps.clock.monotonic();
    deps.ledger.with(|ledger| {
        // The log of a group may reveal gaps of an exchange that only another recorder connects to.
        let is_due = |gap: &&Gap| {
            deps.rest.contains_key(&gap.stream.exchange) && due.get(&gap.gap_id).is_none_or(|at| *at <= now)
        };
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
mod hidden_tests;
#[cfg(test)]
mod panic_tests;
#[cfg(test)]
mod requested_range_tests;
