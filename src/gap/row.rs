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
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// What noticed: `neighbour`, `restart`, `begin`, `tail`, `silence`, `kline`, `sweep`, `audit`, `since`,
    /// `manual`.
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
    /// Rows of the ledger that this one speaks for: merged into it, or split into it and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
}

impl Evidence {
    /// Whether a person or a `since` asked for it: it waits behind what the market has just lost.
    pub fn is_requested(&self) -> bool {
        matches!(self.by.as_str(), "since" | "manual")
    }
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
    /// Where they came from: `rest`, `socket` (they were only late), `cache`; empty before the first.
    pub filled_by: String,
    /// When the latest of them was counted, by our clock.
    pub filled_at: Option<Timestamp>,
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
            gap_id: Self::new_id(),
            stream,
            range,
            from_ts: None,
            to_ts: None,
            state: GapState::Open,
            detected_at: now,
            closed_at: None,
            filled: 0,
            filled_by: String::new(),
            filled_at: None,
            attempts: 0,
            reason: String::new(),
            evidence,
            version: 1,
        }
    }

    pub(crate) fn new_id() -> String {
        uuid::Uuid::now_v7().to_string()
    }

    /// Speaks for `other` too, which lies inside its range: the outermost evidence and the first finding are kept.
    pub(crate) fn absorb(&mut self, other: &Self) {
        if other.range.first == self.range.first {
            (self.evidence.previous, self.from_ts) = (other.evidence.previous, other.from_ts);
        }
        if other.range.last == self.range.last {
            (self.evidence.next, self.to_ts) = (other.evidence.next, other.to_ts);
        }
        self.detected_at = self.detected_at.min(other.detected_at);
        self.evidence.replaces.push(other.gap_id.clone());
    }

    /// How many positions it is about.
    pub fn len(&self) -> i64 {
        self.range.len(self.stream.channel.step().unwrap_or(1))
    }

    /// Its range as people read it.
    pub fn span(&self) -> String {
        self.stream.channel.span(self.range.first, self.range.last)
    }

    /// How many of these are missing still, as they were last counted.
    pub fn missing(&self) -> i64 {
        (self.len() - self.filled).max(0)
    }

    /// Never: a range holds at least one position.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A closed row that speaks for a part of this one.
    pub fn closed_part(&self, range: Range, state: GapState, reason: &str, now: Timestamp) -> Self {
        let mut part = Self { gap_id: Self::new_id(), range, filled: 0, ..self.clone() };
        part.evidence.replaces = vec![self.gap_id.clone()];
        if range.first != self.range.first {
            (part.evidence.previous, part.from_ts) = (None, None);
        }
        if range.last != self.range.last {
            (part.evidence.next, part.to_ts) = (None, None);
        }
        part.state = GapState::Open;
        part.advance(state, reason, now);
        if state == GapState::Filled {
            part.filled = part.len();
        } else {
            (part.filled_by, part.filled_at) = (String::new(), None);
        }
        part
    }

    /// Takes over how many rows are in history now; what is new of them came `by` that way, unless an earlier part
    /// came another way.
    pub fn count_filled(&mut self, present: i64, by: &str, now: Timestamp) {
        if present > self.filled {
            self.filled_at = Some(now);
            if self.filled_by.is_empty() || by == "rest" {
                by.clone_into(&mut self.filled_by);
            }
        }
        self.filled = present;
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
