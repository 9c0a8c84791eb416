//! Routes and decodes frames of spot and USD-M. The hot path reads the bytes once and allocates nothing for a good frame.
//!
//! We connect to `/stream`, so frames are `{"stream":"<name>","data":{...}}`, with the keys in this order in every
//! capture. The name selects the parser before any JSON is read. A frame of another shape (another key order, no
//! wrapper) takes the slow path, with the same result.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use super::streams;
use crate::exchange::fields::{decimal, millis, trade_id};
use crate::exchange::{DecodeError, Event, MarketEvent, Route, SubscriptionAnswer};
use crate::market::{Book, Channel, Kline, Trade, small_letters};

const TRADE: &str = "trade frame";
const AGG_TRADE: &str = "aggTrade frame";
const KLINE: &str = "kline frame";
const BOOK: &str = "bookTicker frame";
const FRAME: &str = "frame";
/// "combined {"stream":"!serverShutdown","data":{...}}; reconnect at once".
const SHUTDOWN: &str = "serverShutdown";

/// Finds what a frame is about in its first bytes.
pub(in crate::exchange) fn route(payload: &[u8]) -> Route<'_> {
    match split_name(payload) {
        Some((name, _)) if name.strip_prefix('!') == Some(SHUTDOWN) => Route::Shutdown,
        Some((name, _)) => Route::Stream(Cow::Borrowed(name)),
        None => route_slow(payload),
    }
}

/// Decodes a frame.
pub(in crate::exchange) fn decode(payload: &[u8]) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    if let Some((name, rest)) = split_name(payload)
        && let Some(data) = rest.strip_prefix(br#","data":"#)
        && let Some(data) = data.trim_ascii_end().strip_suffix(b"}")
        && let Ok(data) = std::str::from_utf8(data)
        && let Ok(decoded) = decode_data(name, data)
    {
        return Ok(decoded);
    }
    // The slow path reads the whole frame again, and its error is the one to report.
    decode_slow(payload)
}

/// The stream's name and everything after its closing quote, when the frame starts as Binance's frames do.
fn split_name(payload: &[u8]) -> Option<(&str, &[u8])> {
    let rest = payload.strip_prefix(br#"{"stream":""#)?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    let (name, rest) = rest.split_at(end);
    if name.contains(&b'\\') {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, rest.get(1..)?))
}

/// A text of a frame: borrowed, unless it escapes a character (`\u5e01`).
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The top level of any frame: a wrapped one, a raw one or an answer.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    stream: Option<Name<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    e: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    msg: Option<&'a RawValue>,
    #[serde(borrow)]
    s: Option<&'a RawValue>,
    #[serde(borrow)]
    k: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    result: bool,
    #[serde(default, rename = "B", deserialize_with = "present")]
    bid_quantity: bool,
    #[serde(default, rename = "A", deserialize_with = "present")]
    ask_quantity: bool,
}

/// True for a key that is present, even when its value is null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Ok(true)
}

/// The interval of a kline.
#[derive(Deserialize)]
struct KlineInterval<'a> {
    i: &'a str,
}

impl<'a> Envelope<'a> {
    fn event(&self) -> Option<&'a str> {
        serde_json::from_str(self.e?.get()).ok()
    }

    /// The name of the stream of a frame without a wrapper, from its content.
    fn content_name(&self) -> Option<String> {
        let symbol: Name<'_> = serde_json::from_str(self.s?.get()).ok()?;
        let mut name: String = small_letters(&symbol.0).collect();
        name.push('@');
        match self.event() {
            Some("kline") => {
                let kline: KlineInterval<'_> = serde_json::from_str(self.k?.get()).ok()?;
                name.push_str("kline_");
                name.push_str(kline.i);
            }
            Some(event) => name.push_str(event),
            // "bookTicker: u s b B a A - no event time, no e".
            None if self.bid_quantity && self.ask_quantity => name.push_str("bookTicker"),
            None => return None,
        }
        Some(name)
    }

    /// "`{"result":null,"id":1}`" or an error: "`{"code":N,"msg":"...","id":...}`"; newer servers wrap the
    /// code and message in `"error"`.
    fn answer(&self) -> Option<Route<'a>> {
        if !self.result && self.error.is_none() && self.code.is_none() {
            return None;
        }
        let error = match (self.error, self.code) {
            (Some(error), _) => Some(error.get().to_owned()),
            (None, Some(code)) => {
                Some(format!("{}: {}", code.get(), self.msg.map_or("no message", |msg| msg.get().trim_matches('"'))))
            }
            (None, None) => None,
        };
        let id = self.id.and_then(|id| id.get().trim_matches('"').parse().ok());
        Some(Route::Answer(SubscriptionAnswer { id, streams: Vec::new(), error }))
    }
}

fn route_slow(payload: &[u8]) -> Route<'_> {
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(payload) else {
        return Route::Other;
    };
    if let Some(Name(name)) = envelope.stream {
        return if name.strip_prefix('!') == Some(SHUTDOWN) { Route::Shutdown } else { Route::Stream(name) };
    }
    // "raw {"e":"serverShutdown","E":...}".
    if envelope.event() == Some(SHUTDOWN) {
        return Route::Shutdown;
    }
    if let Some(name) = envelope.content_name() {
        return Route::Stream(Cow::Owned(name));
    }
    match envelope.event() {
        Some(_) => Route::Other,
        None => envelope.answer().unwrap_or(Route::Other),
    }
}

fn decode_slow(payload: &[u8]) -> Result<Option<MarketEvent<'_>>, DecodeError> {
    let text = std::str::from_utf8(payload).map_err(|error| DecodeError { what: FRAME, why: error.to_string() })?;
    let envelope: Envelope<'_> = read(FRAME, text)?;
    match (&envelope.stream, envelope.data) {
        (Some(name), Some(data)) => return decode_data(&name.0, data.get()),
        (None, None) => {}
        _ => return Err(DecodeError { what: FRAME, why: "it has only one of stream and data".to_owned() }),
    }
    match envelope.event() {
        Some("trade") => return trade(None, text),
        Some("aggTrade") => return agg_trade(None, text),
        Some("kline") => return kline(None, text),
        // 2.6: "bookTicker is e u s ps b B a A T E st": spot has neither `e` nor a time.
        Some("bookTicker") => return book(None, text),
        Some(_) => return Ok(None),
        None => {}
    }
    if envelope.answer().is_some() {
        return Ok(None);
    }
    // "bookTicker: u s b B a A - no event time, no e".
    if envelope.bid_quantity && envelope.ask_quantity {
        return book(None, text);
    }
    Err(DecodeError { what: FRAME, why: "it is neither data of a stream nor an answer".to_owned() })
}

/// Reads the data of the stream `name`. Of channels that we do not record it only checks that they are JSON.
fn decode_data<'a>(name: &str, data: &'a str) -> Result<Option<MarketEvent<'a>>, DecodeError> {
    let symbol = name.split('@').next();
    match streams::channel(name) {
        Some(Channel::Trade) => return trade(symbol, data),
        Some(Channel::AggTrade) => return agg_trade(symbol, data),
        Some(Channel::BookTicker) => return book(symbol, data),
        Some(Channel::Kline(interval)) => return kline(symbol.map(|symbol| (symbol, interval.as_str())), data),
        None => {}
    }
    read::<IgnoredAny>(FRAME, data)?;
    Ok(None)
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T, DecodeError> {
    serde_json::from_str(text).map_err(|error| DecodeError { what, why: error.to_string() })
}

/// Checks that stream and data name one symbol: ingest files a frame under the stream's name, consume under `s`.
fn require_equal(what: &'static str, name: &str, in_data: &str) -> Result<(), DecodeError> {
    if name.eq_ignore_ascii_case(in_data) || small_letters(in_data).eq(name.chars()) {
        return Ok(());
    }
    Err(DecodeError { what, why: format!("its stream says {name:?}, its data {in_data:?}") })
}

/// "`<s>@trade`: e E s t p q T m M"; "b, a were removed 2024-06-18": never read. 2.4: "`X` = MARKET, INSURANCE_FUND or ADL:
/// keep it": each is a trade with an id of its own.
#[derive(Deserialize)]
struct TradeFrame<'a> {
    e: &'a str,
    #[serde(rename = "E")]
    event_time: Option<i64>,
    #[serde(borrow)]
    s: Name<'a>,
    t: i64,
    p: &'a str,
    q: &'a str,
    #[serde(rename = "T")]
    trade_time: i64,
    m: bool,
}

fn trade<'a>(name: Option<&str>, text: &'a str) -> Result<Option<MarketEvent<'a>>, DecodeError> {
    let frame: TradeFrame<'a> = read(TRADE, text)?;
    require_equal(TRADE, "trade", frame.e)?;
    if let Some(name) = name {
        require_equal(TRADE, name, &frame.s.0)?;
    }
    let trade = Trade {
        id: trade_id(TRADE, "t", frame.t)?,
        ts: millis(TRADE, "T", frame.trade_time)?,
        price: decimal(TRADE, "p", frame.p)?,
        quantity: decimal(TRADE, "q", frame.q)?,
        side: super::rest::taker_side(frame.m),
        trade_ids: None,
    };
    let event_time = frame.event_time.map(|ms| millis(TRADE, "E", ms)).transpose()?;
    Ok(Some(MarketEvent { symbol: frame.s.0, event_time, event: Event::Trade(trade) }))
}

/// 1.4: "`<s>@aggTrade`: e E s a p q f l T m M"; "`a` aggregate id, `f..l` trade-id range". 2.4: "e E s a p q nq f l T m st":
/// `q` is the whole quantity, `nq` the one without RPI trades.
#[derive(Deserialize)]
struct AggTradeFrame<'a> {
    e: &'a str,
    #[serde(rename = "E")]
    event_time: Option<i64>,
    #[serde(borrow)]
    s: Name<'a>,
    a: i64,
    p: &'a str,
    q: &'a str,
    f: i64,
    l: i64,
    #[serde(rename = "T")]
    trade_time: i64,
    m: bool,
}

fn agg_trade<'a>(name: Option<&str>, text: &'a str) -> Result<Option<MarketEvent<'a>>, DecodeError> {
    let frame: AggTradeFrame<'a> = read(AGG_TRADE, text)?;
    require_equal(AGG_TRADE, "aggTrade", frame.e)?;
    if let Some(name) = name {
        require_equal(AGG_TRADE, name, &frame.s.0)?;
    }
    let trade = Trade {
        id: trade_id(AGG_TRADE, "a", frame.a)?,
        ts: millis(AGG_TRADE, "T", frame.trade_time)?,
        price: decimal(AGG_TRADE, "p", frame.p)?,
        quantity: decimal(AGG_TRADE, "q", frame.q)?,
        side: super::rest::taker_side(frame.m),
        trade_ids: Some(super::rest::trade_ids(AGG_TRADE, frame.f, frame.l)?),
    };
    let event_time = frame.event_time.map(|ms| millis(AGG_TRADE, "E", ms)).transpose()?;
    Ok(Some(MarketEvent { symbol: frame.s.0, event_time, event: Event::Trade(trade) }))
}

/// "`<s>@kline_<i>`: e E s k{...}".
#[derive(Deserialize)]
struct KlineFrame<'a> {
    e: &'a str,
    #[serde(rename = "E")]
    event_time: Option<i64>,
    #[serde(borrow)]
    s: Name<'a>,
    #[serde(borrow)]
    k: KlineData<'a>,
}

/// "k{t T s i f L o c h l v n x q V Q B}".
#[derive(Deserialize)]
struct KlineData<'a> {
    t: i64,
    #[serde(rename = "T")]
    close_time: i64,
    i: &'a str,
    f: i64,
    #[serde(rename = "L")]
    last_trade_id: i64,
    o: &'a str,
    c: &'a str,
    h: &'a str,
    l: &'a str,
    v: &'a str,
    n: i64,
    x: bool,
    q: &'a str,
}

fn kline<'a>(name: Option<(&str, &str)>, text: &'a str) -> Result<Option<MarketEvent<'a>>, DecodeError> {
    let frame: KlineFrame<'a> = read(KLINE, text)?;
    require_equal(KLINE, "kline", frame.e)?;
    let data = frame.k;
    if let Some((symbol, interval)) = name {
        require_equal(KLINE, symbol, &frame.s.0)?;
        if interval != data.i {
            return Err(DecodeError { what: KLINE, why: format!("its stream says {interval}, its data {:?}", data.i) });
        }
    }
    let Ok(interval) = data.i.parse() else {
        return Ok(None);
    };
    let kline = Kline {
        interval,
        open_time: millis(KLINE, "k.t", data.t)?,
        close_time: millis(KLINE, "k.T", data.close_time)?,
        open: decimal(KLINE, "k.o", data.o)?,
        high: decimal(KLINE, "k.h", data.h)?,
        low: decimal(KLINE, "k.l", data.l)?,
        close: decimal(KLINE, "k.c", data.c)?,
        volume: decimal(KLINE, "k.v", data.v)?,
        quote_volume: decimal(KLINE, "k.q", data.q)?,
        trade_count: data.n,
        // "No trades: n=0, f=-1, L=-1".
        first_trade_id: data.f,
        last_trade_id: data.last_trade_id,
        // "x = closed".
        closed: data.x,
    };
    let event_time = frame.event_time.map(|ms| millis(KLINE, "E", ms)).transpose()?;
    Ok(Some(MarketEvent { symbol: frame.s.0, event_time, event: Event::Kline(kline) }))
}

/// "`<s>@bookTicker`: u s b B a A"; 2.6: "e u s ps b B a A T E st".
#[derive(Deserialize)]
struct BookFrame<'a> {
    e: Option<&'a str>,
    #[serde(rename = "E")]
    event_time: Option<i64>,
    u: i64,
    #[serde(borrow)]
    s: Name<'a>,
    b: &'a str,
    #[serde(rename = "B")]
    bid_quantity: &'a str,
    a: &'a str,
    #[serde(rename = "A")]
    ask_quantity: &'a str,
}

fn book<'a>(name: Option<&str>, text: &'a str) -> Result<Option<MarketEvent<'a>>, DecodeError> {
    let frame: BookFrame<'a> = read(BOOK, text)?;
    require_equal(BOOK, "bookTicker", frame.e.unwrap_or("bookTicker"))?;
    if let Some(name) = name {
        require_equal(BOOK, name, &frame.s.0)?;
    }
    let book = Book {
        update_id: frame.u,
        bid: decimal(BOOK, "b", frame.b)?,
        bid_quantity: decimal(BOOK, "B", frame.bid_quantity)?,
        ask: decimal(BOOK, "a", frame.a)?,
        ask_quantity: decimal(BOOK, "A", frame.ask_quantity)?,
    };
    let event_time = frame.event_time.map(|ms| millis(BOOK, "E", ms)).transpose()?;
    Ok(Some(MarketEvent { symbol: frame.s.0, event_time, event: Event::Book(book) }))
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
