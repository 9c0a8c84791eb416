//! Aggregate trades over REST. Binance Spot and USD-M serve the same rows under other paths.

use std::borrow::Cow;

use serde::Deserialize;

use super::rest::{PAGE_MAX, millis_up, taker_side, time, trade_ids};
use crate::exchange::fields::{TIME_MAX, percent_encoded, plausible_id, read, readable_id, storable};
use crate::exchange::page::{Page, Refusal, read_page, readable};
use crate::exchange::{DecodeError, RestRequest};
use crate::gap::Range;
use crate::market::{Timestamp, Trade};

const AGGREGATES: &str = "aggTrades answer";

/// Where a venue serves aggregate trades.
#[derive(Clone, Copy, Debug)]
pub(in crate::exchange) struct AggTrades {
    /// Its path.
    pub(in crate::exchange) path: &'static str,
    /// The weight of a request, whatever its limit.
    pub(in crate::exchange) weight: u32,
}

impl AggTrades {
    /// 1.7 and 2.7: "fromId inclusive, upward ... limit def 500 max 1000".
    pub(in crate::exchange) fn page(self, symbol: &str, range: Range) -> RestRequest {
        let limit = range.len(1).clamp(1, PAGE_MAX);
        self.request(symbol, &format!("&fromId={}&limit={limit}", range.first))
    }

    /// 1.7: "none: newest".
    pub(in crate::exchange) fn newest(self, symbol: &str) -> RestRequest {
        self.request(symbol, "&limit=1")
    }

    /// 1.7: "startTime/endTime inclusive, oldest first".
    pub(in crate::exchange) fn at(self, symbol: &str, at: Timestamp) -> RestRequest {
        self.request(symbol, &format!("&startTime={}&limit=1", millis_up(at.micros())))
    }

    fn request(self, symbol: &str, rest: &str) -> RestRequest {
        let path = format!("{}?symbol={}{rest}", self.path, percent_encoded(symbol));
        RestRequest { path, weight: self.weight, bucket: 0 }
    }
}

/// 1.4: "`a` aggregate id, `f..l` trade-id range". A row of USD-M also has `nq`, the quantity without RPI trades (2.4).
#[derive(Deserialize)]
struct Row<'a> {
    a: i64,
    #[serde(borrow)]
    p: Cow<'a, str>,
    #[serde(borrow)]
    q: Cow<'a, str>,
    f: i64,
    l: i64,
    #[serde(rename = "T")]
    trade_time: i64,
    m: bool,
}

/// The part of a row that names it.
#[derive(Deserialize)]
struct Head {
    a: i64,
    #[serde(rename = "T")]
    trade_time: i64,
}

/// A page of aggregate trades.
pub(in crate::exchange) fn trades_answer(body: &[u8], latest: Timestamp) -> Result<Page<Trade>, DecodeError> {
    read_page(AGGREGATES, body, 1, |element| {
        trade(element, latest)
            .map_err(|why| Refusal { position: readable_id(AGGREGATES, element, "a"), reason: why.to_string() })
    })
}

fn trade(element: &[u8], latest: Timestamp) -> Result<Trade, DecodeError> {
    let row: Row<'_> = read(AGGREGATES, element)?;
    Ok(Trade {
        id: plausible_id(AGGREGATES, "a", row.a)?,
        ts: time(AGGREGATES, "T", row.trade_time, latest)?,
        price: storable(AGGREGATES, "p", &row.p)?,
        quantity: storable(AGGREGATES, "q", &row.q)?,
        side: taker_side(row.m),
        trade_ids: Some(trade_ids(AGGREGATES, row.f, row.l)?),
    })
}

/// The newest aggregate's number and time. An unreadable element costs itself only.
pub(in crate::exchange) fn newest_answer(body: &[u8]) -> Result<Option<(i64, Timestamp)>, DecodeError> {
    let rows = readable(AGGREGATES, body, |element| {
        let row: Head = read(AGGREGATES, element)?;
        Ok((plausible_id(AGGREGATES, "a", row.a)?, time(AGGREGATES, "T", row.trade_time, TIME_MAX)?))
    })?;
    Ok(rows.into_iter().max_by_key(|(id, _)| *id))
}

/// The number of the first aggregate.
pub(in crate::exchange) fn at_answer(body: &[u8]) -> Result<Option<i64>, DecodeError> {
    let numbers =
        readable(AGGREGATES, body, |element| plausible_id(AGGREGATES, "a", read::<Head>(AGGREGATES, element)?.a))?;
    Ok(numbers.into_iter().min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Side;

    const SPOT: AggTrades = AggTrades { path: "/api/v3/aggTrades", weight: 4 };
    const ALWAYS: Timestamp = Timestamp(i64::MAX);

    #[test]
    fn requests_are_as_documented() {
        let path = |request: RestRequest| {
            assert_eq!((request.weight, request.bucket), (4, 0));
            request.path
        };
        let range = Range { first: 7, last: 9 };
        assert_eq!(path(SPOT.page("BTCUSDT", range)), "/api/v3/aggTrades?symbol=BTCUSDT&fromId=7&limit=3");
        let long = Range { first: 7, last: 90_000 };
        assert_eq!(path(SPOT.page("BTCUSDT", long)), "/api/v3/aggTrades?symbol=BTCUSDT&fromId=7&limit=1000");
        assert_eq!(path(SPOT.newest("币USDT")), "/api/v3/aggTrades?symbol=%E5%B8%81USDT&limit=1");
        assert_eq!(path(SPOT.at("A", Timestamp(5_001))), "/api/v3/aggTrades?symbol=A&startTime=6&limit=1");
    }

    #[test]
    fn a_row_names_its_trades() {
        let body = r#"[{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27790,"T":1498793709153,"m":true,"M":true},
            {"a":26130,"p":"1","q":"1","f":9,"l":8,"T":1498793709154,"m":false}]"#;
        let page = trades_answer(body.as_bytes(), ALWAYS).unwrap();
        let [trade] = page.rows.as_slice() else { panic!("{page:?}") };
        assert_eq!((trade.id, trade.trade_ids, trade.side), (26_129, Some((27_781, 27_790)), Side::Sell));
        assert_eq!((trade.ts.millis(), trade.quantity.to_string()), (1_498_793_709_153, "4.70443515".to_owned()));
        assert_eq!(page.refused[0].position, Some(26_130));
        assert!(page.refused[0].reason.contains("9 to 8"), "{}", page.refused[0].reason);
        assert_eq!(newest_answer(body.as_bytes()).unwrap().map(|(id, _)| id), Some(26_130));
        assert_eq!(at_answer(body.as_bytes()), Ok(Some(26_129)));
        assert_eq!((newest_answer(b"[]"), at_answer(b"[]")), (Ok(None), Ok(None)));
    }
}
