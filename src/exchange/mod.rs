//! The exchange port: a pure [`Dialect`] per exchange, one WebSocket loop and one REST client for all exchanges.
//!
//! A dialect decides what to send, what a frame is and what to request over REST; `socket` and `rest` do the I/O.
//! A dialect never sees a clock, a socket or the runtime, so its tests need recorded bytes only.

pub mod binance;
pub mod catalog;
mod feed;
mod json_parts;
mod listing_state;
mod page;
mod proxy;
pub mod rest;
mod retry_after;
pub mod socket;
mod tls;

pub use feed::{Feed, Since};
pub use listing_state::{ListingEntry, ListingStates, TradingState};
pub use page::{Page, RefusedRow};
pub use proxy::Proxy;

use std::borrow::Cow;
use std::time::Duration;

use crate::gap::Range;
use crate::market::{Book, Channel, Exchange, Interval, Kline, Stream, Timestamp, Trade};

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One trade.
    Trade(Trade),
    /// A kline, closed or still open.
    Kline(Kline),
    /// Best bid and ask.
    Book(Book),
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodedFrame<'a> {
    /// Market data of `symbol`.
    Market {
        /// As the exchange spells it in configuration (upper case on Binance). Borrowed from the frame, unless the frame
        /// escapes a character of it (`\u5e01`).
        symbol: Cow<'a, str>,
        /// The exchange's own event time, when the frame has one; never earlier than the event's own time.
        event_time: Option<Timestamp>,
        /// The data.
        event: Event,
    },
    /// A frame without market data that we record: acknowledgements, other channels.
    Ignored,
}

/// What a frame is about. Ingest needs it for every frame, so it is found without decoding the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// Data of one stream, under the name that [`Dialect::stream_name`] returns. Also of a frame without that name whose
    /// content names the stream.
    Stream(Cow<'a, str>),
    /// The answer to a request we sent; `error` is the exchange's own text.
    Answer {
        /// The number of our request.
        id: Option<u64>,
        /// `None` when the exchange accepted the request.
        error: Option<String>,
    },
    /// The exchange announces that it will close this connection: open another one now.
    Shutdown,
    /// Anything else; ingest logs it too.
    Other,
}

/// A frame or answer that is not what the exchange documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {what}: {why}")]
pub struct DecodeError {
    /// The kind of input: `trade frame`, `klines answer`.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// Most characters of a [`DecodeError`]'s reason: an error quotes the input, and an input may have megabytes.
const REASON_MAX: usize = 300;

impl DecodeError {
    /// The same error with a reason of at most 300 characters.
    pub fn shortened(mut self) -> Self {
        if let Some((end, _)) = self.why.char_indices().nth(REASON_MAX) {
            self.why.truncate(end);
            self.why.push_str("...");
            self.why.shrink_to_fit();
        }
        self
    }
}

/// The exchange's limits for one connection.
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
    /// A connection that delivered nothing at all (not even a ping) for this long is dead.
    pub silence_max: Duration,
    /// The exchange cuts a connection at this age.
    pub lifetime: Duration,
}

/// A request over REST, without the base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestRequest {
    /// `/api/v3/klines?symbol=...`, query included.
    pub path: String,
    /// The part of the exchange's request budget that it uses.
    pub weight: u32,
}

/// Limits and symbols, as the exchange lists them (Binance: `exchangeInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeInfo {
    /// Request weight allowed per minute and address.
    pub weight_per_minute: Option<u32>,
    /// Listed symbols, and whether each trades now.
    pub symbols: Vec<(String, ListingEntry)>,
    /// Requested symbols that the exchange does not know. The REST client finds them: the answer is then an error.
    pub unlisted: Vec<String>,
    /// What could not be read or is not plausible, in words; everything else is in the other fields.
    pub unreadable: Vec<String>,
}

/// An error object, whatever the HTTP status of its answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerError {
    /// What it means.
    pub kind: AnswerErrorKind,
    /// The exchange's number of the error.
    pub code: i64,
    /// The exchange's own words.
    pub msg: String,
}

/// What an error object means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerErrorKind {
    /// Too many requests: as HTTP 429.
    Limited,
    /// The address is banned: as HTTP 418.
    Banned,
    /// The exchange does not know the symbol.
    UnknownSymbol,
    /// The exchange itself has a problem: as HTTP 5xx.
    Unavailable,
    /// Anything else.
    Other,
}

/// One exchange's protocol. Pure.
pub trait Dialect: Send + Sync {
    /// The exchange that speaks it.
    fn exchange(&self) -> Exchange;

    /// The exchange's own WebSocket base, without a path.
    fn ws_base(&self) -> &'static str;

    /// The exchange's own REST base, without a path.
    fn rest_base(&self) -> &'static str;

    /// Path and query to connect to.
    fn ws_path(&self) -> &'static str;

    /// The limits for one connection.
    fn limits(&self) -> SocketLimits;

    /// Requests that subscribe to `streams`, each under the size limit, numbered from `first_id`.
    fn subscribe(&self, streams: &[Stream], first_id: u64) -> Vec<String>;

    /// Requests that unsubscribe from `streams`, numbered from `first_id`.
    fn unsubscribe(&self, streams: &[Stream], first_id: u64) -> Vec<String>;

    /// The exchange's own name of a stream: `btcusdt@trade`.
    fn stream_name(&self, stream: &Stream) -> String;

    /// The channel of a stream by the exchange's name of it; `None` for a channel that no [`Channel`] stands for.
    fn channel(&self, stream_name: &str) -> Option<Channel>;

    /// What a frame is about, without decoding it.
    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a>;

    /// Decodes a frame. A frame that returns an error becomes a dead letter.
    fn decode<'a>(&self, payload: &'a [u8]) -> Result<DecodedFrame<'a>, DecodeError>;

    /// The request weight allowed per minute until [`Dialect::info_answer`] returns the exchange's own number.
    fn weight_per_minute(&self) -> u32;

    /// The header that carries the weight used in this minute, lower case.
    fn weight_header(&self) -> &'static str;

    /// The end of the ban that an error answer's body names; `None` when it names none.
    fn banned_until(&self, body: &str) -> Option<Timestamp>;

    /// How long the exchange serves old rows of a channel over REST, by its documents; `None` is for ever. A repair
    /// learns what the exchange really serves.
    fn rest_retention(&self, channel: Channel) -> Option<Duration>;

    /// Most rows one page of trades has.
    fn trades_page_max(&self) -> i64;

    /// Requests trades of a symbol with ids from `range.first` up, at most one page.
    fn trades_request(&self, symbol: &str, range: Range) -> RestRequest;

    /// Reads the answer to [`Dialect::trades_request`]. A row that is later than `latest` is refused.
    fn trades_answer(&self, body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError>;

    /// Requests the newest trade of a symbol at the lowest weight.
    fn newest_request(&self, symbol: &str) -> RestRequest;

    /// Requests the same from another endpoint, for servers that refuse [`Dialect::newest_request`] or answer it with
    /// something else; [`Dialect::newest_answer`] reads both answers. `None`: there is no other endpoint.
    fn newest_fallback_request(&self, symbol: &str) -> Option<RestRequest>;

    /// Reads the id and time of the newest trade; `None` when the symbol has never traded.
    fn newest_answer(&self, body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError>;

    /// Requests the first trade at or after `at`.
    fn trade_at_request(&self, symbol: &str, at: Timestamp) -> RestRequest;

    /// Reads the id of the first trade; `None` when there is none at or after that time.
    fn trade_at_answer(&self, body: &[u8]) -> Result<Option<i64>, DecodeError>;

    /// Most rows one page of klines has.
    fn klines_page_max(&self) -> i64;

    /// Requests klines with open times in `range` (microseconds), at most one page, ascending.
    fn klines_request(&self, symbol: &str, interval: Interval, range: Range) -> RestRequest;

    /// Reads klines. A kline is closed when its close time is before `now`, the exchange's time; one that opens later
    /// than `latest` is refused. First and last trade ids are -1: the answer does not have them.
    fn klines_answer(
        &self,
        interval: Interval,
        body: &[u8],
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Page<Kline>, DecodeError>;

    /// Requests the exchange's clock.
    fn time_request(&self) -> RestRequest;

    /// Reads the exchange's clock. An error when it is before 1970 or centuries ahead.
    fn time_answer(&self, body: &[u8]) -> Result<Timestamp, DecodeError>;

    /// Requests limits and listed symbols; no symbols means all. The caller divides a list that makes it too long.
    fn info_request(&self, symbols: &[String]) -> RestRequest;

    /// Reads limits and listed symbols; an unreadable element costs itself only.
    fn info_answer(&self, body: &[u8]) -> Result<ExchangeInfo, DecodeError>;

    /// The error object that is the whole body of an answer; `None` when the body is anything else.
    fn answer_error(&self, body: &[u8]) -> Option<AnswerError>;
}

/// The one TLS configuration of this process; every other client uses it too.
pub fn tls_config() -> std::sync::Arc<rustls::ClientConfig> {
    tls::client_config()
}

/// The message for a 403 or 451; `key` is the feed's key that selects another address.
fn refused_address(status: u16, key: &str) -> String {
    let why = if status == 451 { "a geo-block" } else { "a firewall or geo-block" };
    format!("the exchange refuses this address (HTTP {status}: {why}): use a server in a permitted region or set {key}")
}
