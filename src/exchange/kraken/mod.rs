//! Kraken's dialect for spot: WebSocket v2 and REST.
//!
//! Facts are from EXCHANGES.md, section 6; each rule is quoted above the branch that implements it. Pure: it never sees a
//! socket or a clock.

mod frames;
mod kline;
mod names;
mod peer;
mod rest;

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

/// Kraken spot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kraken;

const SPEC: Spec = Spec {
    exchange: Exchange::named("kraken"),
    title: "Kraken Spot",
    example: "BTC/USD",
    // 6.1: "WS wss://ws.kraken.com/v2".
    sockets: &[SocketSpec {
        base: "wss://ws.kraken.com",
        path: "/v2",
        // 6.2: "`{"method":"ping","req_id":n}` -> pong. An idle connection is closed after about 1 min: ping every 30 s".
        // No subscription has the number 0.
        heartbeat: Heartbeat::Client { every: Duration::from_secs(30), message: r#"{"method":"ping","req_id":0}"# },
    }],
    channels: &[
        ChannelSpec {
            kind: ChannelKind::Trade,
            socket: 0,
            // 6.4: "`trade_id` unique and sequential per book"; "+1 per pair: 1,000 REST rows, 0 jumps".
            numbering: Numbering::Contiguous,
            // 8: "by ns cursor, 1000/call", "all".
            refill: Refill::ByTime,
            reach: Reach::All,
            // 6.4: "true = the last 50 trades, a free overlap".
            on_subscribe: OnSubscribe::Overlap(50),
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::Kline {
                intervals: &Interval::ALL,
                // 6.5: "no closed flag: closed when a newer interval_begin arrives".
                close: KlineClose::Successor,
                // 6.5: it counts trades, and names none.
                names_trades: false,
            },
            socket: 0,
            // 6.8: "Empty minutes are present with volume 0" over REST, so that every interval has a row.
            numbering: Numbering::Contiguous,
            refill: Refill::ByTime,
            // 6.8: "<=720 rows, cannot go deeper".
            reach: Reach::Rows(720),
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
        // 6.2: "Message limit dynamic, error Exceeded msg rate": no number, so few.
        messages_per_second: 4,
        // No document limits the streams of a connection.
        streams_per_connection: 200,
        streams_per_request: 100,
        request_bytes_max: 8 << 10,
        // 6.2: "About 150 connects per rolling 10 min per IP (Cloudflare), then a 10 min ban"; "After maintenance at most
        // one try per 5 s", which is 120 in ten minutes.
        connects_max: 120,
        connects_window: Duration::from_secs(600),
        // 6.2: a heartbeat "about 1/s when nothing else", and the pong of every ping.
        silence_max: Duration::from_secs(45),
        lifetime: None,
    },
    rest: RestSpec {
        base: "https://api.kraken.com",
        // 6.10: "Public REST by IP, about 1 req/s is safe".
        buckets: &[Bucket::Leaky { per_second: 1, burst: 1 }],
        used_header: None,
        trades_page: rest::TRADES_MAX,
        klines_page: rest::KLINES_MAX,
    },
};

impl Dialect for Kraken {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn peer(&self) -> Option<Box<dyn Peer>> {
        Some(Box::new(peer::KrakenPeer))
    }

    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        let symbol = Symbol::from_spelling_with(text, '/')?;
        // REST and the old protocol write XBT; the socket's v2 does not know it.
        match names::from_rest(symbol.as_str()) {
            Some(meant) if meant != symbol.as_str() => Err(SpellingError::Respell(meant)),
            _ => Ok(symbol),
        }
    }

    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String> {
        names::requests(change, streams, first_id, &SPEC.limits)
    }

    fn stream_name(&self, stream: &Stream) -> String {
        names::of_stream(stream)
    }

    fn channel(&self, stream_name: &str) -> Option<Channel> {
        names::channel(stream_name)
    }

    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a> {
        frames::route(payload)
    }

    fn decode<'a>(&self, payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
        frames::decode(payload, sink).map_err(DecodeError::shortened)
    }

    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        match *request {
            Request::Trades { series: Series { symbol, .. }, after, .. } => Some(rest::trades_request(symbol, after)),
            Request::Newest { series: Series { symbol, .. } } => Some(rest::newest_request(symbol)),
            Request::TradeAt { series: Series { symbol, .. }, at } => Some(rest::trade_at_request(symbol, at)),
            Request::Klines { symbol, interval, range } => Some(rest::klines_request(symbol, interval, range)),
            Request::Time => Some(rest::request("/0/public/Time".to_owned())),
            Request::Listing { .. } => Some(rest::request("/0/public/AssetPairs".to_owned())),
            Request::NewestFallback { .. } => None,
        }
    }

    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        let RestAnswer { body, now, latest } = *answer;
        Ok(match *request {
            Request::Trades { .. } => Answer::Trades(rest::trades_answer(body, latest)?),
            Request::Newest { .. } | Request::NewestFallback { .. } => {
                Answer::Newest(rest::newest_answer(body, latest)?)
            }
            Request::TradeAt { at, .. } => Answer::TradeAt(rest::trade_at_answer(at, body, latest)?),
            Request::Klines { interval, .. } => Answer::Klines(rest::klines_answer(interval, body, now, latest)?),
            Request::Time => Answer::Time(rest::time_answer(body)?),
            Request::Listing { symbols } => Answer::Listing(rest::listing_answer(body, symbols)?),
        })
    }

    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        rest::judge(reply)
    }
}

#[cfg(test)]
#[path = "kraken_tests.rs"]
mod tests;
