//! USD-M's own side of its protocol, from EXCHANGES.md, section 2. What is as on spot it shares with spot's own side, and
//! nothing with the dialect.

use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::exchange::binance::peer::{BinancePeer, render, rest};
use crate::exchange::peer::{
    Peer, PeerContent, PeerEvent, PeerLimits, PeerRefusal, PeerReply, PeerRequest, PeerResponse, PeerTrades,
    split_query,
};
use crate::exchange::spec::Bucket;
use crate::market::{Book, Channel, Kline, Side, Timestamp, Trade};

/// Binance USD-M futures.
#[derive(Clone, Copy, Debug)]
pub struct UsdmPeer;

/// 2.4: "`e E T s t p q X m`; `X` = MARKET, INSURANCE_FUND or ADL".
fn trade_frame(symbol: &str, trade: &Trade, at: Timestamp) -> String {
    format!(
        r#"{{"e":"trade","E":{},"T":{},"s":"{symbol}","t":{},"p":"{}","q":"{}","X":"MARKET","m":{}}}"#,
        at.millis(),
        trade.ts.millis(),
        trade.id,
        trade.price,
        trade.quantity,
        trade.side == Side::Sell
    )
}

/// 2.4: "`e E s a p q nq f l T m st` ... `nq` = quantity without RPI trades; `st` 1 = USD-M".
fn aggregate_frame(symbol: &str, trade: &Trade, (first, last): (i64, i64), at: Timestamp) -> String {
    format!(
        r#"{{"e":"aggTrade","E":{},"a":{},"s":"{symbol}","p":"{}","q":"{}","nq":"{}","f":{first},"l":{last},"T":{},"m":{},"st":1}}"#,
        at.millis(),
        trade.id,
        trade.price,
        trade.quantity,
        trade.quantity,
        trade.ts.millis(),
        trade.side == Side::Sell
    )
}

/// 2.6: "bookTicker is `e u s ps b B a A T E st`".
fn book_frame(symbol: &str, book: &Book, at: Timestamp) -> String {
    let Book { update_id, bid, bid_quantity, ask, ask_quantity } = book;
    let at = at.millis();
    format!(
        r#"{{"e":"bookTicker","u":{update_id},"s":"{symbol}","ps":"{symbol}","b":"{bid}","B":"{bid_quantity}","a":"{ask}","A":"{ask_quantity}","T":{at},"E":{at},"st":1}}"#
    )
}

/// 2.7: a row of aggTrades, with `nq` as in its frame.
fn aggregate_row(trade: &Trade) -> Option<String> {
    let (first, last) = trade.trade_ids?;
    Some(format!(
        r#"{{"a":{},"p":"{}","q":"{}","nq":"{}","f":{first},"l":{last},"T":{},"m":{}}}"#,
        trade.id,
        trade.price,
        trade.quantity,
        trade.quantity,
        trade.ts.millis(),
        trade.side == Side::Sell
    ))
}

/// 2.8: "Weight 1 up to 100 rows, 2 up to 500, 5 up to 1000, 10 up to 1500; 5 when `limit` is left out".
const fn klines_weight(limit: Option<usize>) -> u32 {
    match limit {
        Some(..=100) => 1,
        Some(101..=500) => 2,
        Some(1_001..) => 10,
        Some(501..=1_000) | None => 5,
    }
}

fn read_klines(query: &rest::Query) -> Result<(PeerRequest, u32), PeerRefusal> {
    // 2.8: "max 1500".
    let limit = query.contains_key("limit").then(|| rest::limit(query, 1_500)).transpose()?;
    Ok((rest::klines(query, limit.unwrap_or(500))?, klines_weight(limit)))
}

impl Peer for UsdmPeer {
    /// 2.3: "Same messages as 1.3".
    fn receive(&self, text: &str, is_listed: &dyn Fn(&str) -> bool, at: Timestamp) -> PeerReply {
        BinancePeer.receive(text, is_listed, at)
    }

    fn frame(&self, symbol: &str, event: PeerEvent<'_>, at: Timestamp) -> Option<String> {
        let (channel, data) = match event {
            PeerEvent::Trades([trade]) => (Channel::Trade, trade_frame(symbol, trade, at)),
            PeerEvent::Trades(_) => return None,
            PeerEvent::AggTrade(trade) => (Channel::AggTrade, aggregate_frame(symbol, trade, trade.trade_ids?, at)),
            PeerEvent::Book(book) => (Channel::BookTicker, book_frame(symbol, book, at)),
            // 2.5: "fields as on spot".
            PeerEvent::Kline(_) => return BinancePeer.frame(symbol, event, at),
        };
        Some(format!(r#"{{"stream":"{}","data":{data}}}"#, render::stream_name(symbol, channel)))
    }

    fn kline_frame(&self, symbol: &str, kline: &Kline, taker: (Decimal, Decimal), at: Timestamp) -> Option<String> {
        BinancePeer.kline_frame(symbol, kline, taker, at)
    }

    fn read(&self, path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
        let (path, query) = split_query(path_and_query).ok_or(PeerRefusal::BadParameter)?;
        let (request, weight) = match path.as_str() {
            // 2.7: "20 at any limit ... fromId inclusive upward, limit def 500 max 1000".
            "/fapi/v1/aggTrades" => (rest::aggregates(&query)?, 20),
            // 2.7: "`/fapi/v1/trades` | 5 | newest <=1000, no paging".
            "/fapi/v1/trades" => (rest::trades(&query, PeerTrades::Newest)?, 5),
            "/fapi/v1/klines" => read_klines(&query)?,
            // 2.9: "exchangeInfo (weight 1) ... Time, weight 1".
            "/fapi/v1/time" => (PeerRequest::Time, 1),
            "/fapi/v1/exchangeInfo" => (PeerRequest::Listing(Vec::new()), 1),
            // 2.7: "historicalTrades needs X-MBX-APIKEY".
            "/fapi/v1/historicalTrades" => return Err(PeerRefusal::Failed(401)),
            _ => return Err(PeerRefusal::Failed(404)),
        };
        Ok((request, weight, 0))
    }

    fn answer(&self, request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
        let body = match (request, content) {
            (PeerRequest::Trades { channel: Channel::AggTrade, .. }, PeerContent::Trades(trades)) => {
                rest::list(trades.iter().filter_map(aggregate_row))
            }
            // 2.9: "deliveryDate 4133404800000 = perpetual"; "status TRADING or SETTLING are seen".
            (_, PeerContent::Listing(symbols)) => {
                let row = |(symbol, trades): &(String, bool)| {
                    json!({
                        "symbol": symbol, "pair": symbol, "contractType": "PERPETUAL",
                        "deliveryDate": 4_133_404_800_000_i64, "onboardDate": 1_569_398_400_000_i64,
                        "status": if *trades { "TRADING" } else { "SETTLING" },
                    })
                };
                let limit =
                    json!({"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2_400});
                let symbols: Vec<Value> = symbols.iter().map(row).collect();
                json!({"timezone": "UTC", "rateLimits": [limit], "exchangeFilters": [], "symbols": symbols}).to_string()
            }
            _ => return BinancePeer.answer(request, content),
        };
        PeerResponse { status: 200, headers: Vec::new(), body }
    }

    fn refuse(&self, refusal: PeerRefusal) -> PeerResponse {
        // 2.10: "429 then 418 as on spot".
        BinancePeer.refuse(refusal)
    }

    fn limits(&self) -> PeerLimits {
        let seconds = Duration::from_secs;
        PeerLimits {
            // 2.2: "server ping every 3 min, payload = ms time, pong within 10 min".
            pings: Some((seconds(180), seconds(600))),
            // 2.2: "Client messages: 10/s documented".
            messages: Some((10, seconds(1))),
            // 2.2: "1024 against 200 in a later reading": the stricter one.
            streams: 200,
            // 2.2: "Lifetime 24 h".
            lifetime: Some(seconds(24 * 3_600)),
            // 2.10: "REQUEST_WEIGHT 2400/min/IP".
            buckets: const { &[Bucket::Window { weight: 2_400, per: Duration::from_secs(60) }] },
            // 2.7: "Only the last 2 days, also by id".
            trades_kept: Some(seconds(2 * 86_400)),
            // 2.10: "429 then 418 as on spot".
            ban: Some((5, seconds(120))),
            ..PeerLimits::NONE
        }
    }

    fn error(&self, text: &str, message: &str) -> Option<String> {
        BinancePeer.error(text, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_costs_what_the_documents_say() {
        let weight =
            |path: &str| UsdmPeer.read(&format!("/fapi/v1/{path}")).map(|(_, weight, bucket)| (weight, bucket));
        assert_eq!(weight("aggTrades?symbol=A&fromId=7&limit=1"), Ok((20, 0)));
        assert_eq!(weight("trades?symbol=A"), Ok((5, 0)));
        for (limit, expected) in [("&limit=100", 1), ("&limit=500", 2), ("&limit=501", 5), ("&limit=1500", 10), ("", 5)]
        {
            assert_eq!(weight(&format!("klines?symbol=A&interval=1m{limit}")), Ok((expected, 0)), "{limit}");
        }
        assert_eq!(weight("historicalTrades?symbol=A&fromId=7"), Err(PeerRefusal::Failed(401)));
        assert_eq!(weight("depth?symbol=A"), Err(PeerRefusal::Failed(404)));
    }

    #[test]
    fn frames_have_the_layout_of_the_venue() {
        let at = Timestamp::from_millis(1_791_383_685_696);
        let (price, quantity, ts) = (Decimal::new(8_314_300, 2), Decimal::new(35, 3), Timestamp::from_millis(5));
        let trade_ids = Some((401, 403));
        let trade = Trade { id: 931, ts, price, quantity, side: Side::Buy, trade_ids };
        let expected = r#"{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1791383685696,"a":931,"s":"BTCUSDT","p":"83143.00","q":"0.035","nq":"0.035","f":401,"l":403,"T":5,"m":false,"st":1}}"#;
        assert_eq!(UsdmPeer.frame("BTCUSDT", PeerEvent::AggTrade(&trade), at).as_deref(), Some(expected));
        let trade = Trade { trade_ids: None, ..trade };
        let expected = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1791383685696,"T":5,"s":"BTCUSDT","t":931,"p":"83143.00","q":"0.035","X":"MARKET","m":false}}"#;
        assert_eq!(UsdmPeer.frame("BTCUSDT", PeerEvent::Trades(&[trade]), at).as_deref(), Some(expected));
        assert_eq!(UsdmPeer.frame("BTCUSDT", PeerEvent::AggTrade(&trade), at), None, "it names no trades");
    }
}
