//! Trades of an exchange whose pages begin at a time, not at an id: finds the time at which a range of ids begins.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::outcome::RestError;
use crate::exchange::Page;
use crate::gap::Range;
use crate::market::{Timestamp, Trade};

/// Most requests for one page: each one but the last only finds a time.
const REQUESTS_MAX: usize = 24;
/// Most known trades of one symbol. They only spare requests.
const KNOWN_MAX: usize = 1_000;
/// How far before a trade a page begins, so that the trade itself is in it: proof that the page misses nothing between.
const MARGIN_US: i64 = 1;
/// The first step back in time when no trade before the range is known.
const FIRST_STEP_US: i64 = 60_000_000;

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

    /// The last known trade before `id`, and the first one at or after it.
    fn around(&self, symbol: &str, id: i64) -> (Option<(i64, Timestamp)>, Option<(i64, Timestamp)>) {
        let Some(known) = self.0.get(symbol) else { return (None, None) };
        let copy = |(id, at): (&i64, &Timestamp)| (*id, *at);
        (known.range(..id).next_back().map(copy), known.range(id..).next().map(copy))
    }
}

impl Rest {
    /// Remembers the time of a trade: a request for the ids after it begins there.
    pub fn learn_time(&self, symbol: &str, id: i64, at: Timestamp) {
        self.known_times.lock().unwrap_or_else(PoisonError::into_inner).add(symbol, id, at);
    }

    /// A page that has the trade before `range` or begins with the range, and continues into it.
    pub(super) async fn trades_by_time(
        &self,
        symbol: &str,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        let around = |id| self.known_times.lock().unwrap_or_else(PoisonError::into_inner).around(symbol, id);
        let mut step = FIRST_STEP_US;
        let (mut low, mut high) = around(range.first);
        if low.is_none() && high.is_none() {
            high = self.newest(symbol, stop).await?;
        }
        for _ in 0..REQUESTS_MAX {
            let from = match (low, high) {
                // Far away: the trades between are probably spread evenly.
                (Some((low_id, low_at)), Some((high_id, high_at)))
                    if range.first - low_id > self.dialect.spec().rest.trades_page && high_id > low_id =>
                {
                    let share = (range.first - low_id) as f64 / (high_id - low_id) as f64;
                    low_at.plus_micros((high_at.since(low_at) as f64 * share * 0.98) as i64)
                }
                (Some((_, low_at)), _) => low_at.plus_micros(-MARGIN_US),
                (None, Some((_, high_at))) => {
                    step = step.saturating_mul(4);
                    Timestamp(high_at.micros().saturating_sub(step).max(0))
                }
                (None, None) => Timestamp(0),
            };
            let page = self.request_trades(symbol, range, Some(from), stop).await?;
            let (first, last) = (page.rows.first(), page.rows.last());
            for trade in first.into_iter().chain(last) {
                self.learn_time(symbol, trade.id, trade.ts);
            }
            let (Some(first), Some(last)) = (first, last) else { return Ok(page) };
            if first.id <= range.first && last.id >= range.first {
                return Ok(page);
            }
            if last.id < range.first {
                // A page that ends where it began cannot go further: the exchange has no later trade.
                if low == Some((last.id, last.ts)) {
                    return Ok(page);
                }
                low = Some((last.id, last.ts));
            } else {
                // The page begins above the range: the exchange has no earlier trade, or we began too late.
                if from <= Timestamp(0) || low.is_some_and(|(_, at)| from <= at) {
                    return Ok(page);
                }
                high = Some((first.id, first.ts));
            }
        }
        let text = format!("no page with trade {} was found in {REQUESTS_MAX} requests", range.first);
        Err(RestError::Unavailable { text })
    }
}
