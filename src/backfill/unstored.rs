//! Repeats the writes of gap rows that their finders could not store, until history accepts them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::heartbeat::Heartbeat;
use crate::retry::Backoff;

use super::deps::Deps;

/// Shortest and longest delay between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Longest attempt.
const STORE_MAX: Duration = Duration::from_secs(30);

/// When the next attempt is due.
pub(super) struct UnstoredRows {
    backoff: Backoff,
    /// By the monotonic clock; `None` when the last attempt succeeded.
    due: Option<Duration>,
}

impl UnstoredRows {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::new(RETRY.0, RETRY.1), due: None }
    }

    /// Stores the rows that history does not have yet, when an attempt is due.
    pub(super) async fn store(&mut self, deps: &Deps, heartbeat: &Heartbeat, stop: &CancellationToken) {
        let count = deps.ledger.with(|ledger| ledger.abandoned_count());
        if count == 0 || self.due.is_some_and(|due| deps.clock.monotonic() < due) {
            return;
        }
        let storing = tokio::time::timeout(STORE_MAX, deps.ledger.store_unstored(&**deps.history()));
        let storing = stop.run_until_cancelled(heartbeat.beat_while(STORE_MAX * 2, storing));
        let why = match storing.await {
            None => return,
            Some(Ok(Ok(stored))) => {
                if self.due.take().is_some() {
                    info!("history accepts gap rows again: stored {stored} that waited");
                }
                self.backoff.reset();
                return;
            }
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(_elapsed)) => format!("no answer within {} s", STORE_MAX.as_secs()),
        };
        if self.due.is_none() {
            warn!("history does not accept {count} gap rows, trying until it does: {why}");
        }
        self.due = Some(deps.clock.monotonic().saturating_add(self.backoff.next_delay()));
    }
}
