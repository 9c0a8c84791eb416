//! Reports events to the scheduler: a connection came back, a gap was found.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::jobs::JobsHandle;
use crate::jobs::spec::JobEvent;

use super::Service;

/// Time between two reads of the counters. What happens between two reads is one event.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Detects reconnects in the counters.
#[derive(Debug, Default)]
struct ReconnectCounter {
    connects: u64,
    disconnects: u64,
    /// Lost connections that are not back yet.
    lost: u64,
}

impl ReconnectCounter {
    /// Whether a lost connection came back since the last call. A first connection is not a reconnect.
    fn observe(&mut self, connects: u64, disconnects: u64) -> bool {
        self.lost += disconnects.saturating_sub(self.disconnects);
        let opened = connects.saturating_sub(self.connects);
        (self.connects, self.disconnects) = (connects, disconnects);
        let back = opened.min(self.lost);
        self.lost -= back;
        back > 0
    }
}

/// Reports events until `stop`.
pub async fn watch(service: Service, jobs: JobsHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let mut reconnects = ReconnectCounter::default();
    let mut found = service.ledger.with(|ledger| ledger.totals().found);
    while !stop.is_cancelled() {
        let counters = &service.counters;
        // Disconnects first: one that is counted between the two reads belongs to the next connect.
        let disconnects = counters.total(|of| &of.disconnects);
        if reconnects.observe(counters.total(|of| &of.connects), disconnects) {
            jobs.notify(JobEvent::Reconnect);
        }
        let now = service.ledger.with(|ledger| ledger.totals().found);
        if now > found {
            jobs.notify(JobEvent::Gap);
        }
        found = now;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_comes_back_is_a_reconnect_and_a_first_one_is_not() {
        let mut reconnects = ReconnectCounter::default();
        assert!(!reconnects.observe(2, 0), "two first ones");
        assert!(!reconnects.observe(2, 1), "one is lost");
        assert!(!reconnects.observe(2, 1));
        assert!(reconnects.observe(3, 1), "it is back");
        assert!(!reconnects.observe(4, 1), "a new feed's");
        assert!(reconnects.observe(5, 2), "lost and back between two calls");
        assert!(
            !reconnects.observe(5, 4) && reconnects.observe(6, 4) && reconnects.observe(7, 4),
            "two come back one by one"
        );
    }
}
