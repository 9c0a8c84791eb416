//! What a venue can do, as data: how its channels are numbered, what it can return, what it limits.
//!
//! The rest of the program reads these facts and assumes none. `tapekeeper symbols --venues` prints them.

use std::time::Duration;

use crate::market::{Channel, Exchange, Interval};

/// One venue.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name in configuration and storage.
    pub exchange: Exchange,
    /// The name for people: `Binance Spot`.
    pub title: &'static str,
    /// A symbol as the venue spells it.
    pub example: &'static str,
    /// Its WebSocket addresses. A connection carries streams of one of them.
    pub sockets: &'static [SocketSpec],
    /// The channels that it sends.
    pub channels: &'static [ChannelSpec],
    /// What one connection and one address may do.
    pub limits: SocketLimits,
    /// Its REST address and request limits.
    pub rest: RestSpec,
}

/// A WebSocket address.
#[derive(Clone, Copy, Debug)]
pub struct SocketSpec {
    /// Scheme, host and port; the configuration's `ws_url` replaces it.
    pub base: &'static str,
    /// Path and query.
    pub path: &'static str,
    /// Who keeps an idle connection open.
    pub heartbeat: Heartbeat,
}

/// Who keeps an idle connection open, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// The server sends ping frames or messages; the client only answers with a pong.
    Server,
    /// The client sends this text message this often, whatever else it sends.
    Client {
        /// How often.
        every: Duration,
        /// The message: `ping`, or JSON.
        message: &'static str,
    },
}

/// One kind of channel of a venue.
#[derive(Clone, Copy, Debug)]
pub struct ChannelSpec {
    /// The channel.
    pub kind: ChannelKind,
    /// Index of its address in [`Spec::sockets`].
    pub socket: usize,
    /// What its numbers prove.
    pub numbering: Numbering,
    /// How REST returns lost rows.
    pub refill: Refill,
    /// How far back.
    pub reach: Reach,
    /// What the venue sends first.
    pub on_subscribe: OnSubscribe,
    /// The venue's documents do not have it, so it may end without notice: a feed must ask for it explicitly.
    pub undocumented: bool,
}

/// A kind of channel; all intervals of klines are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Every trade.
    Trade,
    /// Aggregate trades.
    AggTrade,
    /// Klines of these intervals.
    Kline {
        /// Which.
        intervals: &'static [Interval],
        /// How a client knows that a kline is final.
        close: KlineClose,
        /// Whether a kline names its first and last trade, so that its trades can be counted.
        names_trades: bool,
    },
    /// Best bid and ask.
    BookTicker,
}

impl ChannelKind {
    /// Whether this kind includes the channel.
    pub fn includes(self, channel: Channel) -> bool {
        match (self, channel) {
            (Self::Trade, Channel::Trade)
            | (Self::AggTrade, Channel::AggTrade)
            | (Self::BookTicker, Channel::BookTicker) => true,
            (Self::Kline { intervals, .. }, Channel::Kline(interval)) => intervals.contains(&interval),
            _ => false,
        }
    }

    /// `trade`, `agg_trade`, `kline` or `book_ticker`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trade => "trade",
            Self::AggTrade => "agg_trade",
            Self::Kline { .. } => "kline",
            Self::BookTicker => "book_ticker",
        }
    }
}

/// What the numbers of a channel prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Each position is the one before plus a step: a jump is a loss.
    Contiguous,
    /// As `Contiguous`, but some numbers never existed: a jump is a doubt that REST settles.
    WithHoles,
    /// Nobody has shown that the numbers are contiguous: a jump proves nothing until enough neighbours are measured.
    Unproven,
    /// No numbers.
    Unnumbered,
}

impl Numbering {
    /// The word in documents and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::WithHoles => "with holes",
            Self::Unproven => "unproven",
            Self::Unnumbered => "none",
        }
    }
}

/// How REST returns lost rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// A page starts at any id.
    ById,
    /// A page starts at a time; ids tell what in it was missing.
    ByTime,
    /// The newest rows only.
    Recent(u32),
    /// Nothing.
    Never,
}

impl Refill {
    /// The words in documents and output.
    pub fn words(self) -> String {
        match self {
            Self::ById => "by id".to_owned(),
            Self::ByTime => "by time".to_owned(),
            Self::Recent(rows) => format!("the newest {rows}"),
            Self::Never => "never".to_owned(),
        }
    }
}

/// How far back REST serves rows, by the venue's documents; a repair learns what it really serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of history.
    All,
    /// Rows of this age.
    For(Duration),
    /// This many of the newest rows.
    Rows(u32),
}

/// What a venue sends after a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSubscribe {
    /// Only what happens from then on.
    Nothing,
    /// First some rows from before: an overlap, not new rows.
    Overlap(u32),
}

/// How a kline closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlineClose {
    /// The venue says so in the frame.
    Flag,
    /// A kline of a later interval arrives.
    Successor,
}

/// The venue's limits for one connection.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// Most messages we send per second, pongs included.
    pub messages_per_second: u32,
    /// Most streams on one connection.
    pub streams_per_connection: usize,
    /// Most streams in one request.
    pub streams_per_request: usize,
    /// Most bytes of one request.
    pub request_bytes_max: usize,
    /// Most connection attempts in `connects_window`.
    pub connects_max: u32,
    /// See `connects_max`.
    pub connects_window: Duration,
    /// A connection that delivered nothing at all (not even a ping) for this long is dead.
    pub silence_max: Duration,
    /// The venue cuts a connection at this age; `None` when it promises no cut.
    pub lifetime: Option<Duration>,
}

/// A venue's REST interface.
#[derive(Clone, Copy, Debug)]
pub struct RestSpec {
    /// Scheme, host and port; the configuration's `rest_url` replaces it.
    pub base: &'static str,
    /// The request limits. A request names the one that it counts against.
    pub buckets: &'static [Bucket],
    /// The header with the weight used so far of the first bucket, lower case.
    pub used_header: Option<&'static str>,
    /// Most rows of a page of trades.
    pub trades_page: i64,
    /// Most rows of a page of klines.
    pub klines_page: i64,
}

/// One request limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// So much weight in each clock window.
    Window {
        /// Weight per window.
        weight: u32,
        /// The window's length; it begins at a multiple of that.
        per: Duration,
    },
    /// A bucket that leaks: `burst` at once, then `per_second`.
    Leaky {
        /// Weight that leaves it each second.
        per_second: u32,
        /// Most weight in it.
        burst: u32,
    },
}

impl Spec {
    /// How many sockets carry the streams that REST does not return.
    pub fn copies(&self) -> usize {
        self.channels.iter().map(ChannelSpec::copies).max().unwrap_or(1)
    }

    /// What the venue does with a channel; `None` when it does not send it.
    pub fn channel(&self, channel: Channel) -> Option<&ChannelSpec> {
        self.channels.iter().find(|spec| spec.kind.includes(channel))
    }

    /// The channel that records the venue's trades: every trade, or the aggregates where only those are documented; `None`
    /// when it sends neither.
    pub fn trades_channel(&self) -> Option<Channel> {
        let is_documented = |channel: &Channel| self.channel(*channel).is_some_and(|spec| !spec.undocumented);
        Channel::TRADES.into_iter().find(is_documented)
    }

    /// The age of the oldest rows of a channel that REST serves by the venue's documents; `None` is for ever.
    pub fn kept_for(&self, channel: Channel) -> Option<Duration> {
        match self.channel(channel)?.reach {
            Reach::For(age) => Some(age),
            Reach::All | Reach::Rows(_) => None,
        }
    }

    /// Most rows of a page of a channel.
    pub const fn page_rows(&self, channel: Channel) -> i64 {
        match channel {
            Channel::Kline(_) => self.rest.klines_page,
            _ => self.rest.trades_page,
        }
    }

    /// Whether a closed kline of this venue names all its trades.
    pub fn klines_name_trades(&self) -> bool {
        self.channels.iter().any(|spec| matches!(spec.kind, ChannelKind::Kline { names_trades: true, .. }))
    }

    /// How a kline of this venue closes.
    pub fn kline_close(&self) -> KlineClose {
        let close = |spec: &ChannelSpec| match spec.kind {
            ChannelKind::Kline { close, .. } => Some(close),
            _ => None,
        };
        self.channels.iter().find_map(close).unwrap_or(KlineClose::Flag)
    }
}

/// The facts of a channel in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelWords {
    /// How far back REST serves rows.
    pub reach: String,
    /// What comes first after a subscription.
    pub on_subscribe: String,
    /// How a kline closes; empty for other channels.
    pub closes: &'static str,
    /// `undocumented` and `two sockets`, or empty.
    pub note: &'static str,
}

impl ChannelSpec {
    /// How many sockets carry each stream at the same time. A numbered row that REST does not return, or returns only while
    /// it is among the newest, is lost with the only socket; the cut of one of two loses nothing.
    pub const fn copies(&self) -> usize {
        match (self.numbering, self.refill) {
            (Numbering::Unnumbered, _) | (_, Refill::ById | Refill::ByTime) => 1,
            (_, Refill::Recent(_) | Refill::Never) => 2,
        }
    }

    /// The facts in words, for people.
    pub fn words(&self) -> ChannelWords {
        let closes = match self.kind {
            ChannelKind::Kline { close: KlineClose::Flag, .. } => "by a flag",
            ChannelKind::Kline { close: KlineClose::Successor, .. } => "by the next one",
            _ => "",
        };
        let on_subscribe = match self.on_subscribe {
            OnSubscribe::Nothing => "nothing".to_owned(),
            OnSubscribe::Overlap(rows) => format!("the last {rows}"),
        };
        let reach = match self.reach {
            Reach::All => "all".to_owned(),
            Reach::For(age) => format!("{} days", age.as_secs() / 86_400),
            Reach::Rows(0) => "none".to_owned(),
            Reach::Rows(rows) => format!("{rows} rows"),
        };
        let note = match (self.undocumented, self.copies() > 1) {
            (false, false) => "",
            (true, false) => "undocumented",
            (false, true) => "two sockets",
            (true, true) => "undocumented, two sockets",
        };
        ChannelWords { reach, on_subscribe, closes, note }
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
