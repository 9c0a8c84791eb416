//! Coinbase Exchange's dialect: names and requests, frames, REST.
//!
//! Facts are from EXCHANGES.md, section 5; each rule is quoted above the branch that implements it. Pure: it never sees a
//! socket or a clock.

mod frames;
mod names;
mod peer;
mod rest;

use std::time::Duration;

use super::peer::Peer;
use super::spec::{
    Bucket, ChannelKind, ChannelSpec, Heartbeat, Numbering, OnSubscribe, Reach, Refill, RestSpec, SocketLimits,
    SocketSpec, Spec,
};
use super::{
    Answer, AnswerError, DecodeError, Dialect, MarketEvent, Request, RestAnswer, RestReply, RestRequest, Route, Series,
    SubscriptionChange,
};
use crate::market::{Channel, Exchange, SpellingError, Stream, Symbol};

/// Coinbase Exchange.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coinbase;

const SPEC: Spec = Spec {
    exchange: Exchange::named("coinbase"),
    title: "Coinbase Exchange",
    example: "BTC-USD",
    // 5.1: "Exchange: WS wss://ws-feed.exchange.coinbase.com".
    sockets: &[SocketSpec {
        base: "wss://ws-feed.exchange.coinbase.com",
        path: "/",
        // 5.2: "`heartbeat`, 1/s/product": it is in the same request as the trades.
        heartbeat: Heartbeat::Server,
    }],
    channels: &[
        ChannelSpec {
            kind: ChannelKind::Trade,
            socket: 0,
            // 5.4: "`trade_id` is +1 per product", but "Some ids never existed: 1,128".
            numbering: Numbering::WithHoles,
            // 8: "by id cursor, exact, 1000/call", "all".
            refill: Refill::ById,
            reach: Reach::All,
            // 5.4: "first `last_match`, then `match`".
            on_subscribe: OnSubscribe::Overlap(1),
            undocumented: false,
        },
        // 5.5: "The Exchange feed has no candle channel": it has no klines.
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
        // 5.2: "100 client messages/s/IP": a tenth of it, because several connections may subscribe at once.
        messages_per_second: 10,
        // No document limits the products of a connection. Each sends a heartbeat a second, and a cut loses all of them.
        streams_per_connection: 200,
        streams_per_request: 100,
        // No document limits a request either.
        request_bytes_max: 8 << 10,
        // 5.2: "8 connects/s/IP burst 20": half of it.
        connects_max: 4,
        connects_window: Duration::from_secs(1),
        // 5.2: a heartbeat a second for each product.
        silence_max: Duration::from_secs(30),
        lifetime: None,
    },
    rest: RestSpec {
        base: "https://api.exchange.coinbase.com",
        // 5.10: "Public REST 10 req/s/IP burst 15; then 429": burst and rate together stay within 10 in any second.
        buckets: &[Bucket::Leaky { per_second: 6, burst: 4 }],
        used_header: None,
        trades_page: rest::PAGE_MAX,
        // There is no kline channel whose holes the candles of REST could fill.
        klines_page: 300,
    },
};

impl Dialect for Coinbase {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn peer(&self) -> Option<Box<dyn Peer>> {
        Some(Box::new(peer::CoinbasePeer))
    }

    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        Symbol::from_spelling_with(text, '-')
    }

    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], _first_id: u64) -> Vec<String> {
        names::requests(change, streams, &SPEC.limits)
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
        if let Some(event) = frames::decode(payload).map_err(DecodeError::shortened)? {
            sink(event);
        }
        Ok(())
    }

    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        match *request {
            Request::Trades { series: Series { symbol, .. }, range, .. } => Some(rest::trades_request(symbol, range)),
            Request::Newest { series: Series { symbol, .. } } => Some(rest::newest_request(symbol)),
            Request::Time => Some(rest::request("/time".to_owned())),
            Request::Listing { .. } => Some(rest::request("/products".to_owned())),
            // 5.7: trades are found by id only. 5.8: candles have neither a count nor a quote volume, and 5.5: no stream.
            Request::NewestFallback { .. } | Request::TradeAt { .. } | Request::Klines { .. } => None,
        }
    }

    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        let RestAnswer { body, latest, .. } = *answer;
        Ok(match *request {
            Request::Trades { range, .. } => Answer::Trades(rest::trades_answer(range, body, latest)?),
            Request::Newest { .. } | Request::NewestFallback { .. } => {
                Answer::Newest(rest::newest_answer(body, latest)?)
            }
            Request::Time => Answer::Time(rest::time_answer(body)?),
            Request::Listing { symbols } => Answer::Listing(rest::listing_answer(body, symbols)?),
            Request::TradeAt { .. } | Request::Klines { .. } => {
                return Err(DecodeError { what: "answer", why: "nothing was asked".to_owned() });
            }
        })
    }

    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        rest::judge(reply)
    }
}

#[cfg(test)]
#[path = "coinbase_tests.rs"]
mod tests;
