//! The answers of each path, read from the truth: what REST serves when it is not refused. Lies that hide or change
//! single rows apply here.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::super::candle::Candle;
use super::super::exchange_state::ExchangeState;
use super::super::lies::edit::Edits;
use super::super::lies::rest::View;
use super::super::lies::rest_rows::Endpoint;
use super::super::locked;
use super::super::truth::Truth;
use super::{Parameters, select, weight_limit};
use crate::exchange::binance::peer::render;
use crate::exchange::peer::PeerTrades;
use crate::market::{Interval, Symbol, Timestamp, Trade};

/// "limit: default 500, max 1000"; a greater value counts as 1000.
const LIMIT_DEFAULT: usize = 500;
const LIMIT_MAX: usize = 1_000;

/// An error answer of Binance, with HTTP status 400: code and message.
pub struct ApiError(pub i64, pub String);

impl ApiError {
    fn new(code: i64, message: &str) -> Self {
        Self(code, message.to_owned())
    }
}

/// The right body of an answer.
pub enum Body {
    /// A document.
    Document(String),
    /// A list of rows.
    Rows(Vec<String>),
}

/// Reads the answer of an endpoint.
pub fn read(exchange: &ExchangeState, endpoint: Endpoint, query: &Parameters) -> Result<Body, ApiError> {
    match endpoint {
        Endpoint::Any | Endpoint::Ping => Ok(Body::Document("{}".to_owned())),
        Endpoint::Time => Ok(Body::Document(json!({"serverTime": exchange.time.now().millis()}).to_string())),
        Endpoint::ExchangeInfo => exchange_info(exchange, query).map(Body::Document),
        Endpoint::Klines => klines(exchange, query).map(Body::Rows),
        Endpoint::AggTrades => agg_trades(exchange, query).map(Body::Rows),
        Endpoint::HistoricalTrades => historical_trades(exchange, query).map(Body::Rows),
        Endpoint::Trades => trades(exchange, query).map(Body::Rows),
    }
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
    let is_requested = requested.is_some();
    let symbols = requested.unwrap_or_else(|| exchange.listed());
    if symbols.iter().any(|symbol| !exchange.lists(symbol.as_str())) {
        return Err(ApiError::new(-1121, "Invalid symbol."));
    }
    let now = Instant::now();
    let (is_unknown, lie) = {
        let lies = &locked(&exchange.rest).lies;
        (symbols.iter().map(|symbol| lies.view(symbol.as_str(), now).is_unknown).collect::<Vec<bool>>(), lies.info(now))
    };
    if is_requested && is_unknown.contains(&true) {
        return Err(ApiError::new(-1121, "Invalid symbol."));
    }
    let status = if exchange.finished.is_cancelled() { "BREAK" } else { "TRADING" };
    let symbols: Vec<_> = symbols
        .iter()
        .zip(is_unknown)
        .filter(|(_, is_unknown)| !is_unknown)
        .map(|(symbol, _)| json!({"symbol": symbol.as_str(), "status": status, "isSpotTradingAllowed": true}))
        .collect();
    let mut info = json!({
        "timezone": "UTC",
        "serverTime": exchange.time.now().millis(),
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_limit(exchange)},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
        ],
        "exchangeFilters": [],
        "symbols": symbols,
    });
    if let Some(lie) = lie {
        lie.change(&mut info);
    }
    Ok(info.to_string())
}

fn klines(exchange: &ExchangeState, query: &Parameters) -> Result<Vec<String>, ApiError> {
    let interval = query.get("interval").ok_or_else(|| missing_parameter("interval"))?;
    let interval: Interval = interval.parse().map_err(|()| ApiError::new(-1120, "Invalid interval."))?;
    let (from, to, limit) = (milliseconds(query, "startTime")?, milliseconds(query, "endTime")?, limit(query)?);
    with_truth(exchange, query, |truth, view, lag, now| {
        // startTime and endTime are compared with the open time, both inclusive. Without a start the newest rows come, with
        // one the oldest.
        let shown = select::klines(truth, view, lag, now, interval, (from, to), limit, from.is_none());
        let row = |candle: &Candle| {
            let row = render::kline_row(&candle.kline, (candle.taker_base, candle.taker_quote));
            view.kline_row(interval, candle.kline.open_time.millis(), row)
        };
        Ok(shown.iter().map(row).collect())
    })
}

fn historical_trades(exchange: &ExchangeState, query: &Parameters) -> Result<Vec<String>, ApiError> {
    let (from_id, limit) = (integer(query, "fromId")?, limit(query)?);
    with_truth(exchange, query, |truth, view, lag, now| {
        let which = from_id.map_or(PeerTrades::Newest, PeerTrades::From);
        let shown = select::trades(truth, view, lag, now, which, limit);
        let mut rows: Vec<String> = shown.iter().map(|trade| trade_row(view, trade)).collect();
        if from_id.is_none() {
            claim_newest(view, "id", &mut rows);
        }
        Ok(rows)
    })
}

/// The newest trades, from memory: no lag.
fn trades(exchange: &ExchangeState, query: &Parameters) -> Result<Vec<String>, ApiError> {
    let limit = limit(query)?;
    with_truth(exchange, query, |truth, view, _, _| Ok(newest_rows(view, &truth.trades, limit)))
}

/// The newest rows, oldest first.
fn newest_rows(view: &View, trades: &[Trade], limit: usize) -> Vec<String> {
    let shown = trades.iter().rev().filter(|trade| view.shows_trade(trade.id)).take(limit);
    let mut rows: Vec<String> = shown.map(|trade| trade_row(view, trade)).collect();
    rows.reverse();
    claim_newest(view, "id", &mut rows);
    rows
}

fn trade_row(view: &View, trade: &Trade) -> String {
    view.trade_row(trade.id, render::trade_row(trade))
}

/// Gives the last of the newest rows the id that a lie claims.
fn claim_newest(view: &View, field: &str, rows: &mut [String]) {
    let (Some(newest), Some(row)) = (view.newest, rows.last_mut()) else { return };
    let edits: Edits = format!("{field}={newest}").parse().expect("an id is a value");
    *row = edits.apply(row, 0).unwrap_or_else(|| row.clone());
}

fn agg_trades(exchange: &ExchangeState, query: &Parameters) -> Result<Vec<String>, ApiError> {
    let (from, to) = (milliseconds(query, "startTime")?, milliseconds(query, "endTime")?);
    let (from_id, limit) = (integer(query, "fromId")?, limit(query)?);
    if from_id.is_some() && (from.is_some() || to.is_some()) {
        return Err(ApiError::new(-1128, "Combination of optional parameters invalid."));
    }
    with_truth(exchange, query, |truth, view, lag, now| {
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
            (None, None) => 0,
        };
        let start = start.max(truth.agg_count(truth.unserved_count())).min(end);
        // Of an aggregate only the trades that REST shows count.
        let row = |index| {
            let aggregate = truth.aggregate(index, visible, |trade| view.shows_trade(trade.id));
            aggregate.as_ref().and_then(render::aggregate_row)
        };
        if from_id.is_some() || from.is_some() {
            return Ok((start..end).filter_map(row).take(limit).collect());
        }
        let mut rows: Vec<String> = (start..end).rev().filter_map(row).take(limit).collect();
        rows.reverse();
        claim_newest(view, "l", &mut rows);
        Ok(rows)
    })
}

fn with_truth(
    exchange: &ExchangeState,
    query: &Parameters,
    read: impl FnOnce(&Truth, &View, Duration, Instant) -> Result<Vec<String>, ApiError>,
) -> Result<Vec<String>, ApiError> {
    let symbol = query.get("symbol").filter(|symbol| !symbol.is_empty()).ok_or_else(|| missing_parameter("symbol"))?;
    let now = Instant::now();
    let (lag, view) = {
        let faults = locked(&exchange.rest);
        (faults.lag, faults.lies.view(symbol, now))
    };
    let truths = locked(&exchange.truths);
    match truths.get(symbol.as_str()) {
        Some(truth) if !view.is_unknown && exchange.lists(symbol) => read(truth, &view, lag, now),
        _ => Err(ApiError::new(-1121, "Invalid symbol.")),
    }
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
