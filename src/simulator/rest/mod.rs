//! Binance's REST under `/api/v3`: weights, limits, error codes, refusals and lies. `pages` reads the answers. `venue` is the
//! REST of every other venue.

mod pages;
mod select;
pub mod venue;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::budget::Admission;
use super::exchange_state::ExchangeState;
use super::lies::RetryAfter;
use super::lies::rest_rows::{AnswerLie, Endpoint};
use super::locked;
use crate::exchange::spec::Bucket;
use crate::market::Timestamp;
use pages::ApiError;

type Parameters = HashMap<String, String>;

/// The paths with their weights.
const PATHS: [(&str, Endpoint, u32); 7] = [
    ("/api/v3/ping", Endpoint::Ping, 1),
    ("/api/v3/time", Endpoint::Time, 1),
    ("/api/v3/exchangeInfo", Endpoint::ExchangeInfo, 20),
    ("/api/v3/klines", Endpoint::Klines, 2),
    ("/api/v3/aggTrades", Endpoint::AggTrades, 4),
    ("/api/v3/historicalTrades", Endpoint::HistoricalTrades, 25),
    ("/api/v3/trades", Endpoint::Trades, 25),
];

/// The routes; each counts its weight.
pub fn routes() -> Router<Arc<ExchangeState>> {
    PATHS.into_iter().fold(Router::new(), |router, (path, endpoint, weight)| {
        let handler = move |exchange: State<Arc<ExchangeState>>, uri: Uri, Query(query): Query<Parameters>| async move {
            respond(&exchange, endpoint, weight, &uri, &query).await
        };
        router.route(path, get(handler))
    })
}

/// Answers 400 to a request whose first line is too long, as the exchange's front servers do.
pub async fn limit_request_line(State(exchange): State<Arc<ExchangeState>>, request: Request, next: Next) -> Response {
    if is_line_too_long(&exchange, &request) {
        return line_too_long();
    }
    next.run(request).await
}

/// Whether the first line of a request is too long.
pub fn is_line_too_long(exchange: &ExchangeState, request: &Request) -> bool {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    request.method().as_str().len() + target + " HTTP/1.1".len() + 1 > exchange.limits.request_line_bytes_max
}

/// The answer to a request whose first line is too long.
pub fn line_too_long() -> Response {
    (StatusCode::BAD_REQUEST, "<html><h1>400 Bad Request</h1>Request Header Or Cookie Too Large</html>").into_response()
}

/// A refusal with this status and Retry-After.
pub fn refusal(status: u16, retry_after: &RetryAfter, now: Timestamp) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let body = json!({"code": -1003, "msg": "Too many requests."}).to_string();
    let mut response = (status, [("content-type", "application/json;charset=UTF-8")], body).into_response();
    let value = retry_after.value(now).and_then(|value| HeaderValue::from_str(&value).ok());
    if let Some(value) = value {
        response.headers_mut().insert("retry-after", value);
    }
    response
}

async fn respond(exchange: &ExchangeState, endpoint: Endpoint, weight: u32, uri: &Uri, query: &Parameters) -> Response {
    let now = Instant::now();
    let used = match admit(exchange, weight, now) {
        Ok(used) => used,
        Err(response) => return response,
    };
    let body = match pages::read(exchange, endpoint, query) {
        Ok(body) => body,
        Err(ApiError(code, message)) => {
            return reply(StatusCode::BAD_REQUEST, used, None, json!({"code": code, "msg": message}).to_string());
        }
    };
    let (page, answer) = {
        let lies = &locked(&exchange.rest).lies;
        (lies.page(endpoint, now), lies.answer(endpoint, now))
    };
    let body = match (body, page) {
        (pages::Body::Document(text), _) => text,
        (pages::Body::Rows(rows), None) => json_array(&rows),
        (pages::Body::Rows(rows), Some(lie)) => {
            locked(&exchange.counters).rest_lies += 1;
            json_array(&lie.rows(endpoint, rows))
        }
    };
    match answer {
        None => reply(StatusCode::OK, used, None, body),
        Some((lie, until)) => {
            locked(&exchange.counters).rest_lies += 1;
            instead(lie, until, uri, &body).await
        }
    }
}

/// What the limits and the faults say about a request.
enum Verdict {
    /// It is served.
    Serve,
    /// `rest:503`: this status.
    Status(u16),
    /// `refuse`: this status and Retry-After.
    Refuse(u16, RetryAfter),
    /// Too many requests: wait so long.
    Limited(Duration),
    /// Banned for so long.
    Banned(Duration),
}

/// Counts the request against its limit, and decides.
fn judge(exchange: &ExchangeState, bucket: usize, weight: u32, now: Instant) -> Verdict {
    let admission = locked(&exchange.budgets).admit(bucket, weight, now);
    let (refuse, limited_until, refused_until) = {
        let faults = locked(&exchange.rest);
        (
            faults.refuse.filter(|(_, until)| *until > now),
            faults.limited_until.filter(|until| *until > now),
            faults.lies.refusal(now),
        )
    };
    let mut counters = locked(&exchange.counters);
    if matches!(admission, Admission::TooMuch(_)) {
        counters.broken.requests += 1;
    }
    if let Some((status, _)) = refuse {
        counters.rest_refused += 1;
        return Verdict::Status(status);
    }
    if let Some((status, retry_after)) = refused_until {
        counters.rest_refused_until += 1;
        return Verdict::Refuse(status, retry_after);
    }
    match (admission, limited_until) {
        (Admission::Granted, None) => Verdict::Serve,
        (Admission::Granted, Some(until)) => {
            counters.rest_rate_limited += 1;
            Verdict::Limited(until - now)
        }
        (Admission::TooMuch(wait), _) => {
            counters.rest_rate_limited += 1;
            Verdict::Limited(wait)
        }
        (Admission::Banned(wait), _) => {
            counters.rest_banned += 1;
            Verdict::Banned(wait)
        }
    }
}

/// Counts the request, and refuses it where the limits or a fault want that; else returns the used weight.
#[expect(clippy::result_large_err, reason = "a response is made once per request")]
fn admit(exchange: &ExchangeState, weight: u32, now: Instant) -> Result<u32, Response> {
    let verdict = judge(exchange, 0, weight, now);
    let used = locked(&exchange.budgets).used();
    match verdict {
        Verdict::Serve => Ok(used),
        Verdict::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Err(reply(status, used, None, "refused by the simulator".to_owned()))
        }
        Verdict::Refuse(status, retry_after) => Err(refusal(status, &retry_after, exchange.time.now())),
        Verdict::Limited(wait) => {
            let message = format!(
                "Too much request weight used; current limit is {} request weight per 1 MINUTE.",
                weight_limit(exchange)
            );
            let body = json!({"code": -1003, "msg": message}).to_string();
            Err(reply(StatusCode::TOO_MANY_REQUESTS, used, Some(wait), body))
        }
        Verdict::Banned(wait) => {
            let until = exchange.time.after(wait).millis();
            let message = format!(
                "Way too much request weight used; IP banned until {until}. Please use WebSocket Streams for live updates to avoid bans."
            );
            let body = json!({"code": -1003, "msg": message}).to_string();
            Err(reply(StatusCode::IM_A_TEAPOT, used, Some(wait), body))
        }
    }
}

/// The weight of the first window.
fn weight_limit(exchange: &ExchangeState) -> u32 {
    match exchange.limits.buckets.first() {
        Some(Bucket::Window { weight, .. }) => *weight,
        Some(Bucket::Leaky { burst, .. }) => *burst,
        None => u32::MAX,
    }
}

fn reply(status: StatusCode, used: u32, retry_after: Option<Duration>, body: String) -> Response {
    let headers =
        [("content-type", "application/json;charset=UTF-8".to_owned()), ("x-mbx-used-weight-1m", used.to_string())];
    let mut response = (status, headers, body).into_response();
    if let Some(wait) = retry_after {
        // Whole seconds, rounded up: a client that comes a second early would be refused again.
        let seconds = wait.as_millis().div_ceil(1_000).max(1);
        response.headers_mut().insert("retry-after", (seconds as u64).into());
    }
    response
}

/// The size of a huge answer, and of its pieces.
const HUGE_PIECES: usize = 1_024;
static HUGE_PIECE: [u8; 64 * 1_024] = [b' '; 64 * 1_024];

/// What a lie sends in place of the right answer.
async fn instead(lie: AnswerLie, until: Instant, uri: &Uri, right: &str) -> Response {
    if let Some((content_type, body)) = lie.body(right) {
        return ([("content-type", content_type)], body).into_response();
    }
    let json_headers = [("content-type", "application/json;charset=UTF-8")];
    match lie {
        AnswerLie::Loop => redirect(uri.path_and_query().map_or("/", |target| target.as_str())),
        // Nothing listens on port 1.
        AnswerLie::Elsewhere => redirect("http://127.0.0.1:1/"),
        AnswerLie::Hang => {
            sleep_until(until).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        AnswerLie::Drip => {
            let drops = futures_util::stream::unfold((), move |()| async move {
                sleep(Duration::from_secs(1)).await;
                (Instant::now() < until).then_some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
            });
            (json_headers, Body::from_stream(drops)).into_response()
        }
        _ => {
            let pieces = [Bytes::from_static(b"[")].into_iter();
            let pieces = pieces.chain(std::iter::repeat_n(Bytes::from_static(&HUGE_PIECE), HUGE_PIECES));
            let pieces = pieces.chain([Bytes::from_static(b"]")]).map(Ok::<_, std::io::Error>);
            (json_headers, Body::from_stream(futures_util::stream::iter(pieces))).into_response()
        }
    }
}

fn redirect(to: &str) -> Response {
    (StatusCode::FOUND, [("location", to.to_owned())]).into_response()
}

fn json_array(rows: &[String]) -> String {
    format!("[{}]", rows.join(","))
}
