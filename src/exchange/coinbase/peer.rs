//! Coinbase's own side of its protocol, from its documents. It shares no code with the dialect.

use std::time::Duration;

use serde_json::{Value, json};

use crate::exchange::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerTrades,
    split_query,
};
use crate::exchange::spec::Bucket;
use crate::market::{Book, Channel, Side, Timestamp, Trade, plain};

/// Coinbase Exchange.
pub(super) struct CoinbasePeer;

fn channel_named(name: &str) -> Option<Channel> {
    match name {
        "matches" => Some(Channel::Trade),
        "ticker" => Some(Channel::BookTicker),
        _ => None,
    }
}

/// 5.4: "RFC3339 µs".
fn time(at: Timestamp) -> String {
    let at = at.to_chrono().unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// 5.4: "`side` is the MAKER's": a taker that buys meets a maker that sells.
fn maker_side(trade: &Trade) -> &'static str {
    match trade.side {
        Side::Buy => "sell",
        Side::Sell => "buy",
    }
}

fn match_frame(kind: &str, symbol: &str, trade: &Trade) -> String {
    // 5.4: "`sequence` counts all events of the product and jumps always".
    let sequence = trade.id.wrapping_mul(7) & i64::MAX;
    json!({
        "type": kind, "trade_id": trade.id, "maker_order_id": "ac928c66-ca53-498f-9c13-a110027a60e8",
        "taker_order_id": "132fb6ae-456b-4654-b4e0-d681ac05cea1", "side": maker_side(trade),
        "size": plain(trade.quantity), "price": plain(trade.price), "product_id": symbol, "sequence": sequence,
        "time": time(trade.ts),
    })
    .to_string()
}

fn ticker_frame(symbol: &str, book: &Book, at: Timestamp) -> String {
    json!({
        "type": "ticker", "sequence": book.update_id, "product_id": symbol, "price": plain(book.bid),
        "best_bid": plain(book.bid), "best_bid_size": plain(book.bid_quantity), "best_ask": plain(book.ask),
        "best_ask_size": plain(book.ask_quantity), "side": "buy", "time": time(at), "trade_id": 1, "last_size": "1",
    })
    .to_string()
}

fn error(reason: &str) -> String {
    json!({ "type": "error", "message": "Failed to subscribe", "reason": reason }).to_string()
}

/// The texts of a list; `None` when it is no list of texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// Each channel of a request with its products. A channel is a name, and then has the products of the request, or an
/// object with its own.
fn channels(message: &Value) -> Option<Vec<(&str, Vec<&str>)>> {
    let mut found = Vec::new();
    for channel in message["channels"].as_array()? {
        let name = channel.as_str().or_else(|| channel["name"].as_str())?;
        let products = texts(&channel["product_ids"]).or_else(|| texts(&message["product_ids"]))?;
        found.push((name, products));
    }
    (!found.is_empty()).then_some(found)
}

impl Peer for CoinbasePeer {
    fn limits(&self) -> PeerLimits {
        PeerLimits {
            // 5.2: "8 connects/s/IP burst 20; 100 client messages/s/IP".
            connects: Some((20, Duration::from_secs(1))),
            messages: Some((100, Duration::from_secs(1))),
            // 5.3: "subscribe within 5 s of connecting".
            subscribe_within: Some(Duration::from_secs(5)),
            // 5.10: "Public REST 10 req/s/IP burst 15; then 429".
            buckets: &[Bucket::Leaky { per_second: 10, burst: 15 }],
            ..PeerLimits::NONE
        }
    }

    /// 5.2: "`{sequence,last_trade_id,product_id,time}`"; "`last_trade_id` is reported as always 0".
    fn heartbeat(&self, at: Timestamp) -> Option<String> {
        let beat = json!({
            "type": "heartbeat", "sequence": 90, "last_trade_id": 0, "product_id": "BTC-USD", "time": time(at),
        });
        Some(beat.to_string())
    }

    /// The acknowledgement lists what this request leaves subscribed: a peer remembers no connection.
    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, _at: Timestamp) -> PeerReply {
        let mut reply = PeerReply::default();
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let subscribes = match message["type"].as_str() {
            Some("subscribe") => true,
            Some("unsubscribe") => false,
            _ => {
                reply.messages.push(error("Type has to be either subscribe or unsubscribe"));
                return reply;
            }
        };
        let Some(channels) = channels(&message) else {
            reply.messages.push(error("channels and product_ids are required"));
            return reply;
        };
        let mut streams = Vec::new();
        for (name, products) in &channels {
            let channel = channel_named(name);
            if channel.is_none() && *name != "heartbeat" {
                reply.messages.push(error(&format!("{name} is not a valid channel")));
                return reply;
            }
            for product in products {
                if !is_listed(product) {
                    reply.messages.push(error(&format!("{product} is not a valid product")));
                    return reply;
                }
                streams.extend(channel.map(|channel| ((*product).to_owned(), channel)));
            }
        }
        let listed = |(name, products): &(&str, Vec<&str>)| json!({ "name": name, "product_ids": products });
        let left: Vec<Value> = if subscribes { channels.iter().map(listed).collect() } else { Vec::new() };
        reply.messages.push(json!({ "type": "subscriptions", "channels": left }).to_string());
        match subscribes {
            true => reply.subscribed = streams,
            false => reply.unsubscribed = streams,
        }
        reply
    }

    /// 5.4: "first `last_match`, then `match`".
    fn snapshot(&self, symbol: &str, channel: Channel, newest: &[Trade], _at: Timestamp) -> Option<String> {
        match channel {
            Channel::Trade => newest.last().map(|trade| match_frame("last_match", symbol, trade)),
            _ => None,
        }
    }

    /// One trade is one message.
    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String> {
        match event {
            PeerEvent::Trades([trade]) => Some(match_frame("match", symbol, trade)),
            PeerEvent::Trades(_) | PeerEvent::AggTrade(_) | PeerEvent::Kline(_) => None,
            PeerEvent::Book(book) => Some(ticker_frame(symbol, book, at)),
        }
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        let (path, query) = split_query(path_and_query).ok_or(PeerRefusal::BadParameter)?;
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let number = |name: &str| match query.get(name) {
            Some(text) => text.parse::<i64>().map(Some).map_err(|_| PeerRefusal::BadParameter),
            None => Ok(None),
        };
        let request = match words.as_slice() {
            ["time"] => PeerRequest::Time,
            ["products"] => PeerRequest::Listing(Vec::new()),
            ["products", symbol] => PeerRequest::Listing(vec![(*symbol).to_owned()]),
            ["products", symbol, "trades"] => {
                // 5.7: "`limit` <=1000 (default 1000)".
                let limit = number("limit")?.unwrap_or(1_000);
                let limit = usize::try_from(limit).ok().filter(|limit| (1..=1_000).contains(limit));
                let which = match number("after")? {
                    Some(id) => PeerTrades::Before(id),
                    // 5.7: `before` is "unverified for trades".
                    None if query.contains_key("before") => return Err(PeerRefusal::BadParameter),
                    None => PeerTrades::Newest,
                };
                let symbol = (*symbol).to_owned();
                PeerRequest::Trades {
                    symbol,
                    channel: Channel::Trade,
                    which,
                    limit: limit.ok_or(PeerRefusal::BadParameter)?,
                }
            }
            _ => return Err(PeerRefusal::Failed(404)),
        };
        Ok((request, 1, 0))
    }

    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        let mut headers = Vec::new();
        let body = match content {
            PeerContent::Trades(trades) => {
                // 5.7: "newest first"; "Headers `CB-BEFORE`, `CB-AFTER` = first and last id of the page".
                let row = |trade: &Trade| {
                    json!({
                        "trade_id": trade.id, "side": maker_side(trade), "size": plain(trade.quantity),
                        "price": plain(trade.price), "time": time(trade.ts),
                    })
                };
                if let (Some(oldest), Some(newest)) = (trades.first(), trades.last()) {
                    headers = vec![("CB-BEFORE", newest.id.to_string()), ("CB-AFTER", oldest.id.to_string())];
                }
                trades.iter().rev().map(row).collect()
            }
            PeerContent::Time(at) => {
                let seconds = at.micros().div_euclid(1_000_000);
                json!({ "iso": at.rfc3339(), "epoch": seconds })
            }
            PeerContent::Listing(symbols) => {
                let row = |(symbol, trades): &(String, bool)| {
                    json!({
                        "id": symbol, "status": "online", "status_message": "", "trading_disabled": !trades,
                        "cancel_only": false, "post_only": false, "limit_only": false, "auction_mode": false,
                    })
                };
                match request {
                    PeerRequest::Listing(named) if !named.is_empty() => {
                        symbols.iter().map(row).next().unwrap_or_default()
                    }
                    _ => symbols.iter().map(row).collect(),
                }
            }
            PeerContent::Klines(_) => json!([]),
        };
        PeerResponse { status: 200, headers, body: body.to_string() }
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        let (status, message) = match refusal {
            PeerRefusal::Limited(_) | PeerRefusal::Banned(_) => (429, "Public rate limit exceeded"),
            PeerRefusal::UnknownSymbol => (404, "NotFound"),
            PeerRefusal::BadParameter | PeerRefusal::TooOld => (400, "Invalid parameter"),
            PeerRefusal::Failed(404) => (404, "Route not found"),
            PeerRefusal::Failed(status) => (status, "Internal server error"),
        };
        PeerResponse { status, headers: Vec::new(), body: json!({ "message": message }).to_string() }
    }
}
