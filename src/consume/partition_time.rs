//! The time of one log partition: how long its own records took to arrive. Holes age by it, so a backlog ages as it was
//! received, and a jump of the wall clock changes nothing. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::log::Partition;
use crate::market::Timestamp;

/// Most time that counts between two records: longer than every grace period. A wall clock that jumped by years counts
/// as this much.
const STEP_MAX_US: i64 = 10_000_000;

/// The moment at which the buffer decides.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// The monotonic clock.
    pub monotonic: Duration,
    /// The wall clock.
    pub wall: Timestamp,
    /// The partitions whose newest record was consumed: only there real time passes too, because elsewhere a missing
    /// record may lie ahead, unread.
    pub at_end: BTreeSet<Partition>,
}

/// The time of one partition, in microseconds since some instant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PartitionTime {
    elapsed_us: i64,
    last_received: Option<Timestamp>,
    /// When its last record was consumed, by the monotonic clock.
    consumed_at: Duration,
}

impl PartitionTime {
    /// Counts the time between the receipt of the last record and of this one; returns the new time.
    pub(super) fn record(&mut self, received_at: Timestamp, monotonic: Duration) -> Timestamp {
        let step = self.last_received.map_or(0, |last| received_at.since(last));
        // A clock that was set back: no time passed.
        self.elapsed_us += step.clamp(0, STEP_MAX_US);
        (self.last_received, self.consumed_at) = (Some(received_at), monotonic);
        Timestamp(self.elapsed_us)
    }

    /// The time at `moment`.
    pub(super) fn at(&self, partition: Partition, moment: &Moment) -> Timestamp {
        let waited = moment.monotonic.saturating_sub(self.consumed_at);
        let waited = if moment.at_end.contains(&partition) { waited } else { Duration::ZERO };
        Timestamp(self.elapsed_us).plus_micros(i64::try_from(waited.as_micros()).unwrap_or(i64::MAX))
    }

    /// When the last record was received, by our wall clock at that time.
    pub(super) fn last_received(&self) -> Option<Timestamp> {
        self.last_received
    }
}

/// The time of a partition; 0 before its first record.
pub(super) fn time_at(
    times: &HashMap<Partition, PartitionTime>,
    partition: Option<Partition>,
    moment: &Moment,
) -> Timestamp {
    let time = partition.and_then(|partition| Some(times.get(&partition)?.at(partition, moment)));
    time.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_neither_stops_nor_hurries_a_partition() {
        let mut time = PartitionTime::default();
        let year = 365 * 86_400 * 1_000_000;
        let mut at = |received| time.record(Timestamp(received), Duration::ZERO).0;
        assert_eq!([at(year), at(year + 300), at(year + 200), at(0), at(700)], [0, 300, 300, 300, 1_000]);
        assert_eq!(at(90 * year), 1_000 + STEP_MAX_US);
    }

    #[test]
    fn real_time_passes_only_at_the_end_of_the_partition() {
        let mut time = PartitionTime::default();
        time.record(Timestamp(5), Duration::from_secs(1));
        let mut moment = Moment { monotonic: Duration::from_secs(4), ..Moment::default() };
        assert_eq!(time.at(0, &moment), Timestamp(0));
        moment.at_end.insert(0);
        assert_eq!(time.at(0, &moment), Timestamp(3_000_000));
        assert_eq!(time.at(1, &moment), Timestamp(0));
    }
}
