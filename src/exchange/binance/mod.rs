//! Binance Spot's dialect: stream names and requests, frames, REST.
//!
//! Facts are from EXCHANGES.md, section 1 (`binance-spot-api-docs` @ a5e0bc3); each rule is quoted above the branch that
//! implements it. Pure: it never sees a socket or a clock.

pub(super) mod aggregates;
pub(super) mod frames;
pub mod peer;
pub(super) mod rest;
pub(super) mod streams;

use std::time::Duration;

use super::peer::Peer;
use super::spec::{
    Bucket, ChannelKind, ChannelSpec, Heartbeat, KlineClose, Numbering, OnSubscribe, Reach, Refill, RestSpec,
    SocketLimits, SocketSpec, Spec,
};
use super::{
    Answer, AnswerError, DecodeError, Dialect, MarketEvent, Request, RestAnswer, RestReply, RestRequest, Route, Series,
    SubscriptionChange,
};
use crate::market::{Channel, Exchange, Interval, SpellingError, Stream, Symbol};
use aggregates::AggTrades;

/// Binance Spot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binance;

const SPEC: Spec = Spec {
    exchange: Exchange::named("binance"),
    title: "Binance Spot",
    example: "BTCUSDT",
    sockets: &[SocketSpec {
        base: "wss://stream.binance.com:9443",
        path: "/stream",
        // 1.2: "The server sends a ping frame every 20 s".
        heartbeat: Heartbeat::Server,
    }],
    channels: &[
        ChannelSpec {
            kind: ChannelKind::Trade,
            socket: 0,
            // 1.4: "t is contiguous per symbol: 34,419 trades, 0 holes".
            numbering: Numbering::Contiguous,
            refill: Refill::ById,
            // 8: "floor per symbol (silent)": a repair learns it.
            reach: Reach::All,
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::AggTrade,
            socket: 0,
            // 1.4: "12,477 aggTrades: f/l contiguous, a contiguous".
            numbering: Numbering::Contiguous,
            // 1.7: "fromId inclusive, upward".
            refill: Refill::ById,
            reach: Reach::All,
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::Kline {
                intervals: &Interval::ALL,
                // 1.5: "x = closed".
                close: KlineClose::Flag,
                // 1.5: "Spot only: n = L-f+1".
                names_trades: true,
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
        // 1.2: "Inbound limit 5 messages/s; PING, PONG and JSON all count -> disconnect; repeated -> IP ban": one less,
        // because the network may bunch messages that we space evenly.
        messages_per_second: 4,
        // 1.2: "Streams <=1024 per connection".
        streams_per_connection: 1_024,
        streams_per_request: 1_024,
        // 1.3: "A SUBSCRIBE payload > 4,096 bytes -> close 3001": stay under it.
        request_bytes_max: 4_095,
        // 1.2: "Connects <=300 per 5 min per IP".
        connects_max: 300,
        connects_window: Duration::from_secs(300),
        // After three missed pings the connection is dead.
        silence_max: Duration::from_secs(60),
        // 1.2: "Lifetime 24 h, hard".
        lifetime: Some(Duration::from_secs(86_400)),
    },
    rest: RestSpec {
        base: "https://api.binance.com",
        // 1.10: "REQUEST_WEIGHT 6000 / min / IP"; the number in exchangeInfo replaces it.
        buckets: &[Bucket::Window { weight: 6_000, per: Duration::from_secs(60) }],
        // 1.10: "Every answer: X-MBX-USED-WEIGHT-1M".
        used_header: Some("x-mbx-used-weight-1m"),
        trades_page: rest::PAGE_MAX,
        klines_page: rest::PAGE_MAX,
    },
};

/// 1.7: "aggTrades | 4 (since 2025-03-10)".
const AGG_TRADES: AggTrades = AggTrades { path: "/api/v3/aggTrades", weight: 4 };

/// The answer to a request for aggregate trades; `None` for another request.
pub(super) fn aggregates_answer(request: &Request<'_>, answer: &RestAnswer<'_>) -> Option<Result<Answer, DecodeError>> {
    let RestAnswer { body, latest, .. } = *answer;
    let is_aggregate = |series: Series<'_>| series.channel == Channel::AggTrade;
    match *request {
        Request::Trades { series, .. } if is_aggregate(series) => {
            Some(aggregates::trades_answer(body, latest).map(Answer::Trades))
        }
        Request::Newest { series } if is_aggregate(series) => Some(aggregates::newest_answer(body).map(Answer::Newest)),
        Request::TradeAt { series, .. } if is_aggregate(series) => {
            Some(aggregates::at_answer(body).map(Answer::TradeAt))
        }
        _ => None,
    }
}

impl Dialect for Binance {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn peer(&self) -> Option<Box<dyn Peer>> {
        Some(Box::new(peer::BinancePeer))
    }

    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        Symbol::from_spelling(text)
    }

    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String> {
        let method = match change {
            SubscriptionChange::Subscribe => "SUBSCRIBE",
            SubscriptionChange::Unsubscribe => "UNSUBSCRIBE",
        };
        streams::requests(method, streams, first_id, SPEC.limits.request_bytes_max)
    }

    fn stream_name(&self, stream: &Stream) -> String {
        streams::name(stream)
    }

    fn channel(&self, stream_name: &str) -> Option<Channel> {
        streams::channel(stream_name)
    }

    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a> {
        frames::route(payload)
    }

    fn decode<'a>(&self, payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
        if let Some(event) = frames::decode(payload).map_err(DecodeError::shortened)? {
            sink(event);
        }
        Ok(())
    }

    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        Some(match *request {
            Request::Trades { series: Series { symbol, channel: Channel::AggTrade }, range, .. } => {
                AGG_TRADES.page(symbol, range)
            }
            Request::Newest { series: Series { symbol, channel: Channel::AggTrade } } => AGG_TRADES.newest(symbol),
            // No other endpoint has the numbers of aggregates.
            Request::NewestFallback { series: Series { channel: Channel::AggTrade, .. } } => return None,
            Request::TradeAt { series: Series { symbol, channel: Channel::AggTrade }, at } => AGG_TRADES.at(symbol, at),
            Request::Trades { series: Series { symbol, .. }, range, .. } => rest::trades_request(symbol, range),
            Request::Newest { series: Series { symbol, .. } } => rest::newest_request(symbol),
            Request::NewestFallback { series: Series { symbol, .. } } => rest::newest_fallback_request(symbol),
            Request::TradeAt { series: Series { symbol, .. }, at } => rest::trade_at_request(symbol, at),
            Request::Klines { symbol, interval, range } => rest::klines_request(symbol, interval, range),
            // 1.9: "/api/v3/time, weight 1".
            Request::Time => RestRequest { path: "/api/v3/time".to_owned(), weight: 1, bucket: 0 },
            Request::Listing { symbols } => rest::info_request(symbols),
        })
    }

    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        let RestAnswer { body, now, latest } = *answer;
        if let Some(read) = aggregates_answer(request, answer) {
            return read;
        }
        Ok(match *request {
            Request::Trades { .. } => Answer::Trades(rest::trades_answer(body, latest)?),
            Request::Newest { .. } | Request::NewestFallback { .. } => Answer::Newest(rest::newest_answer(body)?),
            Request::TradeAt { .. } => Answer::TradeAt(rest::trade_at_answer(body)?),
            Request::Klines { interval, .. } => Answer::Klines(rest::klines_answer(interval, body, now, latest)?),
            Request::Time => Answer::Time(rest::time_answer(body)?),
            Request::Listing { .. } => Answer::Listing(rest::info_answer(body)?),
        })
    }

    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        rest::judge(reply)
    }
}
