//! The venue's side of its protocol, for the simulated exchange: one pure [`Peer`] per venue.
//!
//! A peer is written from the venue's documents and shares no code with the dialect's decoder, so each checks the other.
//! It decides what a message means and how an answer looks; the simulator keeps connections, truth, limits and faults.

use std::collections::BTreeMap;

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
    /// Trades, ascending; the peer sorts them as the venue does.
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
    /// Too many requests; allowed again after so many seconds.
    Limited(u64),
    /// Banned until then.
    Banned(Timestamp),
    /// An unknown symbol.
    UnknownSymbol,
    /// A parameter is missing or not allowed.
    BadParameter,
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
}
