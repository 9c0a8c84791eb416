//! A row of the gap ledger: what is missing, how we know, and what became of it.

use std::fmt;
use std::str::FromStr;

use crate::market::{Stream, Timestamp};

use super::Range;

/// Where a gap stands. States only move forward (see [`GapState::can_become`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapState {
    /// Found, waiting for its repair.
    Open,
    /// A repair has begun.
    Filling,
    /// Every position of it is in history, counted.
    Filled,
    /// The exchange itself has no such positions.
    NeverExisted,
    /// The exchange no longer serves it.
    Unrecoverable,
    /// Another row speaks for it, or its feed was removed.
    Superseded,
}

impl GapState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Open, Self::Filling, Self::Filled, Self::NeverExisted, Self::Unrecoverable, Self::Superseded];

    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Filling => "filling",
            Self::Filled => "filled",
            Self::NeverExisted => "never_existed",
            Self::Unrecoverable => "unrecoverable",
            Self::Superseded => "superseded",
        }
    }

    /// Whether the row is done with.
    pub const fn is_closed(self) -> bool {
        !matches!(self, Self::Open | Self::Filling)
    }

    /// Open -> filling -> one of the closed states; nothing leaves a closed state.
    pub const fn can_become(self, next: Self) -> bool {
        match self {
            Self::Open => true,
            Self::Filling => !matches!(next, Self::Open),
            _ => false,
        }
    }
}

impl fmt::Display for GapState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GapState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// How we know that something is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    /// What noticed: `neighbour`, `restart`, `tail`, `silence`, `kline`, `sweep`, `since`, `manual`.
    pub by: String,
    /// Last position seen before the hole.
    pub previous: Option<i64>,
    /// First position seen after it.
    pub next: Option<i64>,
    /// Log partition and offset of the frame that revealed it.
    pub partition: Option<i32>,
    /// See `partition`.
    pub offset: Option<i64>,
    /// Connection that frame came over.
    pub connection: Option<i64>,
}

/// One row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// UUIDv7; a range that opens again is a new row.
    pub gap_id: String,
    /// Whose.
    pub stream: Stream,
    /// What is missing, inclusive.
    pub range: Range,
    /// The exchange's time of the last row before it, when known.
    pub from_ts: Option<Timestamp>,
    /// The exchange's time of the first row after it, when known.
    pub to_ts: Option<Timestamp>,
    /// Where it stands.
    pub state: GapState,
    /// When it was found, by our clock.
    pub detected_at: Timestamp,
    /// When it was closed, by our clock; set exactly when the state is a closed one.
    pub closed_at: Option<Timestamp>,
    /// Rows that came back.
    pub filled: i64,
    /// Repairs begun.
    pub attempts: i64,
    /// Why it stands where it stands; empty when there is nothing to say.
    pub reason: String,
    /// How we know.
    pub evidence: Evidence,
    /// Grows with every change: the higher one is the row.
    pub version: i64,
}

impl Gap {
    /// A new open gap.
    pub fn open(stream: Stream, range: Range, evidence: Evidence, now: Timestamp) -> Self {
        Self {
            gap_id: uuid::Uuid::now_v7().to_string(),
            stream,
            range,
            from_ts: None,
            to_ts: None,
            state: GapState::Open,
            detected_at: now,
            closed_at: None,
            filled: 0,
            attempts: 0,
            reason: String::new(),
            evidence,
            version: 1,
        }
    }

    /// How many positions are missing.
    pub fn len(&self) -> i64 {
        self.range.len(self.stream.channel.step().unwrap_or(1))
    }

    /// Never: a range holds at least one position.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Moves forward; a move that [`GapState::can_become`] forbids changes nothing and says so.
    pub fn advance(&mut self, next: GapState, reason: &str, now: Timestamp) -> bool {
        if !self.state.can_become(next) {
            return false;
        }
        self.state = next;
        self.reason = reason.to_owned();
        self.version += 1;
        if next.is_closed() {
            self.closed_at = Some(now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap() -> Gap {
        let stream = "binance:BTCUSDT:trade".parse().unwrap();
        Gap::open(stream, Range { first: 5, last: 9 }, Evidence::default(), Timestamp(7))
    }

    #[test]
    fn states_only_move_forward() {
        for from in GapState::ALL {
            for to in GapState::ALL {
                let back = from == GapState::Filling && to == GapState::Open;
                let forward = !from.is_closed() && !back;
                assert_eq!(from.can_become(to), forward, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_closed_row_has_its_time_and_stays() {
        let mut gap = gap();
        assert!(gap.advance(GapState::Filling, "", Timestamp(8)));
        assert_eq!(gap.closed_at, None);
        assert!(gap.advance(GapState::Filled, "", Timestamp(9)));
        assert_eq!(gap.closed_at, Some(Timestamp(9)));
        assert!(!gap.advance(GapState::Open, "again", Timestamp(10)));
        assert_eq!((gap.state, gap.version, gap.len()), (GapState::Filled, 3, 5));
    }

    #[test]
    fn every_state_reads_back() {
        for state in GapState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
