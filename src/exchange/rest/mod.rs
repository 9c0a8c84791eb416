//! The REST client: one implementation for every exchange, with the request budget that all its users share.
//!
//! It sends the requests of a [`Dialect`], keeps the exchange's limits and maps every outcome to a [`RestError`] that
//! a caller can branch on. It waits at most a minute for budget and never retries: only the caller knows whether a
//! late answer is still useful.
//!
//! It believes little: `answer` reads within limits, `refusal` finds the error in an answer, `exchange_clock` decides
//! which measurement of the exchange's clock is used, `budget` which limit and count, and an element of a page that is
//! not a row costs that element only. Every wait is measured by the steady clock.

mod answer;
mod bucket;
mod budget;
mod by_id;
mod by_time;
mod deadlines;
mod exchange_clock;
mod listing;
mod outcome;
mod refusal;
mod trades;

pub use deadlines::{Deadline, Deadlines, SavedDeadlines};
pub use outcome::{RestError, RestStatus};

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::answer::{Answer, Head, body_of, number_in};
use self::budget::{Budget, Permit, Purpose};
use self::by_time::KnownTimes;
use self::exchange_clock::ExchangeClock;
use self::outcome::{error_chain, not_offered};
use self::refusal::Failed;
use super::retry_after::requested_wait;
use super::{Answer as DialectAnswer, DecodeError, Dialect, Page, Request, RestAnswer, RestRequest, tls};
use crate::clock::Clock;
use crate::gap::Range;
use crate::market::{Interval, Kline, Timestamp};

/// Longest wait for budget: the rest of a minute and the margin after it.
const BUDGET_WAIT_MAX: Duration = Duration::from_secs(61);
/// An upper bound for one query, with its wait for budget and its fallback request.
pub const QUERY_TIME_MAX: Duration = Duration::from_secs(180);
/// How long the fallback request for the newest trade replaces the first one, which is cheaper: one odd answer must not
/// decide for ever.
const FALLBACK_US: i64 = 3_600_000_000;

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
    /// [`Request::Newest`] failed here: until this steady time `newest` uses the fallback request.
    newest_falls_back_until: AtomicI64,
    exchange_clock: Mutex<ExchangeClock>,
    /// Times of known trades, for an exchange that pages by time.
    known_times: Mutex<KnownTimes>,
    /// Notified when a pause or ban begins or is extended.
    deadline_moved: Notify,
    requests: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<String>,
}

impl Rest {
    /// Creates the client. `saved` are the deadlines that an earlier process saved: a restart ends neither a pause nor a
    /// ban.
    pub fn new(
        dialect: Arc<dyn Dialect>,
        options: RestOptions,
        clock: Clock,
        saved: Option<SavedDeadlines>,
    ) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls::client_config()).clone())
            .user_agent(concat!("tapekeeper/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(options.timeout)
            .build()
            .context("build the REST client")?;
        let base = options.base.as_deref().unwrap_or_else(|| dialect.spec().rest.base).trim_end_matches('/').to_owned();
        let mut budget = Budget::new(dialect.spec().rest.buckets, options.share_percent);
        let (limited, banned) = saved.map_or((None, None), |saved| saved.left(clock.read()));
        limited.into_iter().for_each(|until| budget.pause(until));
        banned.into_iter().for_each(|until| budget.ban(until));
        Ok(Self {
            dialect,
            base,
            client,
            clock,
            budget: Mutex::new(budget),
            newest_falls_back_until: AtomicI64::new(i64::MIN),
            exchange_clock: Mutex::default(),
            known_times: Mutex::default(),
            deadline_moved: Notify::new(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: Mutex::new(String::new()),
        })
    }

    /// Sends a request, and reads its answer.
    async fn ask(
        &self,
        request: &Request<'_>,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<(DialectAnswer, Answer), RestError> {
        let Some(asked) = self.dialect.ask(request) else {
            return Err(RestError::NotOffered { text: not_offered(self.dialect.spec().title, request) });
        };
        let answer = self.send_within_budget(&asked, purpose, stop).await?;
        let (now, latest) = {
            let clock = self.exchange_clock();
            // A kline is closed if it was so when the exchange made the answer, which is after we sent the request.
            (clock.earliest_now(answer.sent_at), clock.latest(answer.answered_at))
        };
        let decoded = self.dialect.answer(request, &RestAnswer { body: &answer.body, now, latest });
        Ok((self.read(&answer, decoded)?, answer))
    }

    /// The error for a dialect that answers another request than it was asked; its contract forbids it.
    fn mismatch(&self) -> RestError {
        self.failed(RestError::BadAnswer { text: "the dialect read another kind of answer".to_owned() }.into())
    }

    /// Klines with open times in `range` (microseconds), ascending, at most one page. A kline outside of the range is not
    /// an answer; an unreadable one costs itself only.
    pub async fn klines(
        &self,
        symbol: &str,
        interval: Interval,
        range: Range,
        stop: &CancellationToken,
    ) -> Result<Page<Kline>, RestError> {
        let request = Request::Klines { symbol, interval, range };
        let (DialectAnswer::Klines(mut page), _) = self.ask(&request, Purpose::Repair, stop).await? else {
            return Err(self.mismatch());
        };
        page.retain(range, |kline| kline.open_time.micros());
        Ok(page)
    }

    /// Measures the exchange's clock minus ours, in microseconds. It sends two requests, because the first one also
    /// opens the connection, and uses the shorter round trip: that one is more exact. A time that is far from what is
    /// expected is an error, and is used only when a second measurement agrees (see `exchange_clock`).
    pub async fn measure_clock(&self, stop: &CancellationToken) -> Result<i64, RestError> {
        let mut best: Option<(i64, Timestamp, Answer)> = None;
        for _ in 0..2 {
            let (DialectAnswer::Time(theirs), answer) = self.ask(&Request::Time, Purpose::Query, stop).await? else {
                return Err(self.mismatch());
            };
            let round_trip = answer.answered_at.steady.since(answer.sent_at.steady);
            if best.as_ref().is_none_or(|(shortest, ..)| round_trip < *shortest) {
                best = Some((round_trip, theirs, answer));
            }
        }
        let (round_trip, theirs, answer) = best.expect("the loop measures twice");
        // The exchange read its clock half a round trip before we had the answer.
        let at_answer = theirs.plus_micros(round_trip / 2);
        let mut clock = self.exchange_clock();
        match clock.measured(at_answer, answer.answered_at) {
            Ok(()) => Ok(clock.offset_us(answer.answered_at).unwrap_or_default()),
            Err(unconfirmed) => {
                drop(clock);
                let days = unconfirmed.0 / 86_400_000_000;
                let text = format!(
                    "the exchange says that it is {at_answer}, {days} days from what is expected: a second measurement \
                     must confirm it before it is used; check the clock of this machine"
                );
                Err(self.failed(RestError::BadAnswer { text }.into()))
            }
        }
    }

    /// The exchange's clock minus our wall clock in microseconds, by the last measurement that is used; `None` before
    /// the first one.
    pub fn clock_offset(&self) -> Option<i64> {
        self.exchange_clock().offset_us(self.clock.read())
    }

    /// The exchange's time: by the last measurement that is used, carried forward by the steady clock; before the first
    /// one, our wall clock.
    pub fn exchange_now(&self) -> Timestamp {
        self.exchange_clock().now(self.clock.read())
    }

    /// The deadlines that the state file must keep over a restart.
    pub fn deadlines(&self) -> Deadlines {
        let now = self.clock.read();
        let budget = self.budget();
        Deadlines {
            limited_until: budget.paused_until(now.steady).map(|until| now.date_of(until)),
            banned_until: budget.banned_until(now.steady).map(|until| now.date_of(until)),
        }
    }

    /// Waits until a pause or a ban begins or is extended; one caller only.
    pub async fn deadline_moved(&self) {
        self.deadline_moved.notified().await;
    }

    /// The client's present state, for the admin page and metrics.
    pub fn status(&self) -> RestStatus {
        let deadlines = self.deadlines();
        let mut budget = self.budget();
        RestStatus {
            used: budget.used(self.clock.read().steady),
            limit: budget.limit(),
            share_percent: budget.share_percent(),
            limited_until: deadlines.limited_until.map(Timestamp::rfc3339),
            banned_until: deadlines.banned_until.map(Timestamp::rfc3339),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            clock_offset_us: self.clock_offset(),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exchange_clock(&self) -> MutexGuard<'_, ExchangeClock> {
        self.exchange_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer that does not decode as a failed request.
    fn read<T>(&self, answer: &Answer, decoded: Result<T, DecodeError>) -> Result<T, RestError> {
        decoded.map_err(|error| self.failed(answer.undecodable(&error).into()))
    }

    fn failed(&self, failed: Failed) -> RestError {
        if matches!(failed.error, RestError::NotOffered { .. }) {
            // The exchange has answered: it does not serve it.
            return failed.error;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let text = match failed.detail.as_str() {
            "" => failed.error.to_string(),
            detail => format!("{}: {detail}", failed.error),
        };
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
        failed.error
    }

    /// Waits for budget and sends one request.
    async fn send_within_budget(
        &self,
        request: &RestRequest,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Answer, RestError> {
        let RestRequest { weight, bucket, .. } = *request;
        self.wait_for_budget(bucket, weight, purpose, stop).await?;
        // From here on the weight is reserved until `reserved` is dropped, even if this future is dropped.
        let answered_weight = self.budget().answered_weight(bucket);
        let mut reserved = ReservedWeight { rest: self, bucket, weight, answered_weight, reported: None };
        self.requests.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(RestError::Stopped),
            answer = self.fetch(request, &mut reserved) => answer.map_err(|error| self.failed(error)),
        }
    }

    async fn wait_for_budget(
        &self,
        bucket: usize,
        weight: u32,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<(), RestError> {
        let deadline = Instant::now() + BUDGET_WAIT_MAX;
        loop {
            let now = self.clock.read();
            let permit = self.budget().request(bucket, weight, purpose, now.steady);
            let until = match permit {
                Permit::Granted => return Ok(()),
                Permit::Wait(until) => until,
                Permit::Banned(until) => return Err(RestError::Banned { until: Deadline::at(until, now) }),
                Permit::Refused(until) => {
                    let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let next = now.date_of(until);
                    return Err(RestError::Refused { text: format!("{last}; the next attempt is at {next}") });
                }
            };
            let wait_us = u64::try_from(until.since(now.steady)).unwrap_or(0);
            let wake = Instant::now() + Duration::from_micros(wait_us);
            if wake > deadline {
                return Err(RestError::Limited { until: Deadline::at(until, now) });
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(RestError::Stopped),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn fetch(&self, request: &RestRequest, reserved: &mut ReservedWeight<'_>) -> Result<Answer, Failed> {
        let url = format!("{}{}", self.base, request.path);
        let unavailable = |error: reqwest::Error| RestError::Unavailable { text: error_chain(&error) };
        let sent_at = self.clock.read();
        let response = self.client.get(&url).send().await.map_err(unavailable)?;
        let answered_at = self.clock.read();
        let used_header = self.dialect.spec().rest.used_header.filter(|_| request.bucket == 0);
        reserved.reported = used_header
            .and_then(|header| number_in(response.headers(), header))
            .and_then(|used| u32::try_from(used).ok());
        let wait = requested_wait(response.headers(), self.exchange_clock().now(answered_at));
        let head = Head::of(&response);
        let refusal = head.refusal();
        let body = match &refusal {
            Some(_) => Ok(Default::default()),
            None => body_of(response).await,
        };
        // A refusal counts by its status even if its body is cut off, huge or never comes.
        let is_refusal = matches!(head.status.as_u16(), 403 | 418 | 429 | 451);
        let body = match body {
            Err(_unreadable) if is_refusal => Default::default(),
            body => body?,
        };
        let answer = Answer::new(&head, body, sent_at, self.clock.read());
        match refusal {
            Some(refusal) if !is_refusal => Err(refusal.into()),
            _ => match self.failure_in(&answer, wait) {
                Some(failed) => Err(failed),
                None => Ok(answer),
            },
        }
    }
}

/// The weight of a request without an answer yet. If none comes, the weight counts: the exchange may have counted it.
struct ReservedWeight<'a> {
    rest: &'a Rest,
    bucket: usize,
    weight: u32,
    /// The budget's `answered_weight` when the request was sent.
    answered_weight: u32,
    reported: Option<u32>,
}

impl Drop for ReservedWeight<'_> {
    fn drop(&mut self) {
        let now = self.rest.clock.read().steady;
        self.rest.budget().finish_request(self.bucket, self.weight, self.answered_weight, self.reported, now);
    }
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
