//! Routes and decodes frames.
//!
//! A frame is one flat object: `{"type":"match","trade_id":...,"product_id":"BTC-USD",...}`. Members are read by name, in
//! any order.

use std::borrow::Cow;

use serde::Deserialize;

use super::names;
use super::rest::{taker_side, trade_time};
use crate::exchange::fields::{Text, Written, decimal, read_object, rfc3339, trade_id};
use crate::exchange::{DecodeError, Event, MarketEvent, Route, SubscriptionAnswer};
use crate::market::{Book, Timestamp, Trade};

const FRAME: &str = "frame";
const MATCH: &str = "match frame";
const TICKER: &str = "ticker frame";

/// What tells the kind of a frame.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    product_id: Option<Text<'a>>,
}

/// Finds what a frame is about.
pub(super) fn route(payload: &[u8]) -> Route<'_> {
    let Ok(Head { kind: Some(Text(kind)), product_id }) = read_object::<Head<'_>>(FRAME, payload) else {
        return Route::Other;
    };
    let of_product =
        |channel| product_id.map(|Text(product)| Route::Stream(Cow::Owned(names::name(channel, &product))));
    let found = match &*kind {
        // 5.4: "first `last_match`, then `match`".
        "match" | "last_match" => of_product("matches"),
        "ticker" => of_product("ticker"),
        "heartbeat" => Some(Route::Heartbeat),
        "subscriptions" => subscriptions(payload).map(Route::Answer),
        "error" => refusal(payload).map(Route::Answer),
        _ => None,
    };
    found.unwrap_or(Route::Other)
}

/// The acknowledgement: `{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}`.
#[derive(Deserialize)]
struct Subscriptions<'a> {
    #[serde(borrow)]
    channels: Vec<Subscribed<'a>>,
}

#[derive(Deserialize)]
struct Subscribed<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default)]
    product_ids: Vec<Text<'a>>,
}

/// It lists everything that the connection is subscribed to by now, and answers no request by number.
fn subscriptions(payload: &[u8]) -> Option<SubscriptionAnswer<'_>> {
    let Subscriptions { channels } = read_object(FRAME, payload).ok()?;
    let mut streams = Vec::new();
    for Subscribed { name: Text(channel), product_ids } in channels {
        for Text(product) in product_ids {
            let name = names::name(&channel, &product);
            // `heartbeat` is no stream of ours.
            if names::channel(&name).is_some() {
                streams.push(Cow::Owned(name));
            }
        }
    }
    Some(SubscriptionAnswer { id: None, streams, error: None })
}

/// `{"type":"error","message":"Failed to subscribe","reason":"FOO-BAR is not a valid product"}`. It refuses the whole of a
/// request, and names no number: it can only mean the oldest one.
#[derive(Deserialize)]
struct ErrorFrame<'a> {
    #[serde(borrow, default)]
    message: Option<Text<'a>>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
}

fn refusal(payload: &[u8]) -> Option<SubscriptionAnswer<'_>> {
    let ErrorFrame { message, reason } = read_object(FRAME, payload).ok()?;
    let words: Vec<Cow<'_, str>> = message.into_iter().chain(reason).map(|Text(words)| words).collect();
    let error = if words.is_empty() { "it says no reason".to_owned() } else { words.join(": ") };
    Some(SubscriptionAnswer { id: None, streams: Vec::new(), error: Some(error) })
}

/// Decodes a frame; `None` for one that brings no event.
pub(super) fn decode(payload: &[u8]) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    let head: Head<'_> = read_object(FRAME, payload)?;
    match head.kind.as_ref().map(|Text(kind)| &**kind) {
        Some("match") => trade(payload, true).map(Some),
        Some("last_match") => trade(payload, false).map(Some),
        Some("ticker") => ticker(payload),
        Some(_) => Ok(None),
        None => Err(DecodeError { what: FRAME, why: "it has no type".to_owned() }),
    }
}

/// 5.4: "`trade_id, sequence, maker_order_id, taker_order_id, side, size, price, product_id, time` (RFC3339 µs)";
/// "`sequence` counts all events of the product ...: use `trade_id` only".
#[derive(Deserialize)]
struct MatchFrame<'a> {
    #[serde(borrow)]
    trade_id: Written<'a>,
    #[serde(borrow)]
    side: Text<'a>,
    #[serde(borrow)]
    size: Written<'a>,
    #[serde(borrow)]
    price: Written<'a>,
    #[serde(borrow)]
    product_id: Text<'a>,
    #[serde(borrow)]
    time: Text<'a>,
}

/// `is_live`: the trade happened now. That of a `last_match` may be hours old, so its time is no event time.
fn trade(payload: &[u8], is_live: bool) -> Result<MarketEvent<'_>, DecodeError> {
    let frame: MatchFrame<'_> = read_object(MATCH, payload)?;
    let ts = trade_time(MATCH, &frame.time.0)?;
    let trade = Trade {
        id: trade_id(MATCH, "trade_id", frame.trade_id.integer(MATCH, "trade_id")?)?,
        ts,
        price: frame.price.decimal(MATCH, "price")?,
        quantity: frame.size.decimal(MATCH, "size")?,
        side: taker_side(MATCH, &frame.side.0)?,
        trade_ids: None,
    };
    let event_time = Some(ts).filter(|_| is_live);
    Ok(MarketEvent { symbol: frame.product_id.0, event_time, event: Event::Trade(trade) })
}

/// `ticker`: best bid and ask after each match. Recordings of 2021 have no sizes.
#[derive(Deserialize)]
struct TickerFrame<'a> {
    #[serde(borrow)]
    sequence: Written<'a>,
    #[serde(borrow)]
    product_id: Text<'a>,
    #[serde(borrow)]
    best_bid: Written<'a>,
    #[serde(borrow)]
    best_ask: Written<'a>,
    #[serde(borrow)]
    best_bid_size: Option<Written<'a>>,
    #[serde(borrow)]
    best_ask_size: Option<Written<'a>>,
    #[serde(borrow)]
    time: Option<Text<'a>>,
}

fn ticker(payload: &[u8]) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    let frame: TickerFrame<'_> = read_object(TICKER, payload)?;
    let (bid_size, ask_size) = match (frame.best_bid_size, frame.best_ask_size) {
        (Some(bid_size), Some(ask_size)) => (bid_size, ask_size),
        // Prices without quantities are no book.
        (None, None) => return Ok(None),
        _ => return Err(DecodeError { what: TICKER, why: "it has only one of its sizes".to_owned() }),
    };
    let sequence = frame.sequence.text();
    let update_id = match sequence.parse() {
        Ok(id) if id >= 0 => id,
        _ => {
            return Err(DecodeError {
                what: TICKER,
                why: format!("sequence {sequence:?} is not a number of an update"),
            });
        }
    };
    let book = Book {
        update_id,
        bid: decimal(TICKER, "best_bid", frame.best_bid.text())?,
        bid_quantity: decimal(TICKER, "best_bid_size", bid_size.text())?,
        ask: decimal(TICKER, "best_ask", frame.best_ask.text())?,
        ask_quantity: decimal(TICKER, "best_ask_size", ask_size.text())?,
    };
    // The time of the trade; the first ticker after a subscription has an old one, and a wrong one costs no book.
    let event_time = frame.time.and_then(|Text(time)| rfc3339(TICKER, "time", &time).ok());
    let event_time = event_time.filter(|at| *at > Timestamp(0));
    Ok(Some(MarketEvent { symbol: frame.product_id.0, event_time, event: Event::Book(book) }))
}
