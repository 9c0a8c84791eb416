//! Finds a connection that does not deliver a stream while another connection with the same stream does. Such a stream seems
//! to be on two connections, and the cut of the other one would lose what REST does not return. Pure.

use std::time::Duration;

/// The length of a period.
pub(super) const PERIOD: Duration = Duration::from_secs(30);
/// This many frames of another connection in one period cannot all be at its edge.
const FRAMES_MIN: u64 = 3;
/// Periods without a frame before a connection is reported; they double while a new connection does not help.
const PERIODS_MIN: u32 = 2;
/// Most times that they double: to an hour.
const DOUBLINGS_MAX: u32 = 6;

/// The connections of one stream.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    connections: Vec<Delivery>,
    /// Reports since every connection delivered in one period.
    reports: u32,
}

#[derive(Debug)]
struct Delivery {
    connection: i64,
    /// In this period.
    frames: u64,
    /// It carries the stream since this period.
    is_new: bool,
    /// Periods in a row in which others delivered and it did not.
    silent: u32,
}

impl Deliveries {
    /// A connection carries the stream from now on.
    pub(super) fn accepted(&mut self, connection: i64) {
        self.ended(connection);
        self.connections.push(Delivery { connection, frames: 0, is_new: true, silent: 0 });
    }

    /// A connection ended.
    pub(super) fn ended(&mut self, connection: i64) {
        self.connections.retain(|delivery| delivery.connection != connection);
    }

    /// Counts a frame of the stream.
    pub(super) fn count(&mut self, connection: i64) {
        if let Some(delivery) = self.connections.iter_mut().find(|delivery| delivery.connection == connection) {
            delivery.frames += 1;
        }
    }

    /// The connections that have been silent for some periods.
    pub(super) fn silent(&self) -> usize {
        self.connections.iter().filter(|delivery| delivery.silent >= PERIODS_MIN).count()
    }

    /// Ends a period. Returns a connection that must be replaced.
    pub(super) fn end_period(&mut self) -> Option<i64> {
        let most = self.connections.iter().map(|delivery| delivery.frames).max()?;
        if self.connections.iter().all(|delivery| delivery.frames > 0) {
            self.reports = 0;
        }
        for delivery in &mut self.connections {
            let frames = std::mem::take(&mut delivery.frames);
            if std::mem::take(&mut delivery.is_new) || frames > 0 {
                delivery.silent = 0;
            } else if most >= FRAMES_MIN {
                delivery.silent += 1;
            }
        }
        let periods = PERIODS_MIN << self.reports.min(DOUBLINGS_MAX);
        let found = self.connections.iter().find(|delivery| delivery.silent >= periods)?;
        self.reports += 1;
        Some(found.connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reports of periods in which the connections deliver these numbers of frames.
    fn reports(deliveries: &mut Deliveries, periods: &[&[(i64, u64)]]) -> Vec<Option<i64>> {
        let period = |frames: &&[(i64, u64)]| {
            frames.iter().for_each(|(connection, count)| (0..*count).for_each(|_| deliveries.count(*connection)));
            deliveries.end_period()
        };
        periods.iter().map(period).collect()
    }

    fn two() -> Deliveries {
        let mut deliveries = Deliveries::default();
        deliveries.accepted(1);
        deliveries.accepted(2);
        deliveries
    }

    #[test]
    fn a_connection_without_the_frames_of_the_other_one_is_found() {
        let mut deliveries = two();
        // In the first period it may have been subscribed late.
        assert_eq!(reports(&mut deliveries, &[&[(1, 9)], &[(1, 9)], &[(1, 9)]]), [None, None, Some(2)]);
        assert_eq!(deliveries.silent(), 1);
        assert_eq!(reports(&mut deliveries, &[&[(1, 9), (2, 1)]]), [None]);
        assert_eq!(deliveries.silent(), 0);
    }

    #[test]
    fn a_quiet_market_and_a_frame_at_the_edge_of_a_period_prove_nothing() {
        let quiet: &[(i64, u64)] = &[];
        assert_eq!(reports(&mut two(), &[quiet, quiet, quiet, &[(1, 1)], &[(2, 1)], &[(1, 2)], &[(1, 2)]]), [None; 7]);
        let mut one = Deliveries::default();
        one.accepted(1);
        assert_eq!(reports(&mut one, &[quiet, &[(2, 9)], quiet]), [None; 3], "connection 2 is unknown");
    }

    #[test]
    fn while_a_new_connection_does_not_help_the_reports_become_rare() {
        let mut deliveries = two();
        let mut at = Vec::new();
        for period in 0..200 {
            deliveries.count(1);
            deliveries.count(1);
            deliveries.count(1);
            if let Some(silent) = deliveries.end_period() {
                at.push(period);
                deliveries.ended(silent);
                deliveries.accepted(silent + 1);
            }
        }
        let pauses: Vec<i32> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!((at[0], pauses), (2, vec![5, 9, 17, 33, 65]));
    }
}
