//! Trades over REST: pages of them, the newest, and the first at a time.

use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::budget::Purpose;
use super::{DialectAnswer, FALLBACK_US, Rest, RestError};
use crate::exchange::spec::Refill;
use crate::exchange::{Page, PageStart, Request, Series};
use crate::gap::Range;
use crate::market::{Channel, Stream, Timestamp, Trade};

impl Rest {
    /// Trades with ids in `range`, ascending, at most one page from its first id up. A row outside of the range is not an
    /// answer, because a server may ignore the range; an unreadable one costs itself only.
    pub async fn trades<'a>(
        &self,
        series: impl Into<Series<'a>>,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        let series = series.into();
        let mut page = self.trades_page(series, range, stop).await?;
        page.retain(range, |trade| trade.id);
        Ok(page)
    }

    /// The first trade with this id or a higher one. `None` when there is none, when an element before it is unreadable,
    /// or when the server seems to ignore the start of a page: it then answers a request for a page from that trade with
    /// a page that starts elsewhere.
    pub async fn trade_from<'a>(
        &self,
        series: impl Into<Series<'a>>,
        id: i64,
        stop: &CancellationToken,
    ) -> Result<Option<Trade>, RestError> {
        let series = series.into();
        let mut first = self.trades_page(series, Range { first: id, last: id }, stop).await?;
        if first.is_empty() && self.forgets(series) {
            first = self.oldest_page_after(series, id, stop).await?;
        }
        let Some(found) = first.rows.into_iter().find(|trade| trade.id >= id) else { return Ok(None) };
        let hides_one = |at: Option<i64>| at.is_none_or(|at| (id..found.id).contains(&at));
        if first.refused.iter().any(|row| hides_one(row.position)) {
            return Ok(None);
        }
        if self.pages_by_time(series) {
            // Such a page begins before the trade, and proves that nothing is between.
            return Ok(Some(found));
        }
        let range = Range { first: found.id, last: found.id.saturating_add(self.dialect.spec().rest.trades_page - 1) };
        let page = self.trades_page(series, range, stop).await?;
        Ok(Some(found).filter(|found| page.rows.first().is_some_and(|first| first.id == found.id)))
    }

    /// Everything that the exchange answers to a request for trades.
    async fn trades_page(
        &self,
        series: Series<'_>,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        match self.pages_by_time(series) {
            true => self.trades_by_time(series, range, stop).await,
            false => self.request_trades(series, range, None, stop).await,
        }
    }

    /// Whether the exchange serves no row beyond an age: a page may then be empty although later ones are not.
    pub(super) fn forgets(&self, series: Series<'_>) -> bool {
        self.dialect.spec().kept_for(series.channel).is_some()
    }

    fn pages_by_time(&self, series: Series<'_>) -> bool {
        self.dialect.spec().channel(series.channel).is_some_and(|spec| spec.refill == Refill::ByTime)
    }

    pub(super) async fn request_trades(
        &self,
        series: Series<'_>,
        range: Range,
        after: Option<PageStart<'_>>,
        stop: &CancellationToken,
    ) -> Result<Page<Trade>, RestError> {
        match self.page_unless_too_old(series, range, after, stop).await? {
            Some(page) => Ok(page),
            None => self.served_part(series, range, stop).await,
        }
    }

    /// Id and time of the newest trade; `None` when the symbol has never traded.
    pub async fn newest<'a>(
        &self,
        series: impl Into<Series<'a>>,
        stop: &CancellationToken,
    ) -> Result<Option<(i64, Timestamp)>, RestError> {
        let series = series.into();
        let fallback = Request::NewestFallback { series };
        let has_fallback = self.dialect.ask(&fallback).is_some();
        let falls_back = self.clock.read().steady.micros() < self.newest_falls_back_until.load(Ordering::Relaxed);
        if !falls_back || !has_fallback {
            let answer = self.query_newest(&Request::Newest { series }, stop).await;
            if !has_fallback || !matches!(answer, Err(RestError::BadAnswer { .. })) {
                return answer;
            }
        }
        let answer = self.query_newest(&fallback, stop).await;
        if answer.is_ok() && !falls_back {
            let until = self.clock.read().steady.plus_micros(FALLBACK_US);
            self.newest_falls_back_until.store(until.micros(), Ordering::Relaxed);
        }
        answer
    }

    /// The newest trade of a stream's symbol: of the stream's own numbering, or, of klines, any that the exchange has.
    pub async fn newest_traded(
        &self,
        stream: &Stream,
        stop: &CancellationToken,
    ) -> Result<Option<(i64, Timestamp)>, RestError> {
        let symbol = stream.symbol.as_str();
        let channels = if stream.channel.has_trades() { vec![stream.channel] } else { Channel::TRADES.to_vec() };
        let mut series = channels.into_iter().map(|channel| Series { symbol, channel });
        let is_offered = |series: &Series<'_>| self.dialect.ask(&Request::Newest { series: *series }).is_some();
        match series.find(is_offered) {
            Some(series) => self.newest(series, stop).await,
            None => Err(RestError::NotOffered { text: format!("{} does not offer it", self.dialect.spec().title) }),
        }
    }

    async fn query_newest(
        &self,
        request: &Request<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<(i64, Timestamp)>, RestError> {
        match self.ask(request, Purpose::Query, stop).await? {
            (DialectAnswer::Newest(newest), _) => Ok(newest),
            _ => Err(self.mismatch()),
        }
    }
}
