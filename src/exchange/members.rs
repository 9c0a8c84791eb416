//! Which symbols the patterns of one exchange's feeds select, as its listings say it one after the other. Pure.
//!
//! A listing may be false or partial, so the absence of a symbol counts only when a later answer says the same; when many
//! are absent at once, only when the exchange has said so for long. Whatever a listing says, a symbol that was recorded
//! stays known: it ends, and it comes back when the exchange lists it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::ListingEntry;
use crate::market::Symbol;

/// How long a symbol must be absent before it ended: two answers of one moment may come from one bad cache.
const ABSENT_MIN: Duration = Duration::from_secs(10);
/// Answers that must agree on that.
const ABSENT_ANSWERS: u32 = 2;
/// The same when a large part of the listing is absent at once, which is rather a fault than the end of all of them.
const SHRUNK_MIN: Duration = Duration::from_secs(3_600);
/// See [`SHRUNK_MIN`].
const SHRUNK_ANSWERS: u32 = 4;
/// With fewer symbols half of them may well end on one day.
const SHRUNK_MEMBERS_MIN: usize = 4;
/// When to ask again whether a symbol is absent.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// The same when a large part is absent.
const ASK_AGAIN_SHRUNK: Duration = Duration::from_secs(300);

/// One answer of the exchange.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// What it lists.
    pub entries: &'a BTreeMap<String, ListingEntry>,
    /// Whether every element of the answer was readable: else an absent symbol may be the unreadable one.
    pub is_whole: bool,
}

/// The symbols that patterns select of one exchange.
#[derive(Clone, Debug, Default)]
pub struct Members {
    active: BTreeSet<Symbol>,
    ended: BTreeSet<Symbol>,
    absences: BTreeMap<Symbol, Absence>,
    /// How many symbols the last listing had that was believed.
    listed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Absence {
    since: Instant,
    answers: u32,
}

/// What an answer changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Symbols to record from now on, those that came back among them.
    pub joined: BTreeSet<Symbol>,
    /// Symbols that ended.
    pub ended: BTreeSet<Symbol>,
    /// When to ask again, because this answer alone proves nothing.
    pub ask_again: Option<Duration>,
    /// How many of the known symbols the answer lacks, when these are too many to believe it.
    pub shrunk: Option<usize>,
}

impl Members {
    /// The symbols that are recorded.
    pub fn active(&self) -> &BTreeSet<Symbol> {
        &self.active
    }

    /// The symbols that were recorded and have ended.
    pub fn ended(&self) -> &BTreeSet<Symbol> {
        &self.ended
    }

    /// Adds a symbol that was recorded before.
    pub fn restore(&mut self, symbol: Symbol, has_ended: bool) {
        if has_ended {
            self.active.remove(&symbol);
            self.ended.insert(symbol);
        } else if !self.ended.contains(&symbol) {
            self.active.insert(symbol);
        }
    }

    /// Forgets the symbols that no pattern selects any more.
    pub fn retain(&mut self, is_selected: impl Fn(&Symbol) -> bool) {
        self.active.retain(&is_selected);
        self.ended.retain(&is_selected);
    }

    /// Whether the exchange has ceased to list a symbol, as far as its answers prove it.
    pub fn is_absent(&self, symbol: &Symbol, now: Instant, shrunk: bool) -> bool {
        let (answers, time) = if shrunk { (SHRUNK_ANSWERS, SHRUNK_MIN) } else { (ABSENT_ANSWERS, ABSENT_MIN) };
        self.absences
            .get(symbol)
            .is_some_and(|absence| absence.answers >= answers && now.duration_since(absence.since) >= time)
    }

    /// Takes an answer. `exact`: the symbols that feeds name; `selects`: whether a pattern selects a symbol that trades;
    /// `is_over`: whether a symbol that does not trade has been silent for so long that this is its end.
    pub fn take(
        &mut self,
        listing: Listing<'_>,
        exact: &BTreeSet<Symbol>,
        selects: impl Fn(&Symbol) -> bool,
        is_over: impl Fn(&Symbol) -> bool,
        now: Instant,
    ) -> Change {
        let entry = |symbol: &Symbol| listing.entries.get(symbol.as_str());
        let watched: BTreeSet<Symbol> = self.active.iter().chain(&self.ended).chain(exact).cloned().collect();
        self.absences.retain(|symbol, _| watched.contains(symbol));
        for symbol in &watched {
            if !matches!(entry(symbol), None | Some(ListingEntry::Unlisted)) {
                self.absences.remove(symbol);
            } else if listing.is_whole {
                let absence = self.absences.entry(symbol.clone()).or_insert(Absence { since: now, answers: 0 });
                absence.answers = absence.answers.saturating_add(1);
            }
        }
        let shrunk = self.shrunk(listing);
        let mut change = Change { shrunk, ..Change::default() };
        for symbol in &self.active {
            let has_ended = match entry(symbol) {
                Some(ListingEntry::Paused(_)) => is_over(symbol),
                Some(ListingEntry::Trading) => false,
                Some(ListingEntry::Unlisted) | None => self.is_absent(symbol, now, shrunk.is_some()),
            };
            if has_ended {
                change.ended.insert(symbol.clone());
            }
        }
        let in_doubt = |symbol: &Symbol| {
            let is_known = change.ended.contains(symbol) || self.ended.contains(symbol);
            self.absences.contains_key(symbol) && !is_known && !self.is_absent(symbol, now, shrunk.is_some())
        };
        if watched.iter().any(in_doubt) {
            change.ask_again = Some(if shrunk.is_some() { ASK_AGAIN_SHRUNK } else { ASK_AGAIN });
        }
        let trading = listing.entries.iter().filter(|(_, entry)| **entry == ListingEntry::Trading);
        let trading = trading.map(|(name, _)| Symbol::new(name)).filter(selects);
        change.joined = trading.filter(|symbol| !self.active.contains(symbol)).collect();
        self.apply(&change);
        if shrunk.is_none() || !change.ended.is_empty() {
            self.listed = listed(listing);
        }
        change
    }

    fn apply(&mut self, change: &Change) {
        for symbol in &change.ended {
            self.active.remove(symbol);
            self.ended.insert(symbol.clone());
        }
        for symbol in &change.joined {
            self.ended.remove(symbol);
            self.active.insert(symbol.clone());
        }
    }

    /// How many symbols are absent, when these are too many to end at once: half of the members, or of the listing.
    fn shrunk(&self, listing: Listing<'_>) -> Option<usize> {
        let absent = self.active.iter().filter(|symbol| self.absences.contains_key(*symbol)).count();
        let many = self.active.len() >= SHRUNK_MEMBERS_MIN && absent * 2 >= self.active.len();
        let count = listed(listing);
        (many || count * 2 < self.listed).then(|| absent.max(self.listed.saturating_sub(count)))
    }
}

fn listed(listing: Listing<'_>) -> usize {
    listing.entries.values().filter(|entry| **entry != ListingEntry::Unlisted).count()
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
