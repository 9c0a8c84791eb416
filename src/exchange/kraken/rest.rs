//! REST requests of Kraken, and how to read their answers. All paths are under `/0/public`; each request counts one.
//!
//! An answer is `{"error":[...],"result":{...}}`, whatever it says, with HTTP 200.

use serde::Deserialize;

use super::frames::taker_side;
use super::kline::{close_time, quote_volume};
use super::names;
use crate::exchange::fields::{
    TIME_MAX, Text, Written, is_plausible_id, lenient_integer, open_time, percent_encoded, plausible_id,
    plausible_time, read, read_object, seconds, storable, trade_count,
};
use crate::exchange::json_parts::{array_elements, member, members};
use crate::exchange::page::{Page, Refusal, read_page};
use crate::exchange::{
    AnswerError, AnswerErrorKind, DecodeError, ExchangeInfo, ListingEntry, PageStart, RestReply, RestRequest,
};
use crate::gap::Range;
use crate::market::{Interval, Kline, Side, Timestamp, Trade};

/// 6.7: "count<=1000".
pub(super) const TRADES_MAX: i64 = 1_000;
/// 6.8: "<=720 rows".
pub(super) const KLINES_MAX: i64 = 720;
/// 6.7: "since = time(a-1) - 1 µs (WS times are µs, REST floats 100 ns: the margin brings a-1 back as proof of overlap)".
const MARGIN_NS: i128 = 1_000;

const TRADES: &str = "trades answer";
const KLINES: &str = "OHLC answer";
const TIME: &str = "time answer";
const PAIRS: &str = "AssetPairs answer";

/// A request of this path.
pub(super) fn request(path: String) -> RestRequest {
    RestRequest { path, weight: 1, bucket: 0 }
}

fn pair(symbol: &str) -> String {
    percent_encoded(&names::to_rest(symbol))
}

/// 6.7: `Trades?pair=XBTUSD&since=<ns id>&count<=1000`: "oldest first, whole history"; "`since` is exclusive of that ns:
/// trades that share one ns across a page edge can be skipped ... on a jump ask again from since-1".
pub(super) fn trades_request(symbol: &str, after: Option<PageStart<'_>>) -> RestRequest {
    let cursor = |end: &str| end.parse().unwrap_or(0_i128);
    let since = match after {
        None => 0,
        Some(PageStart::At(at)) => i128::from(at.micros()) * 1_000 - MARGIN_NS,
        Some(PageStart::With(end)) => cursor(end) - 1,
        Some(PageStart::Behind(end)) => cursor(end),
    };
    let since = since.max(0);
    request(format!("/0/public/Trades?pair={}&since={since}&count={TRADES_MAX}", pair(symbol)))
}

/// Without `since` it answers the newest page, of which the last row is the newest. It has no `count`: the documents do not
/// say whether the oldest or the newest rows of that page remain, and an id that is too low would hide a loss.
pub(super) fn newest_request(symbol: &str) -> RestRequest {
    request(format!("/0/public/Trades?pair={}", pair(symbol)))
}

/// `since` is exclusive, so one nanosecond before the time.
pub(super) fn trade_at_request(symbol: &str, at: Timestamp) -> RestRequest {
    let since = (i128::from(at.micros()) * 1_000 - 1).max(0);
    request(format!("/0/public/Trades?pair={}&since={since}&count={TRADES_MAX}", pair(symbol)))
}

/// 6.8: "OHLC?pair&interval&since": `since` in seconds. A second before the first open time, because the documents do not
/// say whether it is exclusive.
pub(super) fn klines_request(symbol: &str, interval: Interval, range: Range) -> RestRequest {
    let since = (range.first.div_euclid(1_000_000) - 1).max(0);
    let minutes = names::minutes(interval);
    request(format!("/0/public/OHLC?pair={}&interval={minutes}&since={since}", pair(symbol)))
}

/// The rows of an answer, and its `last`. 6.7: "The result key is the exchange's own pair name", so it is any but `last`.
fn rows<'a>(what: &'static str, body: &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), DecodeError> {
    let Some(result) = member(what, body, "result")? else {
        return Err(DecodeError { what, why: "it has no result".to_owned() });
    };
    let (mut rows, mut last) = (None, None);
    for part in members(what, result)? {
        match part? {
            (b"last", value) => last = Some(value),
            (_, value) if value.starts_with(b"[") && rows.is_none() => rows = Some(value),
            (name, _) => {
                let name = String::from_utf8_lossy(name);
                return Err(DecodeError { what, why: format!("its result has another member {name:?}") });
            }
        }
    }
    match rows {
        Some(rows) => Ok((rows, last)),
        None => Err(DecodeError { what, why: "its result has no rows".to_owned() }),
    }
}

/// A column of a row as bytes, also of a row of which another column is not JSON.
fn column(what: &'static str, element: &[u8], index: usize) -> Option<i64> {
    lenient_integer(array_elements(what, element).ok()?.nth(index)?.ok()?)
}

pub(super) fn trades_answer(body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
    let (rows, last) = rows(TRADES, body)?;
    let page = read_page(TRADES, rows, 1, |element| {
        trade(element, latest).map_err(|why| Refusal {
            position: column(TRADES, element, 6).filter(|id| is_plausible_id(*id)),
            reason: why.to_string(),
        })
    })?;
    // 6.7: "`last` = ns cursor, next `since` (string, keep 64 bits)". Without a readable one the page still counts.
    let end = last.and_then(lenient_integer).filter(|end| *end > 0);
    Ok(Page { end: end.map(|end| end.to_string()), ..page })
}

/// 6.7: "rows `[price,volume,time,b|s,m|l,misc,trade_id]`": price and volume are texts, the time is a number with a
/// fraction, which is read from its text.
fn trade(element: &[u8], latest: Timestamp) -> Result<Trade, DecodeError> {
    let row: Vec<Written<'_>> = read(TRADES, element)?;
    let [price, volume, time, side, _kind, _misc, id, ..] = row.as_slice() else {
        return Err(DecodeError { what: TRADES, why: format!("its row has {} columns, not 7", row.len()) });
    };
    Ok(Trade {
        id: plausible_id(TRADES, "trade_id", id.integer(TRADES, "trade_id")?)?,
        ts: plausible_time(TRADES, "time", seconds(TRADES, "time", time.text())?, latest)?,
        price: storable(TRADES, "price", price.text())?,
        quantity: storable(TRADES, "volume", volume.text())?,
        side: rest_side(side.text())?,
        trade_ids: None,
    })
}

/// 6.7: "b|s", of the taker as everywhere at Kraken.
fn rest_side(letter: &str) -> Result<Side, DecodeError> {
    match letter {
        "b" => taker_side(TRADES, "buy"),
        "s" => taker_side(TRADES, "sell"),
        other => taker_side(TRADES, other),
    }
}

pub(super) fn newest_answer(body: &[u8], latest: Timestamp) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    let page = trades_answer(body, latest)?;
    Ok(page.positions(|trade| (trade.id, trade.ts)).last().copied())
}

pub(super) fn trade_at_answer(at: Timestamp, body: &[u8], latest: Timestamp) -> Result<Option<i64>, DecodeError> {
    let page = trades_answer(body, latest)?;
    Ok(page.rows.iter().find(|trade| trade.ts >= at).map(|trade| trade.id))
}

/// The rows are closed up to `last`: "`last` = last committed candle, rows after it are open". A row that is not over on the
/// exchange's clock is open too, whatever `last` says.
pub(super) fn klines_answer(
    interval: Interval,
    body: &[u8],
    now: Timestamp,
    latest: Timestamp,
) -> Result<Page<Kline>, DecodeError> {
    let (rows, last) = rows(KLINES, body)?;
    let committed = match last {
        Some(last) => seconds(KLINES, "last", read::<Written<'_>>(KLINES, last)?.text())?,
        None => return Err(DecodeError { what: KLINES, why: "it has no last".to_owned() }),
    };
    read_page(KLINES, rows, interval.micros(), |element| {
        let kline = kline(interval, element, latest).map_err(|why| Refusal {
            position: column(KLINES, element, 0)
                .and_then(|at| open_time(KLINES, interval, Timestamp(at.checked_mul(1_000_000)?)).ok())
                .filter(|at| (Timestamp(0)..=latest).contains(at))
                .map(Timestamp::micros),
            reason: why.to_string(),
        })?;
        Ok(Kline { closed: kline.open_time <= committed && kline.close_time < now, ..kline })
    })
}

/// 6.8: "rows `[time,o,h,l,c,vwap,volume,count]`"; "Empty minutes are present with volume 0".
fn kline(interval: Interval, element: &[u8], latest: Timestamp) -> Result<Kline, DecodeError> {
    let row: Vec<Written<'_>> = read(KLINES, element)?;
    let [time, open, high, low, close, vwap, volume, count, ..] = row.as_slice() else {
        return Err(DecodeError { what: KLINES, why: format!("its row has {} columns, not 8", row.len()) });
    };
    let at = plausible_time(KLINES, "time", seconds(KLINES, "time", time.text())?, latest)?;
    let opened = open_time(KLINES, interval, at)?;
    let volume = storable(KLINES, "volume", volume.text())?;
    Ok(Kline {
        interval,
        open_time: opened,
        close_time: close_time(KLINES, interval, opened)?,
        open: storable(KLINES, "open", open.text())?,
        high: storable(KLINES, "high", high.text())?,
        low: storable(KLINES, "low", low.text())?,
        close: storable(KLINES, "close", close.text())?,
        volume,
        quote_volume: quote_volume(KLINES, storable(KLINES, "vwap", vwap.text())?, volume)?,
        trade_count: trade_count(KLINES, count.integer(KLINES, "count")?)?,
        first_trade_id: -1,
        last_trade_id: -1,
        closed: false,
    })
}

/// 6.9: "Time `/0/public/Time` `unixtime`": whole seconds.
#[derive(Deserialize)]
struct TimeResult<'a> {
    #[serde(borrow)]
    unixtime: Written<'a>,
}

pub(super) fn time_answer(body: &[u8]) -> Result<Timestamp, DecodeError> {
    let result = member(TIME, body, "result")?.unwrap_or_default();
    let TimeResult { unixtime } = read_object(TIME, result)?;
    match plausible_time(TIME, "unixtime", seconds(TIME, "unixtime", unixtime.text())?, TIME_MAX)? {
        Timestamp(0) => Err(DecodeError { what: TIME, why: "unixtime is 0".to_owned() }),
        at => Ok(at),
    }
}

/// 6.9: "REST AssetPairs `status`, `wsname`".
#[derive(Deserialize)]
struct Pair<'a> {
    #[serde(borrow)]
    wsname: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
}

/// The requested pairs of all that are listed; an unreadable one costs itself only. A pair without a `wsname` is not on the
/// socket (a dark pool).
pub(super) fn listing_answer(body: &[u8], symbols: &[String]) -> Result<ExchangeInfo, DecodeError> {
    let result = member(PAIRS, body, "result")?.unwrap_or_default();
    let mut info = ExchangeInfo::default();
    for part in members(PAIRS, result)? {
        let (name, value) = part?;
        match read_object::<Pair<'_>>(PAIRS, value) {
            Ok(Pair { wsname: Some(Text(wsname)), status }) => {
                let symbol = names::from_rest(&wsname).unwrap_or_else(|| wsname.into_owned());
                info.symbols.push((symbol, entry(status.as_ref().map(|Text(status)| &**status))));
            }
            Ok(Pair { wsname: None, .. }) => {}
            Err(error) => {
                info.unreadable.push(format!("{}: {}", String::from_utf8_lossy(name), error.shortened().why));
            }
        }
    }
    info.keep_requested(symbols);
    Ok(info)
}

/// 6.9: "`status` online, cancel_only, post_only, limit_only, reduce_only, maintenance, delisted". Older answers have none.
fn entry(status: Option<&str>) -> ListingEntry {
    match status {
        None | Some("online" | "limit_only" | "reduce_only") => ListingEntry::Trading,
        Some("delisted") => ListingEntry::Unlisted,
        Some(paused) => ListingEntry::Paused(paused.to_owned()),
    }
}

/// An error as HTTP 200: `{"error":["EAPI:Rate limit exceeded"]}`. One that begins with W is a warning.
pub(super) fn judge(reply: &RestReply<'_>) -> Option<AnswerError> {
    let list = member("error", reply.body, "error").ok()??;
    let errors: Vec<Text<'_>> = serde_json::from_slice(list).ok()?;
    let Text(error) = errors.into_iter().find(|Text(error)| !error.starts_with('W'))?;
    let kind = if error.contains("Rate limit exceeded")
        || error.contains("Throttled")
        || error.contains("Too many requests")
    {
        // 6.10: "Errors `EAPI:Rate limit exceeded`, `EService: Throttled: <unix ts>`".
        AnswerErrorKind::Limited
    } else if error.starts_with("EQuery:Unknown asset") || error.starts_with("EQuery:Invalid asset") {
        AnswerErrorKind::UnknownSymbol
    } else if error.starts_with("EService") || error.starts_with("EGeneral:Internal error") {
        AnswerErrorKind::Unavailable
    } else {
        AnswerErrorKind::Other
    };
    let (code, msg) = error.split_once(':').unwrap_or(("", &error));
    Some(AnswerError { kind, code: code.to_owned(), msg: msg.trim_start().to_owned() })
}
