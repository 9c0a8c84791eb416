//! REST requests of Binance, and how to read their answers. USD-M has the same answers under other paths.
//!
//! Paths of spot are under `/api/v3`; "All limits are by IP, not key". Each request names its weight.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::exchange::fields::{
    TIME_MAX, millis, open_time, percent_encoded, plausible_id, plausible_time, read, readable_id, readable_open_time,
    storable, trade_count,
};
use crate::exchange::json_parts::{array_elements, member};
use crate::exchange::page::{Page, Refusal, read_page, readable};
use crate::exchange::{AnswerError, AnswerErrorKind, DecodeError, ExchangeInfo, ListingEntry, RestReply, RestRequest};
use crate::gap::Range;
use crate::market::{Interval, Kline, Side, Timestamp, Trade};

/// "limit def 500 max 1000": of klines, aggTrades and historicalTrades alike.
pub(in crate::exchange) const PAGE_MAX: i64 = 1_000;
/// Error objects are short.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Most characters of a value in a message.
const SHOWN_CHARS_MAX: usize = 40;

const TRADES: &str = "trades answer";
const AGGREGATES: &str = "aggTrades answer";
const KLINES: &str = "klines answer";
const TIME: &str = "time answer";
const INFO: &str = "exchangeInfo answer";

/// "`m` = buyer is maker (=> taker side is SELL when true)"; WebSocket and REST share the rule.
pub(in crate::exchange) const fn taker_side(buyer_is_maker: bool) -> Side {
    if buyer_is_maker { Side::Sell } else { Side::Buy }
}

/// The ids of the first and last trade of an aggregate.
pub(in crate::exchange) fn trade_ids(what: &'static str, first: i64, last: i64) -> Result<(i64, i64), DecodeError> {
    if first < 0 || last < first {
        return Err(DecodeError { what, why: format!("its trades {first} to {last} are no range") });
    }
    Ok((first, last))
}

/// "historicalTrades | 25 | symbol, fromId": raw trades by id, the id space of the trade stream.
pub(super) fn trades_request(symbol: &str, range: Range) -> RestRequest {
    let symbol = percent_encoded(symbol);
    let limit = range.len(1).clamp(1, PAGE_MAX);
    let path = format!("/api/v3/historicalTrades?symbol={symbol}&fromId={}&limit={limit}", range.first);
    RestRequest { path, weight: 25, bucket: 0 }
}

/// "id price qty quoteQty time isBuyerMaker isBestMatch".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TradeRow<'a> {
    id: i64,
    #[serde(borrow)]
    price: Cow<'a, str>,
    #[serde(borrow)]
    qty: Cow<'a, str>,
    time: i64,
    is_buyer_maker: bool,
}

pub(in crate::exchange) fn trades_answer(body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
    read_page(TRADES, body, 1, |element| {
        trade(element, latest)
            .map_err(|why| Refusal { position: readable_id(TRADES, element, "id"), reason: why.to_string() })
    })
}

fn trade(element: &[u8], latest: Timestamp) -> Result<Trade, DecodeError> {
    let row: TradeRow<'_> = read(TRADES, element)?;
    Ok(Trade {
        id: plausible_id(TRADES, "id", row.id)?,
        ts: time(TRADES, "time", row.time, latest)?,
        price: storable(TRADES, "price", &row.price)?,
        quantity: storable(TRADES, "qty", &row.qty)?,
        side: taker_side(row.is_buyer_maker),
        trade_ids: None,
    })
}

/// A time in milliseconds that is neither before 1970 nor later than `latest`.
pub(in crate::exchange) fn time(
    what: &'static str,
    name: &str,
    ms: i64,
    latest: Timestamp,
) -> Result<Timestamp, DecodeError> {
    plausible_time(what, name, millis(what, name, ms)?, latest)
}

/// "aggTrades | 4 | with none: newest": a sixth of the weight of raw trades, and `l` is a raw trade's id.
pub(super) fn newest_request(symbol: &str) -> RestRequest {
    RestRequest { path: format!("/api/v3/aggTrades?symbol={}&limit=1", percent_encoded(symbol)), weight: 4, bucket: 0 }
}

/// "historicalTrades" without `fromId` returns the newest raw trades.
pub(super) fn newest_fallback_request(symbol: &str) -> RestRequest {
    RestRequest {
        path: format!("/api/v3/historicalTrades?symbol={}&limit=1", percent_encoded(symbol)),
        weight: 25,
        bucket: 0,
    }
}

/// "aggTrades: a p q f l T m M": `f..l` is the range of raw trade ids.
#[derive(Deserialize)]
struct AggregateRow {
    f: i64,
    l: i64,
    #[serde(rename = "T")]
    trade_time: i64,
}

/// The part of a raw trade that names it.
#[derive(Deserialize)]
struct NewestRow {
    id: i64,
    time: i64,
}

/// Reads either answer: aggregates, or the raw trades of the fallback. An unreadable element costs itself only.
pub(in crate::exchange) fn newest_answer(body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    let rows = readable(AGGREGATES, body, |element| {
        let (id, ms) = match read::<NewestRow>(AGGREGATES, element) {
            Ok(row) => (row.id, row.time),
            Err(_) => read::<AggregateRow>(AGGREGATES, element).map(|row| (row.l, row.trade_time))?,
        };
        Ok((plausible_id(AGGREGATES, "l", id)?, time(AGGREGATES, "T", ms, TIME_MAX)?))
    })?;
    Ok(rows.into_iter().max_by_key(|(id, _)| *id))
}

/// "startTime inclusive ... oldest first": with one row, `f` is the first trade's id.
pub(super) fn trade_at_request(symbol: &str, at: Timestamp) -> RestRequest {
    let path =
        format!("/api/v3/aggTrades?symbol={}&startTime={}&limit=1", percent_encoded(symbol), millis_up(at.micros()));
    RestRequest { path, weight: 4, bucket: 0 }
}

pub(super) fn trade_at_answer(body: &[u8]) -> Result<Option<i64>, DecodeError> {
    let firsts = readable(AGGREGATES, body, |element| {
        plausible_id(AGGREGATES, "f", read::<AggregateRow>(AGGREGATES, element)?.f)
    })?;
    Ok(firsts.into_iter().min())
}

/// "klines | 2 | startTime, endTime (ms, compare with open time, inclusive), interval (case-sensitive)".
pub(super) fn klines_request(symbol: &str, interval: Interval, range: Range) -> RestRequest {
    let limit = range.len(interval.micros()).clamp(1, PAGE_MAX);
    RestRequest { path: klines_path("/api/v3/klines", symbol, interval, range, limit), weight: 2, bucket: 0 }
}

/// The path of klines with open times in `range`.
pub(in crate::exchange) fn klines_path(
    path: &str,
    symbol: &str,
    interval: Interval,
    range: Range,
    limit: i64,
) -> String {
    format!(
        "{path}?symbol={}&interval={interval}&startTime={}&endTime={}&limit={limit}",
        percent_encoded(symbol),
        millis_up(range.first),
        range.last.div_euclid(1_000),
    )
}

/// "array of 12: openTime, o, h, l, c, vol, closeTime, quoteVol, n, takerBase, takerQuote, ignore".
pub(in crate::exchange) fn klines_answer(
    interval: Interval,
    body: &[u8],
    now: Timestamp,
    latest: Timestamp,
) -> Result<Page<Kline>, DecodeError> {
    read_page(KLINES, body, interval.micros(), |element| {
        kline(interval, element, now, latest).map_err(|why| Refusal {
            position: readable_open_time(KLINES, element, interval, latest),
            reason: why.to_string(),
        })
    })
}

fn kline(interval: Interval, element: &[u8], now: Timestamp, latest: Timestamp) -> Result<Kline, DecodeError> {
    let row: Vec<Value> = read(KLINES, element)?;
    let open_time = open_time(KLINES, interval, time(KLINES, "open time", row_integer(&row, 0)?, latest)?)?;
    let close_time = millis(KLINES, "close time", row_integer(&row, 6)?)?;
    if close_time <= open_time || close_time.since(open_time) > interval.micros() {
        return Err(DecodeError { what: KLINES, why: format!("close time {close_time} is not in its interval") });
    }
    let trade_count = trade_count(KLINES, row_integer(&row, 8)?)?;
    Ok(Kline {
        interval,
        open_time,
        close_time,
        open: row_decimal(&row, 1)?,
        high: row_decimal(&row, 2)?,
        low: row_decimal(&row, 3)?,
        close: row_decimal(&row, 4)?,
        volume: row_decimal(&row, 5)?,
        quote_volume: row_decimal(&row, 7)?,
        trade_count,
        first_trade_id: -1,
        last_trade_id: -1,
        // "last may be open (closeTime > now)".
        closed: close_time < now,
    })
}

fn row_integer(row: &[Value], column: usize) -> Result<i64, DecodeError> {
    match row.get(column).and_then(Value::as_i64) {
        Some(number) => Ok(number),
        None => Err(DecodeError { what: KLINES, why: format!("column {column} is not an integer") }),
    }
}

fn row_decimal(row: &[Value], column: usize) -> Result<rust_decimal::Decimal, DecodeError> {
    match row.get(column).and_then(Value::as_str) {
        Some(text) => storable(KLINES, "value", text),
        None => Err(DecodeError { what: KLINES, why: format!("column {column} is not a number in quotes") }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimeAnswer {
    server_time: i64,
}

pub(in crate::exchange) fn time_answer(body: &[u8]) -> Result<Timestamp, DecodeError> {
    let answer: TimeAnswer = read(TIME, body)?;
    match time(TIME, "serverTime", answer.server_time, TIME_MAX)? {
        Timestamp(0) => Err(DecodeError { what: TIME, why: "serverTime is 0".to_owned() }),
        at => Ok(at),
    }
}

/// "exchangeInfo | 20 | symbol(s)".
pub(super) fn info_request(symbols: &[String]) -> RestRequest {
    let mut path = "/api/v3/exchangeInfo".to_owned();
    if !symbols.is_empty() {
        path.push_str("?symbols=");
        path.push_str(&percent_encoded(&Value::from(symbols).to_string()));
    }
    RestRequest { path, weight: 20, bucket: 0 }
}

/// 1.9: "symbol `status` TRADING / END_OF_DAY / HALT / BREAK / CANCEL_ONLY": the states in which a symbol does not trade.
fn is_paused(status: &str) -> bool {
    let states = ["PRE_TRADING", "POST_TRADING", "END_OF_DAY", "HALT", "AUCTION_MATCH", "BREAK", "CANCEL_ONLY"];
    states.contains(&status)
}

pub(super) fn info_answer(body: &[u8]) -> Result<ExchangeInfo, DecodeError> {
    listing_answer(body, is_paused)
}

/// Reads only what we use: every other member may have any content, and so may every element that we cannot read.
/// `is_paused` says whether a symbol in a state other than `TRADING` does not trade.
pub(in crate::exchange) fn listing_answer(
    body: &[u8],
    is_paused: fn(&str) -> bool,
) -> Result<ExchangeInfo, DecodeError> {
    let mut info = ExchangeInfo::default();
    if let Some(limits) = member(INFO, body, "rateLimits")? {
        read_limits(limits, &mut info);
    }
    match member(INFO, body, "symbols")? {
        Some(symbols) => read_symbols(symbols, is_paused, &mut info),
        None => info.unreadable.push("symbols is missing".to_owned()),
    }
    Ok(info)
}

/// "Read limits from exchangeInfo.rateLimits, not constants".
fn read_limits(limits: &[u8], info: &mut ExchangeInfo) {
    let elements = match array_elements(INFO, limits) {
        Ok(elements) => elements,
        Err(error) => return info.unreadable.push(format!("rateLimits: {}", error.why)),
    };
    for element in elements.flatten() {
        let is = |name: &str, text: &str| part(element, name).is_some_and(|value| value == text);
        let is_one_minute = is("interval", "MINUTE") && part(element, "intervalNum") == Some(Value::from(1));
        // Other limits are not ours: they may have any content.
        if !is("rateLimitType", "REQUEST_WEIGHT") || !is_one_minute || info.weight_per_minute.is_some() {
            continue;
        }
        let limit = part(element, "limit");
        match limit.as_ref().and_then(Value::as_u64).and_then(|limit| u32::try_from(limit).ok()) {
            Some(limit) => info.weight_per_minute = Some(limit),
            None => info.unreadable.push(format!("the weight limit {} is not a number of ours", shown(limit))),
        }
    }
}

fn read_symbols(symbols: &[u8], is_paused: fn(&str) -> bool, info: &mut ExchangeInfo) {
    let elements = match array_elements(INFO, symbols) {
        Ok(elements) => elements,
        Err(error) => return info.unreadable.push(format!("symbols: {}", error.why)),
    };
    for (index, element) in elements.enumerate() {
        let element = match element {
            Ok(element) => element,
            Err(error) => return info.unreadable.push(format!("symbols: {}", error.why)),
        };
        let Some(Value::String(symbol)) = part(element, "symbol") else {
            info.unreadable.push(format!("element {index} of symbols has no name"));
            continue;
        };
        let status = part(element, "status");
        let entry = match status.as_ref().and_then(Value::as_str) {
            Some("TRADING") => ListingEntry::Trading,
            Some(status) if is_paused(status) => ListingEntry::Paused(status.to_owned()),
            // A status that we do not know says nothing about trades: its frames will.
            _ => {
                info.unreadable.push(format!("{symbol} has the status {}", shown(status)));
                ListingEntry::Trading
            }
        };
        info.symbols.push((symbol, entry));
    }
}

/// The member of an element; `None` when it is absent or not JSON.
fn part(element: &[u8], name: &str) -> Option<Value> {
    serde_json::from_slice(member(INFO, element, name).ok()??).ok()
}

/// A value for a message.
fn shown(value: Option<Value>) -> String {
    let text = value.map_or("missing".to_owned(), |value| value.to_string());
    text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[derive(Deserialize)]
struct ErrorBody {
    code: i64,
    #[serde(default)]
    msg: Option<Value>,
}

/// "error object {"code":-1121,"msg":"Invalid symbol."}"; no answer of data has a member `code`. A ban may name its end
/// in any body.
pub(in crate::exchange) fn judge(reply: &RestReply<'_>) -> Option<AnswerError> {
    let banned_until = || banned_until(&String::from_utf8_lossy(reply.body));
    let named = answer_error(reply.body);
    match (reply.status, named) {
        (418, named) => {
            let (code, msg) = named.map_or((String::new(), String::new()), |named| (named.code, named.msg));
            Some(AnswerError { kind: AnswerErrorKind::Banned(banned_until()), code, msg })
        }
        (_, Some(named)) if matches!(named.kind, AnswerErrorKind::Banned(_)) => {
            Some(AnswerError { kind: AnswerErrorKind::Banned(banned_until()), ..named })
        }
        (_, named) => named,
    }
}

fn answer_error(body: &[u8]) -> Option<AnswerError> {
    if body.len() > ERROR_BYTES_MAX || !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let answer: ErrorBody = serde_json::from_slice(body).ok()?;
    let msg = match answer.msg {
        Some(Value::String(msg)) => msg,
        other => shown(other),
    };
    let kind = match answer.code {
        // Success, in the wrappers of some gateways.
        0 | 200 => return None,
        // "-1003 TOO_MANY_REQUESTS; ban message code -1003: ... IP banned until <epoch ms>".
        -1_003 if msg.contains("banned") => AnswerErrorKind::Banned(None),
        -1_003 | -1_034 => AnswerErrorKind::Limited,
        // "-1121 = bad symbol".
        -1_121 => AnswerErrorKind::UnknownSymbol,
        // 2.7: "Only the last 2 days, also by id: 400 code -4166".
        -4_166 => AnswerErrorKind::TooOld,
        // "-1000 UNKNOWN, -1001 DISCONNECTED, -1006 UNEXPECTED_RESP, -1007 TIMEOUT, -1008 SERVER_BUSY".
        -1_000 | -1_001 | -1_006 | -1_007 | -1_008 => AnswerErrorKind::Unavailable,
        _ => AnswerErrorKind::Other,
    };
    Some(AnswerError { kind, code: answer.code.to_string(), msg })
}

/// "ban message code -1003: ... IP banned until `<epoch ms>`".
fn banned_until(body: &str) -> Option<Timestamp> {
    let (_, rest) = body.split_once("banned until ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    // More digits than an i64 holds are a deadline too, a far one.
    match digits.is_empty() {
        true => None,
        false => Some(Timestamp(digits.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(1_000))),
    }
}

/// The first whole millisecond at or after `us`.
pub(super) const fn millis_up(us: i64) -> i64 {
    us.div_euclid(1_000) + (us.rem_euclid(1_000) != 0) as i64
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
