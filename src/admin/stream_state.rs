//! The state of a stream, from what the other modules know of it: one word, and the reason where the word needs one.
//!
//! The decision is pure: [`StreamFacts`] holds everything that it depends on.

use crate::exchange::TradingState;
use crate::market::Timestamp;

/// A stream with a frame within this time is receiving, microseconds.
pub const RECEIVING_US: i64 = 60_000_000;
/// A silence of this many usual intervals between two frames is explained by the stream's own pace.
const USUAL_INTERVALS_MAX: i64 = 60;

/// The state of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamState {
    /// Frames arrive and are decoded.
    Receiving,
    /// A connection carries it, and its own pace explains the silence.
    Quiet,
    /// No connection carries it, its first frame is overdue, it is silent for longer than its pace explains, or none of its
    /// frames can be decoded.
    Stalled,
    /// The exchange refuses the subscription.
    Refused,
    /// The symbol is not listed yet, or paused.
    NotTrading,
    /// The symbol is delisted or renamed.
    Ended,
}

impl StreamState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Receiving, Self::Quiet, Self::Stalled, Self::Refused, Self::NotTrading, Self::Ended];

    /// The name in the API, in metrics and on the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Quiet => "quiet",
            Self::Stalled => "stalled",
            Self::Refused => "refused",
            Self::NotTrading => "not_trading",
            Self::Ended => "ended",
        }
    }
}

/// A stream's facts.
#[derive(Clone, Debug)]
pub struct StreamFacts {
    /// The present time.
    pub now: Timestamp,
    /// Whether its symbol trades.
    pub trading: TradingState,
    /// Why none of its frames can be decoded.
    pub undecodable: Option<String>,
    /// Why the exchange refuses it.
    pub refusal: Option<String>,
    /// Since when an open connection carries it.
    pub carried_since: Option<Timestamp>,
    /// When its newest frame arrived.
    pub newest: Option<Timestamp>,
    /// The usual time between two frames, microseconds.
    pub usual_interval: Option<i64>,
}

impl StreamFacts {
    /// The state, and the reason for people.
    pub fn state(&self) -> (StreamState, Option<String>) {
        match &self.trading {
            TradingState::Ended(why) => return (StreamState::Ended, Some(why.clone())),
            TradingState::NotTrading(why) => return (StreamState::NotTrading, Some(why.clone())),
            TradingState::Trading => {}
        }
        if let Some(why) = &self.undecodable {
            return (StreamState::Stalled, Some(why.clone()));
        }
        if let Some(why) = &self.refusal {
            return (StreamState::Refused, Some(format!("refused by the exchange: {why}")));
        }
        let Some(since) = self.carried_since else {
            return (StreamState::Stalled, Some("no connection carries it".to_owned()));
        };
        let Some(newest) = self.newest else {
            let waited = self.now.since(since);
            let why = format!("no frame since it was subscribed {} s ago", waited.max(0) / 1_000_000);
            let state = if waited < RECEIVING_US { StreamState::Quiet } else { StreamState::Stalled };
            return (state, Some(why));
        };
        let silence = self.now.since(newest);
        if silence < RECEIVING_US {
            return (StreamState::Receiving, None);
        }
        let explained = self.usual_interval.unwrap_or(0).saturating_mul(USUAL_INTERVALS_MAX);
        let state = if silence <= explained { StreamState::Quiet } else { StreamState::Stalled };
        (state, Some(format!("silent for {} s", silence / 1_000_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// A stream that receives.
    fn facts() -> StreamFacts {
        StreamFacts {
            now: Timestamp(1_000 * SECOND),
            trading: TradingState::Trading,
            undecodable: None,
            refusal: None,
            carried_since: Some(Timestamp(0)),
            newest: Some(Timestamp(999 * SECOND)),
            usual_interval: Some(SECOND),
        }
    }

    fn check(facts: StreamFacts, expected: StreamState, part: &str) {
        let (state, why) = facts.state();
        assert_eq!(state, expected, "{facts:?}");
        assert!(why.unwrap_or_default().contains(part), "{facts:?} does not say {part:?}");
    }

    #[test]
    fn a_frame_within_a_minute_is_receiving() {
        check(facts(), StreamState::Receiving, "");
    }

    #[test]
    fn the_streams_own_pace_tells_quiet_from_stalled() {
        let newest = Some(Timestamp(800 * SECOND));
        check(StreamFacts { newest, ..facts() }, StreamState::Stalled, "silent for 200 s");
        let usual_interval = Some(10 * SECOND);
        check(StreamFacts { newest, usual_interval, ..facts() }, StreamState::Quiet, "silent for 200 s");
    }

    #[test]
    fn the_first_frame_may_be_overdue() {
        check(StreamFacts { newest: None, ..facts() }, StreamState::Stalled, "no frame since");
        let carried_since = Some(Timestamp(990 * SECOND));
        check(StreamFacts { newest: None, carried_since, ..facts() }, StreamState::Quiet, "10 s ago");
        check(StreamFacts { carried_since: None, ..facts() }, StreamState::Stalled, "no connection");
    }

    #[test]
    fn the_listing_explains_more_than_a_refusal_and_a_refusal_more_than_silence() {
        let refusal = Some("-1121: Invalid symbol.".to_owned());
        check(StreamFacts { refusal: refusal.clone(), ..facts() }, StreamState::Refused, "-1121");
        let trading = TradingState::NotTrading("not listed (yet)".to_owned());
        check(
            StreamFacts { refusal: refusal.clone(), trading, ..facts() },
            StreamState::NotTrading,
            "not listed (yet)",
        );
        let trading = TradingState::Ended("delisted".to_owned());
        check(StreamFacts { refusal, trading, ..facts() }, StreamState::Ended, "delisted");
        let undecodable = Some("p is a number".to_owned());
        check(StreamFacts { undecodable, ..facts() }, StreamState::Stalled, "p is a number");
    }
}
