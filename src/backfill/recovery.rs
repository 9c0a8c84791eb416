//! Decides how a stream that is silent although it trades is brought back: subscribe it again, give it a connection of
//! its own, replace a connection. One unanswered stream must not cost the streams that share its connection. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::market::Stream;
use crate::retry::{Paused, Pauses};

/// Answers of the exchange that contradict the silence before the stream is subscribed again: the first one may have
/// overtaken frames on their way.
pub(super) const RESUBSCRIBE_AFTER: u32 = 2;
/// Pauses between two subscriptions of the same silent stream.
const RESUBSCRIBE: Pauses = Pauses { min: Duration::from_secs(15), max: Duration::from_secs(300) };
/// Pauses between two replacements of one connection for silent streams, and between two requests for a connection of
/// a stream's own.
const REPLACE: Pauses = Pauses { min: Duration::from_secs(60), max: Duration::from_secs(3_600) };

/// What to do about a silent stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Subscribe it again on its connection.
    Resubscribe,
    /// Give it a connection of its own.
    Isolate,
    /// Replace its connection.
    Reconnect,
}

/// The other streams on the connection of a silent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbours {
    /// There are none.
    Absent,
    /// None has delivered anything lately: the connection itself may be dead.
    Silent,
    /// Some deliver.
    Delivering,
}

/// The steps taken so far.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    resubscribed: HashMap<Stream, Option<Paused>>,
    isolated: HashMap<Stream, Option<Paused>>,
    /// By the connection's first stream: a connection has no lasting number.
    reconnected: HashMap<Stream, Option<Paused>>,
}

impl Recovery {
    /// The next step for `stream` after `unanswered` answers with trades that it did not deliver. `connection` names
    /// its connection.
    pub(super) fn next_step(
        &mut self,
        stream: &Stream,
        connection: &Stream,
        unanswered: u32,
        neighbours: Neighbours,
        now: Instant,
    ) -> Option<Step> {
        if unanswered < RESUBSCRIBE_AFTER {
            return None;
        }
        let resubscribed = self.resubscribed.entry(stream.clone()).or_default();
        if resubscribed.is_some_and(|paused| paused.is_recent(now)) {
            // A new subscription did not help.
            let (step, paused) = match neighbours {
                Neighbours::Delivering => (Step::Isolate, self.isolated.entry(stream.clone()).or_default()),
                Neighbours::Absent | Neighbours::Silent => {
                    (Step::Reconnect, self.reconnected.entry(connection.clone()).or_default())
                }
            };
            if REPLACE.allow(paused, now) {
                return Some(step);
            }
        }
        RESUBSCRIBE.allow(resubscribed, now).then_some(Step::Resubscribe)
    }

    /// Forgets the streams that are no longer recorded.
    pub(super) fn retain(&mut self, recorded: impl Fn(&Stream) -> bool) {
        self.resubscribed.retain(|stream, _| recorded(stream));
        self.isolated.retain(|stream, _| recorded(stream));
        self.reconnected.retain(|stream, _| recorded(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds of each step in `seconds` of silence, with an answer every five seconds.
    fn steps(recovery: &mut Recovery, neighbours: Neighbours, from: Instant, seconds: u64) -> Vec<(Step, u64)> {
        let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
        let mut steps = Vec::new();
        for answer in 1..=seconds / 5 {
            let now = from + Duration::from_secs(answer * 5);
            let unanswered = u32::try_from(answer).unwrap();
            if let Some(step) = recovery.next_step(&stream, &stream, unanswered, neighbours, now) {
                steps.push((step, answer * 5));
            }
        }
        steps
    }

    fn times(steps: &[(Step, u64)], wanted: Step) -> Vec<u64> {
        steps.iter().filter(|(step, _)| *step == wanted).map(|(_, at)| *at).collect()
    }

    #[test]
    fn a_stream_among_delivering_ones_is_subscribed_again_then_isolated_and_its_connection_stays() {
        let steps = steps(&mut Recovery::default(), Neighbours::Delivering, Instant::now(), 3_600);
        assert_eq!(steps[..2], [(Step::Resubscribe, 10), (Step::Isolate, 15)]);
        assert!(times(&steps, Step::Reconnect).is_empty());
        assert_eq!(times(&steps, Step::Resubscribe)[..6], [10, 25, 55, 115, 235, 475]);
    }

    #[test]
    fn a_connection_that_delivers_nothing_is_replaced_with_pauses_that_double_from_a_minute_to_an_hour() {
        for neighbours in [Neighbours::Absent, Neighbours::Silent] {
            let steps = steps(&mut Recovery::default(), neighbours, Instant::now(), 20_000);
            let at = times(&steps, Step::Reconnect);
            assert_eq!(at[0], 15, "soon: a new connection usually helps");
            let pauses: Vec<u64> = at.windows(2).map(|pair| (pair[1] - pair[0]) / 60).collect();
            assert_eq!(pauses[..9], [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        }
    }

    #[test]
    fn after_a_long_calm_the_pauses_begin_again() {
        let (mut recovery, began) = (Recovery::default(), Instant::now());
        assert_eq!(times(&steps(&mut recovery, Neighbours::Absent, began, 300), Step::Reconnect).len(), 3);
        let later = began + Duration::from_secs(2 * 3_600);
        assert_eq!(times(&steps(&mut recovery, Neighbours::Absent, later, 60), Step::Reconnect), [15]);
    }
}
