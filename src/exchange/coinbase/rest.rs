//! REST requests of Coinbase Exchange, and how to read their answers. Each request counts one against one limit.

use std::borrow::Cow;

use serde::Deserialize;

use crate::exchange::fields::{
    TIME_MAX, Text, Written, percent_encoded, plausible_id, plausible_time, read_object, readable_id, rfc3339, seconds,
    storable,
};
use crate::exchange::json_parts::array_elements;
use crate::exchange::page::{Page, Refusal, read_page};
use crate::exchange::{AnswerError, AnswerErrorKind, DecodeError, ExchangeInfo, ListingEntry, RestReply, RestRequest};
use crate::gap::Range;
use crate::market::{Side, Timestamp, Trade};

/// 5.7: "`limit` <=1000 (default 1000)".
pub(super) const PAGE_MAX: i64 = 1_000;
/// Error objects are short.
const ERROR_BYTES_MAX: usize = 64 << 10;

const TRADES: &str = "trades answer";
const TIME: &str = "time answer";
const PRODUCTS: &str = "products answer";

/// 5.4: "`side` is the MAKER's (opposite of the others), on WS and REST": the taker has the other one.
pub(super) fn taker_side(what: &'static str, maker_side: &str) -> Result<Side, DecodeError> {
    match maker_side {
        "buy" => Ok(Side::Sell),
        "sell" => Ok(Side::Buy),
        other => Err(DecodeError { what, why: format!("side {other:?} is neither buy nor sell") }),
    }
}

/// The time of a trade, on the socket and over REST alike.
///
/// 5.11: "A timestamp can be in the year 0001 (real message): do not reject, do not compute with it". It means that no time
/// is set, and none is invented: the message is kept as a dead letter, its id is a jump, and REST is asked for the trade with
/// its time. A row of REST without one keeps the position, so that it is refused, and not absent.
pub(super) fn trade_time(what: &'static str, text: &str) -> Result<Timestamp, DecodeError> {
    match rfc3339(what, "time", text)? {
        at if at > Timestamp(0) => Ok(at),
        _ => Err(DecodeError { what, why: format!("time {text:?} is no time of a trade") }),
    }
}

/// A request of this path.
pub(super) fn request(path: String) -> RestRequest {
    RestRequest { path, weight: 1, bucket: 0 }
}

/// 5.7: "`after=id` -> strictly older ids", "newest first": a page of all rows ends just above its highest id, so that it
/// begins at the first id of the range. Where ids never existed it begins below it.
pub(super) fn trades_request(symbol: &str, range: Range) -> RestRequest {
    let after = range.first.saturating_add(PAGE_MAX);
    request(format!("/products/{}/trades?limit={PAGE_MAX}&after={after}", percent_encoded(symbol)))
}

/// 5.7: "newest first".
pub(super) fn newest_request(symbol: &str) -> RestRequest {
    request(format!("/products/{}/trades?limit=1", percent_encoded(symbol)))
}

/// `{"trade_id":74,"side":"buy","size":"0.01","price":"10.0","time":"2014-11-07T22:19:28.578544Z"}`.
#[derive(Deserialize)]
struct TradeRow<'a> {
    #[serde(borrow)]
    trade_id: Written<'a>,
    #[serde(borrow)]
    side: Text<'a>,
    #[serde(borrow)]
    size: Written<'a>,
    #[serde(borrow)]
    price: Written<'a>,
    #[serde(borrow)]
    time: Text<'a>,
}

/// The rows from the beginning of the range on. Those below it are there only because ids above them never existed.
pub(super) fn trades_answer(range: Range, body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
    // The rows descend, so a row that shows no id is one below the row before it.
    let mut page = read_page(TRADES, body, -1, |element| {
        trade(element, latest)
            .map_err(|why| Refusal { position: readable_id(TRADES, element, "trade_id"), reason: why.to_string() })
    })?;
    page.rows.retain(|trade| trade.id >= range.first);
    page.refused.retain(|row| row.position.is_none_or(|id| id >= range.first));
    Ok(page)
}

fn trade(element: &[u8], latest: Timestamp) -> Result<Trade, DecodeError> {
    let row: TradeRow<'_> = read_object(TRADES, element)?;
    Ok(Trade {
        id: plausible_id(TRADES, "trade_id", row.trade_id.integer(TRADES, "trade_id")?)?,
        ts: plausible_time(TRADES, "time", trade_time(TRADES, &row.time.0)?, latest)?,
        price: storable(TRADES, "price", row.price.text())?,
        quantity: storable(TRADES, "size", row.size.text())?,
        side: taker_side(TRADES, &row.side.0)?,
        trade_ids: None,
    })
}

/// Id and time of the newest trade.
pub(super) fn newest_answer(body: &[u8], latest: Timestamp) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    let page = read_page(TRADES, body, -1, |element| {
        trade(element, latest).map_err(|why| Refusal { position: None, reason: why.to_string() })
    })?;
    Ok(page.rows.last().map(|trade| (trade.id, trade.ts)))
}

/// 5.9: "`/time` `{iso, epoch}`". The text is exact; `epoch` is the same instant in seconds.
#[derive(Deserialize)]
struct TimeAnswer<'a> {
    #[serde(borrow)]
    iso: Option<Text<'a>>,
    #[serde(borrow)]
    epoch: Option<Written<'a>>,
}

pub(super) fn time_answer(body: &[u8]) -> Result<Timestamp, DecodeError> {
    let answer: TimeAnswer<'_> = read_object(TIME, body)?;
    let at = match (answer.iso, answer.epoch) {
        (Some(Text(iso)), _) => rfc3339(TIME, "iso", &iso)?,
        (None, Some(epoch)) => seconds(TIME, "epoch", epoch.text())?,
        (None, None) => return Err(DecodeError { what: TIME, why: "it has neither iso nor epoch".to_owned() }),
    };
    match plausible_time(TIME, "iso", at, TIME_MAX)? {
        Timestamp(0) => Err(DecodeError { what: TIME, why: "it is 1970".to_owned() }),
        at => Ok(at),
    }
}

/// 5.9: "`status`, `status_message`, `trading_disabled`, `cancel_only`, `post_only`, `limit_only`, `auction_mode`".
#[derive(Deserialize)]
struct Product<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(default)]
    trading_disabled: Option<bool>,
    #[serde(default)]
    cancel_only: Option<bool>,
    #[serde(default)]
    post_only: Option<bool>,
    #[serde(default)]
    auction_mode: Option<bool>,
}

impl Product<'_> {
    /// Whether it trades. An order that rests may not match while only cancels or only resting orders are accepted, nor
    /// in an auction; `limit_only` trades.
    fn entry(&self) -> ListingEntry {
        let status = self.status.as_ref().map_or("online", |Text(status)| &**status);
        let paused = [
            ("trading_disabled", self.trading_disabled),
            ("cancel_only", self.cancel_only),
            ("post_only", self.post_only),
            ("auction_mode", self.auction_mode),
        ];
        match (status, paused.iter().find(|(_, is_set)| *is_set == Some(true))) {
            ("online", None) => ListingEntry::Trading,
            ("delisted", _) => ListingEntry::Unlisted,
            ("online", Some((name, _))) => ListingEntry::Paused((*name).to_owned()),
            (status, _) => ListingEntry::Paused(status.to_owned()),
        }
    }
}

/// The requested products of all that are listed; an unreadable element costs itself only.
pub(super) fn listing_answer(body: &[u8], symbols: &[String]) -> Result<ExchangeInfo, DecodeError> {
    let mut info = ExchangeInfo::default();
    for (index, element) in array_elements(PRODUCTS, body)?.enumerate() {
        match read_object::<Product<'_>>(PRODUCTS, element?) {
            Ok(product) => info.symbols.push((product.id.0.to_string(), product.entry())),
            Err(error) => info.unreadable.push(format!("element {index}: {}", error.shortened().why)),
        }
    }
    info.keep_requested(symbols);
    Ok(info)
}

/// An error: `{"message":"NotFound"}`. No answer of data is an object with that member.
#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    message: Text<'a>,
}

pub(super) fn judge(reply: &RestReply<'_>) -> Option<AnswerError> {
    if reply.body.len() > ERROR_BYTES_MAX || !reply.body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let ErrorBody { message: Text(message) } = serde_json::from_slice(reply.body).ok()?;
    let words: Cow<'_, str> = message.chars().filter(|c| !c.is_whitespace()).collect();
    let kind = match reply.status {
        429 => AnswerErrorKind::Limited,
        500.. => AnswerErrorKind::Unavailable,
        // "Route not found" is another answer.
        404 if words.eq_ignore_ascii_case("notfound") => AnswerErrorKind::UnknownSymbol,
        _ => AnswerErrorKind::Other,
    };
    Some(AnswerError { kind, code: reply.status.to_string(), msg: message.into_owned() })
}
