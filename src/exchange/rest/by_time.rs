//! Trades of an exchange whose pages begin at a time, not at an id: finds the time at which a range of ids begins.
//!
//! A page proves that a trade is absent only if it has one before it, or begins at the beginning of time: a time that we
//! believe may be wrong, and trades of one instant may be divided between two pages. So a page is used only with such a
//! proof, and a time that a page contradicts is forgotten. Our times are microseconds: where more trades share one than a
//! page has, the search walks from page to page by the exchange's own finer cursor.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::outcome::RestError;
use crate::exchange::{Page, PageStart, Series};
use crate::gap::Range;
use crate::market::{Timestamp, Trade};

/// Most requests for one page: each one but the last only finds a time. What they find is remembered, so that the next
/// attempt begins nearer.
const REQUESTS_MAX: usize = 24;
/// Most known trades of one symbol. They only spare requests.
const KNOWN_MAX: usize = 1_000;
/// How far before a trade a page begins, so that the trade itself is in it: proof that the page misses nothing between.
const MARGIN_US: i64 = 1;
/// The first step back in time when no trade before the range is known.
const FIRST_STEP_US: i64 = 60_000_000;

/// Id and time of a trade.
type Known = (i64, Timestamp);

/// Times of trades by id, per symbol.
#[derive(Debug, Default)]
pub(super) struct KnownTimes(HashMap<String, BTreeMap<i64, Timestamp>>);

impl KnownTimes {
    fn add(&mut self, symbol: &str, id: i64, at: Timestamp) {
        let known = self.0.entry(symbol.to_owned()).or_default();
        known.insert(id, at);
        if known.len() > KNOWN_MAX {
            // Every other one: the rest still spans the same time.
            let mut index = 0;
            known.retain(|_, _| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    fn forget(&mut self, symbol: &str, id: i64) {
        if let Some(known) = self.0.get_mut(symbol) {
            known.remove(&id);
        }
    }

    /// The last known trade before `id`, and the first one at or after it.
    fn around(&self, symbol: &str, id: i64) -> (Option<Known>, Option<Known>) {
        let Some(known) = self.0.get(symbol) else { return (None, None) };
        let copy = |(id, at): (&i64, &Timestamp)| (*id, *at);
        (known.range(..id).next_back().map(copy), known.range(id..).next().map(copy))
    }
}

/// Where the next page of a search begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    ByTime(Timestamp),
    /// See [`PageStart::With`].
    With(String),
    /// See [`PageStart::Behind`].
    Behind(String),
}

impl Start {
    fn as_page_start(&self) -> PageStart<'_> {
        match self {
            Self::ByTime(at) => PageStart::At(*at),
            Self::With(end) => PageStart::With(end),
            Self::Behind(end) => PageStart::Behind(end),
        }
    }
}

/// The search for the page with one id. Pure.
struct Search {
    id: i64,
    /// Rows of a full page.
    page_rows: i64,
    /// A trade before the id, and one at or after it.
    low: Option<Known>,
    high: Option<Known>,
    /// How far before `high` the next page begins, when there is no `low`.
    step_us: i64,
    /// Where the next page begins when more trades share a microsecond than a page has.
    walk: Option<Start>,
    /// They do, and the exchange does not say how its pages continue.
    is_stuck: bool,
    /// The first id that more trades of one instant than a page has may hide.
    hidden_from: Option<i64>,
    unreachable: Option<(Range, String)>,
    requests: usize,
    /// Trades whose times a page has contradicted.
    forgotten: Vec<i64>,
}

impl Search {
    fn next_start(&mut self) -> Start {
        self.requests += 1;
        self.walk.take().unwrap_or_else(|| Start::ByTime(self.next_time()))
    }

    /// The time at which the next page begins.
    fn next_time(&mut self) -> Timestamp {
        match (self.low, self.high) {
            (Some((low_id, low_at)), Some((high_id, high_at)))
                if self.id - low_id > self.page_rows && high_id > low_id && high_at > low_at =>
            {
                // Far away: the trades between are probably spread evenly. When that does not help, halving does.
                let share = (self.id - low_id) as f64 / (high_id - low_id) as f64;
                let share = if self.requests.is_multiple_of(3) { 0.5 } else { share.min(1.0) * 0.98 };
                low_at.plus_micros((high_at.since(low_at) as f64 * share) as i64)
            }
            (Some((_, low_at)), _) => Timestamp(low_at.micros().saturating_sub(MARGIN_US)),
            (None, Some((_, high_at))) => {
                self.step_us = self.step_us.saturating_mul(4);
                Timestamp(high_at.micros().saturating_sub(self.step_us).max(0))
            }
            (None, None) => Timestamp(0),
        }
    }

    /// Whether the page that begins at `start` is the one. If it is not, the search continues from what it shows.
    fn is_found(&mut self, page: &Page<Trade>, start: &Start) -> bool {
        let is_full = (page.rows.len() + page.refused.len()) as i64 >= self.page_rows;
        let ends = page.rows.first().zip(page.rows.last());
        let ends = ends.map(|(first, last)| ((first.id, first.ts), (last.id, last.ts)));
        let from = match (start, ends) {
            (Start::ByTime(from), _) => *from,
            (_, None) => return true,
            (walked, Some((first, last))) => return self.is_end_of_walk(page, walked, (first.0, last), is_full),
        };
        let Some((first, last)) = ends else { return self.is_nothing_left(from) };
        if last.0 < self.id {
            return self.is_last(page, last, is_full);
        }
        if first.0 <= self.id {
            return true;
        }
        // The page begins above the id.
        match self.low {
            _ if from <= Timestamp(0) => return true,
            // The page begins before a trade that it does not have: that trade has another time.
            Some((low_id, low_at)) if from < low_at => {
                self.forgotten.push(low_id);
                self.low = None;
            }
            _ => {}
        }
        self.high = Some(first);
        false
    }

    /// After a page that ends below the id.
    fn is_last(&mut self, page: &Page<Trade>, last: Known, is_full: bool) -> bool {
        match self.low {
            Some(low) if last.0 <= low.0 => {
                if !is_full {
                    // The exchange has no later trade.
                    return true;
                }
                if low.1 == last.1 {
                    // Our times are too coarse to come further.
                    self.walk_on(page.end.clone().map(Start::With));
                } else {
                    // It has later ones, and none of them is this one at its time.
                    self.forgotten.push(low.0);
                    self.low = Some(last);
                }
            }
            _ => self.low = Some(last),
        }
        false
    }

    fn walk_on(&mut self, start: Option<Start>) {
        self.is_stuck = start.is_none();
        self.walk = start;
    }

    /// After a page with rows that begins where another one ended.
    fn is_end_of_walk(
        &mut self,
        page: &Page<Trade>,
        start: &Start,
        (first_id, last): (i64, Known),
        is_full: bool,
    ) -> bool {
        let hidden_from = self.hidden_from.take();
        if last.0 >= self.id || !is_full {
            if let Some(hidden_from) = hidden_from.filter(|_| first_id > self.id) {
                let why = format!(
                    "the exchange's pages show at most {} trades of one instant, and these are beyond them",
                    self.page_rows
                );
                self.unreachable = Range::new(hidden_from, first_id - 1).map(|range| (range, why));
            }
            return true;
        }
        self.low = Some(last);
        let next = match (&page.end, start) {
            // All of the page is one instant, and it may have more.
            (Some(end), Start::With(before)) if end == before => {
                self.hidden_from = Some(last.0 + 1);
                Some(Start::Behind(end.clone()))
            }
            (Some(end), _) => Some(Start::With(end.clone())),
            (None, _) => None,
        };
        self.walk_on(next);
        false
    }

    /// After a page without a row: the exchange has no trade from then on.
    fn is_nothing_left(&mut self, from: Timestamp) -> bool {
        match (self.low, self.high) {
            _ if from <= Timestamp(0) => return true,
            (Some((low_id, low_at)), _) if from < low_at => {
                self.forgotten.push(low_id);
                self.low = None;
            }
            (_, Some((high_id, _))) => {
                self.forgotten.push(high_id);
                self.high = None;
            }
            _ => return true,
        }
        false
    }
}

impl Rest {
    fn known_times(&self) -> MutexGuard<'_, KnownTimes> {
        self.known_times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the time of a trade: a request for the ids after it begins there.
    pub fn learn_time(&self, symbol: &str, id: i64, at: Timestamp) {
        self.known_times().add(symbol, id, at);
    }

    /// A page that has a trade before `range` or begins with the range, and continues into it; or one that proves that the
    /// exchange has none.
    pub(super) async fn trades_by_time(
        &self,
        series: Series<'_>,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        let (low, high) = self.known_times().around(series.symbol, range.first);
        let mut search = Search {
            id: range.first,
            page_rows: self.dialect.spec().rest.trades_page,
            low,
            high,
            step_us: FIRST_STEP_US,
            walk: None,
            is_stuck: false,
            hidden_from: None,
            unreachable: None,
            requests: 0,
            forgotten: Vec::new(),
        };
        let mut asked_for_newest = false;
        while search.requests < REQUESTS_MAX && !search.is_stuck {
            if search.low.is_none() && search.high.is_none() && !asked_for_newest {
                asked_for_newest = true;
                let newest = self.newest(series, stop).await?;
                // The newest may be below the range: then nothing of the range exists yet.
                (search.low, search.high) = match newest {
                    Some(newest) if newest.0 < range.first => (Some(newest), None),
                    newest => (None, newest),
                };
            }
            let start = search.next_start();
            let page = self.request_trades(series, range, Some(start.as_page_start()), stop).await?;
            let is_found = search.is_found(&page, &start);
            let mut known = self.known_times();
            search.forgotten.drain(..).for_each(|id| known.forget(series.symbol, id));
            for trade in page.rows.first().into_iter().chain(page.rows.last()) {
                known.add(series.symbol, trade.id, trade.ts);
            }
            if is_found {
                return Ok(Page { unreachable: search.unreachable, ..page });
            }
        }
        let text = format!("no page with trade {} was found in {} requests", range.first, search.requests);
        Err(RestError::Unavailable { text })
    }
}

#[cfg(test)]
#[path = "by_time_tests.rs"]
mod tests;
