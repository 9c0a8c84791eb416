//! Binance Spot's dialect: stream names and requests, frames, REST.
//!
//! Facts are from EXCHANGES 3.1 (`binance-spot-api-docs` @ a5e0bc3); each rule is quoted above the branch that
//! implements it. Pure: it never sees a socket or a clock.

#[cfg(test)]
mod captures;
mod frames;
mod rest;
mod streams;

use std::time::Duration;

use super::{AnswerError, DecodeError, DecodedFrame, Dialect, ExchangeInfo, Page, RestRequest, Route, SocketLimits};
use crate::gap::Range;
use crate::market::{Channel, Exchange, Interval, Kline, Stream, Timestamp, Trade};

/// Binance Spot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binance;

impl Dialect for Binance {
    fn exchange(&self) -> Exchange {
        Exchange::named("binance")
    }

    fn ws_base(&self) -> &'static str {
        "wss://stream.binance.com:9443"
    }

    fn rest_base(&self) -> &'static str {
        "https://api.binance.com"
    }

    fn ws_path(&self) -> &'static str {
        "/stream"
    }

    fn limits(&self) -> SocketLimits {
        SocketLimits {
            // "Inbound limit: 5 messages/s (PING, PONG and JSON all count) -> disconnect; repeated -> IP ban":
            // one less, because the network may bunch messages that we space evenly.
            messages_per_second: 4,
            // "<=1024 per connection".
            streams_per_connection: 1_024,
            // "SUBSCRIBE payload > 4096 bytes -> close 3001": stay under it.
            request_bytes_max: 4_095,
            // "<=300 per 5 min per IP".
            connects_max: 300,
            connects_window: Duration::from_secs(300),
            // "server sends ping frame every 20 s": after three missed pings the connection is dead.
            silence_max: Duration::from_secs(60),
            // "24 h hard".
            lifetime: Duration::from_secs(86_400),
        }
    }

    fn subscribe(&self, streams: &[Stream], first_id: u64) -> Vec<String> {
        streams::requests("SUBSCRIBE", streams, first_id, self.limits().request_bytes_max)
    }

    fn unsubscribe(&self, streams: &[Stream], first_id: u64) -> Vec<String> {
        streams::requests("UNSUBSCRIBE", streams, first_id, self.limits().request_bytes_max)
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

    fn decode<'a>(&self, payload: &'a [u8]) -> Result<DecodedFrame<'a>, DecodeError> {
        frames::decode(payload).map_err(DecodeError::shortened)
    }

    fn weight_per_minute(&self) -> u32 {
        // "REQUEST_WEIGHT 6000 / min / IP"; the number in exchangeInfo replaces it.
        6_000
    }

    fn weight_header(&self) -> &'static str {
        "x-mbx-used-weight-1m"
    }

    fn banned_until(&self, body: &str) -> Option<Timestamp> {
        rest::banned_until(body)
    }

    fn rest_retention(&self, _channel: Channel) -> Option<Duration> {
        // "Binance spot | trade backfill by id, exact | depth unlimited | candle backfill 1000/call, unlimited".
        None
    }

    fn trades_page_max(&self) -> i64 {
        rest::PAGE_MAX
    }

    fn trades_request(&self, symbol: &str, range: Range) -> RestRequest {
        rest::trades_request(symbol, range)
    }

    fn trades_answer(&self, body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
        rest::trades_answer(body, latest)
    }

    fn newest_request(&self, symbol: &str) -> RestRequest {
        rest::newest_request(symbol)
    }

    fn newest_fallback_request(&self, symbol: &str) -> Option<RestRequest> {
        Some(rest::newest_fallback_request(symbol))
    }

    fn newest_answer(&self, body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError> {
        rest::newest_answer(body)
    }

    fn trade_at_request(&self, symbol: &str, at: Timestamp) -> RestRequest {
        rest::trade_at_request(symbol, at)
    }

    fn trade_at_answer(&self, body: &[u8]) -> Result<Option<i64>, DecodeError> {
        rest::trade_at_answer(body)
    }

    fn klines_page_max(&self) -> i64 {
        rest::PAGE_MAX
    }

    fn klines_request(&self, symbol: &str, interval: Interval, range: Range) -> RestRequest {
        rest::klines_request(symbol, interval, range)
    }

    fn klines_answer(
        &self,
        interval: Interval,
        body: &[u8],
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Page<Kline>, DecodeError> {
        rest::klines_answer(interval, body, now, latest)
    }

    fn time_request(&self) -> RestRequest {
        // "/api/v3/time | 1".
        RestRequest { path: "/api/v3/time".to_owned(), weight: 1 }
    }

    fn time_answer(&self, body: &[u8]) -> Result<Timestamp, DecodeError> {
        rest::time_answer(body)
    }

    fn info_request(&self, symbols: &[String]) -> RestRequest {
        rest::info_request(symbols)
    }

    fn info_answer(&self, body: &[u8]) -> Result<ExchangeInfo, DecodeError> {
        rest::info_answer(body)
    }

    fn answer_error(&self, body: &[u8]) -> Option<AnswerError> {
        rest::answer_error(body)
    }
}

/// Converts Binance's milliseconds; a time that does not fit in microseconds is an error.
fn millis(what: &'static str, name: &str, ms: i64) -> Result<Timestamp, DecodeError> {
    match ms.checked_mul(1_000) {
        Some(us) => Ok(Timestamp(us)),
        None => Err(DecodeError { what, why: format!("{name} {ms} is not a time in milliseconds") }),
    }
}

/// Checks a trade's id. Ids count up from 0: after a negative one every id up to the next trade would look missing.
fn trade_id(what: &'static str, name: &str, id: i64) -> Result<i64, DecodeError> {
    if id < 0 {
        return Err(DecodeError { what, why: format!("{name} {id} is not a trade's id") });
    }
    Ok(id)
}

/// Parses an exact decimal; the error shows the text.
fn decimal(what: &'static str, name: &str, text: &str) -> Result<rust_decimal::Decimal, DecodeError> {
    match crate::market::parse_decimal(text) {
        Some(value) => Ok(value),
        None => Err(DecodeError { what, why: format!("{name} {text:?} is not an exact decimal") }),
    }
}
