//! Requests as in the exchange's documents, answers as recorded.

use super::*;
use crate::exchange::binance::captures;
use crate::market::plain;

fn check(request: RestRequest, path: &str, weight: u32) {
    assert_eq!(request, RestRequest { path: path.to_owned(), weight });
}

#[test]
fn requests_are_as_documented() {
    let range = Range { first: 5, last: 9 };
    check(trades_request("BTCUSDT", range), "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=5&limit=5", 25);
    let long = Range { first: 5, last: 50_000 };
    check(trades_request("BTCUSDT", long), "/api/v3/historicalTrades?symbol=BTCUSDT&fromId=5&limit=1000", 25);
    check(newest_request("BTCUSDT"), "/api/v3/aggTrades?symbol=BTCUSDT&limit=1", 4);
    check(newest_fallback_request("BTCUSDT"), "/api/v3/historicalTrades?symbol=BTCUSDT&limit=1", 25);
    check(info_request(&[]), "/api/v3/exchangeInfo", 20);
    check(info_request(&["A".to_owned(), "B".to_owned()]), "/api/v3/exchangeInfo?symbols=%5B%22A%22%2C%22B%22%5D", 20);
}

#[test]
fn klines_are_requested_by_open_time_in_milliseconds() {
    let range = Range { first: 60_000_000, last: 120_000_000 };
    let path = "/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=60000&endTime=120000&limit=2";
    check(klines_request("BTCUSDT", Interval::M1, range), path, 2);
}

#[test]
fn a_trade_at_a_fraction_of_a_millisecond_is_requested_from_the_next_millisecond() {
    let path = |ms| format!("/api/v3/aggTrades?symbol=BTCUSDT&startTime={ms}&limit=1");
    check(trade_at_request("BTCUSDT", Timestamp(5_000)), &path(5), 4);
    check(trade_at_request("BTCUSDT", Timestamp(5_001)), &path(6), 4);
}

#[test]
fn limits_and_symbols_come_from_exchange_info() {
    let body = r#"{"timezone":"UTC","serverTime":1,"rateLimits":[
        {"rateLimitType":"RAW_REQUESTS","interval":"MINUTE","intervalNum":5,"limit":300000},
        {"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":5000}],
        "symbols":[{"symbol":"BTCUSDT","status":"TRADING","x":1},{"symbol":"LUNAUSDT","status":"BREAK"}]}"#;
    let info = info_answer(body.as_bytes()).unwrap();
    assert_eq!(info.weight_per_minute, Some(5_000));
    assert_eq!(
        info.symbols,
        [
            ("BTCUSDT".to_owned(), ListingEntry::Trading),
            ("LUNAUSDT".to_owned(), ListingEntry::Paused("BREAK".to_owned()))
        ]
    );
}

#[test]
fn each_kind_of_error_answer_is_recognised() {
    let unknown = r#"{"code":-1121,"msg":"Invalid symbol."}"#;
    assert_eq!(unknown_symbol(unknown), Some("Invalid symbol.".to_owned()));
    let banned = r#"{"code":-1003,"msg":"Way too much request weight used; IP banned until 1659146400000. Please use WebSocket Streams."}"#;
    assert_eq!(unknown_symbol(banned), None);
    assert_eq!(banned_until(banned), Some(Timestamp::from_millis(1_659_146_400_000)));
    assert_eq!(banned_until(unknown), None);
    assert_eq!(banned_until("banned until 99999999999999999999"), None);
    assert_eq!(unknown_symbol("<html>"), None);
}

#[test]
fn the_newest_trade_is_read_from_aggregates_and_from_raw_trades() {
    let aggregates =
        r#"[{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27790,"T":1498793709153,"m":true,"M":true}]"#;
    let at = Timestamp::from_millis(1_498_793_709_153);
    assert_eq!(newest_answer(aggregates.as_bytes()), Ok(Some((27_790, at))));
    assert_eq!(trade_at_answer(aggregates.as_bytes()), Ok(Some(27_781)));
    let raw = r#"[{"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1498793709153,"isBuyerMaker":true,"isBestMatch":true}]"#;
    assert_eq!(newest_answer(raw.as_bytes()), Ok(Some((28_457, at))));
    assert_eq!(newest_answer(b"[]"), Ok(None));
    assert_eq!(trade_at_answer(b"[]"), Ok(None));
    assert!(newest_answer(b"<html>404</html>").is_err());
}

#[test]
fn the_servers_time_is_read() {
    assert_eq!(time_answer(br#"{"serverTime":1499827319559}"#), Ok(Timestamp::from_millis(1_499_827_319_559)));
    assert!(time_answer(b"{}").is_err());
}

#[test]
fn a_kline_is_closed_once_its_close_time_has_passed() {
    let body = br#"[[60000,"1.0","3","0.5","2.00","10",119999,"20",4,"0","0","0"],[120000,"2","2","2","2","0",179999,"0",0,"0","0","0","a 13th"]]"#;
    let klines = klines_answer(Interval::M1, body, Timestamp::from_millis(150_000)).unwrap();
    assert_eq!(klines.iter().map(|kline| kline.closed).collect::<Vec<_>>(), [true, false]);
    let first = klines[0];
    assert_eq!((first.open_time, first.close_time), (Timestamp(60_000_000), Timestamp(119_999_000)));
    let values = [first.open, first.high, first.low, first.close, first.volume, first.quote_volume];
    assert_eq!(values.map(plain), ["1", "3", "0.5", "2", "10", "20"]);
    assert_eq!((first.trade_count, first.first_trade_id, first.last_trade_id), (4, -1, -1));
    for bad in
        [r#"[[60000]]"#, r#"[[60000,1,2,3,4,5,6,7,8]]"#, r#"{"code":-1}"#, r#"[["60000","1","1","1","1","1",1,"1",1]]"#]
    {
        assert!(klines_answer(Interval::M1, bad.as_bytes(), Timestamp(0)).is_err(), "{bad}");
    }
}

/// Recorded answers of a route with their query strings.
fn recordings(route: &str) -> Vec<(String, String)> {
    let Some(bytes) = captures::read("binance/rest_recordings.json") else { return Vec::new() };
    let all: Value = serde_json::from_slice(&bytes).unwrap();
    let answers = all["routes"][route]["GET"].as_array().unwrap();
    answers.iter().map(|one| (one["queryString"].as_str().unwrap().to_owned(), one["data"].to_string())).collect()
}

#[test]
fn recorded_trades_are_read_exactly() {
    for route in ["/api/v3/trades", "/api/v3/historicalTrades"] {
        for (query, body) in recordings(route) {
            let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
            let trades = trades_answer(body.as_bytes()).unwrap_or_else(|error| panic!("{query}: {error}"));
            assert_eq!(trades.len(), rows.len());
            assert!(trades.is_sorted_by_key(|trade| trade.id));
            for row in &rows {
                let trade = trades.iter().find(|trade| row["id"].as_i64() == Some(trade.id)).unwrap();
                assert_eq!(Some(trade.price.to_string().as_str()), row["price"].as_str());
                assert_eq!(Some(trade.quantity.to_string().as_str()), row["qty"].as_str());
                assert_eq!(Some(trade.ts.millis()), row["time"].as_i64());
                assert_eq!(Some(trade.side == Side::Sell), row["isBuyerMaker"].as_bool());
            }
        }
    }
}

#[test]
fn recorded_klines_are_read() {
    for (query, body) in recordings("/api/v3/klines") {
        let interval = query.split('&').find_map(|part| part.strip_prefix("interval=")).unwrap();
        let Ok(interval) = interval.parse::<Interval>() else { continue };
        let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
        let klines = klines_answer(interval, body.as_bytes(), Timestamp(i64::MAX)).unwrap();
        assert_eq!(klines.len(), rows.len());
        for kline in &klines {
            assert!(kline.closed && kline.low <= kline.high, "{query}");
            assert_eq!(kline.close_time.since(kline.open_time), interval.micros() - 1_000, "{query}");
        }
    }
}

#[test]
fn recorded_aggregates_are_read() {
    for (query, body) in recordings("/api/v3/aggTrades") {
        let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
        let (newest, first) = (newest_answer(body.as_bytes()), trade_at_answer(body.as_bytes()));
        let newest = newest.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(newest.map(|(id, _)| id), rows.iter().map(|row| row["l"].as_i64().unwrap()).max());
        assert_eq!(first.unwrap(), rows.iter().map(|row| row["f"].as_i64().unwrap()).min());
    }
}
