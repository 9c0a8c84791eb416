//! The lies of the WebSocket: poisoned frames, streams that are refused or never delivered, and wrong answers to
//! requests.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::edit::Edits;
use super::{RetryAfter, lasting, named, status};
use crate::market::{Channel, Symbol};

/// A lie of the WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketLie {
    /// `poison:BTCUSDT:trade.E=*1000:1`: frames of the symbol are changed. With `poisoncopy` the right frame is sent too,
    /// just before.
    Poison(Poison),
    /// `hole:BTCUSDT:10:12s`: the next 10 trade frames are never sent, and REST hides the same trades for this time.
    Hole(Symbol, u64, Duration),
    /// `mute:BTCUSDT:trade:12s`: the stream is acknowledged, and its frames never come.
    Mute(Symbol, Channel, Duration),
    /// `refusestream:BTCUSDT:trade:12s`: a subscription that contains the stream is answered with an error.
    RefuseStream(Symbol, Channel, Duration),
    /// `ack:wrong:12s`: requests get a wrong answer, or none.
    Ack(AckLie, Duration),
    /// `upgrade:429:20m:12s`: new connections are refused with this status and Retry-After.
    Upgrade(u16, RetryAfter, Duration),
    /// `foreign:200000`: frames of this many symbols that nobody subscribed to.
    Foreign(u64),
}

/// A change of the next frames of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// Their symbol; `None` for all.
    pub symbol: Option<Symbol>,
    /// Their kind.
    pub kind: FrameKind,
    /// The change.
    pub edits: Edits,
    /// Which frames.
    pub extent: Extent,
    /// Whether the right frame is sent as well.
    pub is_copy: bool,
}

/// How many frames a poison changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The next frames.
    Count(u64),
    /// The frames of this time.
    Time(Duration),
}

/// The kinds of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Trades.
    Trade,
    /// Aggregate trades.
    AggTrade,
    /// Klines of every interval.
    Kline,
    /// Books.
    Book,
    /// All of them.
    Any,
}

/// Every kind of frame, with its name.
pub const FRAME_KINDS: [(FrameKind, &str, &str); 5] = [
    (FrameKind::Trade, "trade", "trade frames"),
    (FrameKind::AggTrade, "agg_trade", "aggTrade frames"),
    (FrameKind::Kline, "kline", "kline frames of every interval"),
    (FrameKind::Book, "book", "bookTicker frames"),
    (FrameKind::Any, "any", "frames of every kind"),
];

impl FrameKind {
    /// Whether a stream of this name has such frames.
    pub fn includes(self, stream: &str) -> bool {
        match self {
            Self::Trade => stream.ends_with("@trade"),
            Self::AggTrade => stream.ends_with("@aggTrade"),
            Self::Kline => stream.contains("@kline_"),
            Self::Book => stream.ends_with("@bookTicker"),
            Self::Any => true,
        }
    }
}

/// A wrong answer to a request over the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckLie {
    /// The id of no request.
    Wrong,
    /// The id as a text.
    Text,
    /// No id.
    Null,
    /// No answer, and the frames come.
    Absent,
    /// An error, and nothing is subscribed.
    Error,
    /// The connection is closed.
    Close,
}

/// Every wrong answer, with its name.
pub const ACK_LIES: [(AckLie, &str, &str); 6] = [
    (AckLie::Wrong, "wrong", "the answer names the id of no request"),
    (AckLie::Text, "text", "the answer has the id as a text"),
    (AckLie::Null, "null", "the answer has the id null"),
    (AckLie::Absent, "absent", "no answer comes, and the frames do"),
    (AckLie::Error, "error", "every request is answered with an error, and nothing is subscribed"),
    (AckLie::Close, "close", "the connection is closed instead of an answer"),
];

impl SocketLie {
    /// Reads its text form, in parts; `None` for another kind.
    pub fn parse(parts: &[&str]) -> Result<Option<Self>, String> {
        let wrong = || format!("cannot read the fault `{}`", parts.join(":"));
        let channel = |name: &str| name.parse::<Channel>().map_err(|()| format!("`{name}` is not a channel"));
        let read = match parts {
            [name @ ("poison" | "poisoncopy"), rest @ .., edits, extent] if rest.len() <= 1 => {
                let (kind, edits) = edits.split_once('.').ok_or_else(wrong)?;
                let extent = match extent.parse() {
                    Ok(count) => Extent::Count(count),
                    Err(_) => Extent::Time(lasting(extent)?),
                };
                Self::Poison(Poison {
                    symbol: rest.first().map(|symbol| Symbol::new(symbol)),
                    kind: named(&FRAME_KINDS, kind)?,
                    edits: edits.parse()?,
                    extent,
                    is_copy: *name == "poisoncopy",
                })
            }
            ["hole", symbol, count, time] => {
                Self::Hole(Symbol::new(symbol), count.parse().map_err(|_| wrong())?, lasting(time)?)
            }
            ["mute", symbol, name, time] => Self::Mute(Symbol::new(symbol), channel(name)?, lasting(time)?),
            ["refusestream", symbol, name, time] => {
                Self::RefuseStream(Symbol::new(symbol), channel(name)?, lasting(time)?)
            }
            ["ack", lie, time] => Self::Ack(named(&ACK_LIES, lie)?, lasting(time)?),
            ["upgrade", code, retry, time] => Self::Upgrade(status(code)?, RetryAfter::parse(retry)?, lasting(time)?),
            ["foreign", count] => Self::Foreign(count.parse().map_err(|_| wrong())?),
            _ => return Ok(None),
        };
        Ok(Some(read))
    }
}

/// The lies about connections and requests, with the time at which each ends.
#[derive(Debug, Default)]
pub struct SocketLies {
    refused: Vec<(String, Channel, Instant)>,
    ack: Option<(AckLie, Instant)>,
    upgrade: Option<(u16, RetryAfter, Instant)>,
}

impl SocketLies {
    /// Refuses subscriptions of this stream until then.
    pub fn refuse_stream(&mut self, symbol: &str, channel: Channel, until: Instant) {
        self.refused.retain(|(of, refused, _)| (of.as_str(), *refused) != (symbol, channel));
        self.refused.push((symbol.to_owned(), channel, until));
    }

    /// Answers requests wrongly until then.
    pub fn answer(&mut self, lie: AckLie, until: Instant) {
        self.ack = Some((lie, until));
    }

    /// Refuses connections until then.
    pub fn refuse_upgrades(&mut self, status: u16, retry_after: RetryAfter, until: Instant) {
        self.upgrade = Some((status, retry_after, until));
    }

    /// The refusal of a new connection.
    pub fn refusal(&self, now: Instant) -> Option<(u16, RetryAfter)> {
        let (status, retry_after, _) = self.upgrade.as_ref().filter(|(_, _, until)| *until > now)?;
        Some((*status, retry_after.clone()))
    }

    /// The wrong answer of this time.
    pub fn ack_lie(&self, now: Instant) -> Option<AckLie> {
        self.ack.filter(|(_, until)| *until > now).map(|(lie, _)| lie)
    }

    /// The symbols of these streams that are refused now.
    pub fn refused_symbols(&self, asked: &[(String, Channel)], now: Instant) -> Vec<String> {
        let is_refused = |(symbol, channel): &&(String, Channel)| {
            self.refused.iter().any(|(of, refused, until)| of == symbol && refused == channel && *until > now)
        };
        asked.iter().filter(is_refused).map(|(symbol, _)| symbol.clone()).collect()
    }

    /// Whether any stream is refused.
    pub const fn refuses_streams(&self) -> bool {
        !self.refused.is_empty()
    }
}

/// The name of a request's number in answers, at one venue or another.
const ID_FIELDS: [&str; 2] = ["id", "req_id"];

/// The answer with another id; an answer without an id stays as it is.
pub fn with_id(answer: &str, lie: AckLie) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(answer) else { return answer.to_owned() };
    let Some(field) = ID_FIELDS.into_iter().find(|field| value.get(field).is_some()) else { return answer.to_owned() };
    value[field] = match lie {
        AckLie::Wrong => json!(99_999_999),
        AckLie::Text => Value::String(value[field].to_string()),
        _ => Value::Null,
    };
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_stream_is_refused_for_a_time() {
        let mut lies = SocketLies::default();
        let now = Instant::now();
        let end = now + Duration::from_secs(5);
        lies.refuse_stream("ETHUSDT", Channel::Trade, end);
        let asked = ["BTCUSDT", "ETHUSDT"].map(|symbol| (symbol.to_owned(), Channel::Trade));
        assert_eq!(lies.refused_symbols(&asked, now), ["ETHUSDT"]);
        assert!(lies.refused_symbols(&[("ETHUSDT".to_owned(), Channel::BookTicker)], now).is_empty());
        assert!(lies.refused_symbols(&asked, end).is_empty());
    }

    #[test]
    fn an_answer_gets_another_id() {
        let answer = r#"{"result":null,"id":7}"#;
        assert_eq!(with_id(answer, AckLie::Wrong), r#"{"id":99999999,"result":null}"#);
        assert_eq!(with_id(answer, AckLie::Text), r#"{"id":"7","result":null}"#);
        assert_eq!(with_id(answer, AckLie::Null), r#"{"id":null,"result":null}"#);
        assert_eq!(with_id(r#"{"req_id":7}"#, AckLie::Wrong), r#"{"req_id":99999999}"#);
        assert_eq!(with_id("pong", AckLie::Wrong), "pong");
    }
}
