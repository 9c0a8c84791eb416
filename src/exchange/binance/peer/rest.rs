//! Binance's REST as a venue: what a request asks, and how an answer looks. USD-M reads its parameters in the same way.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::render;
use crate::exchange::peer::{PeerContent, PeerRefusal, PeerRequest, PeerResponse, PeerTrades, split_query};
use crate::market::{Channel, Interval, Timestamp};

/// The parameters of a request.
pub(in crate::exchange) type Query = BTreeMap<String, String>;

/// 1.7: "limit def 500 max 1000"; a greater value counts as 1000.
const LIMIT_DEFAULT: i64 = 500;
const LIMIT_MAX: i64 = 1_000;

pub(super) fn read(path_and_query: &str) -> Result<(PeerRequest, u32, usize), PeerRefusal> {
    let (path, query) = split_query(path_and_query).ok_or(PeerRefusal::BadParameter)?;
    let (request, weight) = match path.as_str() {
        // 1.7: "historicalTrades | 25 | symbol, fromId".
        "/api/v3/historicalTrades" => {
            let which = number(&query, "fromId")?.map_or(PeerTrades::Newest, PeerTrades::From);
            (trades(&query, which)?, 25)
        }
        // 1.7: "trades | 25 | newest".
        "/api/v3/trades" => (trades(&query, PeerTrades::Newest)?, 25),
        // 1.7: "aggTrades | 4".
        "/api/v3/aggTrades" => (aggregates(&query)?, 4),
        // 1.8: "klines, weight 2: symbol, interval, startTime, endTime (compared with the open time, inclusive)".
        "/api/v3/klines" => (klines(&query, limit(&query, LIMIT_MAX)?)?, 2),
        // 1.9: "/api/v3/time, weight 1".
        "/api/v3/time" => (PeerRequest::Time, 1),
        // 1.9: "exchangeInfo, weight 20: symbol(s)".
        "/api/v3/exchangeInfo" => {
            let symbols = match (query.get("symbol"), query.get("symbols")) {
                (Some(symbol), None) => vec![symbol.clone()],
                (None, Some(symbols)) => serde_json::from_str(symbols).map_err(|_| PeerRefusal::BadParameter)?,
                (None, None) => Vec::new(),
                (Some(_), Some(_)) => return Err(PeerRefusal::BadParameter),
            };
            (PeerRequest::Listing(symbols), 20)
        }
        _ => return Err(PeerRefusal::Failed(404)),
    };
    Ok((request, weight, 0))
}

pub(in crate::exchange) fn trades(query: &Query, which: PeerTrades) -> Result<PeerRequest, PeerRefusal> {
    Ok(PeerRequest::Trades { symbol: symbol(query)?, channel: Channel::Trade, which, limit: limit(query, LIMIT_MAX)? })
}

/// 1.7: "aggTrades: fromId inclusive, upward; startTime/endTime inclusive, oldest first; none: newest".
pub(in crate::exchange) fn aggregates(query: &Query) -> Result<PeerRequest, PeerRefusal> {
    let which = match (number(query, "fromId")?, time(query, "startTime")?) {
        (Some(_), Some(_)) => return Err(PeerRefusal::BadParameter),
        (Some(id), None) => PeerTrades::From(id),
        (None, Some(at)) => PeerTrades::Since(at),
        (None, None) => PeerTrades::Newest,
    };
    Ok(PeerRequest::Trades {
        symbol: symbol(query)?,
        channel: Channel::AggTrade,
        which,
        limit: limit(query, LIMIT_MAX)?,
    })
}

pub(in crate::exchange) fn klines(query: &Query, limit: usize) -> Result<PeerRequest, PeerRefusal> {
    let interval = query.get("interval").and_then(|text| text.parse::<Interval>().ok());
    let (first, last) = (time(query, "startTime")?, time(query, "endTime")?);
    let symbol = symbol(query)?;
    let interval = interval.ok_or(PeerRefusal::BadParameter)?;
    // Without a start the newest rows come, with one the oldest.
    Ok(PeerRequest::Klines { symbol, interval, first, last, limit, newest: first.is_none() })
}

fn symbol(query: &Query) -> Result<String, PeerRefusal> {
    query.get("symbol").filter(|symbol| !symbol.is_empty()).cloned().ok_or(PeerRefusal::BadParameter)
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, PeerRefusal> {
    let Some(text) = query.get(name) else { return Ok(None) };
    text.parse().ok().filter(|number| *number >= 0).map(Some).ok_or(PeerRefusal::BadParameter)
}

fn time(query: &Query, name: &str) -> Result<Option<Timestamp>, PeerRefusal> {
    let micros = number(query, name)?.map(|ms| ms.checked_mul(1_000).ok_or(PeerRefusal::BadParameter)).transpose()?;
    Ok(micros.map(Timestamp))
}

pub(in crate::exchange) fn limit(query: &Query, most: i64) -> Result<usize, PeerRefusal> {
    match number(query, "limit")?.unwrap_or(LIMIT_DEFAULT) {
        0 => Err(PeerRefusal::BadParameter),
        limit => usize::try_from(limit.min(most)).map_err(|_| PeerRefusal::BadParameter),
    }
}

pub(super) fn answer(request: &PeerRequest, content: PeerContent<'_>) -> PeerResponse {
    let body = match content {
        PeerContent::Trades(trades) if matches!(request, PeerRequest::Trades { channel: Channel::AggTrade, .. }) => {
            list(trades.iter().filter_map(render::aggregate_row))
        }
        PeerContent::Trades(trades) => list(trades.iter().map(render::trade_row)),
        PeerContent::Klines(klines) => {
            list(klines.iter().map(|kline| render::kline_row(kline, render::Taker::default())))
        }
        PeerContent::Time(at) => json!({"serverTime": at.millis()}).to_string(),
        PeerContent::Listing(symbols) => {
            let row = |(symbol, trades): &(String, bool)| {
                let status = if *trades { "TRADING" } else { "BREAK" };
                json!({"symbol": symbol, "status": status, "isSpotTradingAllowed": true})
            };
            let limit =
                json!({"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000});
            let symbols: Vec<Value> = symbols.iter().map(row).collect();
            json!({"timezone": "UTC", "rateLimits": [limit], "exchangeFilters": [], "symbols": symbols}).to_string()
        }
    };
    PeerResponse { status: 200, headers: Vec::new(), body }
}

pub(in crate::exchange) fn list(rows: impl Iterator<Item = String>) -> String {
    format!("[{}]", rows.collect::<Vec<String>>().join(","))
}

/// 1.10: "429 -> Retry-After seconds; ignoring it -> 418 ...; body -1003 … IP banned until `<epoch ms>`; -1121 = bad symbol".
pub(super) fn refuse(refusal: PeerRefusal) -> PeerResponse {
    let response = |status: u16, code: i64, msg: String| PeerResponse {
        status,
        headers: Vec::new(),
        body: json!({"code": code, "msg": msg}).to_string(),
    };
    match refusal {
        PeerRefusal::Limited(seconds) => PeerResponse {
            headers: vec![("retry-after", seconds.to_string())],
            ..response(429, -1_003, "Too much request weight used.".to_owned())
        },
        PeerRefusal::Banned(until) => {
            let msg = format!("Way too much request weight used; IP banned until {}.", until.millis());
            response(418, -1_003, msg)
        }
        PeerRefusal::UnknownSymbol => response(400, -1_121, "Invalid symbol.".to_owned()),
        PeerRefusal::BadParameter => {
            response(400, -1_102, "A mandatory parameter was not sent or malformed.".to_owned())
        }
        // 2.7: "Only the last 2 days, also by id: 400 code -4166".
        PeerRefusal::TooOld => response(400, -4_166, "Only data of the last 2 days is served.".to_owned()),
        PeerRefusal::Failed(status) => response(status, -1_000, "An unknown error occurred.".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_which_rows_it_wants() {
        let trades = |path: &str| match read(path) {
            Ok((PeerRequest::Trades { channel, which, limit, .. }, weight, 0)) => {
                assert_eq!(channel == Channel::AggTrade, path.contains("agg"), "{path}");
                (which, limit, weight)
            }
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(trades("/api/v3/historicalTrades?symbol=A&fromId=7&limit=9999"), (PeerTrades::From(7), 1_000, 25));
        assert_eq!(trades("/api/v3/trades?symbol=A"), (PeerTrades::Newest, 500, 25));
        let since = PeerTrades::Since(Timestamp(5_000));
        assert_eq!(trades("/api/v3/aggTrades?symbol=A&startTime=5&limit=1"), (since, 1, 4));
        assert_eq!(trades("/api/v3/aggTrades?symbol=A&fromId=5"), (PeerTrades::From(5), 500, 4));
        for (path, refusal) in [
            ("/api/v3/trades", PeerRefusal::BadParameter),
            ("/api/v3/aggTrades?symbol=A&fromId=5&startTime=5", PeerRefusal::BadParameter),
            ("/api/v3/trades?symbol=A&limit=0", PeerRefusal::BadParameter),
            ("/api/v3/klines?symbol=A&interval=2m", PeerRefusal::BadParameter),
            ("/api/v3/depth?symbol=A", PeerRefusal::Failed(404)),
        ] {
            assert_eq!(read(path), Err(refusal), "{path}");
        }
    }

    #[test]
    fn a_ban_names_its_end() {
        let response = refuse(PeerRefusal::Banned(Timestamp::from_millis(1_700_000_000_123)));
        assert_eq!(response.status, 418);
        assert!(response.body.contains("IP banned until 1700000000123"), "{}", response.body);
    }
}
