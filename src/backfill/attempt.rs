//! The types of one repair attempt: what it learned, and why it ended early. `pages`, `verdict` and `repair` share them;
//! this file knows none of the three.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::exchange::rest::{Deadline, RestError};
use crate::gap::{Range, RangeSet};
use crate::market::Timestamp;

use super::deps::Deps;

/// Missing ranges read from history per attempt.
pub(super) const RANGES_PER_ATTEMPT: usize = 1_000;

/// A position that the exchange serves, and its time.
pub(super) type ServedPosition = (i64, Timestamp);

/// Why an attempt ended early.
pub(super) enum RepairError {
    Stopped,
    /// Another row replaced the gap.
    Superseded,
    /// Try again after this time; the reason.
    Wait(Duration, String),
    /// The exchange does not know the symbol; its answer.
    UnknownSymbol(String),
    /// The exchange serves no row that old; its answer.
    NotServed(String),
}

/// Longest wait for one deadline of the exchange: the longest documented ban is three days.
const WAIT_MAX: Duration = Duration::from_secs(4 * 86_400);

impl RepairError {
    pub(super) fn of(deps: &Deps, error: RestError) -> Self {
        let wait = |until: Deadline| until.left(&deps.clock).min(WAIT_MAX);
        match error {
            RestError::Stopped => Self::Stopped,
            RestError::Limited { until } => Self::Wait(wait(until), "waiting for the exchange's budget".to_owned()),
            RestError::Banned { until } => {
                Self::Wait(wait(until), format!("the exchange bans this address until {until}"))
            }
            RestError::UnknownSymbol { text } => {
                Self::UnknownSymbol(format!("the exchange does not know the symbol: {text}"))
            }
            RestError::NotOffered { text } => Self::NotServed(text),
            other => Self::soon(other),
        }
    }

    /// Try again after the usual pause.
    pub(super) fn soon(why: impl std::fmt::Display) -> Self {
        Self::Wait(Duration::ZERO, why.to_string())
    }
}

/// What one attempt learned.
pub(super) struct Attempt {
    /// The lowest and the highest position served.
    pub(super) served: Option<(i64, ServedPosition)>,
    /// Positions that one answer skipped: it began at or below them and served one above. Positions between two answers
    /// prove nothing, because the database may have caught up in between.
    pub(super) skipped: RangeSet,
    /// Whether the attempt wrote rows.
    pub(super) wrote: bool,
    /// Positions whose rows history cannot hold, and why; their dead letters are stored.
    pub(super) refused: BTreeMap<i64, String>,
    /// Elements of answers whose position cannot be read: an absent position may be one of them.
    pub(super) unreadable: usize,
    /// Trades that are newer than the row behind the gap: their numbering may have begun again.
    pub(super) too_new: usize,
    /// Whether pages remain that this attempt did not request.
    pub(super) unfinished: bool,
}

impl Attempt {
    pub(super) fn new(step: i64) -> Self {
        Self {
            served: None,
            skipped: RangeSet::new(step),
            wrote: false,
            refused: BTreeMap::new(),
            unreadable: 0,
            too_new: 0,
            unfinished: false,
        }
    }

    /// Records one answer to a request for positions from `first` up.
    pub(super) fn note_answer(&mut self, first: i64, served: &[ServedPosition], step: i64) {
        let (Some(low), Some(high)) = (served.first(), served.last()) else { return };
        let (lowest, highest) = self.served.map_or((low.0, *high), |(lowest, highest)| (lowest, highest));
        self.served = Some((lowest.min(low.0), highest.max(*high)));
        let mut next = first;
        for (position, _) in served {
            if let Some(range) = Range::new(next, position - step) {
                self.skipped.insert(range);
            }
            next = position + step;
        }
    }
}
