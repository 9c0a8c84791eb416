//! REST requests of Binance, and how to read their answers.
//!
//! All paths are under `/api/v3`; "All limits are by IP, not key". Each request names its weight.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::{decimal, millis, trade_id};
use crate::exchange::{DecodeError, ExchangeInfo, ListingEntry, RestRequest};
use crate::gap::Range;
use crate::market::{Interval, Kline, Side, Timestamp, Trade};

/// "limit def 500 max 1000": of klines, aggTrades and historicalTrades alike.
pub(super) const PAGE_MAX: i64 = 1_000;

const TRADES: &str = "trades answer";
const AGGREGATES: &str = "aggTrades answer";
const KLINES: &str = "klines answer";
const TIME: &str = "time answer";
const INFO: &str = "exchangeInfo answer";

/// "`m` = buyer is maker (=> taker side is SELL when true)"; WebSocket and REST share the rule.
pub(super) const fn taker_side(buyer_is_maker: bool) -> Side {
    if buyer_is_maker { Side::Sell } else { Side::Buy }
}

/// "historicalTrades | 25 | symbol, fromId": raw trades by id, the id space of the trade stream.
pub(super) fn trades_request(symbol: &str, range: Range) -> RestRequest {
    let symbol = percent_encoded(symbol);
    let limit = range.len(1).clamp(1, PAGE_MAX);
    let path = format!("/api/v3/historicalTrades?symbol={symbol}&fromId={}&limit={limit}", range.first);
    RestRequest { path, weight: 25 }
}

/// "id price qty quoteQty time isBuyerMaker isBestMatch".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TradeRow<'a> {
    id: i64,
    price: &'a str,
    qty: &'a str,
    time: i64,
    is_buyer_maker: bool,
}

pub(super) fn trades_answer(body: &[u8]) -> Result<Vec<Trade>, DecodeError> {
    let rows: Vec<TradeRow<'_>> = read(TRADES, body)?;
    let mut trades = Vec::with_capacity(rows.len());
    for row in rows {
        trades.push(Trade {
            id: trade_id(TRADES, "id", row.id)?,
            ts: millis(TRADES, "time", row.time)?,
            price: decimal(TRADES, "price", row.price)?,
            quantity: decimal(TRADES, "qty", row.qty)?,
            side: taker_side(row.is_buyer_maker),
        });
    }
    trades.sort_by_key(|trade| trade.id);
    Ok(trades)
}

/// "aggTrades | 4 | with none: newest": a sixth of the weight of raw trades, and `l` is a raw trade's id.
pub(super) fn newest_request(symbol: &str) -> RestRequest {
    RestRequest { path: format!("/api/v3/aggTrades?symbol={}&limit=1", percent_encoded(symbol)), weight: 4 }
}

/// "historicalTrades" without `fromId` returns the newest raw trades.
pub(super) fn newest_fallback_request(symbol: &str) -> RestRequest {
    RestRequest { path: format!("/api/v3/historicalTrades?symbol={}&limit=1", percent_encoded(symbol)), weight: 25 }
}

/// "aggTrades: a p q f l T m M": `f..l` is the range of raw trade ids.
#[derive(Deserialize)]
struct AggregateRow {
    f: i64,
    l: i64,
    #[serde(rename = "T")]
    trade_time: i64,
}

/// Reads either answer: aggregates, or the raw trades of the fallback.
pub(super) fn newest_answer(body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    if let Ok(trades) = trades_answer(body) {
        return Ok(trades.last().map(|trade| (trade.id, trade.ts)));
    }
    let rows: Vec<AggregateRow> = read(AGGREGATES, body)?;
    match rows.iter().max_by_key(|row| row.l) {
        Some(row) => Ok(Some((row.l, millis(AGGREGATES, "T", row.trade_time)?))),
        None => Ok(None),
    }
}

/// "startTime inclusive ... oldest first": with one row, `f` is the first trade's id.
pub(super) fn trade_at_request(symbol: &str, at: Timestamp) -> RestRequest {
    let path =
        format!("/api/v3/aggTrades?symbol={}&startTime={}&limit=1", percent_encoded(symbol), millis_up(at.micros()));
    RestRequest { path, weight: 4 }
}

pub(super) fn trade_at_answer(body: &[u8]) -> Result<Option<i64>, DecodeError> {
    let rows: Vec<AggregateRow> = read(AGGREGATES, body)?;
    Ok(rows.iter().map(|row| row.f).min())
}

/// "klines | 2 | startTime, endTime (ms, compare with open time, inclusive), interval (case-sensitive)".
pub(super) fn klines_request(symbol: &str, interval: Interval, range: Range) -> RestRequest {
    let path = format!(
        "/api/v3/klines?symbol={}&interval={interval}&startTime={}&endTime={}&limit={}",
        percent_encoded(symbol),
        millis_up(range.first),
        range.last.div_euclid(1_000),
        range.len(interval.micros()).clamp(1, PAGE_MAX),
    );
    RestRequest { path, weight: 2 }
}

/// "array of 12: openTime, o, h, l, c, vol, closeTime, quoteVol, n, takerBase, takerQuote, ignore".
pub(super) fn klines_answer(interval: Interval, body: &[u8], now: Timestamp) -> Result<Vec<Kline>, DecodeError> {
    let rows: Vec<Vec<Value>> = read(KLINES, body)?;
    let mut klines = Vec::with_capacity(rows.len());
    for row in &rows {
        let close_time = row_time(row, 6)?;
        klines.push(Kline {
            interval,
            open_time: row_time(row, 0)?,
            close_time,
            open: row_decimal(row, 1)?,
            high: row_decimal(row, 2)?,
            low: row_decimal(row, 3)?,
            close: row_decimal(row, 4)?,
            volume: row_decimal(row, 5)?,
            quote_volume: row_decimal(row, 7)?,
            trade_count: row_integer(row, 8)?,
            first_trade_id: -1,
            last_trade_id: -1,
            // "last may be open (closeTime > now)".
            closed: close_time < now,
        });
    }
    klines.sort_by_key(|kline| kline.open_time);
    Ok(klines)
}

fn row_integer(row: &[Value], column: usize) -> Result<i64, DecodeError> {
    match row.get(column).and_then(Value::as_i64) {
        Some(number) => Ok(number),
        None => Err(DecodeError { what: KLINES, why: format!("column {column} is not an integer") }),
    }
}

fn row_time(row: &[Value], column: usize) -> Result<Timestamp, DecodeError> {
    millis(KLINES, "time", row_integer(row, column)?)
}

fn row_decimal(row: &[Value], column: usize) -> Result<rust_decimal::Decimal, DecodeError> {
    match row.get(column).and_then(Value::as_str) {
        Some(text) => decimal(KLINES, "value", text),
        None => Err(DecodeError { what: KLINES, why: format!("column {column} is not a number in quotes") }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimeAnswer {
    server_time: i64,
}

pub(super) fn time_answer(body: &[u8]) -> Result<Timestamp, DecodeError> {
    let answer: TimeAnswer = read(TIME, body)?;
    millis(TIME, "serverTime", answer.server_time)
}

/// "exchangeInfo | 20 | symbol(s)".
pub(super) fn info_request(symbols: &[String]) -> RestRequest {
    let mut path = "/api/v3/exchangeInfo".to_owned();
    if !symbols.is_empty() {
        path.push_str("?symbols=");
        path.push_str(&percent_encoded(&Value::from(symbols).to_string()));
    }
    RestRequest { path, weight: 20 }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InfoAnswer {
    #[serde(default)]
    rate_limits: Vec<RateLimit>,
    symbols: Vec<SymbolRow>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RateLimit {
    rate_limit_type: String,
    interval: String,
    interval_num: u32,
    limit: u32,
}

#[derive(Deserialize)]
struct SymbolRow {
    symbol: String,
    status: String,
}

pub(super) fn info_answer(body: &[u8]) -> Result<ExchangeInfo, DecodeError> {
    let answer: InfoAnswer = read(INFO, body)?;
    // "Read limits from exchangeInfo.rateLimits, not constants".
    let minute = answer.rate_limits.iter().find(|limit| {
        limit.rate_limit_type == "REQUEST_WEIGHT" && limit.interval == "MINUTE" && limit.interval_num == 1
    });
    // "symbol status TRADING / END_OF_DAY / HALT / BREAK / CANCEL_ONLY".
    let entry = |status: String| if status == "TRADING" { ListingEntry::Trading } else { ListingEntry::Paused(status) };
    let symbols = answer.symbols.into_iter().map(|row| (row.symbol, entry(row.status))).collect();
    Ok(ExchangeInfo { weight_per_minute: minute.map(|limit| limit.limit), symbols })
}

#[derive(Deserialize)]
struct ErrorAnswer {
    code: i64,
    #[serde(default)]
    msg: String,
}

/// "-1121 = bad symbol".
pub(super) fn unknown_symbol(body: &str) -> Option<String> {
    let answer: ErrorAnswer = serde_json::from_str(body).ok()?;
    (answer.code == -1_121).then_some(answer.msg)
}

/// "ban message code -1003: ... IP banned until <epoch ms>".
pub(super) fn banned_until(body: &str) -> Option<Timestamp> {
    let (_, rest) = body.split_once("banned until ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(Timestamp(digits.parse::<i64>().ok()?.checked_mul(1_000)?))
}

/// The first whole millisecond at or after `us`.
const fn millis_up(us: i64) -> i64 {
    us.div_euclid(1_000) + (us.rem_euclid(1_000) != 0) as i64
}

/// Percent-encodes every character that a query value must not contain.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError { what, why: error.to_string() })
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
