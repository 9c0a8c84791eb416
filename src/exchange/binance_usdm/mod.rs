//! Binance USD-M's dialect: futures that are margined in dollars. Frames and rows are those of spot, so their decoders are
//! shared; addresses, channels, limits and weights are not.
//!
//! Facts are from EXCHANGES.md, section 2; each rule is quoted above the branch that implements it. Pure: it never sees a
//! socket or a clock.

mod peer;
mod rest;
#[cfg(test)]
mod usdm_tests;

use std::time::Duration;

use super::binance::{aggregates_answer, frames, rest as spot_rest, streams};
use super::peer::Peer;
use super::spec::{
    Bucket, ChannelKind, ChannelSpec, Heartbeat, KlineClose, Numbering, OnSubscribe, Reach, Refill, RestSpec,
    SocketLimits, SocketSpec, Spec,
};
use super::{
    Answer, AnswerError, DecodeError, Dialect, Event, MarketEvent, Request, RestAnswer, RestReply, RestRequest, Route,
    Series, SubscriptionChange,
};
use crate::market::{Channel, Exchange, Interval, SpellingError, Stream, Symbol};

/// Binance USD-M futures.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinanceUsdm;

/// 2.1: "`/market` (aggTrade, kline, markPrice, ...)".
const MARKET: usize = 0;
/// 2.1: "`/public` (bookTicker, depth, partial depth, `@trade`, rpiDepth)".
const PUBLIC: usize = 1;

/// 2.1: "two connections are needed ... each with `/ws/<s>` and `/stream?streams=`".
const fn socket(path: &'static str) -> SocketSpec {
    // 2.2: "server ping every 3 min, payload = ms time".
    SocketSpec { base: "wss://fstream.binance.com", path, heartbeat: Heartbeat::Server }
}

const SPEC: Spec = Spec {
    exchange: Exchange::named("binance_usdm"),
    title: "Binance USD-M",
    example: "BTCUSDT",
    sockets: &[socket("/market/stream"), socket("/public/stream")],
    channels: &[
        ChannelSpec {
            // 2.4: "Record aggTrade as the proof stream".
            kind: ChannelKind::AggTrade,
            socket: MARKET,
            // 2.4: "`a` is contiguous: 597, 0 jumps".
            numbering: Numbering::Contiguous,
            // 2.7: "`fromId` inclusive upward".
            refill: Refill::ById,
            // 2.7: "Only the last 2 days, also by id: 400 code -4166".
            reach: Reach::For(Duration::from_secs(2 * 86_400)),
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::Trade,
            socket: PUBLIC,
            // 2.4: "`t` is contiguous on the wire: 35,389 trades, 0 holes".
            numbering: Numbering::Contiguous,
            // 2.7: "historicalTrades needs X-MBX-APIKEY ... leaves out insurance/ADL", and trades has no paging: without a
            // key nothing returns a lost trade.
            refill: Refill::Never,
            reach: Reach::Rows(0),
            on_subscribe: OnSubscribe::Nothing,
            // 2.4: "undocumented but served ... can vanish without notice: never the only source".
            undocumented: true,
        },
        ChannelSpec {
            kind: ChannelKind::Kline {
                // 2.5: "fields as on spot, 250 ms, no `1s`".
                intervals: &Interval::ALL,
                // 1.5: "x = closed".
                close: KlineClose::Flag,
                // 2.5: "No id check: n != L-f+1 today".
                names_trades: false,
            },
            socket: MARKET,
            numbering: Numbering::Contiguous,
            refill: Refill::ByTime,
            reach: Reach::All,
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::BookTicker,
            socket: PUBLIC,
            numbering: Numbering::Unnumbered,
            refill: Refill::Never,
            reach: Reach::Rows(0),
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
    ],
    limits: SocketLimits {
        // 2.2: "10/s documented; 15 back to back pass, the 16th is closed with 1008. Use <=5/s".
        messages_per_second: 5,
        // 2.2: "1024 against 200 in a later reading ... plan <=200"; "The 1,025th stream: ... all 1,024 are lost".
        streams_per_connection: STREAMS_MAX,
        streams_per_request: STREAMS_MAX,
        // 2.3: "Same messages as 1.3": "A SUBSCRIBE payload > 4,096 bytes -> close 3001".
        request_bytes_max: 4_095,
        // No document names a limit here: that of spot (1.2).
        connects_max: 300,
        connects_window: Duration::from_secs(300),
        // 2.2: "server ping every 3 min (seen at 140 s, 320 s)": after two missed ones the connection is dead.
        silence_max: Duration::from_secs(660),
        // 2.2: "Lifetime 24 h".
        lifetime: Some(Duration::from_secs(86_400)),
    },
    rest: RestSpec {
        base: "https://fapi.binance.com",
        // 2.10: "REQUEST_WEIGHT 2400/min/IP shared with COIN-M ... UTC-minute window"; exchangeInfo's number replaces it.
        buckets: &[Bucket::Window { weight: 2_400, per: Duration::from_secs(60) }],
        // 2.10: "header X-MBX-USED-WEIGHT-1M".
        used_header: Some("x-mbx-used-weight-1m"),
        trades_page: spot_rest::PAGE_MAX,
        klines_page: rest::KLINES_PAGE,
    },
};

const STREAMS_MAX: usize = 200;

impl Dialect for BinanceUsdm {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn peer(&self) -> Option<Box<dyn Peer>> {
        Some(Box::new(peer::UsdmPeer))
    }

    /// 2.11: "Symbols can contain Chinese letters; quarterly contracts ... are in the same list": `BTCUSDT_260925`.
    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        let is_date = |date: &str| date.len() == 6 && date.bytes().all(|digit| digit.is_ascii_digit());
        match text.rsplit_once('_').filter(|(_, date)| is_date(date)) {
            None => Symbol::from_spelling(text),
            Some((pair, date)) => match Symbol::from_spelling(pair) {
                Ok(_) => Ok(Symbol::new(text)),
                Err(SpellingError::Respell(meant)) => Err(SpellingError::Respell(format!("{meant}_{date}"))),
                Err(other) => Err(other),
            },
        }
    }

    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String> {
        // 2.3: "Same messages as 1.3".
        let method = match change {
            SubscriptionChange::Subscribe => "SUBSCRIBE",
            SubscriptionChange::Unsubscribe => "UNSUBSCRIBE",
        };
        let mut requests = Vec::new();
        for chunk in streams.chunks(STREAMS_MAX) {
            let id = first_id + requests.len() as u64;
            requests.extend(streams::requests(method, chunk, id, SPEC.limits.request_bytes_max));
        }
        requests
    }

    /// 2.1: "Lowercase symbols in stream names; non-ASCII symbols exist (raw UTF-8 is accepted)".
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
        if let Some(mut event) = frames::decode(payload).map_err(DecodeError::shortened)? {
            if let Event::Kline(kline) = &mut event.event {
                // 2.5: "Raise no finding from it": between f and L are ids that the kline does not count.
                (kline.first_trade_id, kline.last_trade_id) = (-1, -1);
            }
            sink(event);
        }
        Ok(())
    }

    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        let is_aggregate = |series: Series<'_>| series.channel == Channel::AggTrade;
        Some(match *request {
            Request::Trades { series, range, .. } if is_aggregate(series) => {
                rest::AGG_TRADES.page(series.symbol, range)
            }
            Request::Newest { series } if is_aggregate(series) => rest::AGG_TRADES.newest(series.symbol),
            Request::TradeAt { series, at } if is_aggregate(series) => rest::AGG_TRADES.at(series.symbol, at),
            // 2.7: "`/fapi/v1/trades` | 5 | newest <=1000, no paging": the newest id, and nothing else without a key.
            Request::Newest { series } => rest::newest_request(series.symbol),
            Request::Trades { .. } | Request::NewestFallback { .. } | Request::TradeAt { .. } => return None,
            Request::Klines { symbol, interval, range } => rest::klines_request(symbol, interval, range),
            // 2.9: "Time `/fapi/v1/time`, weight 1"; 2.11: "exchangeInfo.serverTime is stale by hours".
            Request::Time => RestRequest { path: "/fapi/v1/time".to_owned(), weight: 1, bucket: 0 },
            // 2.9: "exchangeInfo (weight 1)". It lists every symbol.
            Request::Listing { .. } => RestRequest { path: "/fapi/v1/exchangeInfo".to_owned(), weight: 1, bucket: 0 },
        })
    }

    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        if let Some(read) = aggregates_answer(request, answer) {
            return read;
        }
        let RestAnswer { body, now, latest } = *answer;
        Ok(match *request {
            Request::Trades { .. } => Answer::Trades(spot_rest::trades_answer(body, latest)?),
            Request::Newest { .. } | Request::NewestFallback { .. } => Answer::Newest(spot_rest::newest_answer(body)?),
            Request::TradeAt { .. } => Answer::TradeAt(None),
            Request::Klines { interval, .. } => Answer::Klines(spot_rest::klines_answer(interval, body, now, latest)?),
            Request::Time => Answer::Time(spot_rest::time_answer(body)?),
            Request::Listing { symbols } => Answer::Listing(rest::listing_answer(symbols, body)?),
        })
    }

    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        // 2.10: "429 then 418 as on spot".
        spot_rest::judge(reply)
    }
}
