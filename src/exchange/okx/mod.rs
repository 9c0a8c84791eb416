//! OKX's dialect for spot: channels and requests, frames, REST.
//!
//! Facts are from EXCHANGES.md, section 3 (OKX v5); each rule is quoted above the branch that implements it. Pure: it
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

/// OKX spot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Okx;

/// 3.2: "No data for 30 s -> closed. Send the text `ping` ... after 20 to 25 s of silence".
const HEARTBEAT: Heartbeat = Heartbeat::Client { every: Duration::from_secs(20), message: "ping" };

const SPEC: Spec = Spec {
    exchange: Exchange::named("okx"),
    title: "OKX Spot",
    example: "BTC-USDT",
    // 3.1: "/ws/v5/public (tickers, trades, books, bbo-tbt, instruments); /ws/v5/business for `candle*` and `trades-all`".
    sockets: &[
        SocketSpec { base: "wss://ws.okx.com:8443", path: "/ws/v5/public", heartbeat: HEARTBEAT },
        SocketSpec { base: "wss://ws.okx.com:8443", path: "/ws/v5/business", heartbeat: HEARTBEAT },
    ],
    channels: &[
        ChannelSpec {
            kind: ChannelKind::Trade,
            socket: 1,
            // 3.4: "69 ids of BTC-USDT ... every step +1"; 8: "yes, verify".
            numbering: Numbering::Contiguous,
            // 8: "by tradeId, exact, 100/call".
            refill: Refill::ById,
            // 3.7: "last 3 months".
            reach: Reach::For(Duration::from_secs(90 * 86_400)),
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
        ChannelSpec {
            kind: ChannelKind::Kline {
                intervals: &Interval::ALL,
                // 3.5: "`confirm` "0" / "1"".
                close: KlineClose::Flag,
                // 3.5: the rows are "[ts,o,h,l,c,vol,volCcy,volCcyQuote,confirm]": neither ids nor a count.
                names_trades: false,
            },
            socket: 1,
            // 3.8: "A minute without trades is present".
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
            // 3.6: `bbo-tbt` begins with the book as it is: one row, not new.
            on_subscribe: OnSubscribe::Nothing,
            undocumented: false,
        },
    ],
    limits: SocketLimits {
        // No document names a rate of messages; 3.2: "480 ... operations per hour per connection" and 60014 "too
        // frequent".
        messages_per_second: 2,
        // Requests of 100 streams each: a connection needs a few operations of its 480, also after many refusals.
        streams_per_connection: 400,
        streams_per_request: 100,
        // 3.2: "payload <=64 KB": half of it.
        request_bytes_max: 32 << 10,
        // 3.2: "3 connects/s/IP": one less, because the network may bunch them.
        connects_max: 2,
        connects_window: Duration::from_secs(1),
        // Two pings without any answer.
        silence_max: Duration::from_secs(45),
        lifetime: None,
    },
    rest: RestSpec {
        base: "https://openapi.okx.com",
        buckets: rest::BUCKETS,
        used_header: None,
        trades_page: rest::TRADES_PAGE,
        klines_page: rest::KLINES_PAGE,
    },
};

/// 3.5: "Bars `1s 1m 3m 5m 15m 30m 1H 2H 4H`, then `6H 12H 1D ...` on UTC+8 unless `...utc`; case matters".
const fn bar(interval: Interval) -> &'static str {
    match interval {
        Interval::M1 => "1m",
        Interval::M5 => "5m",
        Interval::M15 => "15m",
        Interval::H1 => "1H",
        Interval::H4 => "4H",
        Interval::D1 => "1Dutc",
    }
}

/// The venue's name of a channel.
fn channel_name(channel: Channel) -> String {
    match channel {
        // 3.4: "`trades-all`: one trade per message ... Use this for a recorder"; "`trades` is aggregated".
        Channel::Trade => "trades-all".to_owned(),
        Channel::Kline(interval) => format!("candle{}", bar(interval)),
        Channel::BookTicker => "bbo-tbt".to_owned(),
        // The venue has no such channel: the name is only shown.
        Channel::AggTrade => "aggTrade".to_owned(),
    }
}

/// The channel of the venue's name of it.
fn channel_of(name: &str) -> Option<Channel> {
    match name {
        "trades-all" => Some(Channel::Trade),
        "bbo-tbt" => Some(Channel::BookTicker),
        _ => {
            let wanted = name.strip_prefix("candle")?;
            Interval::ALL.into_iter().find(|interval| bar(*interval) == wanted).map(Channel::Kline)
        }
    }
}

/// `trades-all:BTC-USDT`: the venue names a stream by two members, channel and instrument.
fn name_of(channel: &str, instrument: &str) -> String {
    format!("{channel}:{instrument}")
}

impl Dialect for Okx {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn peer(&self) -> Option<Box<dyn Peer>> {
        Some(Box::new(peer::OkxPeer))
    }

    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        Symbol::from_spelling_with(text, '-')
    }

    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String> {
        let operation = match change {
            SubscriptionChange::Subscribe => "subscribe",
            SubscriptionChange::Unsubscribe => "unsubscribe",
        };
        // 3.3: "an optional client `id` (<=32 characters) is echoed".
        let request =
            |id: u64, args: &[String]| format!(r#"{{"id":"{id}","op":"{operation}","args":[{}]}}"#, args.join(","));
        let mut requests = Vec::new();
        let mut args: Vec<String> = Vec::new();
        for stream in streams {
            let instrument = serde_json::Value::from(stream.symbol.as_str());
            let arg = format!(r#"{{"channel":"{}","instId":{instrument}}}"#, channel_name(stream.channel));
            let grown = request(u64::MAX, &args).len() + 1 + arg.len();
            let is_full = args.len() == SPEC.limits.streams_per_request || grown > SPEC.limits.request_bytes_max;
            if is_full && !args.is_empty() {
                requests.push(request(first_id + requests.len() as u64, &args));
                args.clear();
            }
            args.push(arg);
        }
        if !args.is_empty() {
            requests.push(request(first_id + requests.len() as u64, &args));
        }
        requests
    }

    fn stream_name(&self, stream: &Stream) -> String {
        name_of(&channel_name(stream.channel), stream.symbol.as_str())
    }

    fn channel(&self, stream_name: &str) -> Option<Channel> {
        channel_of(stream_name.split_once(':')?.0)
    }

    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a> {
        frames::route(payload)
    }

    fn decode<'a>(&self, payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
        frames::decode(payload, sink).map_err(DecodeError::shortened)
    }

    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        Some(match *request {
            Request::Trades { series: Series { symbol, .. }, range, .. } => rest::trades_request(symbol, range),
            Request::Newest { series: Series { symbol, .. } } => rest::newest_request(symbol),
            Request::NewestFallback { series: Series { symbol, .. } } => rest::newest_fallback_request(symbol),
            // 3.7: "`type=2` by ts; `after` = older than": the page before a time is empty when the venue serves nothing
            // that old, which does not mean that no trade follows. So the client looks for the time by id.
            Request::TradeAt { .. } => return None,
            Request::Klines { symbol, interval, range } => rest::klines_request(symbol, interval, range),
            Request::Time => rest::time_request(),
            Request::Listing { symbols } => rest::listing_request(symbols),
        })
    }

    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        let RestAnswer { body, latest, .. } = *answer;
        Ok(match *request {
            Request::Trades { range, .. } => Answer::Trades(rest::trades_answer(range, body, latest)?),
            Request::Newest { .. } | Request::NewestFallback { .. } => Answer::Newest(rest::newest_answer(body)?),
            Request::TradeAt { .. } => Answer::TradeAt(None),
            Request::Klines { interval, .. } => Answer::Klines(rest::klines_answer(interval, body, latest)?),
            Request::Time => Answer::Time(rest::time_answer(body)?),
            Request::Listing { symbols } => Answer::Listing(rest::listing_answer(symbols, body)?),
        })
    }

    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        rest::judge(reply)
    }
}
