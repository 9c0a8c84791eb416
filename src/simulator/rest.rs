//! Binance's REST under `/api/v3`: weights, limits, error codes, and pages of what was published.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::time::Instant;

use super::budget::Admission;
use super::locked;
use super::render;
use super::tape::Tape;
use super::venue::Venue;
use crate::market::{Interval, Symbol, Timestamp};

type Parameters = HashMap<String, String>;

/// "limit: default 500, max 1000"; a greater one is taken as 1000.
const LIMIT_DEFAULT: usize = 500;
const LIMIT_MAX: usize = 1_000;

/// The routes, all of which count their weight.
pub fn routes() -> Router<Arc<Venue>> {
    Router::new()
        .route(
            "/api/v3/ping",
            get(|state: State<Arc<Venue>>| async move { answer(&state, 1, |_| Ok("{}".to_owned())) }),
        )
        .route("/api/v3/time", get(|state: State<Arc<Venue>>| async move { answer(&state, 1, time) }))
        .route(
            "/api/v3/exchangeInfo",
            get(|state: State<Arc<Venue>>, Query(query): Query<Parameters>| async move {
                answer(&state, 20, |venue| exchange_info(venue, &query))
            }),
        )
        .route(
            "/api/v3/klines",
            get(|state: State<Arc<Venue>>, Query(query): Query<Parameters>| async move {
                answer(&state, 2, |venue| klines(venue, &query))
            }),
        )
        .route(
            "/api/v3/aggTrades",
            get(|state: State<Arc<Venue>>, Query(query): Query<Parameters>| async move {
                answer(&state, 4, |venue| agg_trades(venue, &query))
            }),
        )
        .route(
            "/api/v3/historicalTrades",
            get(|state: State<Arc<Venue>>, Query(query): Query<Parameters>| async move {
                answer(&state, 25, |venue| historical_trades(venue, &query))
            }),
        )
        .route(
            "/api/v3/trades",
            get(|state: State<Arc<Venue>>, Query(query): Query<Parameters>| async move {
                answer(&state, 25, |venue| trades(venue, &query))
            }),
        )
}

/// A refusal of Binance's: HTTP status 400, code and message.
struct Refused(i64, String);

impl Refused {
    fn new(code: i64, message: &str) -> Self {
        Self(code, message.to_owned())
    }
}

fn answer(venue: &Venue, weight: u32, make: impl FnOnce(&Venue) -> Result<String, Refused>) -> Response {
    let now = Instant::now();
    let (admission, used) = {
        let mut budget = locked(&venue.budget);
        (budget.admit(weight, now), budget.used())
    };
    let (refuse, limited_until) = {
        let faults = locked(&venue.rest);
        (faults.refuse.filter(|(_, until)| *until > now), faults.limited_until.filter(|until| *until > now))
    };
    if let Some((status, _)) = refuse {
        locked(&venue.counters).rest_refused += 1;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return reply(status, used, None, "refused by the simulator".to_owned());
    }
    let admission = match limited_until {
        Some(until) if admission == Admission::Granted => Admission::TooMuch(until - now),
        _ => admission,
    };
    match admission {
        Admission::Granted => {}
        Admission::TooMuch(wait) => {
            locked(&venue.counters).rest_rate_limited += 1;
            let message = format!(
                "Too much request weight used; current limit is {} request weight per 1 MINUTE.",
                venue.limits.weight_max
            );
            return reply(
                StatusCode::TOO_MANY_REQUESTS,
                used,
                Some(wait),
                json!({"code": -1003, "msg": message}).to_string(),
            );
        }
        Admission::Banned(wait) => {
            locked(&venue.counters).rest_banned += 1;
            let until = venue.time.after(wait).millis();
            let message = format!(
                "Way too much request weight used; IP banned until {until}. Please use WebSocket Streams for live updates to avoid bans."
            );
            return reply(
                StatusCode::IM_A_TEAPOT,
                used,
                Some(wait),
                json!({"code": -1003, "msg": message}).to_string(),
            );
        }
    }
    match make(venue) {
        Ok(body) => reply(StatusCode::OK, used, None, body),
        Err(Refused(code, message)) => {
            reply(StatusCode::BAD_REQUEST, used, None, json!({"code": code, "msg": message}).to_string())
        }
    }
}

fn reply(status: StatusCode, used: u32, retry_after: Option<Duration>, body: String) -> Response {
    let headers =
        [("content-type", "application/json;charset=UTF-8".to_owned()), ("x-mbx-used-weight-1m", used.to_string())];
    let mut response = (status, headers, body).into_response();
    if let Some(wait) = retry_after {
        // Whole seconds, rounded up: one second early would be one refusal more.
        let seconds = wait.as_millis().div_ceil(1_000).max(1);
        response.headers_mut().insert("retry-after", (seconds as u64).into());
    }
    response
}

fn time(venue: &Venue) -> Result<String, Refused> {
    Ok(json!({"serverTime": venue.time.now().millis()}).to_string())
}

fn exchange_info(venue: &Venue, query: &Parameters) -> Result<String, Refused> {
    let asked: Option<Vec<Symbol>> = match (query.get("symbol"), query.get("symbols")) {
        (Some(symbol), None) => Some(vec![Symbol::new(symbol)]),
        (None, Some(symbols)) => {
            let names: Vec<String> = serde_json::from_str(symbols)
                .map_err(|_| Refused::new(-1100, "Illegal characters found in parameter 'symbols'."))?;
            Some(names.iter().map(|name| Symbol::new(name)).collect())
        }
        (Some(_), Some(_)) => return Err(Refused::new(-1128, "Combination of optional parameters invalid.")),
        (None, None) => None,
    };
    let symbols = asked.unwrap_or_else(|| venue.symbols.clone());
    if symbols.iter().any(|symbol| !venue.symbols.contains(symbol)) {
        return Err(Refused::new(-1121, "Invalid symbol."));
    }
    let status = if venue.over.is_cancelled() { "BREAK" } else { "TRADING" };
    let symbols: Vec<_> = symbols
        .iter()
        .map(|symbol| json!({"symbol": symbol.as_str(), "status": status, "isSpotTradingAllowed": true}))
        .collect();
    let limits = &venue.limits;
    Ok(json!({
        "timezone": "UTC",
        "serverTime": venue.time.now().millis(),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limits.weight_max},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
        ],
        "exchangeFilters": [],
        "symbols": symbols,
    })
    .to_string())
}

fn klines(venue: &Venue, query: &Parameters) -> Result<String, Refused> {
    let interval = query.get("interval").ok_or_else(|| mandatory("interval"))?;
    let interval: Interval = interval.parse().map_err(|()| Refused::new(-1120, "Invalid interval."))?;
    let (from, to, limit) = (milliseconds(query, "startTime")?, milliseconds(query, "endTime")?, limit(query)?);
    with_tape(venue, query, |tape, lag, now| {
        // startTime and endTime are compared with the open time, both inclusive.
        let mut candles = tape.klines(interval, lag, now);
        let forgotten = tape.forgotten();
        let oldest = if forgotten == 0 { None } else { tape.trades.get(forgotten).map(|trade| trade.ts) };
        candles.retain(|candle| {
            let open = candle.kline.open_time;
            oldest.is_none_or(|oldest| candle.kline.close_time >= oldest)
                && from.is_none_or(|from| open >= from)
                && to.is_none_or(|to| open <= to)
        });
        // Without a start the newest come, with one the oldest.
        let skipped = if from.is_some() { 0 } else { candles.len().saturating_sub(limit) };
        Ok(list(candles.iter().skip(skipped).take(limit).map(render::kline_row)))
    })
}

fn historical_trades(venue: &Venue, query: &Parameters) -> Result<String, Refused> {
    let (from_id, limit) = (whole(query, "fromId")?, limit(query)?);
    with_tape(venue, query, |tape, lag, now| {
        let seen = tape.visible(lag, now);
        let start = match from_id {
            Some(id) => seen.partition_point(|trade| trade.id < id),
            None => seen.len().saturating_sub(limit),
        };
        let start = start.max(tape.forgotten()).min(seen.len());
        Ok(list(seen[start..].iter().take(limit).map(render::trade_row)))
    })
}

/// The newest trades, from memory: no lag.
fn trades(venue: &Venue, query: &Parameters) -> Result<String, Refused> {
    let limit = limit(query)?;
    with_tape(venue, query, |tape, _, _| {
        Ok(list(tape.trades[tape.trades.len().saturating_sub(limit)..].iter().map(render::trade_row)))
    })
}

fn agg_trades(venue: &Venue, query: &Parameters) -> Result<String, Refused> {
    let (from, to) = (milliseconds(query, "startTime")?, milliseconds(query, "endTime")?);
    let (from_id, limit) = (whole(query, "fromId")?, limit(query)?);
    if from_id.is_some() && (from.is_some() || to.is_some()) {
        return Err(Refused::new(-1128, "Combination of optional parameters invalid."));
    }
    with_tape(venue, query, |tape, lag, now| {
        let visible = tape.visible(lag, now).len();
        // endTime is inclusive: everything before the millisecond after it.
        let end = match to {
            Some(to) => tape.agg_place_of_time(to.plus_micros(1_000), visible),
            None => tape.agg_count(visible),
        };
        let end = end.min(tape.agg_count(visible));
        let start = match (from_id, from) {
            (Some(id), _) => tape.agg_place_of_id(id, visible),
            (None, Some(from)) => tape.agg_place_of_time(from, visible),
            (None, None) => end.saturating_sub(limit),
        };
        let start = start.max(tape.agg_count(tape.forgotten()));
        Ok(list((start..end.max(start)).take(limit).filter(|place| *place < end).filter_map(|place| {
            let (id, trades) = tape.agg(place, visible);
            render::agg_row(id, trades)
        })))
    })
}

fn with_tape(
    venue: &Venue,
    query: &Parameters,
    read: impl FnOnce(&Tape, Duration, Instant) -> Result<String, Refused>,
) -> Result<String, Refused> {
    let symbol = query.get("symbol").filter(|symbol| !symbol.is_empty()).ok_or_else(|| mandatory("symbol"))?;
    let lag = locked(&venue.rest).lag;
    let tapes = locked(&venue.tapes);
    let tape = tapes.get(symbol.as_str()).ok_or_else(|| Refused::new(-1121, "Invalid symbol."))?;
    read(tape, lag, Instant::now())
}

fn mandatory(name: &str) -> Refused {
    Refused(-1102, format!("Mandatory parameter '{name}' was not sent, was empty/null, or malformed."))
}

fn whole(query: &Parameters, name: &str) -> Result<Option<i64>, Refused> {
    let Some(text) = query.get(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(Refused(
            -1100,
            format!("Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."),
        )),
    }
}

fn milliseconds(query: &Parameters, name: &str) -> Result<Option<Timestamp>, Refused> {
    // Far beyond any year there is: a product that overflows is no time.
    let read = whole(query, name)?.filter(|ms| *ms < i64::MAX / 1_000);
    Ok(read.map(Timestamp::from_millis))
}

fn limit(query: &Parameters) -> Result<usize, Refused> {
    match whole(query, "limit")? {
        None => Ok(LIMIT_DEFAULT),
        Some(0) => Err(Refused::new(-1130, "Data sent for parameter 'limit' is not valid.")),
        Some(limit) => Ok((limit as usize).min(LIMIT_MAX)),
    }
}

fn list(rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.collect();
    format!("[{}]", rows.join(","))
}
