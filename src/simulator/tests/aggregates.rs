//! Aggregate trades, on Binance Spot and on USD-M: frames, REST, and the truth of both.

use super::*;
use crate::market::Trade;

const AGG_TRADE: &str = "btcusdt@aggTrade";

fn usdm() -> Venue {
    Venue::named(crate::market::Exchange::named("binance_usdm")).unwrap()
}

/// The same market as [`options`], on USD-M.
fn usdm_options() -> Options {
    Options::at(usdm(), options().source)
}

/// A market on USD-M that has halted after its history.
async fn halted_usdm(change: impl FnOnce(&mut Options)) -> Simulator {
    halted(|options| {
        let source = options.source.clone();
        *options = Options::at(usdm(), source);
        change(options);
    })
    .await
}

/// The data of the next frame of an aggregate trade.
async fn aggregate(client: &mut Client) -> Value {
    loop {
        let mut value = client.json().await;
        if value["data"]["e"] == "aggTrade" {
            return value["data"].take();
        }
    }
}

async fn numbers(client: &mut Client, count: usize) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        numbers.push(aggregate(client).await["a"].as_i64().unwrap());
    }
    numbers
}

/// Reads from the number `last` on until the effect of a fault is seen in the numbers; returns them.
async fn until(client: &mut Client, last: i64, seen: impl Fn(&[i64]) -> bool) -> Vec<i64> {
    let mut found = vec![last];
    while !seen(&found) {
        found.extend(numbers(client, 1).await);
        assert!(found.len() < 10_000, "the fault had no effect");
    }
    found
}

/// A frame's data or a row of REST is this aggregate.
fn assert_same(value: &Value, trade: &Trade) {
    let (first, last) = trade.trade_ids.unwrap();
    assert_eq!((&value["a"], &value["f"], &value["l"]), (&json!(trade.id), &json!(first), &json!(last)));
    assert_eq!((&value["p"], &value["q"]), (&json!(trade.price.to_string()), &json!(trade.quantity.to_string())));
    assert_eq!(value["T"], trade.ts.millis());
    assert_eq!(value["m"], trade.side == crate::market::Side::Sell);
}

/// Each aggregate sums up its trades, and every trade is in one.
fn assert_covers(aggregates: &[Trade], trades: &[Trade]) {
    let mut rest = trades;
    for (aggregate, number) in aggregates.iter().zip(aggregates[0].id..) {
        let (first, last) = aggregate.trade_ids.unwrap();
        let (own, behind) = rest.split_at((last - first + 1) as usize);
        assert_eq!((aggregate.id, own[0].id, own[own.len() - 1].id), (number, first, last));
        assert!(own.iter().all(|one| (one.ts, one.price, one.side) == (own[0].ts, own[0].price, own[0].side)));
        assert_eq!(aggregate.quantity, own.iter().map(|one| one.quantity).sum());
        rest = behind;
    }
    assert!(rest.is_empty());
}

#[tokio::test]
async fn every_published_aggregate_comes_once_and_covers_its_trades() {
    for (options, path) in [(options(), "/stream"), (usdm_options(), "/market/stream")] {
        let simulator = started(options).await;
        let mut client = Client::connect(&simulator, path).await;
        client.ask(json!({"method": "SUBSCRIBE", "params": [AGG_TRADE], "id": 1})).await;
        let mut frames = Vec::new();
        while frames.len() < 500 {
            frames.push(aggregate(&mut client).await);
        }
        simulator.stop_publishing().await;
        let published = simulator.control.published_agg_trades("BTCUSDT");
        assert_covers(&published, &simulator.control.published("BTCUSDT"));
        assert!(published.iter().any(|trade| trade.trade_ids.is_some_and(|(first, last)| last > first)));
        frames.iter().zip(&published).for_each(|(frame, trade)| assert_same(frame, trade));
        let summary = simulator.control.summary();
        assert_eq!(summary[0].agg_trades, published.len() as u64);
        assert_eq!(summary[0].last_agg_trade, published[published.len() - 1].id);
        assert_eq!(simulator.control.counters().broken, BrokenLimits::default());
        simulator.stop().await;
    }
}

#[tokio::test]
async fn faults_of_frames_act_on_aggregates() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &[AGG_TRADE]).await;
    let newest = |found: &[i64]| *found.iter().max().unwrap();
    let skips = |found: &[i64], by: i64| jumps(found).iter().any(|(one, two)| *two > one + by);
    let last = newest(&numbers(&mut client, 5).await);
    inject(&simulator, "drop:BTCUSDT:7");
    let found = until(&mut client, last, |found| skips(found, 1)).await;
    assert_eq!(jumps(&found).iter().map(|(one, two)| two - one).collect::<Vec<_>>(), [8]);
    inject(&simulator, "duplicate:1");
    let found = until(&mut client, newest(&found), |found| found.windows(2).any(|pair| pair[0] == pair[1])).await;
    inject(&simulator, "reorder:3");
    let is_reversed = |three: &[i64]| three[0] == three[1] + 1 && three[1] == three[2] + 1;
    let found = until(&mut client, newest(&found), |found| found.windows(3).any(is_reversed)).await;
    inject(&simulator, "mute:BTCUSDT:agg_trade:200ms");
    let found = until(&mut client, newest(&found), |found| skips(found, 10)).await;
    inject(&simulator, "poison:BTCUSDT:agg_trade.a=7:1");
    until(&mut client, newest(&found), |found| found.contains(&7)).await;
    let last = numbers(&mut client, 1).await[0];
    inject(&simulator, "silent:200ms");
    until(&mut client, last, |found| skips(found, 10)).await;
    let next = simulator.control.published("BTCUSDT").last().unwrap().id + 2_000;
    inject(&simulator, &format!("losetail:BTCUSDT:{next}"));
    wait_for("the tail is lost", || simulator.control.counters().frames_lost_tail > 0).await;
    let counters = simulator.control.counters();
    assert_eq!((counters.frames_dropped, counters.frames_duplicated, counters.frames_poisoned), (7, 1, 1));
    inject(&simulator, "cut");
    assert_eq!(client.end().await, None);
    simulator.stop().await;
}

#[tokio::test]
async fn a_hole_in_the_frames_is_one_in_rest_too() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &[AGG_TRADE]).await;
    let last = numbers(&mut client, 5).await[4];
    inject(&simulator, "hole:BTCUSDT:3:ever");
    let found = until(&mut client, last, |found| !jumps(found).is_empty()).await;
    let (before, after) = jumps(&found)[0];
    assert_eq!(after - before, 4);
    let path = format!("/api/v3/aggTrades?symbol=BTCUSDT&fromId={before}&limit=2");
    let (_, _, rows) = get(&simulator, &path).await;
    assert_eq!(ids(&rows, "a"), [before, after]);
    simulator.stop().await;
}

#[tokio::test]
async fn rest_serves_aggregates_by_number_and_by_time() {
    for path in ["/api/v3", "/fapi/v1"] {
        let simulator = match path {
            "/api/v3" => halted(|_| {}).await,
            _ => halted_usdm(|_| {}).await,
        };
        let published = simulator.control.published_agg_trades("BTCUSDT");
        let page = async |query: &str| {
            let (status, _, rows) = get(&simulator, &format!("{path}/aggTrades?symbol=BTCUSDT{query}")).await;
            assert_eq!(status, 200, "{query}: {rows}");
            rows.as_array().unwrap().clone()
        };
        let check = |rows: &[Value], expected: &[Trade]| {
            assert_eq!(rows.len(), expected.len());
            rows.iter().zip(expected).for_each(|(row, trade)| assert_same(row, trade));
        };
        let from = published[100].id;
        check(&page(&format!("&fromId={from}&limit=9999")).await, &published[100..1_100]);
        check(&page("&limit=3").await, &published[published.len() - 3..]);
        let at = published[500].ts;
        let first = published.partition_point(|trade| trade.ts < at);
        check(&page(&format!("&startTime={}&limit=5", at.millis())).await, &published[first..first + 5]);
        inject(&simulator, &format!("forget:BTCUSDT:{}", published[300].trade_ids.unwrap().0));
        check(&page(&format!("&fromId={from}&limit=2")).await, &published[300..302]);
        inject(&simulator, "lag:2s");
        assert_eq!(page(&format!("&fromId={}", published[published.len() - 1].id + 1)).await, Vec::<Value>::new());
        inject(&simulator, "rest:503:10s");
        assert_eq!(get(&simulator, &format!("{path}/aggTrades?symbol=BTCUSDT")).await.0, 503);
        simulator.stop().await;
    }
}

#[tokio::test]
async fn usdm_sends_each_channel_on_its_own_address() {
    let simulator = started(usdm_options()).await;
    let mut public = Client::connect(&simulator, "/public/stream").await;
    let streams = ["btcusdt@trade", "btcusdt@bookTicker", AGG_TRADE, "btcusdt@kline_1m"];
    let answer = public.ask(json!({"method": "SUBSCRIBE", "params": streams, "id": 1})).await;
    assert_eq!(answer, json!({"result": null, "id": 1}));
    let (mut trades, mut books) = (0, 0);
    while trades < 200 || books < 20 {
        let value = public.json().await;
        match value["data"]["e"].as_str().unwrap() {
            "trade" => trades += 1,
            "bookTicker" => books += 1,
            other => panic!("{other} came on /public"),
        }
    }
    let broken = simulator.control.counters().broken;
    assert_eq!(broken, BrokenLimits { on_wrong_socket: 2, ..BrokenLimits::default() });
    for path in ["/stream", "/ws", "/private/stream"] {
        let old = tokio_tungstenite::connect_async(format!("{}{path}", simulator.ws_url())).await;
        assert!(matches!(old, Err(Error::Http(response)) if response.status() == 404), "{path}");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn usdm_refuses_what_is_too_old_and_counts_every_weight() {
    let simulator = halted_usdm(|options| options.limits.trades_kept = Duration::from_secs(1_800)).await;
    let published = simulator.control.published_agg_trades("BTCUSDT");
    let now = simulator.control.exchange_time();
    let is_gone = |trade: &Trade| now.since(trade.ts) > 1_850_000_000;
    let (old, young) = (&published[0], &published[published.partition_point(is_gone) + 200]);
    assert!(is_gone(old));
    let aggregates = "/fapi/v1/aggTrades?symbol=BTCUSDT&limit=1";
    for query in [format!("&fromId={}", old.id), format!("&startTime={}", old.ts.millis())] {
        let (status, _, body) = get(&simulator, &format!("{aggregates}{query}")).await;
        assert_eq!((status, &body["code"]), (400, &json!(-4_166)), "{query}");
    }
    let (status, headers, rows) = get(&simulator, &format!("{aggregates}&fromId={}", young.id)).await;
    assert_eq!((status, headers["x-mbx-used-weight-1m"].to_str().unwrap()), (200, "60"));
    assert_same(&rows[0], young);
    let (_, headers, rows) = get(&simulator, "/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=5").await;
    assert_eq!((rows.as_array().unwrap().len(), headers["x-mbx-used-weight-1m"].to_str().unwrap()), (5, "61"));
    let (_, _, newest) = get(&simulator, "/fapi/v1/trades?symbol=BTCUSDT&limit=1").await;
    assert_eq!(newest[0]["id"], simulator.control.published("BTCUSDT").last().unwrap().id);
    let (_, _, listing) = get(&simulator, "/fapi/v1/exchangeInfo").await;
    assert_eq!(
        (&listing["rateLimits"][0]["limit"], &listing["symbols"][0]["status"]),
        (&json!(2_400), &json!("SETTLING"))
    );
    assert_eq!(get(&simulator, "/fapi/v1/aggTrades?symbol=NOPE").await.2["code"], -1_121);
    assert_eq!(get(&simulator, "/fapi/v1/historicalTrades?symbol=BTCUSDT").await.0, 401);
    simulator.stop().await;
}

#[tokio::test]
async fn the_published_aggregates_are_served_as_lines() {
    let simulator = halted(|_| {}).await;
    let (_, _, lines) = get(&simulator, "/simulator/published?symbol=BTCUSDT&channel=agg_trade").await;
    let first: Value = serde_json::from_str(lines.as_str().unwrap().lines().next().unwrap()).unwrap();
    let published = simulator.control.published_agg_trades("BTCUSDT");
    let trade_ids = published[0].trade_ids.unwrap();
    assert_eq!((&first["trade_id"], &first["last_trade_id"]), (&json!(published[0].id), &json!(trade_ids.1)));
    assert_eq!(lines.as_str().unwrap().lines().count(), published.len());
    simulator.stop().await;
}
