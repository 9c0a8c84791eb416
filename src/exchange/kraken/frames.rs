//! Routes and decodes frames.
//!
//! A frame is `{"channel":"trade","type":"update","data":[{...},...]}`, an answer `{"method":"subscribe",...}`. Members are
//! read by name, in any order, and every element of the data is an event.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::kline::{close_time, quote_volume};
use super::names;
use crate::exchange::fields::{Text, Written, open_time, read, read_object, rfc3339, trade_count, trade_id};
use crate::exchange::json_parts::{array_elements, member};
use crate::exchange::{DecodeError, Event, MarketEvent, Route, SubscriptionAnswer};
use crate::market::{Book, Channel, Interval, Kline, Side, Trade};

const FRAME: &str = "frame";
const TRADE: &str = "trade frame";
const OHLC: &str = "ohlc frame";
const TICKER: &str = "ticker frame";
/// A ticker has no update id. Its time takes that place, in units of ten microseconds: two changes of the best price are
/// further apart, and a pair may be quiet for hours before its id rises more than a book's id may rise at once.
const UPDATE_ID_US: i64 = 10;

/// The top level of any frame.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// The parts of a frame of data.
struct Data<'a> {
    channel: Cow<'a, str>,
    is_snapshot: bool,
    elements: &'a [u8],
}

impl<'a> Data<'a> {
    /// Of a frame that is JSON, or of which only an element is not: `member` does not look into its data.
    fn of(payload: &'a [u8]) -> Option<Self> {
        if let Ok(Envelope { channel, kind, data, .. }) = read_object::<Envelope<'a>>(FRAME, payload) {
            let is_snapshot = kind.is_some_and(|Text(kind)| kind == "snapshot");
            return Some(Self { channel: channel?.0, is_snapshot, elements: data?.get().as_bytes() });
        }
        let text = |name| read::<Text<'a>>(FRAME, member(FRAME, payload, name).ok()??).ok();
        let is_snapshot = text("type").is_some_and(|Text(kind)| kind == "snapshot");
        Some(Self { channel: text("channel")?.0, is_snapshot, elements: member(FRAME, payload, "data").ok()?? })
    }
}

/// What names the stream of an element.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    symbol: Option<Text<'a>>,
    #[serde(borrow)]
    interval: Option<Written<'a>>,
    /// Of `status`.
    #[serde(borrow)]
    system: Option<Text<'a>>,
}

/// Finds what a frame is about.
pub(super) fn route(payload: &[u8]) -> Route<'_> {
    let envelope = read_object::<Envelope<'_>>(FRAME, payload).ok();
    if let Some(Envelope { method: Some(Text(method)), .. }) = &envelope {
        return match &**method {
            // 6.2: "`{"method":"ping","req_id":n}` -> pong".
            "pong" => Route::Heartbeat,
            "subscribe" | "unsubscribe" => answer(payload).map_or(Route::Other, Route::Answer),
            _ => Route::Other,
        };
    }
    // 6.2: "`{"channel":"heartbeat"}` about 1/s when nothing else".
    if envelope.is_some_and(|envelope| envelope.channel.is_some_and(|Text(channel)| channel == "heartbeat")) {
        return Route::Heartbeat;
    }
    data_route(payload).unwrap_or(Route::Other)
}

fn data_route(payload: &[u8]) -> Option<Route<'_>> {
    let Data { channel, elements, .. } = Data::of(payload)?;
    let mut named = array_elements(FRAME, elements)
        .ok()?
        .flatten()
        .filter_map(|element| read_object::<Named<'_>>(FRAME, element).ok());
    if channel == "status" {
        // 6.3: "On connect a `status` message (system online / maintenance / cancel_only / post_only)".
        let is_online = named.next()?.system.is_some_and(|Text(system)| system == "online");
        return is_online.then_some(Route::Heartbeat);
    }
    // A bad element first does not hide whose frame it is.
    let Named { symbol, interval, .. } = named.find(|named| named.symbol.is_some())?;
    let Text(symbol) = symbol?;
    let name = match names::channel_of(&channel, interval.map(Written::text)) {
        Some(channel) => names::name(channel, &symbol),
        None => match interval {
            Some(minutes) => format!("{channel}-{}:{symbol}", minutes.text()),
            None => format!("{channel}:{symbol}"),
        },
    };
    Some(Route::Stream(Cow::Owned(name)))
}

/// 6.3: "one ack per symbol with `time_in`, `time_out`, `success`, `warnings`".
#[derive(Deserialize)]
struct Acknowledgement<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    success: Option<bool>,
    #[serde(borrow)]
    error: Option<Text<'a>>,
    #[serde(borrow)]
    symbol: Option<Text<'a>>,
    #[serde(borrow)]
    req_id: Option<Written<'a>>,
}

#[derive(Deserialize)]
struct Subscribed<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    symbol: Text<'a>,
    #[serde(borrow)]
    interval: Option<Written<'a>>,
}

/// An acceptance names its stream. A refusal names the symbol, and its number the request, which has one channel: so one of
/// the symbol's names is the stream. A refusal without a symbol concerns the whole request.
fn answer(payload: &[u8]) -> Option<SubscriptionAnswer<'_>> {
    let Acknowledgement { result, success, error, symbol, req_id } = read_object(FRAME, payload).ok()?;
    let id = req_id.and_then(|id| id.text().parse().ok());
    if success == Some(true) && error.is_none() {
        let Subscribed { channel, symbol, interval } = read_object(FRAME, result?.get().as_bytes()).ok()?;
        let channel = names::channel_of(&channel.0, interval.map(Written::text))?;
        let streams = vec![Cow::Owned(names::name(channel, &symbol.0))];
        return Some(SubscriptionAnswer { id, streams, error: None });
    }
    let streams = symbol.map_or(Vec::new(), |Text(symbol)| {
        let sent = Channel::ALL.into_iter().filter(|channel| super::SPEC.channel(*channel).is_some());
        sent.map(|channel| Cow::Owned(names::name(channel, &symbol))).collect()
    });
    let error = error.map_or("it says no reason".to_owned(), |Text(error)| error.into_owned());
    Some(SubscriptionAnswer { id, streams, error: Some(error) })
}

/// Decodes a frame, and passes each event to `sink`. Every readable element is an event; the error is that of the first
/// one that is not.
pub(super) fn decode<'a>(payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
    let Some(Data { channel, is_snapshot, elements }) = Data::of(payload) else {
        return without_data(payload);
    };
    if !matches!(&*channel, "trade" | "ohlc" | "ticker") {
        return without_data(payload);
    }
    let decode_element = |element: &'a [u8]| match &*channel {
        "trade" => trade(element, is_snapshot),
        "ohlc" => ohlc(element, is_snapshot),
        _ => ticker(element, is_snapshot),
    };
    let mut failed = None;
    for element in array_elements(FRAME, elements)? {
        match element.and_then(decode_element) {
            Ok(event) => event.into_iter().for_each(&mut *sink),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// A frame that has no data of ours: an answer, or a channel that we do not record.
fn without_data(payload: &[u8]) -> Result<(), DecodeError> {
    let Envelope { channel, method, data, .. } = read_object(FRAME, payload)?;
    let broken = |why: &str| Err(DecodeError { what: FRAME, why: why.to_owned() });
    match (channel.as_ref().map(|Text(channel)| &**channel), method) {
        (Some("trade" | "ohlc" | "ticker"), _) if data.is_none() => broken("it has no data"),
        (Some(_), _) | (None, Some(_)) => Ok(()),
        // Answers to what the venue could not read have neither.
        (None, None) if read_object::<Acknowledgement<'_>>(FRAME, payload).is_ok_and(|ack| ack.error.is_some()) => {
            Ok(())
        }
        (None, None) => broken("it has neither channel nor method"),
    }
}

/// 6.4: "`side` = taker".
pub(super) fn taker_side(what: &'static str, side: &str) -> Result<Side, DecodeError> {
    side.parse().map_err(|()| DecodeError { what, why: format!("side {side:?} is neither buy nor sell") })
}

/// 6.4: "`data:[{symbol,side,price,qty,ord_type,trade_id,timestamp}]`"; "price and qty are JSON numbers: parse the raw
/// text"; "Times are RFC3339 with µs".
#[derive(Deserialize)]
struct TradeElement<'a> {
    #[serde(borrow)]
    symbol: Text<'a>,
    #[serde(borrow)]
    side: Text<'a>,
    #[serde(borrow)]
    price: Written<'a>,
    #[serde(borrow)]
    qty: Written<'a>,
    #[serde(borrow)]
    trade_id: Written<'a>,
    #[serde(borrow)]
    timestamp: Text<'a>,
}

fn trade(element: &[u8], is_snapshot: bool) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    let row: TradeElement<'_> = read_object(TRADE, element)?;
    let trade = Trade {
        id: trade_id(TRADE, "trade_id", row.trade_id.integer(TRADE, "trade_id")?)?,
        ts: rfc3339(TRADE, "timestamp", &row.timestamp.0)?,
        price: row.price.decimal(TRADE, "price")?,
        quantity: row.qty.decimal(TRADE, "qty")?,
        side: taker_side(TRADE, &row.side.0)?,
        trade_ids: None,
    };
    // The trades of a snapshot are from before: their times are no event times.
    let event_time = (!is_snapshot).then_some(trade.ts);
    Ok(Some(MarketEvent { symbol: row.symbol.0, event_time, event: Event::Trade(trade) }))
}

/// 6.5: "symbol open high low close vwap trades volume interval_begin interval".
#[derive(Deserialize)]
struct OhlcElement<'a> {
    #[serde(borrow)]
    symbol: Text<'a>,
    #[serde(borrow)]
    open: Written<'a>,
    #[serde(borrow)]
    high: Written<'a>,
    #[serde(borrow)]
    low: Written<'a>,
    #[serde(borrow)]
    close: Written<'a>,
    #[serde(borrow)]
    vwap: Written<'a>,
    #[serde(borrow)]
    trades: Written<'a>,
    #[serde(borrow)]
    volume: Written<'a>,
    #[serde(borrow)]
    interval_begin: Text<'a>,
    #[serde(borrow)]
    interval: Written<'a>,
}

/// 6.5: "no closed flag": the kline is open; the consumer closes it when a later one arrives.
fn ohlc(element: &[u8], _is_snapshot: bool) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    let row: OhlcElement<'_> = read_object(OHLC, element)?;
    row.interval.integer(OHLC, "interval")?;
    let Some(interval) = names::interval(row.interval.text()) else { return Ok(None) };
    let kline = ohlc_kline(interval, &row)?;
    Ok(Some(MarketEvent { symbol: row.symbol.0, event_time: None, event: Event::Kline(kline) }))
}

fn ohlc_kline(interval: Interval, row: &OhlcElement<'_>) -> Result<Kline, DecodeError> {
    let opened = open_time(OHLC, interval, rfc3339(OHLC, "interval_begin", &row.interval_begin.0)?)?;
    let volume = row.volume.decimal(OHLC, "volume")?;
    Ok(Kline {
        interval,
        open_time: opened,
        close_time: close_time(OHLC, interval, opened)?,
        open: row.open.decimal(OHLC, "open")?,
        high: row.high.decimal(OHLC, "high")?,
        low: row.low.decimal(OHLC, "low")?,
        close: row.close.decimal(OHLC, "close")?,
        volume,
        quote_volume: quote_volume(OHLC, row.vwap.decimal(OHLC, "vwap")?, volume)?,
        trade_count: trade_count(OHLC, row.trades.integer(OHLC, "trades")?)?,
        first_trade_id: -1,
        last_trade_id: -1,
        closed: false,
    })
}

/// The ticker's page: "level 1 market data, i.e. top of the book", with `bid`, `bid_qty`, `ask`, `ask_qty`, `timestamp`.
#[derive(Deserialize)]
struct TickerElement<'a> {
    #[serde(borrow)]
    symbol: Text<'a>,
    #[serde(borrow)]
    bid: Written<'a>,
    #[serde(borrow)]
    bid_qty: Written<'a>,
    #[serde(borrow)]
    ask: Written<'a>,
    #[serde(borrow)]
    ask_qty: Written<'a>,
    #[serde(borrow)]
    timestamp: Text<'a>,
}

fn ticker(element: &[u8], is_snapshot: bool) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    let row: TickerElement<'_> = read_object(TICKER, element)?;
    let at = rfc3339(TICKER, "timestamp", &row.timestamp.0)?;
    let book = Book {
        update_id: at.micros().div_euclid(UPDATE_ID_US),
        bid: row.bid.decimal(TICKER, "bid")?,
        bid_quantity: row.bid_qty.decimal(TICKER, "bid_qty")?,
        ask: row.ask.decimal(TICKER, "ask")?,
        ask_quantity: row.ask_qty.decimal(TICKER, "ask_qty")?,
    };
    let event_time = (!is_snapshot).then_some(at);
    Ok(Some(MarketEvent { symbol: row.symbol.0, event_time, event: Event::Book(book) }))
}
