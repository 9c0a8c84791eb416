//! For an exchange whose pages begin at an id: the first trade at a time, and the oldest trade that it still serves, both
//! found by halving the range of ids.

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::outcome::RestError;
use crate::exchange::Page;
use crate::exchange::spec::Refill;
use crate::gap::Range;
use crate::market::{Channel, Timestamp, Trade};

/// Most requests: 2^48 pages are more trades than any exchange has.
const REQUESTS_MAX: usize = 48;

impl Rest {
    /// Id of the first trade at or after `at`; `None` when there is none.
    pub(super) async fn trade_at_by_id(
        &self,
        symbol: &str,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let refill = self.dialect.spec().channel(Channel::Trade).map(|channel| channel.refill);
        if !matches!(refill, Some(Refill::Recent(_))) {
            return self.first_trade(symbol, 0, at, stop).await;
        }
        // Only its newest page can be asked for.
        let Some((newest, newest_at)) = self.newest(symbol, stop).await? else { return Ok(None) };
        if newest_at < at {
            return Ok(None);
        }
        let spec = self.dialect.spec();
        let range = Range { first: newest.saturating_sub(spec.rest.trades_page - 1), last: newest };
        let page = self.request_trades(symbol, range, None, stop).await?;
        if page.rows.first().is_none_or(|oldest| oldest.ts >= at) {
            let text = format!("{} serves only its newest trades, and they are later than {at}", spec.title);
            return Err(RestError::NotOffered { text });
        }
        Ok(page.rows.iter().find(|trade| trade.ts >= at).map(|trade| trade.id))
    }

    /// The page that begins with the lowest id above `id` that the exchange serves; empty when it serves none.
    pub(super) async fn oldest_page_after(
        &self,
        symbol: &str,
        id: i64,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        match self.first_trade(symbol, id.saturating_add(1), Timestamp(i64::MIN), stop).await? {
            Some(first) => self.request_trades(symbol, Range { first, last: first }, None, stop).await,
            None => Ok(Page::empty()),
        }
    }

    /// The lowest id from `low` on whose trade the exchange serves and which happened at `at` or later.
    async fn first_trade(
        &self,
        symbol: &str,
        mut low: i64,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let Some((newest, newest_at)) = self.newest(symbol, stop).await? else { return Ok(None) };
        if newest < low || newest_at < at {
            return Ok(None);
        }
        let rows = self.dialect.spec().rest.trades_page;
        // The trade is `found`, or its id is in low..high.
        let (mut found, mut high) = (newest, newest);
        for _ in 0..REQUESTS_MAX {
            if low >= high {
                return Ok(Some(found));
            }
            let first = if high - low <= rows { low } else { low + (high - low) / 2 };
            let page = self.request_trades(symbol, Range { first, last: first + rows - 1 }, None, stop).await?;
            let mut trades = page.rows.iter().filter(|trade| trade.id >= first);
            let Some(lowest) = trades.next() else {
                // The exchange serves nothing here: its oldest trade is later.
                low = first + rows;
                continue;
            };
            if lowest.ts >= at {
                // It serves none from `first` to this one.
                (found, high) = (lowest.id, first);
                continue;
            }
            match trades.find(|trade| trade.ts >= at) {
                Some(trade) => return Ok(Some(trade.id)),
                None => low = page.rows.last().map_or(low, |last| last.id) + 1,
            }
        }
        Err(RestError::Unavailable { text: format!("the first trade of {low}..{high} after {at} was not found") })
    }
}

#[cfg(test)]
#[path = "by_id_tests.rs"]
mod tests;
