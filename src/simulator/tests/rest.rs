//! REST with its limits and headers, tested with a real client.

use super::*;
use crate::exchange::spec::Bucket;
use crate::market::Interval;

#[tokio::test]
async fn historical_trades_page_by_id() {
    let simulator = halted(|_| {}).await;
    let published = simulator.control.published("BTCUSDT");
    let from = published[100].id;
    let (status, headers, rows) =
        get(&simulator, &format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={from}&limit=9999")).await;
    assert_eq!((status, headers["x-mbx-used-weight-1m"].to_str().unwrap()), (200, "25"));
    let ids = ids(&rows, "id");
    assert_eq!((ids.len(), ids[0], jumps(&ids)), (1_000, from, vec![]));
    let row = &rows[0];
    assert_eq!(row["price"], published[100].price.to_string());
    assert_eq!(row["qty"], published[100].quantity.to_string());
    assert_eq!(row["time"], published[100].ts.millis());
    let (_, headers, newest) = get(&simulator, "/api/v3/trades?symbol=BTCUSDT&limit=3").await;
    assert_eq!(headers["x-mbx-used-weight-1m"].to_str().unwrap(), "50");
    assert_eq!(newest[2]["id"], published.last().unwrap().id);
    simulator.stop().await;
}

#[tokio::test]
async fn aggregate_trades_cover_every_trade_once() {
    let simulator = halted(|_| {}).await;
    let published = simulator.control.published("ETHUSDT");
    let (from, to) = (published[0].ts.millis(), published.last().unwrap().ts.millis());
    let (_, _, first) =
        get(&simulator, &format!("/api/v3/aggTrades?symbol=ETHUSDT&startTime={from}&endTime={to}&limit=1")).await;
    let mut next = first[0]["a"].as_i64().unwrap();
    let mut expected = published[0].id;
    loop {
        let (_, _, rows) = get(&simulator, &format!("/api/v3/aggTrades?symbol=ETHUSDT&fromId={next}&limit=1000")).await;
        let rows = rows.as_array().unwrap();
        if rows.is_empty() {
            break;
        }
        for row in rows {
            assert_eq!((row["a"].as_i64().unwrap(), row["f"].as_i64().unwrap()), (next, expected));
            next += 1;
            expected = row["l"].as_i64().unwrap() + 1;
        }
    }
    assert_eq!(expected, published.last().unwrap().id + 1);
    simulator.stop().await;
}

#[tokio::test]
async fn times_of_aggregate_trades_are_inclusive() {
    let simulator = halted(|_| {}).await;
    let at = simulator.control.published("BTCUSDT")[500].ts.millis();
    let (_, _, rows) = get(&simulator, &format!("/api/v3/aggTrades?symbol=BTCUSDT&startTime={at}&endTime={at}")).await;
    assert!(!rows.as_array().unwrap().is_empty());
    assert!(rows.as_array().unwrap().iter().all(|row| row["T"] == at));
    let (status, _, body) = get(&simulator, "/api/v3/aggTrades?symbol=BTCUSDT&fromId=1&startTime=1").await;
    assert_eq!((status, &body["code"]), (400, &json!(-1128)));
    simulator.stop().await;
}

#[tokio::test]
async fn rest_serves_the_published_klines() {
    let simulator = halted(|_| {}).await;
    let closed = simulator.control.published_klines("BTCUSDT", Interval::M1);
    assert!(closed.len() >= 59, "{} klines in an hour", closed.len());
    let (from, to) = (closed[5].open_time.millis(), closed[9].open_time.millis());
    let (_, headers, rows) =
        get(&simulator, &format!("/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={from}&endTime={to}")).await;
    assert_eq!(headers["x-mbx-used-weight-1m"].to_str().unwrap(), "2");
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for (row, kline) in rows.iter().zip(&closed[5..]) {
        assert_eq!(row.as_array().unwrap().len(), 12);
        assert_eq!(row[0], kline.open_time.millis());
        assert_eq!(row[4], kline.close.to_string());
        assert_eq!(row[8], kline.trade_count);
    }
    simulator.stop().await;
}

#[tokio::test]
async fn invalid_requests_get_binances_error_codes() {
    let simulator = halted(|_| {}).await;
    for (path, code) in [
        ("/api/v3/klines?symbol=NONSENSE&interval=1m", -1121),
        ("/api/v3/klines?symbol=BTCUSDT&interval=2m", -1120),
        ("/api/v3/klines?symbol=BTCUSDT", -1102),
        ("/api/v3/historicalTrades", -1102),
        ("/api/v3/historicalTrades?symbol=BTCUSDT&fromId=x", -1100),
        ("/api/v3/trades?symbol=BTCUSDT&limit=0", -1130),
        ("/api/v3/exchangeInfo?symbol=NONSENSE", -1121),
    ] {
        let (status, headers, body) = get(&simulator, path).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{path}");
        assert!(headers.contains_key("x-mbx-used-weight-1m"));
    }
    simulator.stop().await;
}

#[tokio::test]
async fn exchange_info_lists_the_limits_and_the_symbols() {
    let simulator = halted(|_| {}).await;
    let (_, _, info) = get(&simulator, "/api/v3/exchangeInfo").await;
    assert_eq!(
        info["rateLimits"][0],
        json!({"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000})
    );
    assert_eq!(info["symbols"][1]["symbol"], "ETHUSDT");
    assert_eq!(get(&simulator, "/api/v3/ping").await.2, json!({}));
    simulator.stop().await;
}

#[tokio::test]
async fn beyond_the_weight_comes_429_and_then_the_ban() {
    let simulator = halted(|options| {
        options.limits.buckets = vec![Bucket::Window { weight: 50, per: Duration::from_secs(60) }];
        options.limits.refusals_max = 1;
    })
    .await;
    let path = "/api/v3/historicalTrades?symbol=BTCUSDT";
    assert_eq!(get(&simulator, path).await.0, 200);
    assert_eq!(get(&simulator, path).await.0, 200);
    let (status, headers, body) = get(&simulator, path).await;
    assert_eq!((status, &body["code"]), (429, &json!(-1003)));
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 60);
    let (status, headers, body) = get(&simulator, path).await;
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (418, "120"));
    assert!(body["msg"].as_str().unwrap().contains("IP banned until "));
    assert_eq!(get(&simulator, "/api/v3/ping").await.0, 418);
    simulator.stop().await;
}

#[tokio::test]
async fn the_truth_is_served_over_http() {
    let simulator = halted(|_| {}).await;
    let (_, _, summary) = get(&simulator, "/simulator/published").await;
    let published = simulator.control.published("BTCUSDT");
    assert_eq!(summary["over"], true);
    assert_eq!(summary["symbols"][0]["count"], published.len());
    let (_, _, lines) = get(&simulator, "/simulator/published?symbol=BTCUSDT").await;
    assert_eq!(lines.as_str().unwrap().lines().count(), published.len());
    let (_, _, lines) = get(&simulator, "/simulator/published?symbol=BTCUSDT&klines=1m").await;
    let first: Value = serde_json::from_str(lines.as_str().unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(first["interval"], "1m");
    simulator.stop().await;
}
