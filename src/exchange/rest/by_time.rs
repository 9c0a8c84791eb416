//! Trades of an exchange whose pages begin at a time, not at an id: finds the time at which a range of ids begins.
//!
//! A page proves that a trade is absent only if it has one before it, or begins at the beginning of time: a time that we
//! believe may be wrong, and trades of one instant may be divided between two pages. So a page is used only with such a
//! proof, and a time that a page contradicts is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::outcome::RestError;
use crate::exchange::{Page, Series};
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
    /// How far behind `low` the next page begins, when more trades share an instant than a page has.
    skip_us: i64,
    requests: usize,
    /// Trades whose times a page has contradicted.
    forgotten: Vec<i64>,
}

impl Search {
    /// The time at which the next page begins.
    fn next_from(&mut self) -> Timestamp {
        self.requests += 1;
        match (self.low, self.high) {
            (Some((low_id, low_at)), Some((high_id, high_at)))
                if self.id - low_id > self.page_rows && high_id > low_id && high_at > low_at && self.skip_us == 0 =>
            {
                // Far away: the trades between are probably spread evenly. When that does not help, halving does.
                let share = (self.id - low_id) as f64 / (high_id - low_id) as f64;
                let share = if self.requests.is_multiple_of(3) { 0.5 } else { share.min(1.0) * 0.98 };
                low_at.plus_micros((high_at.since(low_at) as f64 * share) as i64)
            }
            (Some((_, low_at)), _) => Timestamp(low_at.micros().saturating_sub(MARGIN_US).saturating_add(self.skip_us)),
            (None, Some((_, high_at))) => {
                self.step_us = self.step_us.saturating_mul(4);
                Timestamp(high_at.micros().saturating_sub(self.step_us).max(0))
            }
            (None, None) => Timestamp(0),
        }
    }

    /// Whether the page that begins at `from` is the one. If it is not, the search continues from what it shows.
    fn is_found(&mut self, page: &Page<Trade>, from: Timestamp) -> bool {
        let ends = page.rows.first().zip(page.rows.last());
        let Some((first, last)) = ends.map(|(first, last)| ((first.id, first.ts), (last.id, last.ts))) else {
            return self.is_nothing_left(from);
        };
        if last.0 < self.id {
            let is_full = (page.rows.len() + page.refused.len()) as i64 >= self.page_rows;
            return self.is_last(last, is_full);
        }
        if first.0 <= self.id {
            return true;
        }
        // The page begins above the id.
        match self.low {
            _ if from <= Timestamp(0) => return true,
            // What shares an instant with more trades than a page has cannot be had.
            Some(_) if self.skip_us > 0 => return true,
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
    fn is_last(&mut self, last: Known, is_full: bool) -> bool {
        match self.low {
            Some(low) if low == last || last.0 < low.0 => {
                if !is_full {
                    // The exchange has no later trade.
                    return true;
                }
                if low == last {
                    self.skip_us = (self.skip_us * 2).max(1);
                } else {
                    // It has later ones, and none of them is this one at its time.
                    self.forgotten.push(low.0);
                    (self.low, self.skip_us) = (Some(last), 0);
                }
            }
            _ => (self.low, self.skip_us) = (Some(last), 0),
        }
        false
    }

    /// After a page without a row: the exchange has no trade from then on.
    fn is_nothing_left(&mut self, from: Timestamp) -> bool {
        match (self.low, self.high) {
            _ if from <= Timestamp(0) || self.skip_us > 0 => return true,
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
            skip_us: 0,
            requests: 0,
            forgotten: Vec::new(),
        };
        let mut asked_for_newest = false;
        while search.requests < REQUESTS_MAX {
            if search.low.is_none() && search.high.is_none() && !asked_for_newest {
                asked_for_newest = true;
                let newest = self.newest(series, stop).await?;
                // The newest may be below the range: then nothing of the range exists yet.
                (search.low, search.high) = match newest {
                    Some(newest) if newest.0 < range.first => (Some(newest), None),
                    newest => (None, newest),
                };
            }
            let from = search.next_from();
            let page = self.request_trades(series, range, Some(from), stop).await?;
            let is_found = search.is_found(&page, from);
            let mut known = self.known_times();
            search.forgotten.drain(..).for_each(|id| known.forget(series.symbol, id));
            for trade in page.rows.first().into_iter().chain(page.rows.last()) {
                known.add(series.symbol, trade.id, trade.ts);
            }
            if is_found {
                return Ok(page);
            }
        }
        let text = format!("no page with trade {} was found in {REQUESTS_MAX} requests", range.first);
        Err(RestError::Unavailable { text })
    }
}

#[cfg(test)]
#[path = "by_time_tests.rs"]
mod tests;
