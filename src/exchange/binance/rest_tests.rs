//! Requests as in the exchange's documents, answers as recorded.

use super::*;
use crate::exchange::captures;
use crate::market::plain;

/// No time is later.
const ALWAYS: Timestamp = Timestamp(i64::MAX);

fn check(request: RestRequest, path: &str, weight: u32) {
    assert_eq!(request, RestRequest { path: path.to_owned(), weight, bucket: 0 });
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
    let kind = |body: &str| answer_error(body.as_bytes()).map(|error| (error.kind, error.code));
    let unknown = r#"{"code":-1121,"msg":"Invalid symbol."}"#;
    assert_eq!(kind(unknown), Some((AnswerErrorKind::UnknownSymbol, "-1121".to_owned())));
    assert_eq!(answer_error(unknown.as_bytes()).unwrap().msg, "Invalid symbol.");
    let banned = r#"{"code":-1003,"msg":"Way too much request weight used; IP banned until 1659146400000. Please use WebSocket Streams."}"#;
    assert_eq!(kind(banned), Some((AnswerErrorKind::Banned(None), "-1003".to_owned())));
    let limited =
        r#" {"code":-1003,"msg":"Too much request weight used; current limit is 6000 request weight per 1 MINUTE."}"#;
    assert_eq!(kind(limited), Some((AnswerErrorKind::Limited, "-1003".to_owned())));
    assert_eq!(kind(r#"{"code":-1007,"msg":null}"#), Some((AnswerErrorKind::Unavailable, "-1007".to_owned())));
    assert_eq!(kind(r#"{"code":-1102}"#), Some((AnswerErrorKind::Other, "-1102".to_owned())));
    for data in ["[]", "[-1003,\"x\"]", "{}", r#"{"code":null}"#, r#"{"code":0}"#, r#"{"serverTime":1}"#, "<html>", ""]
    {
        assert_eq!(kind(data), None, "{data}");
    }
    assert_eq!(banned_until(banned), Some(Timestamp::from_millis(1_659_146_400_000)));
    assert_eq!(banned_until(unknown), None);
    let far = Timestamp(i64::MAX);
    assert_eq!(banned_until("banned until 99999999999999999999"), Some(far), "a number is a deadline, which is capped");
    assert_eq!(banned_until("banned until 99999999999999999"), Some(far));
    assert_eq!(banned_until("banned until further notice"), None);
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
    for absurd in ["{}", r#"{"serverTime":0}"#, r#"{"serverTime":-1}"#, r#"{"serverTime":null}"#] {
        assert!(time_answer(absurd.as_bytes()).is_err(), "{absurd}");
    }
    for absurd in [32_503_680_000_000_i64, 9_223_372_036_854_775, i64::MAX, i64::MIN, -9_223_372_036_854_775] {
        assert!(time_answer(format!(r#"{{"serverTime":{absurd}}}"#).as_bytes()).is_err(), "{absurd}");
    }
}

#[test]
fn a_kline_is_closed_once_its_close_time_has_passed() {
    let body = br#"[[60000,"1.0","3","0.5","2.00","10",119999,"20",4,"0","0","0"],[120000,"2","2","2","2","0",179999,"0",0,"0","0","0","a 13th"]]"#;
    let page = klines_answer(Interval::M1, body, Timestamp::from_millis(150_000), ALWAYS).unwrap();
    let klines = page.rows;
    assert_eq!(klines.iter().map(|kline| kline.closed).collect::<Vec<_>>(), [true, false]);
    let first = klines[0];
    assert_eq!((first.open_time, first.close_time), (Timestamp(60_000_000), Timestamp(119_999_000)));
    let values = [first.open, first.high, first.low, first.close, first.volume, first.quote_volume];
    assert_eq!(values.map(plain), ["1", "3", "0.5", "2", "10", "20"]);
    assert_eq!((first.trade_count, first.first_trade_id, first.last_trade_id), (4, -1, -1));
    for bad in
        [r#"[[60000]]"#, r#"[[60000,1,2,3,4,5,6,7,8]]"#, r#"{"code":-1}"#, r#"[["60000","1","1","1","1","1",1,"1",1]]"#]
    {
        let refused = klines_answer(Interval::M1, bad.as_bytes(), Timestamp(0), ALWAYS);
        assert!(refused.is_err() || refused.is_ok_and(|page| page.rows.is_empty() && page.refused.len() == 1), "{bad}");
    }
}

/// A page of good trades with this one in the middle; it must cost itself only.
fn check_bad_trade(trade: &str, reason: &str) {
    let good = |id: i64| format!(r#"{{"id":{id},"price":"1.5","qty":"2","time":{},"isBuyerMaker":true}}"#, 1_000 + id);
    let body = format!("[{},{trade},{}]", good(1), good(3));
    let page = trades_answer(body.as_bytes(), Timestamp::from_millis(10_000)).unwrap();
    assert_eq!(page.rows.iter().map(|trade| trade.id).collect::<Vec<_>>(), [1, 3], "{trade}");
    let [refused] = &page.refused[..] else { panic!("{trade}: {:?}", page.refused) };
    assert_eq!((refused.position, &refused.payload[..]), (Some(2), trade.as_bytes()), "{trade}");
    assert!(refused.reason.contains(reason), "{trade}: {}", refused.reason);
}

#[test]
fn an_unreadable_trade_costs_itself_only() {
    let with = |name: &str, value: &str| {
        let mut row = r#"{"id":2,"price":"1.5","qty":"2","time":1002,"isBuyerMaker":true}"#.to_owned();
        for (key, good) in
            [("id", "2"), ("price", "\"1.5\""), ("qty", "\"2\""), ("time", "1002"), ("isBuyerMaker", "true")]
        {
            if key == name {
                row = row.replace(&format!("\"{key}\":{good}"), &format!("\"{key}\":{value}"));
            }
        }
        row
    };
    for digits in [
        r#""123456789012345678901234567890.1""#,
        r#""123456789012.123456789012345678""#,
        r#""1e400""#,
        r#""1_000""#,
        r#""NaN""#,
        r#""""#,
    ] {
        check_bad_trade(&with("qty", digits), "qty");
    }
    check_bad_trade(&with("price", r#""123456789012345678901.5""#), "DECIMAL(38, 18)");
    check_bad_trade(&with("price", r#""0.0000000000000000001""#), "DECIMAL(38, 18)");
    for wrong in ["null", "1.5", "[]", "{}", "NaN", "true"] {
        check_bad_trade(&with("price", wrong), "trades answer");
    }
    check_bad_trade(&with("isBuyerMaker", "\"yes\""), "");
    check_bad_trade(&with("time", "-1"), "before 1970");
    check_bad_trade(&with("time", "10001"), "ahead of the exchange's clock");
    check_bad_trade(&with("time", "1795867200000000"), "after the year 2199");
    check_bad_trade(&with("time", "9223372036854775807"), "time");
    check_bad_trade(&with("id", "\"2\""), "");
    for id in ["9223372036854775807", "-9223372036854775808", "-1", "18446744073709551615", "1e3", "null", "2.0"] {
        check_bad_trade(&with("id", id), "");
    }
    for element in ["null", "1", "\"x\"", "[]", "{}", "oops", ""] {
        check_bad_trade(element, "");
    }
}

#[test]
fn an_exponent_and_superfluous_zeros_are_read_exactly() {
    let body = br#"[{"id":2,"price":"1e-8","qty":"123456789012.500000000000000000","time":1002,"isBuyerMaker":true}]"#;
    let page = trades_answer(body, ALWAYS).unwrap();
    assert!(page.refused.is_empty(), "{:?}", page.refused);
    assert_eq!(
        (plain(page.rows[0].price), plain(page.rows[0].quantity)),
        ("0.00000001".into(), "123456789012.5".into())
    );
}

#[test]
fn an_unreadable_kline_costs_itself_only() {
    let row = |open: &str, close: &str, volume: &str, count: &str| {
        format!(r#"[{open},"1","1","1","1",{volume},{close},"0",{count},"0","0","0"]"#)
    };
    let good = |minute: i64| row(&(minute * 60_000).to_string(), &(minute * 60_000 + 59_999).to_string(), "\"1\"", "0");
    let bad = [
        row("120000", "179999", "null", "0"),
        row("120000", "179999", "\"1234567890123456789012345678901\"", "0"),
        row("120000", "179999", "\"1\"", "-1"),
        row("120000", "179999", "\"1\"", "9223372036854775807"),
        row("120000", "0", "\"1\"", "0"),
        row("120000", "240000", "\"1\"", "0"),
        row("120001", "179999", "\"1\"", "0"),
        row("-60000", "-1", "\"1\"", "0"),
        row("600000000", "600059999", "\"1\"", "0"),
        row("9223372036854775807", "179999", "\"1\"", "0"),
        "[120000]".to_owned(),
        "null".to_owned(),
    ];
    for bad in bad {
        let body = format!("[{},{bad},{}]", good(1), good(3));
        let page = klines_answer(Interval::M1, body.as_bytes(), ALWAYS, Timestamp::from_millis(86_400_000)).unwrap();
        assert_eq!(
            page.rows.iter().map(|kline| kline.open_time.millis()).collect::<Vec<_>>(),
            [60_000, 180_000],
            "{bad}"
        );
        let [refused] = &page.refused[..] else { panic!("{bad}: {:?}", page.refused) };
        assert_eq!((refused.position, &refused.payload[..]), (Some(120_000_000), bad.as_bytes()), "{bad}");
    }
}

#[test]
fn only_what_is_read_of_a_listing_has_to_be_readable() {
    let body = r#"{"timezone":null,"rateLimits":[null,{"rateLimitType":"NEW","interval":"HOUR","limit":null,"count":0.5},
        {"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":1200,"x":NaN}],"sors":[1],
        "symbols":[{"symbol":"AUSDT","status":null,"filters":[{"a":NaN}]},{"symbol":"BUSDT","status":"TRADING"},
        {"symbol":"CUSDT","status":"NEW_STATUS"},{"symbol":null,"status":"TRADING"},7,{"symbol":"DUSDT"},
        {"symbol":"\u5e01USDT","status":"BREAK"}]}"#;
    let info = info_answer(body.as_bytes()).unwrap();
    assert_eq!(info.weight_per_minute, Some(1_200));
    let symbols: Vec<_> =
        info.symbols.iter().map(|(symbol, entry)| (symbol.as_str(), *entry == ListingEntry::Trading)).collect();
    let expected = [("AUSDT", true), ("BUSDT", true), ("CUSDT", true), ("DUSDT", true), ("\u{5e01}USDT", false)];
    assert_eq!(symbols, expected);
    let expected = [
        "AUSDT has the status null",
        "CUSDT has the status \"NEW_STATUS\"",
        "element 3 of symbols has no name",
        "element 4 of symbols has no name",
        "DUSDT has the status missing",
    ];
    assert_eq!(info.unreadable, expected);
}

#[test]
fn an_unreadable_weight_limit_is_named() {
    for (limit, shown) in
        [("null", "null"), ("-5", "-5"), ("\"6000\"", "\"6000\""), ("1e3", "1000.0"), ("99999999999", "99999999999")]
    {
        let body = format!(
            r#"{{"rateLimits":[{{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":{limit}}}],"symbols":[]}}"#
        );
        let info = info_answer(body.as_bytes()).unwrap();
        assert_eq!(info.weight_per_minute, None);
        assert_eq!(info.unreadable, [format!("the weight limit {shown} is not a number of ours")]);
    }
    let info = info_answer(br#"{"symbols":{},"rateLimits":null}"#).unwrap();
    assert_eq!(info.unreadable.len(), 2, "{:?}", info.unreadable);
    for broken in ["[]", "<html>", "", r#"{"symbols":["#] {
        assert!(info_answer(broken.as_bytes()).is_err(), "{broken}");
    }
}

#[test]
fn an_absurd_newest_trade_is_refused() {
    let row = |last: &str| format!(r#"[{{"f":1,"l":{last},"T":5}}]"#);
    for absurd in ["-7", "9223372036854775807", "1e3", "null"] {
        assert!(newest_answer(row(absurd).as_bytes()).is_err(), "{absurd}");
    }
    assert_eq!(newest_answer(br#"[{"f":1,"l":-7,"T":5},{"f":1,"l":8,"T":5}]"#), Ok(Some((8, Timestamp(5_000)))));
    assert!(trade_at_answer(br#"[{"f":-7,"l":1,"T":5}]"#).is_err());
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
            let page = trades_answer(body.as_bytes(), ALWAYS).unwrap_or_else(|error| panic!("{query}: {error}"));
            let trades = page.rows;
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
        let klines = klines_answer(interval, body.as_bytes(), ALWAYS, ALWAYS).unwrap().rows;
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
        let page = super::super::aggregates::trades_answer(body.as_bytes(), ALWAYS).unwrap();
        // Some rows were changed by hand: their `m` has no name.
        let whole = rows.iter().filter(|row| row["m"].is_boolean()).count();
        assert_eq!((page.rows.len(), page.refused.len()), (whole, rows.len() - whole), "{query}");
    }
}
