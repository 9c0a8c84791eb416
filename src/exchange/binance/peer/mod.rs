//! Binance Spot's own side of its protocol, from EXCHANGES.md, section 1. It shares no code with the dialect.

pub mod render;
pub(in crate::exchange) mod rest;
mod session;

use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::super::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerSession,
    split_query,
};
use super::super::spec::Bucket;
use crate::market::{Channel, Kline, Timestamp};
use session::Session;

/// Binance Spot.
#[derive(Clone, Copy, Debug)]
pub struct BinancePeer;

impl Peer for BinancePeer {
    /// One message of a new connection to `/stream`.
    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, at: Timestamp) -> PeerReply {
        let named = |streams: Vec<String>| {
            let pair = |stream: &String| Some((render::symbol_of(stream)?, render::channel_of(stream)?));
            streams.iter().filter_map(pair).collect::<Vec<(String, Channel)>>()
        };
        let begun: Vec<String> = match serde_json::from_str::<Value>(text) {
            Ok(request) if request["method"] == "UNSUBSCRIBE" => request["params"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        };
        let reply = Session::new(true, begun.into_iter(), usize::MAX).receive(text, is_listed, at);
        PeerReply {
            messages: reply.messages,
            subscribed: named(reply.added),
            unsubscribed: named(reply.removed),
            close: reply.close,
        }
    }

    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String> {
        render::combined(symbol, event, render::Taker::default(), at)
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        rest::read(path_and_query)
    }

    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        rest::answer(request, content)
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        rest::refuse(refusal)
    }

    fn limits(&self) -> PeerLimits {
        let seconds = Duration::from_secs;
        PeerLimits {
            // 1.2: "The server sends a ping frame every 20 s; a pong with the same payload must come within 60 s".
            pings: Some((seconds(20), seconds(60))),
            // 1.2: "Inbound limit 5 messages/s; PING, PONG and JSON all count".
            messages: Some((5, seconds(1))),
            // 1.2: "Connects <=300 per 5 min per IP".
            connects: Some((300, seconds(300))),
            // 1.2: "Streams <=1024 per connection".
            streams: 1_024,
            // 1.2: "Lifetime 24 h, hard".
            lifetime: Some(seconds(24 * 3_600)),
            // 1.10: "REQUEST_WEIGHT 6000 / min / IP".
            buckets: const { &[Bucket::Window { weight: 6_000, per: Duration::from_secs(60) }] },
            // 1.10: "429 -> Retry-After seconds; ignoring it -> 418, a ban of 2 min to 3 days".
            ban: Some((5, seconds(120))),
            ..PeerLimits::NONE
        }
    }

    /// 1.1: "Raw `/ws/<stream>`; combined `/stream?streams=a/b/c`".
    fn open(&self, path_and_query: &str, streams_max: usize) -> Option<Box<dyn PeerSession>> {
        let (path, query) = split_query(path_and_query)?;
        let (combined, names) = match path.as_str() {
            "/stream" => (true, query.get("streams").cloned().unwrap_or_default()),
            "/ws" => (false, String::new()),
            _ => (false, decoded(path.strip_prefix("/ws/")?)),
        };
        let names = names.split('/').filter(|name| !name.is_empty()).map(str::to_owned);
        Some(Box::new(Session::new(combined, names, streams_max)))
    }

    fn kline_frame(&self, symbol: &str, kline: &Kline, taker: (Decimal, Decimal), at: Timestamp) -> Option<String> {
        render::combined(symbol, PeerEvent::Kline(kline), taker, at)
    }

    fn shutdown(&self, at: Timestamp) -> Option<String> {
        Some(render::server_shutdown(at))
    }

    /// 1.3: "Errors {"code":N,"msg":"…","id":…}".
    fn error(&self, text: &str, message: &str) -> Option<String> {
        let id = serde_json::from_str::<Value>(text).map(|mut request| request["id"].take()).unwrap_or_default();
        Some(json!({"code": 2, "msg": message, "id": id}).to_string())
    }
}

/// The text of a path whose letters are written as `%E5`.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = rest.get(1..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_streams() {
        let streams = |path: &str| BinancePeer.open(path, 1_024).map(|session| session.streams());
        assert_eq!(streams("/ws/btcusdt@trade/ethusdt@trade").unwrap(), ["btcusdt@trade", "ethusdt@trade"]);
        assert_eq!(streams("/stream?streams=a@trade/b@trade").unwrap(), ["a@trade", "b@trade"]);
        assert_eq!(streams("/ws/%E5%B8%81usdt@trade").unwrap(), ["币usdt@trade"]);
        assert!(streams("/ws").unwrap().is_empty() && streams("/v2").is_none());
    }

    #[test]
    fn a_request_names_the_streams_that_it_changes() {
        let ask = |method: &str| {
            let text = format!(r#"{{"method":"{method}","params":["btcusdt@kline_1m"],"id":1}}"#);
            BinancePeer.receive(&text, &|symbol| symbol == "BTCUSDT", Timestamp(0))
        };
        let one = vec![("BTCUSDT".to_owned(), Channel::Kline(crate::market::Interval::M1))];
        assert_eq!((ask("SUBSCRIBE").subscribed, ask("UNSUBSCRIBE").unsubscribed), (one.clone(), one));
    }
}
