//! The venue that is simulated: its own side of the protocol, and its addresses.

use std::fmt;
use std::sync::Arc;

use crate::exchange::Dialect;
use crate::exchange::binance::Binance;
use crate::exchange::catalog;
use crate::exchange::peer::{Peer, PeerReply, PeerSession, SessionReply};
use crate::exchange::spec::Spec;
use crate::market::{Channel, Exchange, Timestamp};

/// A venue to simulate; cheap to clone.
#[derive(Clone)]
pub struct Venue {
    spec: &'static Spec,
    peer: Arc<dyn Peer>,
}

impl fmt::Debug for Venue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Venue({})", self.spec.exchange)
    }
}

impl Venue {
    /// A venue with these addresses that speaks as `peer` does.
    pub fn new(spec: &'static Spec, peer: Box<dyn Peer>) -> Self {
        Self { spec, peer: Arc::from(peer) }
    }

    /// Binance Spot.
    pub fn binance() -> Self {
        Self::of(&Binance).expect("Binance has its own side of the protocol")
    }

    /// The venue of this exchange; `None` when the catalog does not have it, or nothing simulates it.
    pub fn named(exchange: Exchange) -> Option<Self> {
        Self::of(&*catalog::dialect(exchange)?)
    }

    /// Every venue that can be simulated.
    pub fn all() -> Vec<Self> {
        catalog::dialects().iter().filter_map(|dialect| Self::of(&**dialect)).collect()
    }

    fn of(dialect: &dyn Dialect) -> Option<Self> {
        Some(Self::new(dialect.spec(), dialect.peer()?))
    }

    /// Its name in configuration.
    pub fn exchange(&self) -> Exchange {
        self.spec.exchange
    }

    /// Its addresses and channels.
    pub const fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// Its side of the protocol.
    pub fn peer(&self) -> &dyn Peer {
        &*self.peer
    }

    /// Whether it is Binance, whose REST has more paths than a [`Peer`] answers, and lies in single rows.
    pub fn is_binance(&self) -> bool {
        self.exchange() == Exchange::named("binance")
    }

    /// The connection to this address; `None` when the venue has no such WebSocket.
    pub fn open(&self, path_and_query: &str, streams_max: usize) -> Option<Connection> {
        if let Some(session) = self.peer.open(path_and_query, streams_max) {
            return Some(Connection::Session(session));
        }
        let wanted = plain_path(path_and_query);
        let at = |socket: &crate::exchange::spec::SocketSpec| plain_path(socket.path) == wanted;
        let socket = self.spec.sockets.iter().position(at)?;
        Some(Connection::Plain { peer: self.peer.clone(), spec: self.spec, socket })
    }
}

fn plain_path(path_and_query: &str) -> &str {
    let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
    path.trim_end_matches('/')
}

/// What a connection's message does.
#[derive(Debug, Default)]
pub struct Received {
    /// Messages, new and ended streams, and the close.
    pub reply: SessionReply,
    /// Symbols and channels of the new streams, where a subscription may bring a snapshot.
    pub subscribed: Vec<(String, Channel)>,
    /// Streams that the venue acknowledges on this address and sends on another one only.
    pub on_wrong_socket: u64,
}

/// One connection's side of the protocol.
pub enum Connection {
    /// It remembers earlier messages.
    Session(Box<dyn PeerSession>),
    /// It does not.
    Plain {
        /// The venue.
        peer: Arc<dyn Peer>,
        /// Its channels.
        spec: &'static Spec,
        /// The index of its address.
        socket: usize,
    },
}

impl Connection {
    /// The streams that its address subscribes to.
    pub fn streams(&self) -> Vec<String> {
        match self {
            Self::Session(session) => session.streams(),
            Self::Plain { .. } => Vec::new(),
        }
    }

    /// Handles a client's text message.
    pub fn receive(&mut self, text: &str, is_listed: &dyn Fn(&str) -> bool, at: Timestamp) -> Received {
        match self {
            Self::Session(session) => Received { reply: session.receive(text, is_listed, at), ..Received::default() },
            Self::Plain { peer, spec, socket } => {
                let PeerReply { messages, mut subscribed, unsubscribed, close } = peer.receive(text, is_listed, at);
                let asked = subscribed.len();
                // "Wrong path: ack, then silence" (EXCHANGES.md 2.1).
                subscribed.retain(|(_, channel)| spec.channel(*channel).is_none_or(|of| of.socket == *socket));
                let named = |streams: &[(String, Channel)]| {
                    streams.iter().map(|(symbol, channel)| stream_name(symbol, *channel)).collect()
                };
                let (added, removed) = (named(&subscribed), named(&unsubscribed));
                Received {
                    reply: SessionReply { messages, added, removed, close },
                    on_wrong_socket: (asked - subscribed.len()) as u64,
                    subscribed,
                }
            }
        }
    }

    /// A frame as this connection gets it; `None` when that is the frame itself.
    pub fn shape(&self, frame: &str) -> Option<String> {
        match self {
            Self::Session(session) => session.shape(frame),
            Self::Plain { .. } => None,
        }
    }
}

/// The simulator's own name of a stream, at any venue: `btcusdt@trade`.
pub fn stream_name(symbol: &str, channel: Channel) -> String {
    let symbol = symbol.to_lowercase();
    match channel {
        Channel::Trade => format!("{symbol}@trade"),
        Channel::AggTrade => format!("{symbol}@aggTrade"),
        Channel::Kline(interval) => format!("{symbol}@kline_{interval}"),
        Channel::BookTicker => format!("{symbol}@bookTicker"),
    }
}
