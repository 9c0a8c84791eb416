//! What the exchange's answers have taught since this process began: when it last answered about each gap in doubt, and
//! the oldest position that it serves of each stream. Also which symbols got back trades that frames had lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::market::{Exchange, Stream, Symbol, Timestamp};

/// Most gaps whose last answer is kept.
const GAPS_MAX: usize = 100_000;

/// The answers; shared by the repairs.
#[derive(Debug, Default)]
pub struct Answers {
    /// By the monotonic clock.
    last: Mutex<HashMap<String, Duration>>,
    oldest: Mutex<HashMap<Stream, (i64, Timestamp)>>,
    refilled: Mutex<HashSet<(Exchange, Symbol)>>,
}

impl Answers {
    /// Records an answer at `now` (monotonic) about a gap in doubt; returns the time since the last one, if this process
    /// received one.
    pub(super) fn note(&self, gap_id: &str, now: Duration) -> Option<Duration> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() > GAPS_MAX {
            // Closed gaps leave their entries. Without an entry the wall clock decides, within its limit.
            last.clear();
        }
        last.insert(gap_id.to_owned(), now).map(|last| now.saturating_sub(last))
    }

    /// Records that a position is the lowest one that the exchange served.
    pub(super) fn note_oldest(&self, stream: &Stream, served: (i64, Timestamp)) {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.clone(), served);
    }

    /// Records that a gap in a symbol's trades closed.
    pub(super) fn note_refilled(&self, stream: &Stream) {
        let mut refilled = self.refilled.lock().unwrap_or_else(PoisonError::into_inner);
        refilled.insert((stream.exchange, stream.symbol.clone()));
    }

    /// The symbols of an exchange whose trades had a gap that closed since the last call.
    pub(super) fn take_refilled(&self, exchange: Exchange) -> HashSet<Symbol> {
        let mut refilled = self.refilled.lock().unwrap_or_else(PoisonError::into_inner);
        refilled.extract_if(|(of, _)| *of == exchange).map(|(_, symbol)| symbol).collect()
    }

    /// The oldest position that the exchange still serves of a stream, and its time; `None` before an answer showed it.
    pub fn oldest_served(&self, stream: &Stream) -> Option<(i64, Timestamp)> {
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner).get(stream).copied()
    }
}
