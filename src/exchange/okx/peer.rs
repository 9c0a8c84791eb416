//! OKX's own side of its protocol, from its documents. It shares no code with the dialect.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::exchange::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerTrades,
    split_query,
};
use crate::exchange::spec::Bucket;
use crate::market::{Book, Channel, Interval, Kline, Side, Timestamp, Trade, plain};

/// 3.2: "payload <=64 KB".
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// 3.7 to 3.9, in 2 s: history-trades 20, trades 100, history-candles 20, instruments 20, time 10.
const BUCKETS: &[Bucket] = &[per_2_s(20), per_2_s(100), per_2_s(20), per_2_s(20), per_2_s(10)];

const fn per_2_s(weight: u32) -> Bucket {
    Bucket::Window { weight, per: Duration::from_secs(2) }
}

/// OKX.
pub(super) struct OkxPeer;

/// 3.5 names the bars; a day of UTC is `1Dutc`.
const BARS: [(&str, Interval); 6] = [
    ("1m", Interval::M1),
    ("5m", Interval::M5),
    ("15m", Interval::M15),
    ("1H", Interval::H1),
    ("4H", Interval::H4),
    ("1Dutc", Interval::D1),
];

fn interval_of(bar: &str) -> Option<Interval> {
    BARS.iter().find(|(name, _)| *name == bar).map(|(_, interval)| *interval)
}

fn bar_of(interval: Interval) -> Option<&'static str> {
    BARS.iter().find(|(_, known)| *known == interval).map(|(name, _)| *name)
}

fn channel_named(name: &str) -> Option<Channel> {
    match name {
        "trades-all" => Some(Channel::Trade),
        "bbo-tbt" => Some(Channel::BookTicker),
        _ => interval_of(name.strip_prefix("candle")?).map(Channel::Kline),
    }
}

fn millis(at: Timestamp) -> String {
    at.micros().div_euclid(1_000).to_string()
}

fn trade_row(symbol: &str, trade: &Trade) -> Value {
    let side = if trade.side == Side::Buy { "buy" } else { "sell" };
    json!({
        "instId": symbol, "tradeId": trade.id.to_string(), "px": plain(trade.price), "sz": plain(trade.quantity),
        "side": side, "ts": millis(trade.ts), "source": "0",
    })
}

fn kline_row(kline: &Kline) -> Value {
    let (volume, quote_volume) = (plain(kline.volume), plain(kline.quote_volume));
    json!([
        millis(kline.open_time),
        plain(kline.open),
        plain(kline.high),
        plain(kline.low),
        plain(kline.close),
        volume,
        quote_volume,
        quote_volume,
        if kline.closed { "1" } else { "0" },
    ])
}

fn book_row(book: &Book, at: Timestamp) -> Value {
    json!({
        "asks": [[plain(book.ask), plain(book.ask_quantity), "0", "1"]],
        "bids": [[plain(book.bid), plain(book.bid_quantity), "0", "1"]],
        "ts": millis(at), "seqId": book.update_id,
    })
}

fn error(id: Option<&Value>, code: &str, msg: String) -> String {
    let mut message = json!({ "event": "error", "code": code, "msg": msg, "connId": "a4d3ae55" });
    if let Some(id) = id {
        message["id"] = id.clone();
    }
    message.to_string()
}

/// The answer to one arg of a request.
fn answer_arg(
    operation: &str,
    id: Option<&Value>,
    arg: &Value,
    is_listed: &dyn Fn(&str) -> bool,
    reply: &mut PeerReply,
) {
    let (name, symbol) = (arg["channel"].as_str().unwrap_or_default(), arg["instId"].as_str().unwrap_or_default());
    let Some(channel) = channel_named(name).filter(|_| is_listed(symbol)) else {
        let msg = format!(
            "Wrong URL or channel:{name},instId:{symbol} doesn't exist. Please use the correct URL, channel and \
             parameters referring to API document."
        );
        return reply.messages.push(error(id, "60018", msg));
    };
    let mut message = json!({ "event": operation, "arg": { "channel": name, "instId": symbol }, "connId": "a4d3ae55" });
    if let Some(id) = id {
        message["id"] = id.clone();
    }
    reply.messages.push(message.to_string());
    match operation {
        "subscribe" => reply.subscribed.push((symbol.to_owned(), channel)),
        _ => reply.unsubscribed.push((symbol.to_owned(), channel)),
    }
}

impl Peer for OkxPeer {
    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, _at: Timestamp) -> PeerReply {
        let mut reply = PeerReply::default();
        if text == "ping" {
            reply.messages.push("pong".to_owned());
            return reply;
        }
        if text.len() > PAYLOAD_BYTES_MAX {
            reply.close = Some((1_009, "too large"));
            return reply;
        }
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let (id, operation) = (message.get("id"), message["op"].as_str().unwrap_or_default());
        // "an optional client `id` (<=32 characters)".
        let is_id = id.is_none_or(|id| id.as_str().is_some_and(|id| id.len() <= 32));
        match (operation, message["args"].as_array()) {
            ("subscribe" | "unsubscribe", Some(args)) if is_id && !args.is_empty() => {
                for arg in args {
                    answer_arg(operation, id, arg, is_listed, &mut reply);
                }
            }
            _ => reply.messages.push(error(id.filter(|_| is_id), "60012", format!("Invalid request: {text}"))),
        }
        reply
    }

    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String> {
        let (channel, data) = match event {
            PeerEvent::Trades(trades) => {
                ("trades-all".to_owned(), trades.iter().map(|trade| trade_row(symbol, trade)).collect())
            }
            // No such channel.
            PeerEvent::AggTrade(_) => return None,
            PeerEvent::Kline(kline) => (format!("candle{}", bar_of(kline.interval)?), vec![kline_row(kline)]),
            PeerEvent::Book(book) => ("bbo-tbt".to_owned(), vec![book_row(book, at)]),
        };
        Some(json!({ "arg": { "channel": channel, "instId": symbol }, "data": data }).to_string())
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        let (path, query) = split_query(path_and_query).ok_or(PeerRefusal::BadParameter)?;
        match path.as_str() {
            "/api/v5/market/history-trades" => Ok((history_trades(&query)?, 1, 0)),
            "/api/v5/market/trades" => {
                let (symbol, limit) = (instrument(&query)?, limit(&query, 500)?);
                Ok((PeerRequest::Trades { symbol, channel: Channel::Trade, which: PeerTrades::Newest, limit }, 1, 1))
            }
            "/api/v5/market/history-candles" => Ok((candles(&query)?, 1, 2)),
            "/api/v5/public/instruments" => match query.get("instType").map(String::as_str) {
                Some("SPOT") => Ok((PeerRequest::Listing(query.get("instId").cloned().into_iter().collect()), 1, 3)),
                _ => Err(PeerRefusal::BadParameter),
            },
            "/api/v5/public/time" => Ok((PeerRequest::Time, 1, 4)),
            _ => Err(PeerRefusal::Failed(404)),
        }
    }

    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        let data: Vec<Value> = match (content, request) {
            // "newest first" in both.
            (PeerContent::Trades(trades), PeerRequest::Trades { symbol, .. }) => {
                trades.iter().rev().map(|trade| trade_row(symbol, trade)).collect()
            }
            (PeerContent::Trades(_), _) => Vec::new(),
            (PeerContent::Klines(klines), _) => klines.iter().rev().map(kline_row).collect(),
            (PeerContent::Time(at), _) => vec![json!({ "ts": millis(at) })],
            (PeerContent::Listing(symbols), _) => {
                let state = |trades: bool| if trades { "live" } else { "suspend" };
                let row = |(symbol, trades): &(String, bool)| json!({ "instType": "SPOT", "instId": symbol, "state": state(*trades) });
                symbols.iter().map(row).collect()
            }
        };
        body(200, "0", "", data)
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        match refusal {
            PeerRefusal::Limited(_) | PeerRefusal::Banned(_) => body(429, "50011", "Too Many Requests", Vec::new()),
            PeerRefusal::UnknownSymbol => body(200, "51001", "Instrument ID doesn't exist", Vec::new()),
            PeerRefusal::BadParameter | PeerRefusal::TooOld => body(200, "51000", "Parameter error", Vec::new()),
            PeerRefusal::Failed(status) => body(status, "50001", "Service temporarily unavailable", Vec::new()),
        }
    }

    fn limits(&self) -> PeerLimits {
        PeerLimits {
            // 3.2: "No data for 30 s -> closed".
            silence_max: Some(Duration::from_secs(30)),
            // 3.2: "480 subscribe + unsubscribe + login operations per hour per connection".
            operations: Some((480, Duration::from_secs(3_600))),
            // 3.2: "3 connects/s/IP".
            connects: Some((3, Duration::from_secs(1))),
            buckets: BUCKETS,
            ..PeerLimits::NONE
        }
    }

    fn shutdown(&self, _at: Timestamp) -> Option<String> {
        // 3.2: "{"event":"notice","code":"64008",...} 60 s before".
        let msg = "The connection will soon be closed for a service upgrade. Please reconnect.";
        Some(json!({ "event": "notice", "code": "64008", "msg": msg, "connId": "a4d3ae55" }).to_string())
    }
}

fn body(status: u16, code: &str, msg: &str, data: Vec<Value>) -> PeerResponse {
    let body = json!({ "code": code, "msg": msg, "data": data }).to_string();
    PeerResponse { status, headers: Vec::new(), body }
}

type Query = BTreeMap<String, String>;

fn instrument(query: &Query) -> Result<String, PeerRefusal> {
    query.get("instId").cloned().ok_or(PeerRefusal::BadParameter)
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, PeerRefusal> {
    match query.get(name) {
        Some(text) => text.parse().map(Some).map_err(|_| PeerRefusal::BadParameter),
        None => Ok(None),
    }
}

/// The limit, 100 without one.
fn limit(query: &Query, max: i64) -> Result<usize, PeerRefusal> {
    match number(query, "limit")?.unwrap_or(100) {
        limit if (1..=max).contains(&limit) => usize::try_from(limit).map_err(|_| PeerRefusal::BadParameter),
        _ => Err(PeerRefusal::BadParameter),
    }
}

/// `type=1` pages by trade id; the simulated venue has no pages by time. `before` alone brings the newest page.
fn history_trades(query: &Query) -> Result<PeerRequest, PeerRefusal> {
    if query.get("type").is_some_and(|kind| kind != "1") {
        return Err(PeerRefusal::BadParameter);
    }
    let which = number(query, "after")?.map_or(PeerTrades::Newest, PeerTrades::Before);
    Ok(PeerRequest::Trades { symbol: instrument(query)?, channel: Channel::Trade, which, limit: limit(query, 100)? })
}

/// `after=X` -> ts < X, `before=X` -> ts > X; `before` alone brings the newest page.
fn candles(query: &Query) -> Result<PeerRequest, PeerRefusal> {
    let interval = query.get("bar").map_or(Some(Interval::M1), |bar| interval_of(bar));
    let interval = interval.ok_or(PeerRefusal::BadParameter)?;
    let micros = |ms: i64| ms.checked_mul(1_000).map(Timestamp).ok_or(PeerRefusal::BadParameter);
    let last = number(query, "after")?.map(|ms| micros(ms.saturating_sub(1))).transpose()?;
    let first = number(query, "before")?.map(|ms| micros(ms.saturating_add(1))).transpose()?;
    let first = first.filter(|_| last.is_some());
    let (symbol, limit) = (instrument(query)?, limit(query, 300)?);
    Ok(PeerRequest::Klines { symbol, interval, first, last, limit, newest: true })
}
