//! Binance's REST under `/api/v3`: weights, limits, error codes, and pages of the truth.

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
use super::exchange_state::ExchangeState;
use super::locked;
use super::render;
use super::truth::Truth;
use crate::market::{Interval, Symbol, Timestamp};

type Parameters = HashMap<String, String>;

/// "limit: default 500, max 1000"; a greater value counts as 1000.
const LIMIT_DEFAULT: usize = 500;
const LIMIT_MAX: usize = 1_000;

/// The routes; each counts its weight.
pub fn routes() -> Router<Arc<ExchangeState>> {
    Router::new()
        .route(
            "/api/v3/ping",
            get(|state: State<Arc<ExchangeState>>| async move { respond(&state, 1, |_| Ok("{}".to_owned())) }),
        )
        .route("/api/v3/time", get(|state: State<Arc<ExchangeState>>| async move { respond(&state, 1, time) }))
        .route(
            "/api/v3/exchangeInfo",
            get(|state: State<Arc<ExchangeState>>, Query(query): Query<Parameters>| async move {
                respond(&state, 20, |exchange| exchange_info(exchange, &query))
            }),
        )
        .route(
            "/api/v3/klines",
            get(|state: State<Arc<ExchangeState>>, Query(query): Query<Parameters>| async move {
                respond(&state, 2, |exchange| klines(exchange, &query))
            }),
        )
        .route(
            "/api/v3/aggTrades",
            get(|state: State<Arc<ExchangeState>>, Query(query): Query<Parameters>| async move {
                respond(&state, 4, |exchange| agg_trades(exchange, &query))
            }),
        )
        .route(
            "/api/v3/historicalTrades",
            get(|state: State<Arc<ExchangeState>>, Query(query): Query<Parameters>| async move {
                respond(&state, 25, |exchange| historical_trades(exchange, &query))
            }),
        )
        .route(
            "/api/v3/trades",
            get(|state: State<Arc<ExchangeState>>, Query(query): Query<Parameters>| async move {
                respond(&state, 25, |exchange| trades(exchange, &query))
            }),
        )
}

/// An error answer of Binance, with HTTP status 400: code and message.
struct ApiError(i64, String);

impl ApiError {
    fn new(code: i64, message: &str) -> Self {
        Self(code, message.to_owned())
    }
}

fn respond(
    exchange: &ExchangeState,
    weight: u32,
    make: impl FnOnce(&ExchangeState) -> Result<String, ApiError>,
) -> Response {
    let now = Instant::now();
    let (admission, used) = {
        let mut budget = locked(&exchange.budget);
        (budget.admit(weight, now), budget.used())
    };
    let (refuse, limited_until) = {
        let faults = locked(&exchange.rest);
        (faults.refuse.filter(|(_, until)| *until > now), faults.limited_until.filter(|until| *until > now))
    };
    if let Some((status, _)) = refuse {
        locked(&exchange.counters).rest_refused += 1;
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
            locked(&exchange.counters).rest_rate_limited += 1;
            let message = format!(
                "Too much request weight used; current limit is {} request weight per 1 MINUTE.",
                exchange.limits.weight_max
            );
            return reply(
                StatusCode::TOO_MANY_REQUESTS,
                used,
                Some(wait),
                json!({"code": -1003, "msg": message}).to_string(),
            );
        }
        Admission::Banned(wait) => {
            locked(&exchange.counters).rest_banned += 1;
            let until = exchange.time.after(wait).millis();
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
    match make(exchange) {
        Ok(body) => reply(StatusCode::OK, used, None, body),
        Err(ApiError(code, message)) => {
            reply(StatusCode::BAD_REQUEST, used, None, json!({"code": code, "msg": message}).to_string())
        }
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

fn time(exchange: &ExchangeState) -> Result<String, ApiError> {
    Ok(json!({"serverTime": exchange.time.now().millis()}).to_string())
}

fn exchange_info(exchange: &ExchangeState, query: &Parameters) -> Result<String, ApiError> {
    let requested: Option<Vec<Symbol>> = match (query.get("symbol"), query.get("symbols")) {
        (Some(symbol), None) => Some(vec![Symbol::new(symbol)]),
        (None, Some(symbols)) => {
            let names: Vec<String> = serde_json::from_str(symbols)
                .map_err(|_| ApiError::new(-1100, "Illegal characters found in parameter 'symbols'."))?;
            Some(names.iter().map(|name| Symbol::new(name)).collect())
        }
        (Some(_), Some(_)) => return Err(ApiError::new(-1128, "Combination of optional parameters invalid.")),
        (None, None) => None,
    };
    let symbols = requested.unwrap_or_else(|| exchange.symbols.clone());
    if symbols.iter().any(|symbol| !exchange.symbols.contains(symbol)) {
        return Err(ApiError::new(-1121, "Invalid symbol."));
    }
    let status = if exchange.finished.is_cancelled() { "BREAK" } else { "TRADING" };
    let symbols: Vec<_> = symbols
        .iter()
        .map(|symbol| json!({"symbol": symbol.as_str(), "status": status, "isSpotTradingAllowed": true}))
        .collect();
    let limits = &exchange.limits;
    Ok(json!({
        "timezone": "UTC",
        "serverTime": exchange.time.now().millis(),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limits.weight_max},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
        ],
        "exchangeFilters": [],
        "symbols": symbols,
    })
    .to_string())
}

fn klines(exchange: &ExchangeState, query: &Parameters) -> Result<String, ApiError> {
    let interval = query.get("interval").ok_or_else(|| missing_parameter("interval"))?;
    let interval: Interval = interval.parse().map_err(|()| ApiError::new(-1120, "Invalid interval."))?;
    let (from, to, limit) = (milliseconds(query, "startTime")?, milliseconds(query, "endTime")?, limit(query)?);
    with_truth(exchange, query, |truth, lag, now| {
        // startTime and endTime are compared with the open time, both inclusive.
        let mut candles = truth.klines(interval, lag, now);
        let unserved = truth.unserved_count();
        let oldest = if unserved == 0 { None } else { truth.trades.get(unserved).map(|trade| trade.ts) };
        candles.retain(|candle| {
            let open = candle.kline.open_time;
            oldest.is_none_or(|oldest| candle.kline.close_time >= oldest)
                && from.is_none_or(|from| open >= from)
                && to.is_none_or(|to| open <= to)
        });
        // Without a start the newest rows come, with one the oldest.
        let skipped = if from.is_some() { 0 } else { candles.len().saturating_sub(limit) };
        Ok(json_array(candles.iter().skip(skipped).take(limit).map(render::kline_row)))
    })
}

fn historical_trades(exchange: &ExchangeState, query: &Parameters) -> Result<String, ApiError> {
    let (from_id, limit) = (integer(query, "fromId")?, limit(query)?);
    with_truth(exchange, query, |truth, lag, now| {
        let visible = truth.visible(lag, now);
        let start = match from_id {
            Some(id) => visible.partition_point(|trade| trade.id < id),
            None => visible.len().saturating_sub(limit),
        };
        let start = start.max(truth.unserved_count()).min(visible.len());
        Ok(json_array(visible[start..].iter().take(limit).map(render::trade_row)))
    })
}

/// The newest trades, from memory: no lag.
fn trades(exchange: &ExchangeState, query: &Parameters) -> Result<String, ApiError> {
    let limit = limit(query)?;
    with_truth(exchange, query, |truth, _, _| {
        Ok(json_array(truth.trades[truth.trades.len().saturating_sub(limit)..].iter().map(render::trade_row)))
    })
}

fn agg_trades(exchange: &ExchangeState, query: &Parameters) -> Result<String, ApiError> {
    let (from, to) = (milliseconds(query, "startTime")?, milliseconds(query, "endTime")?);
    let (from_id, limit) = (integer(query, "fromId")?, limit(query)?);
    if from_id.is_some() && (from.is_some() || to.is_some()) {
        return Err(ApiError::new(-1128, "Combination of optional parameters invalid."));
    }
    with_truth(exchange, query, |truth, lag, now| {
        let visible = truth.visible(lag, now).len();
        // endTime is inclusive: everything before the millisecond after it.
        let end = match to {
            Some(to) => truth.agg_index_of_time(to.plus_micros(1_000), visible),
            None => truth.agg_count(visible),
        };
        let end = end.min(truth.agg_count(visible));
        let start = match (from_id, from) {
            (Some(id), _) => truth.agg_index_of_id(id, visible),
            (None, Some(from)) => truth.agg_index_of_time(from, visible),
            (None, None) => end.saturating_sub(limit),
        };
        let start = start.max(truth.agg_count(truth.unserved_count()));
        Ok(json_array((start..end.max(start)).take(limit).filter(|index| *index < end).filter_map(|index| {
            let (id, trades) = truth.agg(index, visible);
            render::agg_row(id, trades)
        })))
    })
}

fn with_truth(
    exchange: &ExchangeState,
    query: &Parameters,
    read: impl FnOnce(&Truth, Duration, Instant) -> Result<String, ApiError>,
) -> Result<String, ApiError> {
    let symbol = query.get("symbol").filter(|symbol| !symbol.is_empty()).ok_or_else(|| missing_parameter("symbol"))?;
    let lag = locked(&exchange.rest).lag;
    let truths = locked(&exchange.truths);
    let truth = truths.get(symbol.as_str()).ok_or_else(|| ApiError::new(-1121, "Invalid symbol."))?;
    read(truth, lag, Instant::now())
}

fn missing_parameter(name: &str) -> ApiError {
    ApiError(-1102, format!("Mandatory parameter '{name}' was not sent, was empty/null, or malformed."))
}

fn integer(query: &Parameters, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    match text.parse() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(ApiError(
            -1100,
            format!("Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."),
        )),
    }
}

fn milliseconds(query: &Parameters, name: &str) -> Result<Option<Timestamp>, ApiError> {
    // Ignore a time that would overflow in microseconds.
    let read = integer(query, name)?.filter(|ms| *ms < i64::MAX / 1_000);
    Ok(read.map(Timestamp::from_millis))
}

fn limit(query: &Parameters) -> Result<usize, ApiError> {
    match integer(query, "limit")? {
        None => Ok(LIMIT_DEFAULT),
        Some(0) => Err(ApiError::new(-1130, "Data sent for parameter 'limit' is not valid.")),
        Some(limit) => Ok((limit as usize).min(LIMIT_MAX)),
    }
}

fn json_array(rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.collect();
    format!("[{}]", rows.join(","))
}
