//! The venue's side of its protocol, for the simulated exchange: one pure [`Peer`] per venue.
//!
//! A peer is written from the venue's documents and shares no code with the dialect's decoder, so each checks the other.
//! It decides what a message means and how an answer looks; the simulator keeps connections, truth, limits and faults.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::Decimal;

use super::spec::Bucket;
use crate::market::{Book, Channel, Interval, Kline, Timestamp, Trade};

/// What a client's message does, and what the venue answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerReply {
    /// Messages to send back, in order.
    pub messages: Vec<String>,
    /// Symbols and channels that the connection receives from now on.
    pub subscribed: Vec<(String, Channel)>,
    /// Symbols and channels that it no longer receives.
    pub unsubscribed: Vec<(String, Channel)>,
    /// The venue closes the connection with this code and reason.
    pub close: Option<(u16, &'static str)>,
}

/// One event to send.
#[derive(Clone, Copy, Debug)]
pub enum PeerEvent<'a> {
    /// Trades of one symbol, ascending: more than one where the venue batches.
    Trades(&'a [Trade]),
    /// An aggregate trade: it has `trade_ids`.
    AggTrade(&'a Trade),
    /// A kline, open or closed.
    Kline(&'a Kline),
    /// Best bid and ask.
    Book(&'a Book),
}

/// What a REST request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    /// Trades of a symbol, at most `limit`.
    Trades {
        /// As the venue spells it.
        symbol: String,
        /// `Trade`, or `AggTrade`: then ids and rows are those of the aggregates.
        channel: Channel,
        /// Which.
        which: PeerTrades,
        /// Most rows.
        limit: usize,
    },
    /// Klines of a symbol.
    Klines {
        /// As the venue spells it.
        symbol: String,
        /// Their length.
        interval: Interval,
        /// The first open time wanted.
        first: Option<Timestamp>,
        /// The last open time wanted.
        last: Option<Timestamp>,
        /// Most rows.
        limit: usize,
        /// Of too many rows the newest are served, not the oldest.
        newest: bool,
    },
    /// The clock.
    Time,
    /// The listed symbols; no symbols means all.
    Listing(Vec<String>),
}

/// Which trades a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTrades {
    /// The newest.
    Newest,
    /// The oldest with this id or a higher one.
    From(i64),
    /// The newest with a lower id.
    Before(i64),
    /// The oldest at or after this time.
    Since(Timestamp),
    /// The oldest after this time.
    After(Timestamp),
}

/// What the venue answers with.
#[derive(Clone, Copy, Debug)]
pub enum PeerContent<'a> {
    /// Trades, ascending; the peer sorts them as the venue does. Aggregates where the request asks for them.
    Trades(&'a [Trade]),
    /// Klines, ascending; the peer sorts them as the venue does.
    Klines(&'a [Kline]),
    /// The venue's time.
    Time(Timestamp),
    /// Symbols, and whether each trades.
    Listing(&'a [(String, bool)]),
}

/// Why the venue refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRefusal {
    /// Too many requests; allowed again after this many seconds.
    Limited(u64),
    /// Banned until then.
    Banned(Timestamp),
    /// An unknown symbol.
    UnknownSymbol,
    /// A parameter is missing or not allowed.
    BadParameter,
    /// The requested page begins before what the venue serves.
    TooOld,
    /// A server error of this status.
    Failed(u16),
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerResponse {
    /// The status.
    pub status: u16,
    /// Headers beside the content type, which is JSON.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// The path and the decoded parameters of a request; `None` when it is no address.
pub(super) fn split_query(path_and_query: &str) -> Option<(String, BTreeMap<String, String>)> {
    let url = reqwest::Url::parse(&format!("http://venue{path_and_query}")).ok()?;
    Some((url.path().to_owned(), url.query_pairs().into_owned().collect()))
}

/// The venue's side of the protocol. Pure.
pub trait Peer: Send + Sync {
    /// What the venue sends when a connection opens.
    fn greeting(&self, _at: Timestamp) -> Vec<String> {
        Vec::new()
    }

    /// What the venue sends to a connection that is silent for a second, if it does.
    fn heartbeat(&self, _at: Timestamp) -> Option<String> {
        None
    }

    /// Handles a client's text message. `is_listed` says whether the venue knows a symbol in its own spelling.
    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, at: Timestamp) -> PeerReply;

    /// What a subscription brings first, from the newest trades before it, ascending; `None` where that is nothing.
    fn snapshot(&self, _symbol: &str, _channel: Channel, _newest: &[Trade], _at: Timestamp) -> Option<String> {
        None
    }

    /// The frame of an event; `None` for a channel that the venue does not send.
    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String>;

    /// Reads a REST request, and names its weight and bucket by the venue's documents.
    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal>;

    /// The answer to a request.
    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse;

    /// The answer to a refused request.
    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse;

    /// What the venue allows its clients, by its documents. The simulator enforces it and counts what a client breaks.
    fn limits(&self) -> PeerLimits {
        PeerLimits::NONE
    }

    /// A connection whose answers depend on its earlier messages or on its address; `None` for another address, and for a
    /// venue where [`Peer::receive`] is enough. `streams_max` is the most streams of a connection.
    fn open(&self, _path_and_query: &str, _streams_max: usize) -> Option<Box<dyn PeerSession>> {
        None
    }

    /// The frame of a kline at a venue that also tells what takers bought: base and quote volume.
    fn kline_frame(&self, symbol: &str, kline: &Kline, _taker: (Decimal, Decimal), at: Timestamp) -> Option<String> {
        self.frame(symbol, PeerEvent::Kline(kline), at)
    }

    /// The announcement that the venue will close the connection; `None` where it gives no notice.
    fn shutdown(&self, _at: Timestamp) -> Option<String> {
        None
    }

    /// An error with this text as the answer to a client's message; `None` where no such answer exists.
    fn error(&self, _text: &str, _message: &str) -> Option<String> {
        None
    }
}

/// What a venue allows its clients. Counts come with the time in which they count.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// The server sends ping frames this often, and cuts a connection that does not answer one in the second time.
    pub pings: Option<(Duration, Duration)>,
    /// A connection is cut when its client has sent nothing for this long.
    pub silence_max: Option<Duration>,
    /// A connection is cut when it has subscribed to nothing by this age.
    pub subscribe_within: Option<Duration>,
    /// Most messages of a client.
    pub messages: Option<(usize, Duration)>,
    /// Most subscriptions and their ends on one connection, each request counted once.
    pub operations: Option<(usize, Duration)>,
    /// Most connections of an address.
    pub connects: Option<(usize, Duration)>,
    /// Most streams of a connection.
    pub streams: usize,
    /// A connection ends at this age.
    pub lifetime: Option<Duration>,
    /// Most trades of one frame.
    pub trades_per_frame: usize,
    /// The request limits of REST; a request names the one that it counts against.
    pub buckets: &'static [Bucket],
    /// A page of trades that begins at a row of this age or at an older one is refused.
    pub trades_kept: Option<Duration>,
    /// An address that ignores more than this many refusals in a window is banned for this long.
    pub ban: Option<(u32, Duration)>,
}

impl PeerLimits {
    /// No limits, and one trade in a frame.
    pub const NONE: Self = Self {
        pings: None,
        silence_max: None,
        subscribe_within: None,
        messages: None,
        operations: None,
        connects: None,
        streams: usize::MAX,
        lifetime: None,
        trades_per_frame: 1,
        buckets: &[],
        trades_kept: None,
        ban: None,
    };
}

/// What a message does on a [`PeerSession`]. Streams are named as the simulator names them: the symbol in small letters, `@`,
/// and `trade`, `aggTrade`, `kline_1m` or `bookTicker`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionReply {
    /// Messages to send back, in order.
    pub messages: Vec<String>,
    /// New streams.
    pub added: Vec<String>,
    /// Unsubscribed streams.
    pub removed: Vec<String>,
    /// The venue closes the connection with this code and reason.
    pub close: Option<(u16, &'static str)>,
}

/// One connection at a venue whose answers depend on what the connection did before. Pure.
pub trait PeerSession: Send {
    /// The streams that its address subscribes to.
    fn streams(&self) -> Vec<String>;

    /// Handles a client's text message, as [`Peer::receive`] does.
    fn receive(&mut self, text: &str, is_listed: &dyn Fn(&str) -> bool, at: Timestamp) -> SessionReply;

    /// A frame as this connection gets it; `None` when that is the frame itself.
    fn shape(&self, _frame: &str) -> Option<String> {
        None
    }
}
