//! Bybit's own side of its protocol, from its documents. It shares no code with the dialect.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::exchange::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerTrades,
    split_query,
};
use crate::exchange::spec::Bucket;
use crate::market::{Channel, Interval, Kline, Side, Timestamp, Trade, plain};

/// 4.3: "spot <=10 args per subscribe".
const ARGS_MAX: usize = 10;

/// 4.10: "600 req / 5 s / IP".
const BUCKETS: &[Bucket] = &[Bucket::Window { weight: 600, per: Duration::from_secs(5) }];

/// Bybit.
pub(super) struct BybitPeer;

/// 4.5 names the intervals.
const INTERVALS: [(&str, Interval); 6] = [
    ("1", Interval::M1),
    ("5", Interval::M5),
    ("15", Interval::M15),
    ("60", Interval::H1),
    ("240", Interval::H4),
    ("D", Interval::D1),
];

fn interval_named(name: &str) -> Option<Interval> {
    INTERVALS.iter().find(|(known, _)| *known == name).map(|(_, interval)| *interval)
}

fn name_of(interval: Interval) -> Option<&'static str> {
    INTERVALS.iter().find(|(_, known)| *known == interval).map(|(name, _)| *name)
}

/// Symbol and channel of a topic.
fn read_topic(topic: &str) -> Option<(String, Channel)> {
    let words: Vec<&str> = topic.split('.').collect();
    let (symbol, channel) = match words.as_slice() {
        ["publicTrade", symbol] => (*symbol, Channel::Trade),
        ["kline", interval, symbol] => (*symbol, Channel::Kline(interval_named(interval)?)),
        ["orderbook", "1", symbol] => (*symbol, Channel::BookTicker),
        _ => return None,
    };
    Some((symbol.to_owned(), channel))
}

const fn millis(at: Timestamp) -> i64 {
    at.micros().div_euclid(1_000)
}

const fn side_of(trade: &Trade) -> &'static str {
    match trade.side {
        Side::Buy => "Buy",
        Side::Sell => "Sell",
    }
}

fn trade_row(symbol: &str, trade: &Trade) -> Value {
    json!({
        "T": millis(trade.ts), "s": symbol, "S": side_of(trade), "v": plain(trade.quantity), "p": plain(trade.price),
        "i": trade.id.to_string(), "BT": false, "RPI": false, "seq": trade.id,
    })
}

fn recent_row(symbol: &str, trade: &Trade) -> Value {
    json!({
        "execId": trade.id.to_string(), "symbol": symbol, "price": plain(trade.price), "size": plain(trade.quantity),
        "side": side_of(trade), "time": millis(trade.ts).to_string(), "isBlockTrade": false, "isRPITrade": false,
    })
}

fn kline_data(kline: &Kline, interval: &str, at: Timestamp) -> Value {
    json!([{
        "start": millis(kline.open_time), "end": millis(kline.open_time) + kline.interval.micros() / 1_000 - 1,
        "interval": interval, "open": plain(kline.open), "close": plain(kline.close), "high": plain(kline.high),
        "low": plain(kline.low), "volume": plain(kline.volume), "turnover": plain(kline.quote_volume),
        "confirm": kline.closed, "timestamp": millis(at),
    }])
}

fn kline_row(kline: &Kline) -> Value {
    json!([
        millis(kline.open_time).to_string(),
        plain(kline.open),
        plain(kline.high),
        plain(kline.low),
        plain(kline.close),
        plain(kline.volume),
        plain(kline.quote_volume),
    ])
}

impl Peer for BybitPeer {
    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, _at: Timestamp) -> PeerReply {
        let mut reply = PeerReply::default();
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let operation = message["op"].as_str().unwrap_or_default();
        let mut answer = |success: bool, ret_msg: &str| {
            let mut body =
                json!({ "success": success, "ret_msg": ret_msg, "conn_id": "cejreaspqfm9se7usbrg", "op": operation });
            if let Some(id) = message.get("req_id") {
                body["req_id"] = id.clone();
            }
            reply.messages.push(body.to_string());
        };
        let args: Vec<&str> = message["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match operation {
            // 4.2: "`op` is *ping*".
            "ping" => answer(true, "pong"),
            "subscribe" | "unsubscribe" if args.len() > ARGS_MAX => answer(false, "args size >10"),
            "subscribe" | "unsubscribe" => {
                let topics: Vec<Option<(String, Channel)>> = args.iter().map(|topic| read_topic(topic)).collect();
                let is_known =
                    |topic: &Option<(String, Channel)>| topic.as_ref().is_some_and(|(symbol, _)| is_listed(symbol));
                // 4.3: "Whether one bad topic fails the whole request is [U]": here it does.
                if let Some(bad) = topics.iter().position(|topic| !is_known(topic)) {
                    answer(false, &format!("error:handler not found,topic:{}", args[bad]));
                    return reply;
                }
                answer(true, operation);
                let topics = topics.into_iter().flatten();
                match operation {
                    "subscribe" => reply.subscribed.extend(topics),
                    _ => reply.unsubscribed.extend(topics),
                }
            }
            _ => answer(false, "Request format is invalid"),
        }
        reply
    }

    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String> {
        let (topic, data) = match event {
            PeerEvent::Trades(trades) => {
                (format!("publicTrade.{symbol}"), trades.iter().map(|trade| trade_row(symbol, trade)).collect())
            }
            // No such channel.
            PeerEvent::AggTrade(_) => return None,
            PeerEvent::Kline(kline) => {
                let interval = name_of(kline.interval)?;
                (format!("kline.{interval}.{symbol}"), kline_data(kline, interval, at))
            }
            PeerEvent::Book(book) => (
                format!("orderbook.1.{symbol}"),
                json!({
                    "s": symbol, "b": [[plain(book.bid), plain(book.bid_quantity)]],
                    "a": [[plain(book.ask), plain(book.ask_quantity)]], "u": book.update_id, "seq": book.update_id,
                }),
            ),
        };
        Some(json!({ "topic": topic, "type": "snapshot", "ts": millis(at), "data": data }).to_string())
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        let (path, query) = split_query(path_and_query).ok_or(PeerRefusal::BadParameter)?;
        let request = match path.as_str() {
            "/v5/market/time" => PeerRequest::Time,
            // 4.8: "category (default linear: pass `spot`)": this venue has spot only.
            _ if query.get("category").is_none_or(|category| category != "spot") => {
                return Err(PeerRefusal::BadParameter);
            }
            "/v5/market/recent-trade" => {
                let (symbol, limit) = (symbol(&query)?, limit(&query, 60, 60)?);
                PeerRequest::Trades { symbol, channel: Channel::Trade, which: PeerTrades::Newest, limit }
            }
            "/v5/market/kline" => {
                let interval = query.get("interval").and_then(|name| interval_named(name));
                let at = |name: &str| Ok(number(&query, name)?.map(|ms| Timestamp(ms.saturating_mul(1_000))));
                PeerRequest::Klines {
                    symbol: symbol(&query)?,
                    interval: interval.ok_or(PeerRefusal::BadParameter)?,
                    first: at("start")?,
                    last: at("end")?,
                    limit: limit(&query, 200, 1_000)?,
                    newest: true,
                }
            }
            "/v5/market/instruments-info" => PeerRequest::Listing(query.get("symbol").cloned().into_iter().collect()),
            _ => return Err(PeerRefusal::Failed(404)),
        };
        Ok((request, 1, 0))
    }

    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        // "newest first" in both lists.
        let result = match (content, request) {
            (PeerContent::Trades(trades), PeerRequest::Trades { symbol, .. }) => {
                let rows: Vec<Value> = trades.iter().rev().map(|trade| recent_row(symbol, trade)).collect();
                json!({ "category": "spot", "list": rows })
            }
            (PeerContent::Trades(_), _) => json!({ "category": "spot", "list": [] }),
            (PeerContent::Klines(klines), _) => {
                json!({ "category": "spot", "list": klines.iter().rev().map(kline_row).collect::<Vec<Value>>() })
            }
            (PeerContent::Time(Timestamp(at)), _) => {
                json!({ "timeSecond": (at / 1_000_000).to_string(), "timeNano": (i128::from(at) * 1_000).to_string() })
            }
            (PeerContent::Listing(symbols), _) => {
                let trading = symbols.iter().filter(|(_, trades)| *trades);
                let rows: Vec<Value> =
                    trading.map(|(symbol, _)| json!({ "symbol": symbol, "status": "Trading" })).collect();
                json!({ "category": "spot", "list": rows })
            }
        };
        body(200, 0, "OK", result)
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        match refusal {
            PeerRefusal::Limited(_) => body(200, 10_006, "Too many visits!", json!({})),
            // 4.10: "403 "access too frequent"".
            PeerRefusal::Banned(_) => {
                PeerResponse { status: 403, headers: Vec::new(), body: "access too frequent".to_owned() }
            }
            PeerRefusal::UnknownSymbol => body(200, 10_001, "Not supported symbols", json!({})),
            PeerRefusal::BadParameter | PeerRefusal::TooOld => body(200, 10_001, "Request parameter error", json!({})),
            PeerRefusal::Failed(status) => body(status, 10_016, "Server error", json!({})),
        }
    }

    fn limits(&self) -> PeerLimits {
        PeerLimits {
            // 4.2: "without ping and data the connection is cut after 10 min".
            silence_max: Some(Duration::from_secs(600)),
            // 4.2: "<=500 connections / 5 min".
            connects: Some((500, Duration::from_secs(300))),
            // 4.4: "<=1024 trades per message".
            trades_per_frame: 1_024,
            buckets: BUCKETS,
            // 4.10: "403 -> stop everything for >=10 min".
            ban: Some((0, Duration::from_secs(600))),
            ..PeerLimits::NONE
        }
    }
}

fn body(status: u16, code: i64, msg: &str, result: Value) -> PeerResponse {
    let body =
        json!({ "retCode": code, "retMsg": msg, "result": result, "retExtInfo": {}, "time": 1_700_000_000_000_i64 });
    PeerResponse { status, headers: Vec::new(), body: body.to_string() }
}

type Query = BTreeMap<String, String>;

fn symbol(query: &Query) -> Result<String, PeerRefusal> {
    query.get("symbol").cloned().ok_or(PeerRefusal::BadParameter)
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, PeerRefusal> {
    match query.get(name) {
        Some(text) => text.parse().map(Some).map_err(|_| PeerRefusal::BadParameter),
        None => Ok(None),
    }
}

fn limit(query: &Query, without: i64, max: i64) -> Result<usize, PeerRefusal> {
    match number(query, "limit")?.unwrap_or(without) {
        limit if (1..=max).contains(&limit) => usize::try_from(limit).map_err(|_| PeerRefusal::BadParameter),
        _ => Err(PeerRefusal::BadParameter),
    }
}
