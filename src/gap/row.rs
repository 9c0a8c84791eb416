//! A row of the gap ledger: what is missing, the evidence, and the state of its repair.

use std::fmt;
use std::str::FromStr;

use crate::market::{Stream, Timestamp};

use super::Range;
use super::doubt::{Answer, Doubt};

/// The state of a gap. States only move forward (see [`GapState::can_become`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapState {
    /// Found; its repair has not begun.
    Open,
    /// A repair has begun.
    Filling,
    /// The exchange does not serve the positions; one answer is no proof, so the repair asks again for hours.
    Unconfirmed,
    /// Every position is in history, verified by count.
    Filled,
    /// The exchange has no such positions: it did not serve them for as long as the recorder asked.
    NeverExisted,
    /// The exchange no longer serves the positions: it did not serve them for as long as the recorder asked.
    Unrecoverable,
    /// The exchange served rows that history cannot hold; a dead letter holds their bytes.
    Refused,
    /// Another row replaces this one, or its feed was removed.
    Superseded,
}

impl GapState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::Filling,
        Self::Unconfirmed,
        Self::Filled,
        Self::NeverExisted,
        Self::Unrecoverable,
        Self::Refused,
        Self::Superseded,
    ];

    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Filling => "filling",
            Self::Unconfirmed => "unconfirmed",
            Self::Filled => "filled",
            Self::NeverExisted => "never_existed",
            Self::Unrecoverable => "unrecoverable",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
        }
    }

    /// Whether the row is closed: no repair works on it.
    pub const fn is_closed(self) -> bool {
        !matches!(self, Self::Open | Self::Filling | Self::Unconfirmed)
    }

    /// Whether the row is closed without its rows. Such a verdict can be appealed: another row then replaces it.
    pub const fn is_verdict(self) -> bool {
        matches!(self, Self::NeverExisted | Self::Unrecoverable | Self::Refused)
    }

    /// Open -> filling, unconfirmed -> one of the closed states. Nothing leaves a closed state, except that a new row
    /// supersedes a verdict that is appealed.
    pub const fn can_become(self, next: Self) -> bool {
        match self {
            Self::Open => true,
            Self::Filling | Self::Unconfirmed => !matches!(next, Self::Open),
            Self::NeverExisted | Self::Unrecoverable | Self::Refused => matches!(next, Self::Superseded),
            Self::Filled | Self::Superseded => false,
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

/// How a gap was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// What found it: `neighbour`, `restart`, `begin`, `tail`, `silence`, `kline`, `sweep`, `audit`, `since`, `manual`,
    /// `appeal`.
    pub by: String,
    /// Last known position before the gap.
    pub previous: Option<i64>,
    /// First known position after the gap.
    pub next: Option<i64>,
    /// Log partition of the frame that revealed it.
    pub partition: Option<i32>,
    /// Log offset of the frame that revealed it.
    pub offset: Option<i64>,
    /// Connection of the frame that revealed it.
    pub connection: Option<i64>,
    /// Ids of the rows that this one replaces: merged into it, or split into it and others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// What the exchange answered about positions that it did not serve, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answer>,
    /// How long the exchange has been asked while it did not serve them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
}

impl Evidence {
    /// Whether an operator, a `since` or an appeal requested it; such gaps wait behind live ones.
    pub fn is_requested(&self) -> bool {
        self.by == "since" || self.is_appeal()
    }

    /// Whether it asks again for positions that closed without their rows.
    pub fn is_appeal(&self) -> bool {
        matches!(self.by.as_str(), "manual" | "appeal")
    }
}

/// One row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// UUIDv7; a range that opens again gets a new row.
    pub gap_id: String,
    /// The stream.
    pub stream: Stream,
    /// The numbering that its positions belong to.
    pub epoch: i64,
    /// The missing positions, inclusive.
    pub range: Range,
    /// The exchange's time of the last row before it, when known.
    pub from_ts: Option<Timestamp>,
    /// The exchange's time of the first row after it, when known.
    pub to_ts: Option<Timestamp>,
    /// The state.
    pub state: GapState,
    /// When it was found, by our clock.
    pub detected_at: Timestamp,
    /// When it was closed, by our clock; set exactly when the state is final.
    pub closed_at: Option<Timestamp>,
    /// How many of its rows are in history.
    pub filled: i64,
    /// The source of those rows: `rest`, `socket` (late frames) or `cache`; empty before the first.
    pub filled_by: String,
    /// When `filled` last grew, by our clock.
    pub filled_at: Option<Timestamp>,
    /// Repairs begun.
    pub attempts: i64,
    /// The reason for the state; may be empty.
    pub reason: String,
    /// How it was found.
    pub evidence: Evidence,
    /// Grows with every change; a store keeps the row with the highest version.
    pub version: i64,
}

impl Gap {
    /// A new open gap.
    pub fn open(stream: Stream, range: Range, evidence: Evidence, now: Timestamp) -> Self {
        Self {
            gap_id: Self::new_id(),
            stream,
            epoch: 0,
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

    /// Takes over `other`, whose range lies inside this one: keeps the outermost evidence and the earliest detection
    /// time.
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

    /// How many positions its range contains.
    pub fn len(&self) -> i64 {
        self.range.len(self.stream.channel.step().unwrap_or(1))
    }

    /// Its range as text for people.
    pub fn span(&self) -> String {
        self.stream.channel.span(self.range.first, self.range.last)
    }

    /// How many positions were missing at the last count.
    pub fn missing(&self) -> i64 {
        (self.len() - self.filled).max(0)
    }

    /// Always false: a range contains at least one position.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A row for a part of this one, with the same state and answers, of which `missing` positions are missing.
    pub fn open_part(&self, range: Range, missing: i64) -> Self {
        let mut part = Self { gap_id: Self::new_id(), range, version: 1, ..self.clone() };
        part.filled = part.len() - missing;
        part.evidence.replaces = vec![self.gap_id.clone()];
        if range.first != self.range.first {
            (part.evidence.previous, part.from_ts) = (None, None);
        }
        if range.last != self.range.last {
            (part.evidence.next, part.to_ts) = (None, None);
        }
        part
    }

    /// A closed row for a part of this one.
    pub fn closed_part(&self, range: Range, state: GapState, reason: &str, now: Timestamp) -> Self {
        let mut part = self.open_part(range, 0);
        (part.filled, part.closed_at) = (0, None);
        part.state = GapState::Open;
        part.advance(state, reason, now);
        if state == GapState::Filled {
            part.filled = part.len();
            (part.evidence.answers, part.evidence.doubt) = (Vec::new(), None);
        } else {
            (part.filled_by, part.filled_at) = (String::new(), None);
        }
        part
    }

    /// Sets how many rows are in history. New rows came from `by`; a source that was set before stays, unless `by` is
    /// `rest`.
    pub fn count_filled(&mut self, present: i64, by: &str, now: Timestamp) {
        if present > self.filled {
            self.filled_at = Some(now);
            if self.filled_by.is_empty() || by == "rest" {
                by.clone_into(&mut self.filled_by);
            }
        }
        self.filled = present;
    }

    /// Moves to another state. Returns `false` and changes nothing when [`GapState::can_become`] forbids the move.
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
                let back = from != GapState::Open && to == GapState::Open;
                let forward = !from.is_closed() && !back;
                let appeal = from.is_verdict() && to == GapState::Superseded;
                assert_eq!(from.can_become(to), forward || appeal, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_closed_row_has_a_closing_time_and_stays_closed() {
        let mut gap = gap();
        assert!(gap.advance(GapState::Filling, "", Timestamp(8)));
        assert_eq!(gap.closed_at, None);
        assert!(gap.advance(GapState::Filled, "", Timestamp(9)));
        assert_eq!(gap.closed_at, Some(Timestamp(9)));
        assert!(!gap.advance(GapState::Open, "again", Timestamp(10)));
        assert_eq!((gap.state, gap.version, gap.len()), (GapState::Filled, 3, 5));
    }

    #[test]
    fn every_state_parses_from_its_stored_name() {
        for state in GapState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
