//! Routes and decodes Bybit's frames: `{"topic":...,"type":...,"ts":...,"data":...}`, and answers to operations.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{minutes, parts_of};
use crate::exchange::fields::{Text, Written, millis, open_time, read, trade_id};
use crate::exchange::json_parts::array_elements;
use crate::exchange::{DecodeError, Event, MarketEvent, Route, SubscriptionAnswer};
use crate::market::{Book, Channel, Interval, Kline, Side, Timestamp, Trade};

const FRAME: &str = "frame";
const TRADE: &str = "publicTrade frame";
const KLINE: &str = "kline frame";
const BOOK: &str = "orderbook frame";

/// The top level of any frame. 4.4: "The frame's key order differs (`ts` before `type`): parse by name".
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    topic: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    ts: Option<Written<'a>>,
    #[serde(borrow)]
    op: Option<Text<'a>>,
    success: Option<bool>,
    #[serde(borrow)]
    ret_msg: Option<Text<'a>>,
    #[serde(borrow)]
    req_id: Option<Written<'a>>,
}

/// Finds what a frame is about.
pub(super) fn route(payload: &[u8]) -> Route<'_> {
    let Ok(frame) = serde_json::from_slice::<Frame<'_>>(payload) else { return Route::Other };
    if let (Some(Text(topic)), Some(_)) = (frame.topic, frame.data) {
        return Route::Stream(topic);
    }
    match frame.op.as_ref().map(|op| &*op.0) {
        // 4.2: "Answer on spot ...: {"success":true,"ret_msg":"pong",...,"op":"ping"} (`op` is *ping*); on option and
        // private `op:"pong"`".
        Some("ping" | "pong") => Route::Heartbeat,
        Some("subscribe" | "unsubscribe") => {
            let msg = frame.ret_msg.as_ref().map_or("", |msg| &*msg.0);
            // A topic that the connection has already is refused with this text: it is subscribed.
            let is_refused = frame.success == Some(false) && !msg.contains("already subscribed");
            let id = frame.req_id.and_then(|id| id.text().parse().ok());
            let error = is_refused.then(|| if msg.is_empty() { "no reason".to_owned() } else { msg.to_owned() });
            Route::Answer(SubscriptionAnswer { id, streams: Vec::new(), error })
        }
        _ => Route::Other,
    }
}

/// Decodes a frame; of a list with a bad element the others are passed.
pub(super) fn decode<'a>(payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
    let frame: Frame<'a> = read(FRAME, payload)?;
    let (Some(Text(topic)), Some(data)) = (frame.topic, frame.data) else {
        return match frame.op.is_some() || frame.success.is_some() {
            true => Ok(()),
            false => Err(DecodeError { what: FRAME, why: "it is neither data of a topic nor an answer".to_owned() }),
        };
    };
    let Some((channel, symbol)) = parts_of(&topic) else { return Ok(()) };
    let what = match channel {
        Channel::Trade | Channel::AggTrade => TRADE,
        Channel::Kline(_) => KLINE,
        Channel::BookTicker => BOOK,
    };
    let event_time = frame.ts.map(|ts| millis(what, "ts", ts.integer(what, "ts")?)).transpose()?;
    // Borrowed from the frame where the topic is.
    let symbol: Cow<'a, str> = match &topic {
        Cow::Borrowed(topic) => Cow::Borrowed(&topic[topic.len() - symbol.len()..]),
        Cow::Owned(_) => Cow::Owned(symbol.to_owned()),
    };
    let mut pass = |event| sink(MarketEvent { symbol: symbol.clone(), event_time, event });
    let data = data.get().as_bytes();
    if channel == Channel::BookTicker {
        book(data, &symbol)?.into_iter().for_each(|book| pass(Event::Book(book)));
        return Ok(());
    }
    let mut first_error = None;
    // 4.4: "<=1024 trades per message"; 10 rule 7: "Every element of a batched array is processed".
    for element in array_elements(what, data)? {
        let decoded = match channel {
            Channel::Kline(interval) => kline(element?, interval).map(Event::Kline),
            _ => trade(element?, &symbol).map(Event::Trade),
        };
        match decoded {
            Ok(event) => pass(event),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// 4.4: "Spot rows `T s S v p i BT RPI seq`".
#[derive(Deserialize)]
struct TradeRow<'a> {
    #[serde(rename = "T", borrow)]
    trade_time: Written<'a>,
    #[serde(borrow)]
    s: Option<Text<'a>>,
    #[serde(rename = "S", borrow)]
    side: Text<'a>,
    #[serde(borrow)]
    v: Written<'a>,
    #[serde(borrow)]
    p: Written<'a>,
    #[serde(borrow)]
    i: Written<'a>,
}

fn trade(element: &[u8], symbol: &str) -> Result<Trade, DecodeError> {
    let row: TradeRow<'_> = read(TRADE, element)?;
    require_symbol(TRADE, row.s.as_ref(), symbol)?;
    Ok(Trade {
        // 4.4: "`i` on spot: 19 digits".
        id: trade_id(TRADE, "i", row.i.integer(TRADE, "i")?)?,
        ts: millis(TRADE, "T", row.trade_time.integer(TRADE, "T")?)?,
        price: row.p.decimal(TRADE, "p")?,
        quantity: row.v.decimal(TRADE, "v")?,
        side: side(TRADE, &row.side.0)?,
        trade_ids: None,
    })
}

/// Ingest files a frame under its topic.
fn require_symbol(what: &'static str, named: Option<&Text<'_>>, symbol: &str) -> Result<(), DecodeError> {
    match named.filter(|named| named.0 != symbol) {
        Some(Text(named)) => Err(DecodeError { what, why: format!("its topic says {symbol:?}, its data {named:?}") }),
        None => Ok(()),
    }
}

/// 4.4: "`S` = taker side"; WebSocket and REST share the rule.
pub(super) fn side(what: &'static str, text: &str) -> Result<Side, DecodeError> {
    match text {
        "Buy" => Ok(Side::Buy),
        "Sell" => Ok(Side::Sell),
        _ => Err(DecodeError { what, why: format!("side {text:?} is neither Buy nor Sell") }),
    }
}

/// 4.5: "`data[0].{start,end,interval,open,close,high,low,volume,turnover,confirm,timestamp}`".
#[derive(Deserialize)]
struct KlineRow<'a> {
    #[serde(borrow)]
    start: Written<'a>,
    #[serde(borrow)]
    end: Written<'a>,
    #[serde(borrow)]
    interval: Option<Text<'a>>,
    #[serde(borrow)]
    open: Written<'a>,
    #[serde(borrow)]
    close: Written<'a>,
    #[serde(borrow)]
    high: Written<'a>,
    #[serde(borrow)]
    low: Written<'a>,
    #[serde(borrow)]
    volume: Written<'a>,
    #[serde(borrow)]
    turnover: Written<'a>,
    confirm: bool,
}

fn kline(element: &[u8], interval: Interval) -> Result<Kline, DecodeError> {
    let row: KlineRow<'_> = read(KLINE, element)?;
    if let Some(Text(named)) = row.interval.filter(|named| named.0 != minutes(interval)) {
        let why = format!("its topic says {}, its data {named:?}", minutes(interval));
        return Err(DecodeError { what: KLINE, why });
    }
    let time = |name: &str, written: Written<'_>| -> Result<Timestamp, DecodeError> {
        millis(KLINE, name, written.integer(KLINE, name)?)
    };
    Ok(Kline {
        interval,
        open_time: open_time(KLINE, interval, time("start", row.start)?)?,
        close_time: time("end", row.end)?,
        open: row.open.decimal(KLINE, "open")?,
        high: row.high.decimal(KLINE, "high")?,
        low: row.low.decimal(KLINE, "low")?,
        close: row.close.decimal(KLINE, "close")?,
        volume: row.volume.decimal(KLINE, "volume")?,
        quote_volume: row.turnover.decimal(KLINE, "turnover")?,
        // The row neither counts nor names its trades.
        trade_count: 0,
        first_trade_id: -1,
        last_trade_id: -1,
        // 4.5: "`confirm` = closed".
        closed: row.confirm,
    })
}

#[derive(Deserialize)]
struct BookData<'a> {
    #[serde(borrow)]
    s: Option<Text<'a>>,
    #[serde(borrow)]
    b: Vec<Vec<Written<'a>>>,
    #[serde(borrow)]
    a: Vec<Vec<Written<'a>>>,
    #[serde(borrow)]
    u: Written<'a>,
    #[serde(borrow)]
    seq: Option<Written<'a>>,
}

/// 4.6: "Level 1 repeats an unchanged snapshot after 3 s ...; older captures have deltas on level 1 too: accept both". A
/// delta that does not have both sides is no whole book: no event.
fn book(data: &[u8], symbol: &str) -> Result<Option<Book>, DecodeError> {
    let row: BookData<'_> = read(BOOK, data)?;
    require_symbol(BOOK, row.s.as_ref(), symbol)?;
    let (Some((bid, bid_quantity)), Some((ask, ask_quantity))) = (best("b", &row.b)?, best("a", &row.a)?) else {
        return Ok(None);
    };
    // 4.6: "`u` restarts at 1 after a service restart ...; `seq` strictly rising".
    let update_id = row.seq.unwrap_or(row.u).integer(BOOK, "seq")?;
    Ok(Some(Book { update_id, bid, bid_quantity, ask, ask_quantity }))
}

type Level = (rust_decimal::Decimal, rust_decimal::Decimal);

/// The first level that is not deleted: a size of 0 deletes one.
fn best(name: &str, levels: &[Vec<Written<'_>>]) -> Result<Option<Level>, DecodeError> {
    for level in levels {
        let [price, size, ..] = level.as_slice() else {
            return Err(DecodeError { what: BOOK, why: format!("a level of {name} has no price or no size") });
        };
        let size = size.decimal(BOOK, name)?;
        if !size.is_zero() {
            return Ok(Some((price.decimal(BOOK, name)?, size)));
        }
    }
    Ok(None)
}
