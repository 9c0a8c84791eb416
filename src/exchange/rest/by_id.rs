//! For an exchange whose pages begin at an id: the first trade at a time, and the oldest trade that it still serves, both
//! found by halving the range of ids.

use tokio_util::sync::CancellationToken;

use super::Rest;
use super::budget::Purpose;
use super::outcome::RestError;
use crate::exchange::spec::Refill;
use crate::exchange::{Answer as DialectAnswer, Page, PageStart, Request, Series};
use crate::gap::Range;
use crate::market::{Timestamp, Trade};

/// How far behind its documented limit the oldest row is looked for, in microseconds. What an exchange forgets within this
/// time is gone before a search has found it.
const FORGOTTEN_SOON_US: i64 = 1_000_000;
/// A row this far before the documented limit shows that an exchange serves older ones than it says, in microseconds.
const BEYOND_US: i64 = 60_000_000;
/// Most requests: 2^48 pages are more trades than any exchange has.
const REQUESTS_MAX: usize = 48;

impl Rest {
    /// Id of the first trade at or after `at`; `None` when there is none.
    pub async fn trade_at<'a>(
        &self,
        series: impl Into<Series<'a>>,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let series = series.into();
        let request = Request::TradeAt { series, at };
        if self.dialect.ask(&request).is_none() {
            return self.trade_at_by_id(series, at, stop).await;
        }
        match self.ask(&request, Purpose::Query, stop).await {
            // Where rows are forgotten, nothing at a time is no proof that nothing follows.
            Ok((DialectAnswer::TradeAt(None), _)) | Err(RestError::NotOffered { .. }) if self.forgets(series) => {
                self.trade_at_by_id(series, at, stop).await
            }
            Ok((DialectAnswer::TradeAt(id), _)) => Ok(id),
            Ok(_) => Err(self.mismatch()),
            Err(error) => Err(error),
        }
    }

    /// The same by asking for pages.
    async fn trade_at_by_id(
        &self,
        series: Series<'_>,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let refill = self.dialect.spec().channel(series.channel).map(|channel| channel.refill);
        if !matches!(refill, Some(Refill::Recent(_))) {
            return self.first_trade(series, 0, at, stop).await;
        }
        // Only its newest page can be asked for.
        let Some((newest, newest_at)) = self.newest(series, stop).await? else { return Ok(None) };
        if newest_at < at {
            return Ok(None);
        }
        let spec = self.dialect.spec();
        let range = Range { first: newest.saturating_sub(spec.rest.trades_page - 1), last: newest };
        let page = self.request_trades(series, range, None, stop).await?;
        if page.rows.first().is_none_or(|oldest| oldest.ts >= at) {
            let text = format!("{} serves only its newest trades, and they are later than {at}", spec.title);
            return Err(RestError::NotOffered { text });
        }
        Ok(page.rows.iter().find(|trade| trade.ts >= at).map(|trade| trade.id))
    }

    /// A page of trades; `None` when the exchange refuses it because it no longer serves the row where it begins.
    pub(super) async fn page_unless_too_old(
        &self,
        series: Series<'_>,
        range: Range,
        after: Option<PageStart<'_>>,
        stop: &CancellationToken,
    ) -> Result<Option<Page<Trade>>, RestError> {
        let request = Request::Trades { series, range, after };
        match self.ask(&request, Purpose::Repair, stop).await {
            Ok((DialectAnswer::Trades(page), _)) => Ok(Some(page)),
            Ok(_) => Err(self.mismatch()),
            Err(RestError::NotOffered { .. }) if self.dialect.ask(&request).is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the exchange still serves of a page that it refuses because of its first row: another exchange would have
    /// answered with that part.
    pub(super) async fn served_part(
        &self,
        series: Series<'_>,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        let rows = self.dialect.spec().rest.trades_page;
        let last = range.last.min(range.first.saturating_add(rows - 1));
        if last <= range.first {
            // The refused row was the only one.
            return Ok(Page::empty());
        }
        // Most pages are gone to their last row.
        let from_last = Range { first: last, last };
        let Some(mut part) = self.page_unless_too_old(series, from_last, None, stop).await? else {
            return Ok(Page::empty());
        };
        // The oldest served row is in low..=high, or the last one.
        let (mut low, mut high) = (range.first.saturating_add(1), last - 1);
        if low <= high
            && let Some(first) = self.oldest_by_documents(series, stop).await?.filter(|id| (low..=last).contains(id))
            && let Some(page) = self.page_unless_too_old(series, Range { first, last }, None, stop).await?
        {
            return Ok(page);
        }
        while low <= high {
            let first = low + (high - low) / 2;
            match self.page_unless_too_old(series, Range { first, last }, None, stop).await? {
                None => low = first + 1,
                Some(page) => (part, high) = (page, first - 1),
            }
        }
        Ok(part)
    }

    /// The oldest trade that the exchange serves, found by the age that its documents name; `None` when it does not find
    /// trades by time, or serves other ages than it says.
    async fn oldest_by_documents(
        &self,
        series: Series<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let Some(kept) = self.dialect.spec().kept_for(series.channel) else { return Ok(None) };
        let kept_us = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let limit = Timestamp(self.exchange_now().micros().saturating_sub(kept_us));
        let Some(oldest) = self.trade_at_time(series, limit.plus_micros(FORGOTTEN_SOON_US), stop).await? else {
            return Ok(None);
        };
        let beyond = self.trade_at_time(series, limit.plus_micros(-BEYOND_US), stop).await?;
        Ok(Some(oldest).filter(|oldest| beyond.is_none_or(|beyond| beyond >= *oldest)))
    }

    /// The exchange's own answer to a question by time; `None` when it does not answer it, or refuses the time as too old.
    async fn trade_at_time(
        &self,
        series: Series<'_>,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        match self.ask(&Request::TradeAt { series, at }, Purpose::Repair, stop).await {
            Ok((DialectAnswer::TradeAt(id), _)) => Ok(id),
            Ok(_) => Err(self.mismatch()),
            Err(RestError::NotOffered { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The page that begins with the lowest id above `id` that the exchange serves; empty when it serves none.
    pub(super) async fn oldest_page_after(
        &self,
        series: Series<'_>,
        id: i64,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        if let Some(first) = self.oldest_by_documents(series, stop).await?.filter(|oldest| *oldest > id) {
            let page = self.page_unless_too_old(series, Range { first, last: first }, None, stop).await?;
            if let Some(page) = page.filter(|page| !page.is_empty()) {
                return Ok(page);
            }
        }
        match self.first_trade(series, id.saturating_add(1), Timestamp(i64::MIN), stop).await? {
            Some(first) => self.request_trades(series, Range { first, last: first }, None, stop).await,
            None => Ok(Page::empty()),
        }
    }

    /// The lowest id from `low` on whose trade the exchange serves and which happened at `at` or later.
    async fn first_trade(
        &self,
        series: Series<'_>,
        mut low: i64,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let Some((newest, newest_at)) = self.newest(series, stop).await? else { return Ok(None) };
        if newest < low || newest_at < at {
            return Ok(None);
        }
        let rows = self.dialect.spec().rest.trades_page;
        // The trade is `found`, or its id is in low..high.
        let (mut found, mut high) = (newest, newest);
        // A page that is refused as too old says nothing about the ids behind its first one.
        let mut is_refused = false;
        for _ in 0..REQUESTS_MAX {
            if low >= high {
                return Ok(Some(found));
            }
            let first = if high - low <= rows && !is_refused { low } else { low + (high - low) / 2 };
            let range = Range { first, last: first + rows - 1 };
            let Some(page) = self.page_unless_too_old(series, range, None, stop).await? else {
                (is_refused, low) = (true, first + 1);
                continue;
            };
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
#[cfg(test)]
#[path = "too_old_tests.rs"]
mod too_old_tests;
