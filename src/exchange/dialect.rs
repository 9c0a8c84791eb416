//! The exchange port: one pure [`Dialect`] per venue.
//!
//! A dialect decides what to send, what a frame is and what to request over REST; `socket` and `rest` do the I/O.
//! A dialect never sees a clock, a socket or the runtime, so its tests need recorded bytes only.

use std::borrow::Cow;
use std::time::Duration;

use super::peer::Peer;
use super::spec::Spec;
use super::{ListingEntry, Page};
use crate::gap::Range;
use crate::market::{Book, Channel, Exchange, Interval, Kline, SpellingError, Stream, Symbol, Timestamp, Trade};

/// The content of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One trade, or one aggregate trade.
    Trade(Trade),
    /// A kline, closed or still open.
    Kline(Kline),
    /// Best bid and ask.
    Book(Book),
}

/// Market data of one symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketEvent<'a> {
    /// As the exchange spells it in configuration (upper case on Binance). Borrowed from the frame, unless the frame
    /// escapes a character of it (`\u5e01`).
    pub symbol: Cow<'a, str>,
    /// The exchange's own event time, when the frame has one; never earlier than the event's own time.
    pub event_time: Option<Timestamp>,
    /// The data.
    pub event: Event,
}

impl Event {
    /// The channel of the event, and its position in that channel.
    pub fn position(&self) -> (Channel, i64) {
        match self {
            Self::Trade(trade) => (trade.channel(), trade.id),
            Self::Kline(kline) => (Channel::Kline(kline.interval), kline.open_time.micros()),
            Self::Book(book) => (Channel::BookTicker, book.update_id),
        }
    }
}

/// What a frame is about. Ingest needs it for every frame, so it is found without decoding the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// Data of one stream, under the name that [`Dialect::stream_name`] returns. Also of a frame without that name whose
    /// content names the stream.
    Stream(Cow<'a, str>),
    /// The answer to a request we sent.
    Answer(SubscriptionAnswer<'a>),
    /// A sign of life without content: it is not logged.
    Heartbeat,
    /// The exchange announces that it will close this connection: open another one now.
    Shutdown,
    /// Anything else; ingest logs it too.
    Other,
}

/// The answer to a request that we sent over a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionAnswer<'a> {
    /// The number of our request, when the answer has it.
    pub id: Option<u64>,
    /// The streams that it answers, by [`Dialect::stream_name`]; empty: all of the request.
    pub streams: Vec<Cow<'a, str>>,
    /// The exchange's own text; `None` when the exchange accepted the request.
    pub error: Option<String>,
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

/// Whether to begin or to end subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// Begin.
    Subscribe,
    /// End.
    Unsubscribe,
}

/// The trades of one symbol that have one numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series<'a> {
    /// The symbol.
    pub symbol: &'a str,
    /// `Trade` or `AggTrade`.
    pub channel: Channel,
}

impl<'a> From<&'a Stream> for Series<'a> {
    fn from(stream: &'a Stream) -> Self {
        Self { symbol: stream.symbol.as_str(), channel: stream.channel }
    }
}

/// Every trade of a symbol.
impl<'a> From<&'a str> for Series<'a> {
    fn from(symbol: &'a str) -> Self {
        Self { symbol, channel: Channel::Trade }
    }
}

/// Where a page of trades begins, at a venue that pages by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageStart<'a> {
    /// Just before this time, so that a trade of this time is in the page.
    At(Timestamp),
    /// With the whole last instant of a page that has this [`Page::end`]: some trades of it may be behind that page.
    With(&'a str),
    /// Behind that instant.
    Behind(&'a str),
}

/// What we ask over REST.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Trades with ids in `range`, from its first id up, at most one page.
    Trades {
        /// Which trades.
        series: Series<'a>,
        /// The ids.
        range: Range,
        /// Where the page begins, for a venue that pages by time.
        after: Option<PageStart<'a>>,
    },
    /// The newest trade, at the lowest weight.
    Newest {
        /// Which trades.
        series: Series<'a>,
    },
    /// The same from another endpoint, for servers that refuse `Newest` or answer it with something else.
    NewestFallback {
        /// Which trades.
        series: Series<'a>,
    },
    /// The first trade at or after a time.
    TradeAt {
        /// Which trades.
        series: Series<'a>,
        /// The time.
        at: Timestamp,
    },
    /// Klines with open times in `range` (microseconds), at most one page.
    Klines {
        /// The symbol.
        symbol: &'a str,
        /// Their length.
        interval: Interval,
        /// The open times.
        range: Range,
    },
    /// The exchange's clock.
    Time,
    /// Limits and listed symbols; no symbols means all. The caller divides a list that makes it too long.
    Listing {
        /// The symbols.
        symbols: &'a [String],
    },
}

/// A request over REST, without the base URL. The method is GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestRequest {
    /// `/api/v3/klines?symbol=...`, query included.
    pub path: String,
    /// The part of the exchange's request budget that it uses.
    pub weight: u32,
    /// Index of the budget in [`super::spec::RestSpec::buckets`].
    pub bucket: usize,
}

/// The body of an answer, and the times that bound its rows.
#[derive(Clone, Copy, Debug)]
pub struct RestAnswer<'a> {
    /// The body.
    pub body: &'a [u8],
    /// The exchange's time, at the latest when it made the answer: a kline that closed before it is closed.
    pub now: Timestamp,
    /// A row that is later than this is refused.
    pub latest: Timestamp,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Request::Trades`].
    Trades(Page<Trade>),
    /// Of [`Request::Newest`]: id and time; `None` when the symbol has never traded.
    Newest(Option<(i64, Timestamp)>),
    /// Of [`Request::TradeAt`]: the id; `None` when there is none at or after that time.
    TradeAt(Option<i64>),
    /// Of [`Request::Klines`]. First and last trade ids are -1 where the answer does not have them.
    Klines(Page<Kline>),
    /// Of [`Request::Time`].
    Time(Timestamp),
    /// Of [`Request::Listing`].
    Listing(ExchangeInfo),
}

/// Limits and symbols, as the exchange lists them (Binance: `exchangeInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeInfo {
    /// Request weight allowed per window and address, of the first bucket.
    pub weight_per_minute: Option<u32>,
    /// Listed symbols, and whether each trades now.
    pub symbols: Vec<(String, ListingEntry)>,
    /// Requested symbols that the exchange does not know. The REST client finds them: the answer is then an error.
    pub unlisted: Vec<String>,
    /// What could not be read or is not plausible, in words; everything else is in the other fields.
    pub unreadable: Vec<String>,
}

impl ExchangeInfo {
    /// Of a listing of all symbols, keeps the requested ones; one that it does not have is unlisted, if the whole listing
    /// was readable. No symbols means all.
    pub(super) fn keep_requested(&mut self, symbols: &[String]) {
        if symbols.is_empty() {
            return;
        }
        self.symbols.retain(|(name, _)| symbols.contains(name));
        if !self.unreadable.is_empty() {
            return;
        }
        for name in symbols {
            if !self.symbols.iter().any(|(known, _)| known == name) {
                self.symbols.push((name.clone(), ListingEntry::Unlisted));
            }
        }
    }
}

/// The status, headers and body of an answer that may be a refusal.
pub struct RestReply<'a> {
    /// The HTTP status.
    pub status: u16,
    /// A header's text by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<String>,
    /// The body.
    pub body: &'a [u8],
}

/// An error object, whatever the HTTP status of its answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerError {
    /// What it means.
    pub kind: AnswerErrorKind,
    /// The exchange's code of the error.
    pub code: String,
    /// The exchange's own words.
    pub msg: String,
}

/// What an error object means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerErrorKind {
    /// Too many requests: as HTTP 429.
    Limited,
    /// The address is banned: as HTTP 418. The end of the ban on the exchange's clock, when the answer names it.
    Banned(Option<Timestamp>),
    /// The address is banned for this long from now, by the exchange's documents.
    BannedFor(Duration),
    /// The exchange does not know the symbol.
    UnknownSymbol,
    /// The exchange no longer serves rows that old: there may be later ones.
    TooOld,
    /// The exchange itself has a problem: as HTTP 5xx.
    Unavailable,
    /// Anything else.
    Other,
}

/// One exchange's protocol. Pure.
pub trait Dialect: Send + Sync {
    /// What the venue can do.
    fn spec(&self) -> &'static Spec;

    /// The exchange that speaks it.
    fn exchange(&self) -> Exchange {
        self.spec().exchange
    }

    /// The venue's own side of the protocol, for the simulator and the contract suite; `None` for a venue that nothing
    /// simulates.
    fn peer(&self) -> Option<Box<dyn Peer>> {
        None
    }

    /// A symbol as a person writes it; an error says how the exchange spells its symbols.
    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError>;

    /// Requests that begin or end the subscription of `streams`, each within the venue's limits, numbered from
    /// `first_id`. All streams belong to one socket.
    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String>;

    /// The exchange's own name of a stream: `btcusdt@trade`.
    fn stream_name(&self, stream: &Stream) -> String;

    /// The channel of a stream by the exchange's name of it; `None` for a channel that no [`Channel`] stands for.
    fn channel(&self, stream_name: &str) -> Option<Channel>;

    /// What a frame is about, without decoding it.
    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a>;

    /// Decodes a frame, and passes each event to `sink`. A frame that returns an error becomes a dead letter; its
    /// readable events have been passed.
    fn decode<'a>(&self, payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError>;

    /// The REST request for this; `None` when the exchange has none.
    fn ask(&self, request: &Request<'_>) -> Option<RestRequest>;

    /// Reads the answer to [`Dialect::ask`]: the variant of [`Answer`] that belongs to `request`. An unreadable element
    /// costs itself only.
    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError>;

    /// The error that an answer is, whatever its status; `None` when its body is data, or says nothing beyond the
    /// status.
    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError>;
}
