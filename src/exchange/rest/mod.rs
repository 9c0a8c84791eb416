//! The REST client: one implementation for every exchange, with the request budget that all its users share.
//!
//! It sends the requests of a [`Dialect`], keeps the exchange's limits and maps every outcome to a [`RestError`] that
//! a caller can branch on. It waits at most a minute for budget and never retries: only the caller knows whether a
//! late answer is still useful.

mod budget;
mod outcome;

pub use outcome::{RestError, RestStatus};

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::budget::{Budget, Permit, Purpose};
use self::outcome::error_chain;
use super::{DecodeError, Dialect, ExchangeInfo, RestRequest, refused_address, tls};
use crate::clock::Clock;
use crate::gap::Range;
use crate::market::{Interval, Kline, Timestamp, Trade};
use crate::messages;

/// Longest wait for budget: the rest of a minute and the margin after it.
const BUDGET_WAIT_MAX: Duration = Duration::from_secs(61);
/// An upper bound for one query, with its wait for budget and its fallback request.
pub const QUERY_TIME_MAX: Duration = Duration::from_secs(180);
/// Largest answer that is read: 1000 trades are 150 KiB, all of exchangeInfo some 10 MiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The pause after a 403 or 451, which lasts until someone changes the address.
const REFUSED_WAIT_US: i64 = 300_000_000;
/// The pause after a 429 without Retry-After: until the next minute's budget.
const LIMITED_WAIT_US: i64 = 60_000_000;
/// The pause after a 418 without a deadline: the shortest ban, "2 min ... 3 days".
const BANNED_WAIT_US: i64 = 120_000_000;
/// Most characters of an answer that an error quotes.
const QUOTE_MAX: usize = 300;
/// The value of `clock_offset_us` before the first measurement.
const UNMEASURED: i64 = i64::MIN;

/// How the client behaves.
#[derive(Clone, Debug)]
pub struct RestOptions {
    /// Replaces the exchange's own base (`https://host:port`, no path).
    pub base: Option<String>,
    /// Percent of the exchange's weight limit that repairs may use; small queries may use all of it.
    pub share_percent: u32,
    /// Most time for one request, its answer included.
    pub timeout: Duration,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self { base: None, share_percent: 50, timeout: Duration::from_secs(10) }
    }
}

/// The client of one exchange. Share it in an [`Arc`], so that all users share one budget.
pub struct Rest {
    dialect: Arc<dyn Dialect>,
    base: String,
    client: reqwest::Client,
    clock: Clock,
    budget: Mutex<Budget>,
    /// [`Dialect::newest_request`] failed here, so `newest` uses the fallback request.
    newest_falls_back: AtomicBool,
    clock_offset_us: AtomicI64,
    requests: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<String>,
}

/// A body with the times of its request and answer.
struct Answer {
    body: Bytes,
    sent_at: Timestamp,
    answered_at: Timestamp,
}

impl Rest {
    /// Creates the client. `banned_until` is the deadline that an earlier process saved: a restart does not end a ban.
    pub fn new(
        dialect: Arc<dyn Dialect>,
        options: RestOptions,
        clock: Clock,
        banned_until: Option<Timestamp>,
    ) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls::client_config()).clone())
            .user_agent(concat!("tapekeeper/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(options.timeout)
            .build()
            .context("build the REST client")?;
        let base = options.base.as_deref().unwrap_or_else(|| dialect.rest_base()).trim_end_matches('/').to_owned();
        let budget = Budget::new(dialect.weight_per_minute(), options.share_percent, banned_until);
        Ok(Self {
            dialect,
            base,
            client,
            clock,
            budget: Mutex::new(budget),
            newest_falls_back: AtomicBool::new(false),
            clock_offset_us: AtomicI64::new(UNMEASURED),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: Mutex::new(String::new()),
        })
    }

    /// Sends a request on the repair share of the budget and returns the answer's body. Waits for budget; a wait of
    /// more than a minute returns [`RestError::Limited`] at once.
    pub async fn send(&self, request: &RestRequest, stop: &CancellationToken) -> Result<Bytes, RestError> {
        Ok(self.send_within_budget(request, Purpose::Repair, stop).await?.body)
    }

    /// Trades with ids in `range`, ascending, at most one page from its first id up.
    pub async fn trades(&self, symbol: &str, range: Range, stop: &CancellationToken) -> Result<Vec<Trade>, RestError> {
        let body = self.send(&self.dialect.trades_request(symbol, range), stop).await?;
        let mut trades = self.read(self.dialect.trades_answer(&body))?;
        // A server may ignore the range: rows outside it do not count as an answer.
        trades.retain(|trade| range.contains(trade.id));
        Ok(trades)
    }

    /// The first trade with this id or a higher one. `None` when there is none, or when the server seems to ignore the
    /// start of a page: it then answers a request for a page from that trade with a page that starts elsewhere.
    pub async fn trade_from(
        &self,
        symbol: &str,
        id: i64,
        stop: &CancellationToken,
    ) -> Result<Option<Trade>, RestError> {
        let body = self.send(&self.dialect.trades_request(symbol, Range { first: id, last: id }), stop).await?;
        let trades = self.read(self.dialect.trades_answer(&body))?;
        let Some(found) = trades.into_iter().next().filter(|trade| trade.id >= id) else { return Ok(None) };
        let page = Range { first: found.id, last: found.id.saturating_add(self.dialect.trades_page_max() - 1) };
        let body = self.send(&self.dialect.trades_request(symbol, page), stop).await?;
        let trades = self.read(self.dialect.trades_answer(&body))?;
        Ok(Some(found).filter(|found| trades.first().is_some_and(|first| first.id == found.id)))
    }

    /// Klines with open times in `range` (microseconds), ascending, at most one page.
    pub async fn klines(
        &self,
        symbol: &str,
        interval: Interval,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Vec<Kline>, RestError> {
        let body = self.send(&self.dialect.klines_request(symbol, interval, range), stop).await?;
        let mut klines = self.read(self.dialect.klines_answer(interval, &body, self.exchange_now()))?;
        klines.retain(|kline| range.contains(kline.open_time.micros()));
        Ok(klines)
    }

    /// Id and time of the newest trade; `None` when the symbol has never traded.
    pub async fn newest(&self, symbol: &str, stop: &CancellationToken) -> Result<Option<(i64, Timestamp)>, RestError> {
        let fallback = self.dialect.newest_fallback_request(symbol);
        if !self.newest_falls_back.load(Ordering::Relaxed) || fallback.is_none() {
            let answer = self.query_newest(&self.dialect.newest_request(symbol), stop).await;
            if fallback.is_none() || !matches!(answer, Err(RestError::BadAnswer { .. })) {
                return answer;
            }
        }
        let Some(request) = fallback else { return Ok(None) };
        let answer = self.query_newest(&request, stop).await;
        if answer.is_ok() {
            self.newest_falls_back.store(true, Ordering::Relaxed);
        }
        answer
    }

    async fn query_newest(
        &self,
        request: &RestRequest,
        stop: &CancellationToken,
    ) -> Result<Option<(i64, Timestamp)>, RestError> {
        let answer = self.send_within_budget(request, Purpose::Query, stop).await?;
        self.read(self.dialect.newest_answer(&answer.body))
    }

    /// Id of the first trade at or after `at`; `None` when there is none.
    pub async fn trade_at(
        &self,
        symbol: &str,
        at: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<i64>, RestError> {
        let answer = self.send_within_budget(&self.dialect.trade_at_request(symbol, at), Purpose::Query, stop).await?;
        self.read(self.dialect.trade_at_answer(&answer.body))
    }

    /// Limits and listed symbols; the client uses the weight limit from here on.
    pub async fn info(&self, symbols: &[String], stop: &CancellationToken) -> Result<ExchangeInfo, RestError> {
        let answer = self.send_within_budget(&self.dialect.info_request(symbols), Purpose::Query, stop).await?;
        let info = self.read(self.dialect.info_answer(&answer.body))?;
        if let Some(limit) = info.weight_per_minute {
            self.budget().set_limit(limit);
        }
        Ok(info)
    }

    /// Measures the exchange's clock minus ours, in microseconds. It sends two requests, because the first one also
    /// opens the connection, and uses the shorter round trip: that one is more exact.
    pub async fn measure_clock(&self, stop: &CancellationToken) -> Result<i64, RestError> {
        let mut best: Option<(i64, i64)> = None;
        for _ in 0..2 {
            let answer = self.send_within_budget(&self.dialect.time_request(), Purpose::Query, stop).await?;
            let theirs = self.read(self.dialect.time_answer(&answer.body))?;
            let round_trip = answer.answered_at.since(answer.sent_at);
            // The exchange read its clock half a round trip before we had the answer.
            let offset = theirs.since(answer.sent_at.plus_micros(round_trip / 2));
            if best.is_none_or(|(shortest, _)| round_trip < shortest) {
                best = Some((round_trip, offset));
            }
        }
        let offset = best.map_or(0, |(_, offset)| offset);
        self.clock_offset_us.store(offset, Ordering::Relaxed);
        Ok(offset)
    }

    /// The exchange's clock minus ours in microseconds, as last measured. Status shows it; it never rejects data.
    pub fn clock_offset(&self) -> Option<i64> {
        Some(self.clock_offset_us.load(Ordering::Relaxed)).filter(|&offset| offset != UNMEASURED)
    }

    /// The end of the exchange's ban, which the state file must keep over a restart; `None` without one.
    pub fn banned_until(&self) -> Option<Timestamp> {
        self.budget().banned_until(self.clock.now())
    }

    /// The client's present state, for the admin page and metrics.
    pub fn status(&self) -> RestStatus {
        let now = self.clock.now();
        let mut budget = self.budget();
        RestStatus {
            used: budget.used(now),
            limit: budget.limit(),
            share_percent: budget.share_percent(),
            limited_until: budget.paused_until(now).map(Timestamp::micros),
            banned_until: budget.banned_until(now).map(Timestamp::micros),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            clock_offset_us: self.clock_offset(),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exchange's time: our clock plus the offset as last measured.
    pub fn exchange_now(&self) -> Timestamp {
        self.clock.now().plus_micros(self.clock_offset().unwrap_or(0))
    }

    /// Counts an answer that does not decode as a failed request.
    fn read<T>(&self, decoded: Result<T, DecodeError>) -> Result<T, RestError> {
        decoded.map_err(|error| self.failed(error.into()))
    }

    fn failed(&self, error: RestError) -> RestError {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
        error
    }

    /// Waits for budget and sends one request.
    async fn send_within_budget(
        &self,
        request: &RestRequest,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Answer, RestError> {
        self.wait_for_budget(request.weight, purpose, stop).await?;
        // From here on the weight is reserved until `reserved` is dropped, even if this future is dropped.
        let answered_weight = self.budget().answered_weight();
        let mut reserved = ReservedWeight { rest: self, weight: request.weight, answered_weight, reported: None };
        self.requests.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(RestError::Stopped),
            answer = self.fetch(request, &mut reserved) => answer.map_err(|error| self.failed(error)),
        }
    }

    async fn wait_for_budget(&self, weight: u32, purpose: Purpose, stop: &CancellationToken) -> Result<(), RestError> {
        let deadline = Instant::now() + BUDGET_WAIT_MAX;
        loop {
            let now = self.clock.now();
            let permit = self.budget().request(weight, purpose, now);
            let until = match permit {
                Permit::Granted => return Ok(()),
                Permit::Wait(until) => until,
                Permit::Banned(until) => return Err(RestError::Banned { until }),
                Permit::Refused(until) => {
                    let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    return Err(RestError::Refused { text: format!("{last}; the next attempt is at {until}") });
                }
            };
            let wait_us = u64::try_from(until.since(now)).unwrap_or(0);
            let wake = Instant::now() + Duration::from_micros(wait_us);
            if wake > deadline {
                return Err(RestError::Limited { until });
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(RestError::Stopped),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn fetch(&self, request: &RestRequest, reserved: &mut ReservedWeight<'_>) -> Result<Answer, RestError> {
        let url = format!("{}{}", self.base, request.path);
        let unavailable = |error: reqwest::Error| RestError::Unavailable { text: error_chain(&error) };
        let sent_at = self.clock.now();
        let response = self.client.get(&url).send().await.map_err(unavailable)?;
        // "Every answer: X-MBX-USED-WEIGHT-1M".
        reserved.reported =
            number_in(&response, self.dialect.weight_header()).and_then(|used| u32::try_from(used).ok());
        let status = response.status();
        let retry_after = number_in(&response, RETRY_AFTER.as_str());
        let body = body_of(response).await?;
        let answered_at = self.clock.now();
        if status.is_success() {
            return Ok(Answer { body, sent_at, answered_at });
        }
        Err(self.classify_error(status, retry_after, &String::from_utf8_lossy(&body), answered_at))
    }

    /// Maps an answer other than 2xx to an error, and updates the budget with the pause or ban that it contains.
    fn classify_error(&self, status: StatusCode, retry_after: Option<u64>, body: &str, now: Timestamp) -> RestError {
        let requested_until = retry_after
            .map(|seconds| now.plus_micros(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000)));
        let ban_in_body = self.dialect.banned_until(body);
        let quoted: String = body.chars().take(QUOTE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        match status.as_u16() {
            // "418 ban 2 min ... 3 days, Retry-After = seconds until the ban ends; IP banned until <epoch ms>".
            418 => {
                // Retry-After counts from now. The body names an instant of the exchange's clock, which may be far from
                // ours: use it only without the header, and subtract the offset as last measured.
                let from_body = || ban_in_body.map(|at| at.plus_micros(-self.clock_offset().unwrap_or(0)));
                let until = requested_until.or_else(from_body).unwrap_or_else(|| now.plus_micros(BANNED_WAIT_US));
                self.budget().ban(until);
                tracing::error!(
                    MESSAGE_ID = messages::BANNED,
                    %until,
                    "the exchange has banned this address until {until}: no request is sent before"
                );
                RestError::Banned { until }
            }
            // "429 -> Retry-After seconds; ignoring it -> 418".
            429 => {
                let until = requested_until.unwrap_or_else(|| now.plus_micros(LIMITED_WAIT_US));
                self.budget().pause(until);
                tracing::warn!(%until, "the exchange limits our requests (HTTP 429) until {until}");
                RestError::Limited { until }
            }
            // "403 = WAF"; 451 = a geo-block.
            code @ (403 | 451) => {
                self.budget().refuse(now.plus_micros(REFUSED_WAIT_US));
                let text = refused_address(code, "rest_url");
                tracing::error!(status = code, "{text}");
                RestError::Refused { text }
            }
            // "5xx = unknown"; -1007 = the exchange's own timeout.
            code if code >= 500 || code == 408 => {
                RestError::Unavailable { text: format!("the exchange answered HTTP {code}: {quoted}") }
            }
            code => match self.dialect.unknown_symbol(body) {
                Some(text) => RestError::UnknownSymbol { text },
                None => RestError::BadAnswer { text: format!("the exchange answered HTTP {code}: {quoted}") },
            },
        }
    }
}

/// The weight of a request without an answer yet. If none comes, the weight counts: the exchange may have counted it.
struct ReservedWeight<'a> {
    rest: &'a Rest,
    weight: u32,
    /// The budget's `answered_weight` when the request was sent.
    answered_weight: u32,
    reported: Option<u32>,
}

impl Drop for ReservedWeight<'_> {
    fn drop(&mut self) {
        let now = self.rest.clock.now();
        self.rest.budget().finish_request(self.weight, self.answered_weight, self.reported, now);
    }
}

fn number_in(response: &Response, header: &str) -> Option<u64> {
    response.headers().get(header)?.to_str().ok()?.trim().parse().ok()
}

async fn body_of(mut response: Response) -> Result<Bytes, RestError> {
    let too_large = || RestError::BadAnswer { text: format!("the answer is larger than {ANSWER_BYTES_MAX} bytes") };
    if response.content_length().is_some_and(|length| length > ANSWER_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| RestError::Unavailable { text: error_chain(&error) })?
    {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
