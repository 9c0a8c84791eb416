//! REST requests of Bybit, and how to read their answers: `{"retCode":0,"retMsg":"OK","result":{...}}`.

use std::time::Duration;

use serde::Deserialize;

use super::frames::side;
use super::minutes;
use crate::exchange::fields::{
    TIME_MAX, Text, Written, millis, open_time, percent_encoded, plausible_id, plausible_time, read, readable_id,
    readable_open_time, storable, text_in,
};
use crate::exchange::json_parts::{array_elements, member};
use crate::exchange::page::{Page, Refusal, first_page, read_page, readable};
use crate::exchange::spec::Bucket;
use crate::exchange::{AnswerError, AnswerErrorKind, DecodeError, ExchangeInfo, ListingEntry, RestReply, RestRequest};
use crate::gap::Range;
use crate::market::{Interval, Kline, Timestamp, Trade};

/// 4.7: "spot limit 1..60".
pub(super) const TRADES_PAGE: i64 = 60;
/// 4.8: "limit 1..1000".
pub(super) const KLINES_PAGE: i64 = 1_000;
/// 4.10: "600 req / 5 s / IP": in any 5 s at most 100 + 5 x 80, because the network may bunch requests.
pub(super) const BUCKETS: &[Bucket] = &[Bucket::Leaky { per_second: 80, burst: 100 }];
/// 4.10: "403 "access too frequent" -> stop everything for >=10 min".
const BAN: Duration = Duration::from_secs(610);
/// Error objects are short.
const ERROR_BYTES_MAX: usize = 64 << 10;

const TRADES: &str = "recent-trade answer";
const KLINES: &str = "kline answer";
const TIME: &str = "time answer";
const LISTING: &str = "instruments-info answer";

const fn request(path: String) -> RestRequest {
    RestRequest { path, weight: 1, bucket: 0 }
}

/// The list in an answer.
fn list<'a>(what: &'static str, body: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let missing = |name: &str| DecodeError { what, why: format!("it has no {name}") };
    let result = member(what, body, "result")?.ok_or_else(|| missing("result"))?;
    member(what, result, "list")?.ok_or_else(|| missing("list"))
}

/// 4.7: "`/v5/market/recent-trade`: newest only, no paging".
pub(super) fn trades_request(symbol: &str, limit: i64) -> RestRequest {
    request(format!("/v5/market/recent-trade?category=spot&symbol={}&limit={limit}", percent_encoded(symbol)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TradeRow<'a> {
    #[serde(borrow)]
    exec_id: Written<'a>,
    #[serde(borrow)]
    price: Written<'a>,
    #[serde(borrow)]
    size: Written<'a>,
    #[serde(borrow)]
    side: Text<'a>,
    #[serde(borrow)]
    time: Written<'a>,
}

/// The newest trades; those below the range were not asked for.
pub(super) fn trades_answer(range: Range, body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
    let mut page = read_page(TRADES, list(TRADES, body)?, -1, |element| {
        trade(element, latest)
            .map_err(|why| Refusal { position: readable_id(TRADES, element, "execId"), reason: why.to_string() })
    })?;
    page.retain(Range { first: range.first, last: i64::MAX }, |trade| trade.id);
    Ok(page)
}

fn trade(element: &[u8], latest: Timestamp) -> Result<Trade, DecodeError> {
    let row: TradeRow<'_> = read(TRADES, element)?;
    Ok(Trade {
        id: plausible_id(TRADES, "execId", row.exec_id.integer(TRADES, "execId")?)?,
        ts: time(TRADES, "time", row.time, latest)?,
        price: storable(TRADES, "price", row.price.text())?,
        quantity: storable(TRADES, "size", row.size.text())?,
        side: side(TRADES, &row.side.0)?,
        trade_ids: None,
    })
}

fn time(what: &'static str, name: &str, ms: Written<'_>, latest: Timestamp) -> Result<Timestamp, DecodeError> {
    plausible_time(what, name, millis(what, name, ms.integer(what, name)?)?, latest)
}

pub(super) fn newest_answer(body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    let newest = readable(TRADES, list(TRADES, body)?, |element| trade(element, TIME_MAX))?;
    Ok(newest.into_iter().map(|trade| (trade.id, trade.ts)).max())
}

/// 4.8: "category (default linear: pass `spot`), start, end, limit 1..1000 def 200; newest first". The page ends with the
/// range or with the 1000th kline of it.
pub(super) fn klines_request(symbol: &str, interval: Interval, range: Range) -> RestRequest {
    let (limit, last) = first_page(range, interval.micros(), KLINES_PAGE);
    request(format!(
        "/v5/market/kline?category=spot&symbol={}&interval={}&start={}&end={}&limit={limit}",
        percent_encoded(symbol),
        minutes(interval),
        range.first.div_euclid(1_000) + i64::from(range.first.rem_euclid(1_000) != 0),
        last.div_euclid(1_000),
    ))
}

pub(super) fn klines_answer(
    interval: Interval,
    body: &[u8],
    now: Timestamp,
    latest: Timestamp,
) -> Result<Page<Kline>, DecodeError> {
    read_page(KLINES, list(KLINES, body)?, -interval.micros(), |element| {
        kline(interval, element, now, latest).map_err(|why| Refusal {
            position: readable_open_time(KLINES, element, interval, latest),
            reason: why.to_string(),
        })
    })
}

/// 4.8: "strings `[start,o,h,l,c,vol,turnover]`; the last may be open".
fn kline(interval: Interval, element: &[u8], now: Timestamp, latest: Timestamp) -> Result<Kline, DecodeError> {
    let row: Vec<Written<'_>> = read(KLINES, element)?;
    let [start, open, high, low, close, volume, turnover, ..] = row.as_slice() else {
        return Err(DecodeError { what: KLINES, why: format!("its row has {} columns, not 7", row.len()) });
    };
    let open_time = open_time(KLINES, interval, time(KLINES, "start", *start, latest)?)?;
    let close_time = open_time.plus_micros(interval.micros() - 1_000);
    Ok(Kline {
        interval,
        open_time,
        close_time,
        open: storable(KLINES, "open", open.text())?,
        high: storable(KLINES, "high", high.text())?,
        low: storable(KLINES, "low", low.text())?,
        close: storable(KLINES, "close", close.text())?,
        volume: storable(KLINES, "volume", volume.text())?,
        quote_volume: storable(KLINES, "turnover", turnover.text())?,
        trade_count: 0,
        first_trade_id: -1,
        last_trade_id: -1,
        closed: close_time < now,
    })
}

/// 4.9: "Time `/v5/market/time`: `timeSecond`, `timeNano`".
pub(super) fn time_request() -> RestRequest {
    request("/v5/market/time".to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimeResult<'a> {
    #[serde(borrow)]
    time_nano: Written<'a>,
}

pub(super) fn time_answer(body: &[u8]) -> Result<Timestamp, DecodeError> {
    let Some(result) = member(TIME, body, "result")? else {
        return Err(DecodeError { what: TIME, why: "it has no result".to_owned() });
    };
    let answer: TimeResult<'_> = read(TIME, result)?;
    let at = Timestamp(answer.time_nano.integer(TIME, "timeNano")?.div_euclid(1_000));
    match plausible_time(TIME, "timeNano", at, TIME_MAX)? {
        Timestamp(0) => Err(DecodeError { what: TIME, why: "timeNano is 0".to_owned() }),
        at => Ok(at),
    }
}

/// 4.9: "`instruments-info?category=spot` ...; no paging on spot". It names one symbol or none.
pub(super) fn listing_request(symbols: &[String]) -> RestRequest {
    let mut path = "/v5/market/instruments-info?category=spot".to_owned();
    if let [symbol] = symbols {
        path.push_str("&symbol=");
        path.push_str(&percent_encoded(symbol));
    }
    request(path)
}

/// 4.9: "lists only `Trading`; absent = delisted".
pub(super) fn listing_answer(symbols: &[String], body: &[u8]) -> Result<ExchangeInfo, DecodeError> {
    let mut info = ExchangeInfo::default();
    for (index, element) in array_elements(LISTING, list(LISTING, body)?)?.enumerate() {
        let element = element?;
        let part = |name: &str| text_in(LISTING, element, name);
        let Some(symbol) = part("symbol") else {
            info.unreadable.push(format!("element {index} of list has no symbol"));
            continue;
        };
        let entry = match part("status") {
            Some(status) if status != "Trading" => ListingEntry::Paused(status),
            _ => ListingEntry::Trading,
        };
        info.symbols.push((symbol, entry));
    }
    info.keep_requested(symbols);
    Ok(info)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    #[serde(borrow)]
    ret_code: Written<'a>,
    #[serde(borrow)]
    ret_msg: Option<Text<'a>>,
}

/// 4.10: "403 "access too frequent" -> stop everything for >=10 min; body retCode 10006".
pub(super) fn judge(reply: &RestReply<'_>) -> Option<AnswerError> {
    let body = reply.body;
    if body.len() > ERROR_BYTES_MAX {
        return None;
    }
    let is_too_frequent = || String::from_utf8_lossy(body).to_ascii_lowercase().contains("access too frequent");
    if reply.status == 403 && is_too_frequent() {
        let (code, msg) = ("403".to_owned(), "access too frequent".to_owned());
        return Some(AnswerError { kind: AnswerErrorKind::BannedFor(BAN), code, msg });
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let answer: ErrorBody<'_> = serde_json::from_slice(body).ok()?;
    let msg = answer.ret_msg.map(|msg| msg.0.into_owned()).unwrap_or_default();
    let kind = match answer.ret_code.text() {
        "0" => return None,
        // "Too many visits", of the account and of the address.
        "10006" | "10018" => AnswerErrorKind::Limited,
        // A request error that names the symbol: "Not supported symbols", "Symbol Is Invalid".
        "10001" if msg.to_ascii_lowercase().contains("symbol") => AnswerErrorKind::UnknownSymbol,
        // "Server timeout", "Server error".
        "10000" | "10016" => AnswerErrorKind::Unavailable,
        _ => AnswerErrorKind::Other,
    };
    Some(AnswerError { kind, code: answer.ret_code.text().to_owned(), msg })
}
