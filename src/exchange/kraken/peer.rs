//! Kraken's own side of its protocol, from its documents. It shares no code with the dialect.

use std::time::Duration;

use serde_json::{Value, json};

use crate::exchange::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerTrades,
    split_query,
};
use crate::exchange::spec::Bucket;
use crate::market::{Book, Channel, Interval, Kline, Side, Timestamp, Trade, plain};

/// Kraken spot.
pub(super) struct KrakenPeer;

/// 6.5: "intervals 1 5 15 30 60 240 1440 10080 21600", of which these are recorded.
const INTERVALS: [(i64, Interval); 6] = [
    (1, Interval::M1),
    (5, Interval::M5),
    (15, Interval::M15),
    (60, Interval::H1),
    (240, Interval::H4),
    (1_440, Interval::D1),
];

/// The quote assets by which a pair without a slash is divided, longer ones first.
const QUOTES: [&str; 16] = [
    "USDT", "USDC", "EURT", "USDQ", "USDR", "PYUSD", "DAI", "USD", "EUR", "GBP", "CAD", "AUD", "CHF", "JPY", "XBT",
    "ETH",
];

fn minutes_of(interval: Interval) -> i64 {
    INTERVALS.iter().find(|(_, known)| *known == interval).map_or(0, |(minutes, _)| *minutes)
}

/// 6.4: "RFC3339 with µs".
fn time(at: Timestamp) -> String {
    let at = at.to_chrono().unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Seconds with seven digits, as REST writes times: "REST floats 100 ns".
fn seconds(at: Timestamp) -> String {
    let (whole, micros) = (at.micros().div_euclid(1_000_000), at.micros().rem_euclid(1_000_000));
    format!("{whole}.{micros:06}1")
}

/// The socket's BTC is XBT in REST, and its DOGE is XDG.
fn other_name(asset: &str) -> &str {
    match asset {
        "BTC" => "XBT",
        "XBT" => "BTC",
        "DOGE" => "XDG",
        "XDG" => "DOGE",
        same => same,
    }
}

/// `XBT/USD` for `BTC/USD`, and the reverse.
fn renamed(pair: &str) -> String {
    pair.split('/').map(other_name).collect::<Vec<_>>().join("/")
}

/// The socket's symbol of the `pair` of a request: `XBTUSD` or `XBT/USD`.
fn symbol_of(pair: &str) -> String {
    if pair.contains('/') {
        return renamed(pair);
    }
    let quote = QUOTES.iter().find(|quote| pair.len() > quote.len() && pair.ends_with(**quote));
    match quote {
        Some(quote) => renamed(&format!("{}/{quote}", &pair[..pair.len() - quote.len()])),
        None => pair.to_owned(),
    }
}

/// The exchange's own name of a pair, the key of its rows.
fn key_of(symbol: &str) -> String {
    renamed(symbol).replace('/', "")
}

fn side(trade: &Trade) -> &'static str {
    if trade.side == Side::Buy { "buy" } else { "sell" }
}

/// 6.4: "price and qty are JSON numbers".
fn trade_element(symbol: &str, trade: &Trade) -> String {
    let (price, quantity) = (plain(trade.price), plain(trade.quantity));
    format!(
        r#"{{"symbol":{},"side":"{}","price":{price},"qty":{quantity},"ord_type":"limit","trade_id":{},"timestamp":"{}"}}"#,
        json!(symbol),
        side(trade),
        trade.id,
        time(trade.ts)
    )
}

fn trades_frame(kind: &str, symbol: &str, trades: &[Trade]) -> String {
    let elements: Vec<String> = trades.iter().map(|trade| trade_element(symbol, trade)).collect();
    format!(r#"{{"channel":"trade","type":"{kind}","data":[{}]}}"#, elements.join(","))
}

/// The average price: the quote volume by the volume, as many digits as a price has.
fn vwap(kline: &Kline) -> String {
    let average = kline.quote_volume.checked_div(kline.volume).unwrap_or(kline.close);
    plain(average.round_dp(10))
}

/// 6.5: "symbol open high low close vwap trades volume interval_begin interval".
fn ohlc_frame(symbol: &str, kline: &Kline, at: Timestamp) -> String {
    let [open, high, low, close] = [kline.open, kline.high, kline.low, kline.close].map(plain);
    format!(
        r#"{{"channel":"ohlc","type":"update","timestamp":"{}","data":[{{"symbol":{},"open":{open},"high":{high},"low":{low},"close":{close},"trades":{},"volume":{},"vwap":{},"interval_begin":"{}","interval":{}}}]}}"#,
        time(at),
        json!(symbol),
        kline.trade_count,
        plain(kline.volume),
        vwap(kline),
        time(kline.open_time),
        minutes_of(kline.interval)
    )
}

fn ticker_frame(symbol: &str, book: &Book, at: Timestamp) -> String {
    let [bid, bid_qty, ask, ask_qty] = [book.bid, book.bid_quantity, book.ask, book.ask_quantity].map(plain);
    format!(
        r#"{{"channel":"ticker","type":"update","data":[{{"symbol":{},"bid":{bid},"bid_qty":{bid_qty},"ask":{ask},"ask_qty":{ask_qty},"last":{bid},"volume":1.5,"vwap":{bid},"low":{bid},"high":{ask},"change":0.0,"change_pct":0.0,"timestamp":"{}"}}]}}"#,
        json!(symbol),
        time(at)
    )
}

/// The channel that `params` name; an error is the venue's text.
fn channel_of(params: &Value) -> Result<Channel, &'static str> {
    match params["channel"].as_str() {
        Some("trade") => Ok(Channel::Trade),
        Some("ticker") => Ok(Channel::BookTicker),
        Some("ohlc") => {
            let minutes = params["interval"].as_i64().unwrap_or(1);
            let found = INTERVALS.iter().find(|(known, _)| *known == minutes);
            found.map(|(_, interval)| Channel::Kline(*interval)).ok_or("Interval not supported")
        }
        _ => Err("Channel not supported"),
    }
}

fn with_times(mut message: Value, id: Option<&Value>, at: Timestamp) -> String {
    message["time_in"] = json!(time(at));
    message["time_out"] = json!(time(at));
    if let Some(id) = id {
        message["req_id"] = id.clone();
    }
    message.to_string()
}

impl Peer for KrakenPeer {
    fn limits(&self) -> PeerLimits {
        PeerLimits {
            // 6.2: "An idle connection is closed after about 1 min: ping every 30 s".
            silence_max: Some(Duration::from_secs(60)),
            // 6.2: "About 150 connects per rolling 10 min per IP".
            connects: Some((150, Duration::from_secs(600))),
            // 6.4: "several trades per message".
            trades_per_frame: 20,
            // 6.10: "about 1 req/s is safe". The second one may come early by what the network delays the first.
            buckets: &[Bucket::Leaky { per_second: 1, burst: 2 }],
            ..PeerLimits::NONE
        }
    }

    /// 6.3: "On connect a `status` message".
    fn greeting(&self, _at: Timestamp) -> Vec<String> {
        let status = json!({ "version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 806193 });
        vec![json!({ "channel": "status", "type": "update", "data": [status] }).to_string()]
    }

    /// 6.2: "`{"channel":"heartbeat"}` about 1/s when nothing else".
    fn heartbeat(&self, _at: Timestamp) -> Option<String> {
        Some(json!({ "channel": "heartbeat" }).to_string())
    }

    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, at: Timestamp) -> PeerReply {
        let mut reply = PeerReply::default();
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let (id, method) = (message.get("req_id"), message["method"].as_str().unwrap_or_default());
        let refused = |error: &str, symbol: Option<&str>| {
            let mut refused = json!({ "method": method, "success": false, "error": error });
            if let Some(symbol) = symbol {
                refused["symbol"] = json!(symbol);
            }
            with_times(refused, id, at)
        };
        match method {
            "ping" => reply.messages.push(with_times(json!({ "method": "pong" }), id, at)),
            "subscribe" | "unsubscribe" => {
                let params = &message["params"];
                let symbols: Option<Vec<&str>> =
                    params["symbol"].as_array().and_then(|symbols| symbols.iter().map(Value::as_str).collect());
                let (channel, symbols) = match (channel_of(params), symbols) {
                    (Ok(channel), Some(symbols)) if !symbols.is_empty() => (channel, symbols),
                    (Err(error), _) => {
                        reply.messages.push(refused(error, None));
                        return reply;
                    }
                    _ => {
                        reply.messages.push(refused("Symbol(s) not found", None));
                        return reply;
                    }
                };
                // 6.3: "then one ack per symbol".
                for symbol in symbols {
                    if !is_listed(symbol) {
                        let error = format!("Currency pair not supported {symbol}");
                        reply.messages.push(refused(&error, Some(symbol)));
                        continue;
                    }
                    let mut result = json!({ "channel": params["channel"], "symbol": symbol });
                    for name in ["interval", "snapshot", "event_trigger"] {
                        if let Some(value) = params.get(name) {
                            result[name] = value.clone();
                        }
                    }
                    let accepted = json!({ "method": method, "result": result, "success": true });
                    reply.messages.push(with_times(accepted, id, at));
                    let streams = if method == "subscribe" { &mut reply.subscribed } else { &mut reply.unsubscribed };
                    streams.push((symbol.to_owned(), channel));
                }
            }
            _ => reply.messages.push(refused("Unsupported method", None)),
        }
        reply
    }

    /// 6.4: "true = the last 50 trades".
    fn snapshot(&self, symbol: &str, channel: Channel, newest: &[Trade], _at: Timestamp) -> Option<String> {
        let last = &newest[newest.len().saturating_sub(50)..];
        (channel == Channel::Trade && !last.is_empty()).then(|| trades_frame("snapshot", symbol, last))
    }

    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String> {
        Some(match event {
            // 6.4: "several trades per message".
            PeerEvent::Trades(trades) => trades_frame("update", symbol, trades),
            // No such channel.
            PeerEvent::AggTrade(_) => return None,
            PeerEvent::Kline(kline) => ohlc_frame(symbol, kline, at),
            PeerEvent::Book(book) => ticker_frame(symbol, book, at),
        })
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        let (path, query) = split_query(path_and_query).ok_or(PeerRefusal::BadParameter)?;
        let number = |name: &str| match query.get(name) {
            Some(text) => text.parse::<i64>().map(Some).map_err(|_| PeerRefusal::BadParameter),
            None => Ok(None),
        };
        let symbol = || query.get("pair").map(|pair| symbol_of(pair)).ok_or(PeerRefusal::BadParameter);
        let request = match path.as_str() {
            "/0/public/Time" => PeerRequest::Time,
            "/0/public/AssetPairs" => {
                let pairs = query.get("pair").map(|pairs| pairs.split(',').map(symbol_of).collect());
                PeerRequest::Listing(pairs.unwrap_or_default())
            }
            "/0/public/Trades" => {
                let count = number("count")?.unwrap_or(1_000);
                let count = usize::try_from(count).ok().filter(|count| (1..=1_000).contains(count));
                // `since` is in nanoseconds and exclusive; trades here have whole microseconds.
                let which = match number("since")? {
                    Some(since) => PeerTrades::After(Timestamp(since.div_euclid(1_000))),
                    None => PeerTrades::Newest,
                };
                PeerRequest::Trades {
                    symbol: symbol()?,
                    channel: Channel::Trade,
                    which,
                    limit: count.ok_or(PeerRefusal::BadParameter)?,
                }
            }
            "/0/public/OHLC" => {
                let minutes = number("interval")?.unwrap_or(1);
                let found = INTERVALS.iter().find(|(known, _)| *known == minutes);
                let (_, interval) = *found.ok_or(PeerRefusal::BadParameter)?;
                let first = number("since")?.and_then(|since| since.checked_mul(1_000_000)).map(Timestamp);
                PeerRequest::Klines { symbol: symbol()?, interval, first, last: None, limit: 720, newest: true }
            }
            _ => return Err(PeerRefusal::Failed(404)),
        };
        Ok((request, 1, 0))
    }

    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        let result = match (content, request) {
            (PeerContent::Trades(trades), PeerRequest::Trades { symbol, .. }) => {
                let row = |trade: &Trade| {
                    let (price, volume) = (plain(trade.price), plain(trade.quantity));
                    let letter = if trade.side == Side::Buy { "b" } else { "s" };
                    format!(r#"["{price}","{volume}",{},"{letter}","l","",{}]"#, seconds(trade.ts), trade.id)
                };
                let rows: Vec<String> = trades.iter().map(row).collect();
                // 6.7: "`last` = ns cursor, next `since` (string, keep 64 bits)".
                let last = trades.last().map_or(0, |trade| i128::from(trade.ts.micros()) * 1_000 + 100);
                format!(r#"{{{}:[{}],"last":"{last}"}}"#, json!(key_of(symbol)), rows.join(","))
            }
            (PeerContent::Klines(klines), PeerRequest::Klines { symbol, .. }) => {
                let row = |kline: &Kline| {
                    let [open, high, low, close] = [kline.open, kline.high, kline.low, kline.close].map(plain);
                    let at = kline.open_time.micros().div_euclid(1_000_000);
                    let (vwap, volume) = (vwap(kline), plain(kline.volume));
                    json!([at, open, high, low, close, vwap, volume, kline.trade_count]).to_string()
                };
                let rows: Vec<String> = klines.iter().map(row).collect();
                // 6.8: "`last` = last committed candle, rows after it are open".
                let committed = klines.iter().rfind(|kline| kline.closed);
                let last = committed.map_or(0, |kline| kline.open_time.micros().div_euclid(1_000_000));
                format!(r#"{{{}:[{}],"last":{last}}}"#, json!(key_of(symbol)), rows.join(","))
            }
            (PeerContent::Time(at), _) => json!({ "unixtime": at.micros().div_euclid(1_000_000) }).to_string(),
            (PeerContent::Listing(symbols), _) => {
                let pair = |(symbol, trades): &(String, bool)| {
                    let status = if *trades { "online" } else { "cancel_only" };
                    let key = key_of(symbol);
                    (key.clone(), json!({ "altname": key, "wsname": renamed(symbol), "status": status }))
                };
                Value::Object(symbols.iter().map(pair).collect()).to_string()
            }
            _ => "{}".to_owned(),
        };
        PeerResponse { status: 200, headers: Vec::new(), body: format!(r#"{{"error":[],"result":{result}}}"#) }
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        let (status, error) = match refusal {
            PeerRefusal::Limited(_) | PeerRefusal::Banned(_) => (200, "EAPI:Rate limit exceeded"),
            PeerRefusal::UnknownSymbol => (200, "EQuery:Unknown asset pair"),
            PeerRefusal::BadParameter | PeerRefusal::TooOld => (200, "EGeneral:Invalid arguments"),
            PeerRefusal::Failed(404) => (404, "EGeneral:Unknown method"),
            PeerRefusal::Failed(status) => (status, "EService:Unavailable"),
        };
        PeerResponse { status, headers: Vec::new(), body: json!({ "error": [error] }).to_string() }
    }
}
