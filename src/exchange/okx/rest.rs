//! REST requests of OKX, and how to read their answers: `{"code":"0","msg":"","data":[...]}`.
//!
//! Limits are by address and endpoint (3.10: "Request limits stand beside each endpoint above"), so each endpoint has a
//! bucket of its own.

use serde::Deserialize;

use super::bar;
use super::frames::{kline, side};
use crate::exchange::fields::{
    TIME_MAX, Text, Written, millis, percent_encoded, plausible_id, plausible_time, read, readable_id,
    readable_open_time, storable, text_in,
};
use crate::exchange::json_parts::{array_elements, member};
use crate::exchange::page::{Page, Refusal, first_page, read_page, readable};
use crate::exchange::spec::Bucket;
use crate::exchange::{AnswerError, AnswerErrorKind, DecodeError, ExchangeInfo, ListingEntry, RestReply, RestRequest};
use crate::gap::Range;
use crate::market::{Interval, Kline, Timestamp, Trade};

/// 3.7: history-trades: "limit max 100".
pub(super) const TRADES_PAGE: i64 = 100;
/// 3.8: history-candles: "limit 300".
pub(super) const KLINES_PAGE: i64 = 300;
/// Error objects are short.
const ERROR_BYTES_MAX: usize = 64 << 10;

const HISTORY: usize = 0;
const NEWEST: usize = 1;
const CANDLES: usize = 2;
const INSTRUMENTS: usize = 3;
const CLOCK: usize = 4;
/// In any 2 s at most `burst` + 2 x `per_second`: a tenth less than documented, because the network may bunch requests.
pub(super) const BUCKETS: &[Bucket] = &[
    // 3.7: history-trades "20 req/2 s/IP".
    Bucket::Leaky { per_second: 7, burst: 4 },
    // 3.7: trades "100 req/2 s/IP".
    Bucket::Leaky { per_second: 40, burst: 10 },
    // 3.8: history-candles "20 req/2 s/IP".
    Bucket::Leaky { per_second: 7, burst: 4 },
    // 3.9: instruments "20 req/2 s".
    Bucket::Leaky { per_second: 7, burst: 4 },
    // 3.9: time "10 req/2 s".
    Bucket::Leaky { per_second: 3, burst: 3 },
];

const TRADES: &str = "trades answer";
const KLINES: &str = "candles answer";
const TIME: &str = "time answer";
const LISTING: &str = "instruments answer";

const fn request(path: String, bucket: usize) -> RestRequest {
    RestRequest { path, weight: 1, bucket }
}

/// The list in an answer.
fn data<'a>(what: &'static str, body: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    match member(what, body, "data")? {
        Some(data) => Ok(data),
        None => Err(DecodeError { what, why: "it has no data".to_owned() }),
    }
}

/// 3.7: "`type=1` pages by tradeId (default) ...; `after` = older than; `before` ... alone it returns the latest page:
/// never use it alone". So a page that holds `first` and what follows it is the one before `first` + 100.
pub(super) fn trades_request(symbol: &str, range: Range) -> RestRequest {
    let after = range.first.saturating_add(TRADES_PAGE);
    let symbol = percent_encoded(symbol);
    let path = format!("/api/v5/market/history-trades?instId={symbol}&type=1&after={after}&limit={TRADES_PAGE}");
    request(path, HISTORY)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TradeRow<'a> {
    #[serde(borrow)]
    trade_id: Written<'a>,
    #[serde(borrow)]
    px: Written<'a>,
    #[serde(borrow)]
    sz: Written<'a>,
    #[serde(borrow)]
    side: Text<'a>,
    #[serde(borrow)]
    ts: Written<'a>,
}

/// 3.7: "newest first with id < after". Below the newest trade the page reaches back before the range: those rows were
/// not asked for.
pub(super) fn trades_answer(range: Range, body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
    let mut page = read_page(TRADES, data(TRADES, body)?, -1, |element| {
        trade(element, latest)
            .map_err(|why| Refusal { position: readable_id(TRADES, element, "tradeId"), reason: why.to_string() })
    })?;
    page.retain(Range { first: range.first, last: i64::MAX }, |trade| trade.id);
    Ok(page)
}

fn trade(element: &[u8], latest: Timestamp) -> Result<Trade, DecodeError> {
    let row: TradeRow<'_> = read(TRADES, element)?;
    Ok(Trade {
        id: plausible_id(TRADES, "tradeId", row.trade_id.integer(TRADES, "tradeId")?)?,
        ts: time(TRADES, "ts", row.ts, latest)?,
        price: storable(TRADES, "px", row.px.text())?,
        quantity: storable(TRADES, "sz", row.sz.text())?,
        side: side(TRADES, &row.side.0)?,
        trade_ids: None,
    })
}

fn time(what: &'static str, name: &str, ms: Written<'_>, latest: Timestamp) -> Result<Timestamp, DecodeError> {
    plausible_time(what, name, millis(what, name, ms.integer(what, name)?)?, latest)
}

/// 3.7: "`/api/v5/market/trades`: newest <=500". Aggregated or not, its id is the last one of the group (3.4).
pub(super) fn newest_request(symbol: &str) -> RestRequest {
    request(format!("/api/v5/market/trades?instId={}&limit=1", percent_encoded(symbol)), NEWEST)
}

/// history-trades without a cursor begins with the newest.
pub(super) fn newest_fallback_request(symbol: &str) -> RestRequest {
    request(format!("/api/v5/market/history-trades?instId={}&limit=1", percent_encoded(symbol)), HISTORY)
}

/// The part of a trade that names it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewestRow<'a> {
    #[serde(borrow)]
    trade_id: Written<'a>,
    #[serde(borrow)]
    ts: Written<'a>,
}

pub(super) fn newest_answer(body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    Ok(readable(TRADES, data(TRADES, body)?, newest_row)?.into_iter().max())
}

fn newest_row(element: &[u8]) -> Result<(i64, Timestamp), DecodeError> {
    let row: NewestRow<'_> = read(TRADES, element)?;
    let id = plausible_id(TRADES, "tradeId", row.trade_id.integer(TRADES, "tradeId")?)?;
    Ok((id, time(TRADES, "ts", row.ts, TIME_MAX)?))
}

/// 3.8: "`after=X` -> ts < X ...; newest first ... `before` alone = latest page". The page ends with the range or with the
/// 300th kline of it. Only history-candles reaches any range: candles has the "newest 1,440".
pub(super) fn klines_request(symbol: &str, interval: Interval, range: Range) -> RestRequest {
    let (limit, last) = first_page(range, interval.micros(), KLINES_PAGE);
    let after = last.div_euclid(1_000) + 1;
    let (symbol, bar) = (percent_encoded(symbol), bar(interval));
    let path = format!("/api/v5/market/history-candles?instId={symbol}&bar={bar}&after={after}&limit={limit}");
    request(path, CANDLES)
}

pub(super) fn klines_answer(interval: Interval, body: &[u8], latest: Timestamp) -> Result<Page<Kline>, DecodeError> {
    read_page(KLINES, data(KLINES, body)?, -interval.micros(), |element| {
        let row = kline(KLINES, interval, element, storable)
            .and_then(|kline| plausible_time(KLINES, "ts", kline.open_time, latest).map(|_| kline));
        row.map_err(|why| Refusal {
            position: readable_open_time(KLINES, element, interval, latest),
            reason: why.to_string(),
        })
    })
}

/// 3.9: "Time `/api/v5/public/time`".
pub(super) fn time_request() -> RestRequest {
    request("/api/v5/public/time".to_owned(), CLOCK)
}

#[derive(Deserialize)]
struct TimeRow<'a> {
    #[serde(borrow)]
    ts: Written<'a>,
}

pub(super) fn time_answer(body: &[u8]) -> Result<Timestamp, DecodeError> {
    let [row]: [TimeRow<'_>; 1] = read(TIME, data(TIME, body)?)?;
    match time(TIME, "ts", row.ts, TIME_MAX)? {
        Timestamp(0) => Err(DecodeError { what: TIME, why: "ts is 0".to_owned() }),
        at => Ok(at),
    }
}

/// 3.9: "`instruments?instType=SPOT`". It names one instrument or none.
pub(super) fn listing_request(symbols: &[String]) -> RestRequest {
    let mut path = "/api/v5/public/instruments?instType=SPOT".to_owned();
    if let [symbol] = symbols {
        path.push_str("&instId=");
        path.push_str(&percent_encoded(symbol));
    }
    request(path, INSTRUMENTS)
}

/// 3.9: "only live ones are listed (absent = delisted); `state` live / suspend / rebase / post_only / preopen / test".
pub(super) fn listing_answer(symbols: &[String], body: &[u8]) -> Result<ExchangeInfo, DecodeError> {
    let mut info = ExchangeInfo::default();
    for (index, element) in array_elements(LISTING, data(LISTING, body)?)?.enumerate() {
        let element = element?;
        let part = |name: &str| text_in(LISTING, element, name);
        let Some(symbol) = part("instId") else {
            info.unreadable.push(format!("element {index} of data has no instId"));
            continue;
        };
        let entry = match part("state").as_deref() {
            Some("live") => ListingEntry::Trading,
            Some(paused @ ("suspend" | "rebase" | "post_only" | "preopen" | "test")) => {
                ListingEntry::Paused(paused.to_owned())
            }
            // A state that we do not know says nothing about trades: its frames will.
            _ => ListingEntry::Trading,
        };
        info.symbols.push((symbol, entry));
    }
    info.keep_requested(symbols);
    Ok(info)
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    code: Written<'a>,
    #[serde(borrow)]
    msg: Option<Text<'a>>,
}

/// 3.10: "Errors come as HTTP 200 with `code != "0"`; 50011 = rate limited, with HTTP 429".
pub(super) fn judge(reply: &RestReply<'_>) -> Option<AnswerError> {
    if reply.body.len() > ERROR_BYTES_MAX || !reply.body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let answer: ErrorBody<'_> = serde_json::from_slice(reply.body).ok()?;
    let msg = answer.msg.map(|msg| msg.0.into_owned()).unwrap_or_default();
    let kind = match answer.code.text() {
        "0" => return None,
        // "Requests too frequent", of the address and of the account.
        "50011" | "50061" => AnswerErrorKind::Limited,
        // "Instrument ID doesn't exist".
        "51001" => AnswerErrorKind::UnknownSymbol,
        // "Parameter instId error".
        "51000" if msg.contains("instId") => AnswerErrorKind::UnknownSymbol,
        // "Service temporarily unavailable", "Endpoint request timeout", "Systems are busy", "System error".
        "50001" | "50004" | "50013" | "50026" => AnswerErrorKind::Unavailable,
        _ => AnswerErrorKind::Other,
    };
    Some(AnswerError { kind, code: answer.code.text().to_owned(), msg })
}
