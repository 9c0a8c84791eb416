//! Tells the scheduler what happened: a connection came back, a gap was found.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::jobs::JobsHandle;
use crate::jobs::spec::JobEvent;

use super::Service;

/// How often the counters are looked at. What happens within one look is one event.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Counts what came back.
#[derive(Debug, Default)]
struct ReconnectCounter {
    connects: u64,
    disconnects: u64,
    /// Connections that were lost and have not come back.
    lost: u64,
}

impl ReconnectCounter {
    /// Whether a lost connection has come back since the last look. A first one is no return.
    fn observe(&mut self, connects: u64, disconnects: u64) -> bool {
        self.lost += disconnects.saturating_sub(self.disconnects);
        let opened = connects.saturating_sub(self.connects);
        (self.connects, self.disconnects) = (connects, disconnects);
        let back = opened.min(self.lost);
        self.lost -= back;
        back > 0
    }
}

/// Looks until `stop`.
pub async fn watch(service: Service, jobs: JobsHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let mut reconnects = ReconnectCounter::default();
    let mut found = service.ledger.with(|ledger| ledger.totals().found);
    while !stop.is_cancelled() {
        let counters = &service.counters;
        // Disconnects first: one that is counted in between is looked at with the next connect.
        let disconnects = counters.disconnects.load(Ordering::Relaxed);
        if reconnects.observe(counters.connects.load(Ordering::Relaxed), disconnects) {
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
        assert!(reconnects.observe(5, 2), "lost and back between two looks");
        assert!(
            !reconnects.observe(5, 4) && reconnects.observe(6, 4) && reconnects.observe(7, 4),
            "two come back one by one"
        );
    }
}
