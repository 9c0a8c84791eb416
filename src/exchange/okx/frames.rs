//! Routes and decodes OKX's frames: `{"arg":{"channel":...,"instId":...},"data":[...]}`, events, and the text `pong`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{channel_of, name_of};
use crate::exchange::fields::{Text, Written, decimal, integer, millis, open_time, read, trade_id};
use crate::exchange::json_parts::array_elements;
use crate::exchange::{DecodeError, Event, MarketEvent, Route, SubscriptionAnswer};
use crate::market::{Book, Channel, Interval, Kline, Side, Trade};

const FRAME: &str = "frame";
const TRADE: &str = "trades-all frame";
const KLINE: &str = "candle frame";
const BOOK: &str = "bbo-tbt frame";

/// The top level of any frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    arg: Option<Arg<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<Written<'a>>,
    #[serde(borrow)]
    msg: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Written<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    /// Absent in channels of a whole market.
    #[serde(borrow)]
    inst_id: Option<Text<'a>>,
}

impl Arg<'_> {
    fn name(&self) -> String {
        name_of(&self.channel.0, self.inst_id.as_ref().map_or("", |instrument| &instrument.0))
    }
}

/// 3.2: "Send the text `ping`, expect the text `pong` (not JSON)".
fn is_heartbeat(payload: &[u8]) -> bool {
    matches!(payload.trim_ascii(), b"pong" | b"ping")
}

/// Finds what a frame is about.
pub(super) fn route(payload: &[u8]) -> Route<'_> {
    if is_heartbeat(payload) {
        return Route::Heartbeat;
    }
    let Ok(frame) = serde_json::from_slice::<Frame<'_>>(payload) else { return Route::Other };
    match frame.event.as_ref().map(|event| &*event.0) {
        Some("subscribe" | "unsubscribe" | "error") => Route::Answer(frame.answer()),
        Some("pong") => Route::Heartbeat,
        // 3.2: "Maintenance: {"event":"notice","code":"64008",...} 60 s before ...: open the new connection now".
        Some("notice") if frame.code.is_some_and(|code| code.text() == "64008") => Route::Shutdown,
        // 3.3: "Further events (`channel-conn-count`, `channel-conn-count-error`) must be tolerated".
        Some(_) => Route::Other,
        None => match (&frame.arg, frame.data) {
            (Some(arg), Some(_)) => Route::Stream(Cow::Owned(arg.name())),
            _ => Route::Other,
        },
    }
}

impl<'a> Frame<'a> {
    /// 3.3: "-> {"event":"subscribe","arg":{...},"connId":"..."}": one answer for each stream. "Error
    /// {"event":"error","code":"60012","msg":...}": its text may name the stream.
    fn answer(&self) -> SubscriptionAnswer<'a> {
        let is_error = self.event.as_ref().is_some_and(|event| event.0 == "error");
        let msg = self.msg.as_ref().map_or("", |msg| &*msg.0);
        let error = is_error.then(|| format!("{}: {msg}", self.code.map_or("no code", Written::text)));
        let name = match &self.arg {
            Some(arg) => Some(arg.name()),
            None => named_in(msg).filter(|_| is_error),
        };
        let id = self.id.and_then(|id| id.text().parse().ok());
        SubscriptionAnswer { id, streams: name.into_iter().map(Cow::Owned).collect(), error }
    }
}

/// The stream that an error names: "Wrong URL or channel:trades-all,instId:ABC-XYZ doesn't exist". Without one the error
/// counts for the whole request.
fn named_in(msg: &str) -> Option<String> {
    let (channel, rest) = msg.split_once("channel:")?.1.split_once(',')?;
    let (_, instrument) = rest.split_once("instId:")?;
    let instrument = instrument.split([' ', ',']).next().filter(|instrument| !instrument.is_empty())?;
    channel_of(channel.trim()).map(|_| name_of(channel.trim(), instrument))
}

/// Decodes a frame; of a list with a bad element the others are passed.
pub(super) fn decode<'a>(payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
    if is_heartbeat(payload) {
        return Ok(());
    }
    let frame: Frame<'a> = read(FRAME, payload)?;
    let (Some(arg), Some(data)) = (frame.arg, frame.data) else {
        return match frame.event {
            Some(_) => Ok(()),
            None => Err(DecodeError { what: FRAME, why: "it is neither data of a stream nor an event".to_owned() }),
        };
    };
    let (Some(channel), None) = (channel_of(&arg.channel.0), &frame.event) else { return Ok(()) };
    let what = match channel {
        Channel::Trade | Channel::AggTrade => TRADE,
        Channel::Kline(_) => KLINE,
        Channel::BookTicker => BOOK,
    };
    let Some(Text(symbol)) = arg.inst_id else {
        return Err(DecodeError { what, why: "its arg has no instId".to_owned() });
    };
    let mut first_error = None;
    // 10 rule 7: "Every element of a batched array is processed".
    for element in array_elements(what, data.get().as_bytes())? {
        let decoded = match channel {
            Channel::Trade | Channel::AggTrade => trade(element?, &symbol),
            Channel::Kline(interval) => {
                kline(KLINE, interval, element?, decimal).map(|kline| (None, Some(Event::Kline(kline))))
            }
            Channel::BookTicker => book(element?),
        };
        match decoded {
            Ok((event_time, Some(event))) => sink(MarketEvent { symbol: symbol.clone(), event_time, event }),
            Ok((_, None)) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// The event time of a row where it has one, and its event if it is one that we record.
type Content = (Option<crate::market::Timestamp>, Option<Event>);

/// 3.4: "`instId tradeId px sz side ts source`".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TradeRow<'a> {
    #[serde(borrow)]
    inst_id: Option<Text<'a>>,
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

fn trade(element: &[u8], symbol: &str) -> Result<Content, DecodeError> {
    let row: TradeRow<'_> = read(TRADE, element)?;
    // Ingest files a frame under `arg`.
    if let Some(Text(named)) = row.inst_id.filter(|named| named.0 != symbol) {
        return Err(DecodeError { what: TRADE, why: format!("its arg says {symbol:?}, its data {named:?}") });
    }
    let trade = Trade {
        id: trade_id(TRADE, "tradeId", row.trade_id.integer(TRADE, "tradeId")?)?,
        ts: millis(TRADE, "ts", row.ts.integer(TRADE, "ts")?)?,
        price: row.px.decimal(TRADE, "px")?,
        quantity: row.sz.decimal(TRADE, "sz")?,
        side: side(TRADE, &row.side.0)?,
        trade_ids: None,
    };
    Ok((None, Some(Event::Trade(trade))))
}

/// 3.4: "`side` = taker"; WebSocket and REST share the rule.
pub(super) fn side(what: &'static str, text: &str) -> Result<Side, DecodeError> {
    text.parse().map_err(|()| DecodeError { what, why: format!("side {text:?} is neither buy nor sell") })
}

/// Reads an exact number: `decimal` for frames, `storable` for REST.
pub(super) type ReadDecimal = fn(&'static str, &str, &str) -> Result<rust_decimal::Decimal, DecodeError>;

/// 3.5: "rows `[ts,o,h,l,c,vol,volCcy,volCcyQuote,confirm]`; `confirm` "0" / "1""; WebSocket and REST share the row.
pub(super) fn kline(
    what: &'static str,
    interval: Interval,
    element: &[u8],
    number: ReadDecimal,
) -> Result<Kline, DecodeError> {
    let row: Vec<Written<'_>> = read(what, element)?;
    let [ts, open, high, low, close, volume, _, quote_volume, confirm, ..] = row.as_slice() else {
        return Err(DecodeError { what, why: format!("its row has {} columns, not 9", row.len()) });
    };
    let opened = open_time(what, interval, millis(what, "ts", ts.integer(what, "ts")?)?)?;
    let end = opened.micros().checked_add(interval.micros() - 1_000);
    let closed = match confirm.text() {
        "0" => false,
        "1" => true,
        other => return Err(DecodeError { what, why: format!("confirm {other:?} is neither 0 nor 1") }),
    };
    Ok(Kline {
        interval,
        open_time: opened,
        // The row names no end: the last millisecond, as times are in milliseconds.
        close_time: match end {
            Some(end) => crate::market::Timestamp(end),
            None => return Err(DecodeError { what, why: format!("ts {opened} has no end") }),
        },
        open: number(what, "o", open.text())?,
        high: number(what, "h", high.text())?,
        low: number(what, "l", low.text())?,
        close: number(what, "c", close.text())?,
        volume: number(what, "vol", volume.text())?,
        quote_volume: number(what, "volCcyQuote", quote_volume.text())?,
        // The row neither counts nor names its trades.
        trade_count: 0,
        first_trade_id: -1,
        last_trade_id: -1,
        closed,
    })
}

/// 3.6: `bbo-tbt` is the first level of the book: "Rows `[px, sz, "0", orders]`", with seqId.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookRow<'a> {
    #[serde(borrow)]
    asks: Vec<Vec<Written<'a>>>,
    #[serde(borrow)]
    bids: Vec<Vec<Written<'a>>>,
    #[serde(borrow)]
    ts: Option<Written<'a>>,
    #[serde(borrow)]
    seq_id: Written<'a>,
}

fn book(element: &[u8]) -> Result<Content, DecodeError> {
    let row: BookRow<'_> = read(BOOK, element)?;
    let event_time = match row.ts {
        Some(ts) => Some(millis(BOOK, "ts", ts.integer(BOOK, "ts")?)?),
        None => None,
    };
    // A book without offers on one side has no best price there.
    let (Some(ask), Some(bid)) = (row.asks.first(), row.bids.first()) else { return Ok((event_time, None)) };
    let ([ask, ask_quantity, ..], [bid, bid_quantity, ..]) = (ask.as_slice(), bid.as_slice()) else {
        return Err(DecodeError { what: BOOK, why: "a level has no price or no size".to_owned() });
    };
    let book = Book {
        update_id: integer(BOOK, "seqId", row.seq_id.text())?,
        bid: bid.decimal(BOOK, "bids")?,
        bid_quantity: bid_quantity.decimal(BOOK, "bids")?,
        ask: ask.decimal(BOOK, "asks")?,
        ask_quantity: ask_quantity.decimal(BOOK, "asks")?,
    };
    Ok((event_time, Some(Event::Book(book))))
}
