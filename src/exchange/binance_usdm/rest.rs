//! REST requests of USD-M: paths and weights. The answers are those of spot.

use crate::exchange::binance::aggregates::AggTrades;
use crate::exchange::binance::rest::{klines_path, listing_answer as spot_listing_answer};
use crate::exchange::fields::percent_encoded;
use crate::exchange::{DecodeError, ExchangeInfo, RestRequest};
use crate::gap::Range;
use crate::market::Interval;

/// 2.7: "`/fapi/v1/aggTrades` | 20 at any limit".
pub(super) const AGG_TRADES: AggTrades = AggTrades { path: "/fapi/v1/aggTrades", weight: 20 };

/// 2.8: "max 1500. Weight 1 up to 100 rows, 2 up to 500, 5 up to 1000, 10 up to 1500": 500 rows are the most for a weight.
pub(super) const KLINES_PAGE: i64 = 500;

/// 2.7: "`/fapi/v1/trades` | 5".
pub(super) fn newest_request(symbol: &str) -> RestRequest {
    RestRequest { path: format!("/fapi/v1/trades?symbol={}&limit=1", percent_encoded(symbol)), weight: 5, bucket: 0 }
}

/// 2.8: "startTime inclusive, ascending".
pub(super) fn klines_request(symbol: &str, interval: Interval, range: Range) -> RestRequest {
    let limit = range.len(interval.micros()).clamp(1, KLINES_PAGE);
    let weight = if limit <= 100 { 1 } else { 2 };
    RestRequest { path: klines_path("/fapi/v1/klines", symbol, interval, range, limit), weight, bucket: 0 }
}

/// 2.9: "`status` TRADING or SETTLING are seen; other values exist: treat all but TRADING as not live".
pub(super) fn listing_answer(symbols: &[String], body: &[u8]) -> Result<ExchangeInfo, DecodeError> {
    let mut info = spot_listing_answer(body, |_| true)?;
    info.keep_requested(symbols);
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_of_klines_depends_on_the_limit() {
        let minute = Interval::M1.micros();
        let ask = |rows: i64| {
            let range = Range { first: 0, last: (rows - 1) * minute };
            let RestRequest { path, weight, .. } = klines_request("BTCUSDT", Interval::M1, range);
            (path.rsplit_once('=').unwrap().1.to_owned(), weight)
        };
        assert_eq!(ask(100), ("100".to_owned(), 1));
        assert_eq!(ask(101), ("101".to_owned(), 2));
        assert_eq!(ask(9_000), ("500".to_owned(), 2));
    }
}
