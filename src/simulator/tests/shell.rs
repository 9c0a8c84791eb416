//! An invented venue, `shell`, to show that any [`Peer`] can be simulated: two addresses, batched trades, a snapshot on
//! subscription, a greeting, heartbeats, a text ping, pages by cursor, and klines of its own shape.

use std::time::Duration;

use serde_json::{Value, json};

use crate::exchange::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerTrades,
};
use crate::exchange::spec::{
    Bucket, ChannelKind, ChannelSpec, Heartbeat, KlineClose, Numbering, OnSubscribe, Reach, Refill, RestSpec,
    SocketLimits, SocketSpec, Spec,
};
use crate::market::{Channel, Exchange, Interval, Timestamp, Trade};

const SECOND: Duration = Duration::from_secs(1);

pub const SPEC: Spec = Spec {
    exchange: Exchange::named("shell"),
    title: "Shell",
    example: "BTC/USD",
    sockets: &[
        SocketSpec { base: "wss://shell", path: "/live", heartbeat: Heartbeat::Server },
        SocketSpec { base: "wss://shell", path: "/candles", heartbeat: Heartbeat::Server },
    ],
    channels: &[channel(ChannelKind::Trade, 0), channel(KLINES, 1)],
    limits: SocketLimits {
        messages_per_second: 3,
        streams_per_connection: 3,
        streams_per_request: 10,
        request_bytes_max: 1_000,
        connects_max: 100,
        connects_window: SECOND,
        silence_max: SECOND,
        lifetime: None,
    },
    rest: RestSpec { base: "https://shell", buckets: &[], used_header: None, trades_page: 50, klines_page: 50 },
};

const KLINES: ChannelKind =
    ChannelKind::Kline { intervals: &[Interval::M1], close: KlineClose::Successor, names_trades: false };

const fn channel(kind: ChannelKind, socket: usize) -> ChannelSpec {
    ChannelSpec {
        kind,
        socket,
        numbering: Numbering::Contiguous,
        refill: Refill::ById,
        reach: Reach::All,
        on_subscribe: OnSubscribe::Overlap(5),
        undocumented: false,
    }
}

pub struct Shell;

fn row(trade: &Trade) -> Value {
    json!([trade.id, trade.price.to_string(), trade.ts.micros()])
}

fn error(status: u16, why: &str) -> PeerResponse {
    PeerResponse { status, headers: vec![("x-shell", why.to_owned())], body: json!({"error": why}).to_string() }
}

/// The value of a parameter.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

impl Peer for Shell {
    fn greeting(&self, _at: Timestamp) -> Vec<String> {
        vec![r#"{"shell":"hello"}"#.to_owned()]
    }

    fn heartbeat(&self, _at: Timestamp) -> Option<String> {
        Some(r#"{"shell":"alive"}"#.to_owned())
    }

    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, _at: Timestamp) -> PeerReply {
        let mut reply = PeerReply::default();
        let words: Vec<&str> = text.split(' ').collect();
        let channel = |word: &str| if word == "trades" { Channel::Trade } else { Channel::Kline(Interval::M1) };
        match words.as_slice() {
            ["ping"] => reply.messages.push("pong".to_owned()),
            ["+" | "-", _, symbol] if !is_listed(symbol) => reply.messages.push(format!("unknown {symbol}")),
            ["+", word, symbol] => {
                reply.messages.push(format!("ok {symbol}"));
                reply.subscribed.push(((*symbol).to_owned(), channel(word)));
            }
            ["-", word, symbol] => reply.unsubscribed.push(((*symbol).to_owned(), channel(word))),
            _ => reply.close = Some((4_000, "what?")),
        }
        reply
    }

    fn snapshot(&self, symbol: &str, channel: Channel, newest: &[Trade], _at: Timestamp) -> Option<String> {
        let rows: Vec<Value> = newest.iter().rev().take(5).rev().map(row).collect();
        (channel == Channel::Trade && !rows.is_empty()).then(|| json!({"before": symbol, "rows": rows}).to_string())
    }

    fn frame(&self, symbol: &str, event: PeerEvent<'_>, _at: Timestamp) -> Option<String> {
        match event {
            PeerEvent::Trades(trades) => {
                let rows: Vec<Value> = trades.iter().map(row).collect();
                Some(json!({"trades": symbol, "rows": rows}).to_string())
            }
            PeerEvent::Kline(kline) if kline.interval == Interval::M1 => {
                Some(json!({"candle": symbol, "t": kline.open_time.micros(), "n": kline.trade_count}).to_string())
            }
            PeerEvent::AggTrade(_) | PeerEvent::Kline(_) | PeerEvent::Book(_) => None,
        }
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let number = |name: &str| parameter(query, name).and_then(|text| text.parse::<i64>().ok());
        let symbol = || parameter(query, "s").map(str::to_owned).ok_or(PeerRefusal::BadParameter);
        match path {
            "/trades" => {
                let which = match (number("before"), number("since"), number("after"), number("from")) {
                    (Some(id), ..) => PeerTrades::Before(id),
                    (_, Some(us), ..) => PeerTrades::Since(Timestamp(us)),
                    (_, _, Some(us), _) => PeerTrades::After(Timestamp(us)),
                    (_, _, _, Some(id)) => PeerTrades::From(id),
                    _ => PeerTrades::Newest,
                };
                Ok((PeerRequest::Trades { symbol: symbol()?, channel: Channel::Trade, which, limit: 50 }, 1, 0))
            }
            "/candles" => {
                let (first, last) = (number("first").map(Timestamp), number("last").map(Timestamp));
                let (symbol, interval) = (symbol()?, Interval::M1);
                Ok((PeerRequest::Klines { symbol, interval, first, last, limit: 5, newest: true }, 1, 1))
            }
            "/time" => Ok((PeerRequest::Time, 1, 1)),
            "/symbols" => Ok((PeerRequest::Listing(symbol().ok().into_iter().collect()), 1, 1)),
            _ => Err(PeerRefusal::BadParameter),
        }
    }

    fn answer(&self, _request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        let body = match content {
            PeerContent::Trades(trades) => trades.iter().rev().map(row).collect::<Vec<Value>>().into(),
            PeerContent::Klines(klines) => {
                klines.iter().map(|kline| json!(kline.open_time.micros())).collect::<Vec<Value>>().into()
            }
            PeerContent::Time(at) => json!({"us": at.micros()}),
            PeerContent::Listing(symbols) => json!(symbols),
        };
        PeerResponse { status: 200, headers: Vec::new(), body: body.to_string() }
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        match refusal {
            PeerRefusal::Limited(seconds) => error(429, &format!("wait {seconds}")),
            PeerRefusal::Banned(_) => error(403, "banned"),
            PeerRefusal::UnknownSymbol => error(200, "unknown"),
            PeerRefusal::BadParameter | PeerRefusal::TooOld => error(400, "bad"),
            PeerRefusal::Failed(status) => error(status, "failed"),
        }
    }

    fn limits(&self) -> PeerLimits {
        PeerLimits {
            silence_max: Some(SECOND * 60),
            messages: Some((3, SECOND)),
            streams: 3,
            trades_per_frame: 20,
            buckets: const {
                &[
                    Bucket::Leaky { per_second: 1_000, burst: 1_000 },
                    Bucket::Window { weight: 1_000, per: Duration::from_secs(2) },
                ]
            },
            ban: Some((2, SECOND * 30)),
            ..PeerLimits::NONE
        }
    }
}
