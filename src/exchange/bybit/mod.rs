//! Bybit's dialect for spot (v5): topics and requests, frames, REST.
//!
//! Facts are from EXCHANGES.md, section 4 (Bybit v5); each rule is quoted above the branch that implements it. Pure: it
//! never sees a socket or a clock.

mod frames;
mod peer;
mod rest;

use std::time::Duration;

use super::peer::Peer;
use super::spec::{
    ChannelKind, ChannelSpec, Heartbeat, KlineClose, Numbering, OnSubscribe, Reach, Refill, RestSpec, SocketLimits,
    SocketSpec, Spec,
};
use super::{
    Answer, AnswerError, DecodeError, Dialect, MarketEvent, Request, RestAnswer, RestReply, RestRequest, Route, Series,
    SubscriptionChange,
};
use crate::market::{Channel, Exchange, Interval, SpellingError, Stream, Symbol};

/// Bybit spot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bybit;

const SPEC: Spec = Spec {
    exchange: Exchange::named("bybit"),
    title: "Bybit Spot",
    example: "BTCUSDT",
    sockets: &[SocketSpec {
        base: "wss://stream.bybit.com",
        path: "/v5/public/spot",
        // 4.2: "Client sends {"op":"ping"} every 20 s".
        heartbeat: Heartbeat::Client { every: Duration::from_secs(20), message: r#"{"op":"ping"}"# },
    }],
    channels: &[
        ChannelSpec {
            kind: ChannelKind::Trade,
            socket: 0,
            // 4.4: "No document says whether it is contiguous ... measure over >=10,000 trades at run time, then use it".
            numbering: Numbering::Unproven,
            // 4.7: "newest only, no paging; spot limit 1..60".
            refill: Refill::Recent(60),
            reach: Reach::Rows(60),
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::Kline {
                intervals: &Interval::ALL,
                // 4.5: "`confirm` = closed".
                close: KlineClose::Flag,
                // 4.5: a kline has neither ids nor a count.
                names_trades: false,
            },
            socket: 0,
            numbering: Numbering::Contiguous,
            refill: Refill::ByTime,
            reach: Reach::All,
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::BookTicker,
            socket: 0,
            numbering: Numbering::Unnumbered,
            refill: Refill::Never,
            reach: Reach::Rows(0),
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
    ],
    limits: SocketLimits {
        // No document names a limit: a connection of 400 streams has some 60 requests.
        messages_per_second: 5,
        // 4.3: "all args on one connection <=21,000 characters": 52 for each topic.
        streams_per_connection: 400,
        // 4.3: "spot <=10 args per subscribe".
        streams_per_request: 10,
        request_bytes_max: 4_096,
        // 4.2: "<=500 connections / 5 min": a tenth less.
        connects_max: 450,
        connects_window: Duration::from_secs(300),
        // After three unanswered pings the connection is dead.
        silence_max: Duration::from_secs(65),
        lifetime: None,
    },
    rest: RestSpec {
        base: "https://api.bybit.com",
        buckets: rest::BUCKETS,
        used_header: None,
        trades_page: rest::TRADES_PAGE,
        klines_page: rest::KLINES_PAGE,
    },
};

/// 4.5: "kline.<1,3,5,15,30,60,120,240,360,720,D,W,M>".
const fn minutes(interval: Interval) -> &'static str {
    match interval {
        Interval::M1 => "1",
        Interval::M5 => "5",
        Interval::M15 => "15",
        Interval::H1 => "60",
        Interval::H4 => "240",
        Interval::D1 => "D",
    }
}

/// Channel and symbol of a topic. The symbol is what follows the last dot.
fn parts_of(topic: &str) -> Option<(Channel, &str)> {
    let (name, symbol) = topic.rsplit_once('.')?;
    let channel = match name {
        "publicTrade" => Channel::Trade,
        // 4.6: "Level 1".
        "orderbook.1" => Channel::BookTicker,
        _ => {
            let wanted = name.strip_prefix("kline.")?;
            Channel::Kline(Interval::ALL.into_iter().find(|interval| minutes(*interval) == wanted)?)
        }
    };
    Some((channel, symbol))
}

impl Dialect for Bybit {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn peer(&self) -> Option<Box<dyn Peer>> {
        Some(Box::new(peer::BybitPeer))
    }

    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        Symbol::from_spelling(text)
    }

    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String> {
        let operation = match change {
            SubscriptionChange::Subscribe => "subscribe",
            SubscriptionChange::Unsubscribe => "unsubscribe",
        };
        // 4.3: "{"op":"subscribe","args":[...],"req_id":"..."}".
        let request = |(streams, id): (&[Stream], u64)| {
            let topics: Vec<String> = streams.iter().map(|stream| self.stream_name(stream)).collect();
            let args = serde_json::Value::from(topics);
            format!(r#"{{"op":"{operation}","args":{args},"req_id":"{id}"}}"#)
        };
        streams.chunks(SPEC.limits.streams_per_request).zip(first_id..).map(request).collect()
    }

    fn stream_name(&self, stream: &Stream) -> String {
        let symbol = &stream.symbol;
        match stream.channel {
            Channel::Trade => format!("publicTrade.{symbol}"),
            Channel::Kline(interval) => format!("kline.{}.{symbol}", minutes(interval)),
            Channel::BookTicker => format!("orderbook.1.{symbol}"),
            // The venue has no such channel: the name is only shown.
            Channel::AggTrade => format!("aggTrade.{symbol}"),
        }
    }

    fn channel(&self, stream_name: &str) -> Option<Channel> {
        parts_of(stream_name).map(|(channel, _)| channel)
    }

    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a> {
        frames::route(payload)
    }

    fn decode<'a>(&self, payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
        frames::decode(payload, sink).map_err(DecodeError::shortened)
    }

    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        Some(match *request {
            Request::Trades { series: Series { symbol, .. }, .. } => rest::trades_request(symbol, rest::TRADES_PAGE),
            Request::Newest { series: Series { symbol, .. } } => rest::trades_request(symbol, 1),
            // 4.7: recent-trade is the only endpoint, and it has no paging.
            Request::NewestFallback { .. } | Request::TradeAt { .. } => return None,
            Request::Klines { symbol, interval, range } => rest::klines_request(symbol, interval, range),
            Request::Time => rest::time_request(),
            Request::Listing { symbols } => rest::listing_request(symbols),
        })
    }

    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        let RestAnswer { body, now, latest } = *answer;
        Ok(match *request {
            Request::Trades { range, .. } => Answer::Trades(rest::trades_answer(range, body, latest)?),
            Request::Newest { .. } | Request::NewestFallback { .. } => Answer::Newest(rest::newest_answer(body)?),
            Request::TradeAt { .. } => Answer::TradeAt(None),
            Request::Klines { interval, .. } => Answer::Klines(rest::klines_answer(interval, body, now, latest)?),
            Request::Time => Answer::Time(rest::time_answer(body)?),
            Request::Listing { symbols } => Answer::Listing(rest::listing_answer(symbols, body)?),
        })
    }

    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        rest::judge(reply)
    }
}
