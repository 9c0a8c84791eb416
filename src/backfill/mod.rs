//! Repairs gaps: requests the missing pages over REST and writes them to history and cache, flagged `is_backfilled`.
//! Backfilled rows never enter the log, so live consumers of the log never see old data.
//!
//! Several gaps are repaired at a time, the newest and smallest first, within the request budget that the REST client
//! enforces. When a repair fails, the gap's row stores the reason and the repair is tried again. Knows no store's
//! backend.

mod attempt;
mod deps;
mod pages;
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
use tracing::warn;

pub use deps::Deps;
pub use recording_starts::RecordingStarts;
pub use requested_range::{MissingReport, RangeBound};
pub use tail::{ConnectionHandle, Tail, TailOptions};

use crate::gap::{Gap, repair_order};
use crate::heartbeat::Heartbeat;
use crate::market::Timestamp;

/// Gaps repaired at a time: enough to hide the round trips when fifty symbols lose their connection together.
const REPAIRS_MAX: usize = 6;

/// Repairs open gaps until `stop`.
pub async fn run(deps: Deps, heartbeat: Heartbeat, stop: CancellationToken) {
    let mut running: JoinSet<(String, Timestamp)> = JoinSet::new();
    // When to try each gap again; a gap that was not tried yet has no entry.
    let mut due: HashMap<String, Timestamp> = HashMap::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        let now = deps.clock.now();
        for gap in claim_next(&deps, &due, now, REPAIRS_MAX - running.len()) {
            let (deps, stop) = (deps.clone(), stop.clone());
            // A repair is not a recording loop, so no heartbeat watches it.
            running.spawn(async move {
                let gap_id = gap.gap_id.clone();
                let again = repair::repair(&deps, gap, &stop).await;
                (gap_id, again)
            });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = deps.ledger.gap_opened.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            Some(ended) = running.join_next() => match ended {
                Ok((gap_id, again)) => {
                    deps.ledger.with(|ledger| ledger.unclaim(&gap_id));
                    due.insert(gap_id, again);
                }
                Err(error) => {
                    // The error does not name the gap, so all repairs are stopped and start again.
                    warn!("a repair panicked, starting all repairs again: {error}");
                    running.shutdown().await;
                    deps.ledger.with(|ledger| ledger.unclaim_all());
                }
            },
        }
        due.retain(|gap_id, _| deps.ledger.with(|ledger| ledger.get(gap_id).is_some()));
    }
    // Repairs watch `stop` themselves. A page in flight is written, or dropped and requested again after the restart.
    let _ended = tokio::time::timeout(Duration::from_secs(2), running.join_all()).await;
    heartbeat.retire();
}

/// Claims the gaps to repair next.
fn claim_next(deps: &Deps, due: &HashMap<String, Timestamp>, now: Timestamp, slots: usize) -> Vec<Gap> {
    if slots == 0 {
        return Vec::new();
    }
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
mod requested_range_tests;
