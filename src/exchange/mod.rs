//! The port of an exchange: a pure [`Dialect`] per exchange, one WebSocket loop and one REST client for all.
//!
//! A dialect decides (what to send, what a frame is, what to ask over REST); `socket` and `rest` act.
//! It never sees a clock, a socket or the runtime, so it is tested on recorded bytes alone.

pub mod binance;
mod feed;
mod proxy;
pub mod rest;
pub mod socket;
mod tls;

pub use feed::{Feed, Since};
pub use proxy::Proxy;

use std::time::Duration;

use crate::gap::Range;
use crate::market::{Book, Channel, Exchange, Interval, Kline, Stream, Timestamp, Trade};

/// A frame's content; the symbol is borrowed from the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One trade.
    Trade(Trade),
    /// A kline, closed or still open.
    Kline(Kline),
    /// Best bid and ask.
    Book(Book),
}

/// What a frame turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodedFrame<'a> {
    /// Market data of `symbol`.
    Market {
        /// As the exchange spells it in configuration (upper case on Binance).
        symbol: &'a str,
        /// The exchange's own event time, when the frame has one; never earlier than what it tells of.
        event_time: Option<Timestamp>,
        /// The data.
        event: Event,
    },
    /// A frame that carries no market data we record: acknowledgements, other channels.
    Ignored,
}

/// What a frame is about, told without decoding it: for ingest, which must be cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// Data of one stream, by the name [`Dialect::stream_name`] gives it.
    Stream(&'a str),
    /// The answer to a request we sent; `error` is the exchange's own text.
    Answer {
        /// Our request's number.
        id: Option<u64>,
        /// `None` when it was accepted.
        error: Option<String>,
    },
    /// The exchange announces that it will close this connection: open another one now.
    Shutdown,
    /// Anything else; it is logged all the same.
    Other,
}

/// A frame or answer that is not what the exchange documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {what}: {why}")]
pub struct DecodeError {
    /// What was being decoded: `trade frame`, `klines answer`.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// What the exchange tolerates on one connection.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// Most messages we send per second, pongs included.
    pub messages_per_second: u32,
    /// Most streams on one connection.
    pub streams_per_connection: usize,
    /// Most bytes of one request.
    pub request_bytes_max: usize,
    /// Most connection attempts in `connects_window`.
    pub connects_max: u32,
    /// See `connects_max`.
    pub connects_window: Duration,
    /// A connection on which nothing at all (not even a ping) came for so long is dead.
    pub silence_max: Duration,
    /// The exchange cuts a connection at this age.
    pub lifetime: Duration,
}

/// A request over REST, without the base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestRequest {
    /// `/api/v3/klines?symbol=...`, query included.
    pub path: String,
    /// What it costs of the exchange's budget.
    pub weight: u32,
}

/// What the exchange says of its budget in `exchangeInfo` or the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeInfo {
    /// Request weight allowed per minute and address.
    pub weight_per_minute: Option<u32>,
    /// Symbols that are listed, with whether they trade now.
    pub symbols: Vec<(String, bool)>,
}

/// One exchange's language. Pure.
pub trait Dialect: Send + Sync {
    /// Whose.
    fn exchange(&self) -> Exchange;

    /// The exchange's own WebSocket base, without a path.
    fn ws_base(&self) -> &'static str;

    /// The exchange's own REST base, without a path.
    fn rest_base(&self) -> &'static str;

    /// Path and query to connect to.
    fn ws_path(&self) -> &'static str;

    /// What one connection may do.
    fn limits(&self) -> SocketLimits;

    /// Requests that subscribe to `streams`, each under the size limit, numbered from `first_id`.
    fn subscribe(&self, streams: &[Stream], first_id: u64) -> Vec<String>;

    /// Requests that end the subscription to `streams`.
    fn unsubscribe(&self, streams: &[Stream], first_id: u64) -> Vec<String>;

    /// The exchange's own name of a stream: `btcusdt@trade`.
    fn stream_name(&self, stream: &Stream) -> String;

    /// What a frame is about, without decoding it.
    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a>;

    /// Everything a frame says. An error is a dead letter.
    fn decode<'a>(&self, payload: &'a [u8]) -> Result<DecodedFrame<'a>, DecodeError>;

    /// The request weight allowed per minute until the exchange says otherwise.
    fn weight_per_minute(&self) -> u32;

    /// The header that carries the weight used in this minute, lower case.
    fn weight_header(&self) -> &'static str;

    /// When a refusal is a ban: until when, from the answer's body (milliseconds since 1970 there).
    fn banned_until(&self, body: &str) -> Option<Timestamp>;

    /// For how long the exchange serves what is old of a channel over REST, by its documents; `None` is for ever. What
    /// it serves in truth, a repair finds out.
    fn rest_retention(&self, channel: Channel) -> Option<Duration>;

    /// Most rows one page of trades has.
    fn trades_page_max(&self) -> i64;

    /// Trades of a symbol with ids from `range.first` up, at most one page.
    fn trades_request(&self, symbol: &str, range: Range) -> RestRequest;

    /// Reads the answer to [`Dialect::trades_request`], ascending.
    fn trades_answer(&self, body: &[u8]) -> Result<Vec<Trade>, DecodeError>;

    /// Asks for the newest trade of a symbol, as cheaply as can be.
    fn newest_request(&self, symbol: &str) -> RestRequest;

    /// Asks the same another way, for servers that refuse [`Dialect::newest_request`] or answer it with
    /// something else; [`Dialect::newest_answer`] reads both answers. `None`: there is no other way.
    fn newest_fallback_request(&self, symbol: &str) -> Option<RestRequest>;

    /// Reads the id and time of the newest trade; `None` when there was never one.
    fn newest_answer(&self, body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError>;

    /// Asks for the first trade at or after `at`.
    fn trade_at_request(&self, symbol: &str, at: Timestamp) -> RestRequest;

    /// Reads the id of the first trade; `None` when there is none from there on.
    fn trade_at_answer(&self, body: &[u8]) -> Result<Option<i64>, DecodeError>;

    /// Most rows one page of klines has.
    fn klines_page_max(&self) -> i64;

    /// Klines with open times in `range` (microseconds), at most one page, ascending.
    fn klines_request(&self, symbol: &str, interval: Interval, range: Range) -> RestRequest;

    /// Reads klines; `now` (the exchange's) tells closed ones from the open one. First and last trade
    /// ids are -1: the answer does not have them.
    fn klines_answer(&self, interval: Interval, body: &[u8], now: Timestamp) -> Result<Vec<Kline>, DecodeError>;

    /// Asks for the exchange's clock.
    fn time_request(&self) -> RestRequest;

    /// Reads the exchange's clock.
    fn time_answer(&self, body: &[u8]) -> Result<Timestamp, DecodeError>;

    /// Asks for limits and listed symbols.
    fn info_request(&self, symbols: &[String]) -> RestRequest;

    /// Reads limits and listed symbols.
    fn info_answer(&self, body: &[u8]) -> Result<ExchangeInfo, DecodeError>;

    /// The exchange's text when an error answer means that the symbol does not exist; else `None`.
    fn unknown_symbol(&self, body: &str) -> Option<String>;
}

/// The TLS configuration of this process, for any other client it needs.
pub fn tls_config() -> std::sync::Arc<rustls::ClientConfig> {
    tls::client_config()
}

/// What to say of a 403 or 451, and which key of the feed helps.
fn refused_address(status: u16, key: &str) -> String {
    let why = if status == 451 { "a geo-block" } else { "a firewall or geo-block" };
    format!("the exchange refuses this address (HTTP {status}: {why}): use a server in a permitted region or set {key}")
}
