//! The WebSocket and its limits, tested with a real client.

use super::*;

#[tokio::test]
async fn every_published_trade_arrives_once_and_in_order() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    let ids = client.trades(500).await;
    assert_eq!(jumps(&ids), []);
    let published = simulator.control.published("BTCUSDT");
    assert_eq!(ids[0], published[0].id);
    simulator.stop().await;
}

#[tokio::test]
async fn the_path_of_the_url_selects_raw_or_combined_frames() {
    let simulator = started(options()).await;
    let mut raw = Client::connect(&simulator, "/ws/btcusdt@trade").await;
    assert_eq!(raw.json().await["s"], "BTCUSDT");
    let mut combined = Client::connect(&simulator, "/stream?streams=ethusdt@trade/ethusdt@bookTicker").await;
    assert_eq!(combined.json().await["data"]["s"], "ETHUSDT");
    simulator.stop().await;
}

#[tokio::test]
async fn a_symbol_in_another_script_is_listed_traded_and_served() {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.listings = vec!["币安人生USDT".parse().unwrap()];
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["币安人生usdt@trade"]).await;
    assert_eq!(client.json().await["data"]["s"], "币安人生USDT");
    let (status, _, rows) = get(&simulator, "/api/v3/trades?symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT").await;
    assert!(status == 200 && !rows.as_array().unwrap().is_empty(), "{rows}");
    simulator.stop().await;
}

#[tokio::test]
async fn an_unsubscribed_stream_ends_with_the_answer() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade", "ethusdt@trade"]).await;
    client.ask(json!({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 2})).await;
    let list = client.ask(json!({"method": "LIST_SUBSCRIPTIONS", "id": 3})).await;
    assert_eq!(list["result"], json!(["ethusdt@trade"]));
    // After the answer only the other symbol comes.
    for _ in 0..100 {
        assert_eq!(client.json().await["data"]["s"], "ETHUSDT");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn bad_requests_get_error_answers() {
    let simulator = started(options()).await;
    let mut client = Client::connect(&simulator, "/stream").await;
    let unknown = client.ask(json!({"method": "SUBSCRIBE", "params": ["nonsense@trade"], "id": 5})).await;
    assert_eq!((&unknown["code"], &unknown["id"]), (&json!(-1121), &json!(5)));
    client.send("{not json").await;
    assert_eq!(client.json().await["code"], 3);
    simulator.stop().await;
}

#[tokio::test]
async fn six_messages_in_a_second_end_the_connection() {
    let simulator = started(options()).await;
    let mut client = Client::connect(&simulator, "/stream").await;
    for id in 0..6 {
        client.send(json!({"method": "LIST_SUBSCRIPTIONS", "id": id}).to_string()).await;
    }
    assert_eq!(client.end().await, Some(1008));
    simulator.stop().await;
}

#[tokio::test]
async fn a_request_over_4096_bytes_is_illegal() {
    let simulator = started(options()).await;
    let mut client = Client::connect(&simulator, "/stream").await;
    client.send(json!({"method": "SUBSCRIBE", "params": ["x".repeat(4_096)], "id": 1}).to_string()).await;
    assert_eq!(client.end().await, Some(3001));
    simulator.stop().await;
}

#[tokio::test]
async fn more_than_1024_streams_are_refused() {
    let simulator = started(options()).await;
    let streams: Vec<String> = (0..1_024).map(|at| format!("btcusdt@{at}")).collect();
    let mut client = Client::connect(&simulator, &format!("/stream?streams={}", streams.join("/"))).await;
    let answer = client.ask(json!({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1})).await;
    assert_eq!(answer["code"], 2);
    simulator.stop().await;
}

#[tokio::test]
async fn an_unanswered_ping_cuts_the_connection_and_an_answered_one_does_not() {
    let mut options = options();
    options.limits.ping_every = Duration::from_millis(250);
    options.limits.pong_within = Duration::from_millis(750);
    let simulator = started(options).await;
    // A client that never reads sends no pong: the server cuts the connection although its queue is empty.
    let dead = Client::connect(&simulator, "/stream").await;
    let mut alive = Client::connect(&simulator, "/stream").await;
    let mut pings = 0;
    while pings < 6 {
        pings += i32::from(matches!(alive.message().await.unwrap().unwrap(), Message::Ping(_)));
        alive.0.flush().await.unwrap();
    }
    wait_for("the dead connection is cut", || simulator.control.connections() == 1).await;
    drop(dead);
    simulator.stop().await;
}

#[tokio::test]
async fn a_connection_ends_after_its_lifetime() {
    let mut options = options();
    options.limits.lifetime = Duration::from_millis(300);
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    assert_eq!(client.end().await, Some(1001));
    simulator.stop().await;
}

#[tokio::test]
async fn too_many_connections_are_refused() {
    let mut options = options();
    options.limits.connects_max = 2;
    let simulator = started(options).await;
    let _first = Client::connect(&simulator, "/stream").await;
    let _second = Client::connect(&simulator, "/ws").await;
    let third = tokio_tungstenite::connect_async(format!("{}/stream", simulator.ws_url())).await;
    assert!(matches!(third, Err(Error::Http(response)) if response.status() == 429));
    simulator.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_cut_and_the_others_lose_nothing() {
    let mut options = options();
    options.limits.queue_bytes_max = 64 * 1_024;
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.rate = 20_000.0;
    let simulator = started(options).await;
    let slow = Client::subscribed(&simulator, &["btcusdt@trade", "ethusdt@trade"]).await;
    wait_for("the slow reader is cut", || simulator.control.counters().connections_slow == 1).await;
    drop(slow);
    simulator.stop().await;
}

#[tokio::test]
async fn klines_close_on_the_minute_and_agree_with_the_trades() {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.time_scale = 120.0;
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@kline_1m"]).await;
    let (mut open, mut closed) = (0, Vec::new());
    while closed.len() < 3 {
        let kline = client.json().await["data"]["k"].take();
        match (kline["x"].as_bool().unwrap(), kline["f"].as_i64().unwrap()) {
            (false, _) => open += 1,
            // On a busy machine half a second may pass without a trade.
            (true, -1) => assert_eq!((kline["L"].as_i64(), kline["n"].as_i64()), (Some(-1), Some(0))),
            (true, _) => closed.push(kline),
        }
    }
    assert!(open > 3, "only {open} open klines");
    let trades = simulator.control.published("BTCUSDT");
    for kline in &closed {
        let (first, last) = (kline["f"].as_i64().unwrap(), kline["L"].as_i64().unwrap());
        assert_eq!(kline["n"].as_i64().unwrap(), last - first + 1);
        assert_eq!(kline["t"].as_i64().unwrap() % 60_000, 0);
        let of = |id: i64| trades.iter().find(|trade| trade.id == id).unwrap();
        assert_eq!(kline["o"], of(first).price.to_string());
        assert_eq!(kline["c"], of(last).price.to_string());
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_halted_market_keeps_its_connections() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(10).await;
    simulator.stop_publishing().await;
    let count = simulator.control.published("BTCUSDT").len();
    client.send(json!({"method": "LIST_SUBSCRIPTIONS", "id": 9}).to_string()).await;
    let mut last = 0;
    loop {
        let value = client.json().await;
        match value["data"]["t"].as_i64() {
            Some(id) => last = id,
            None => break,
        }
    }
    let published = simulator.control.published("BTCUSDT");
    assert_eq!(published.len(), count);
    assert!(last <= published[count - 1].id);
    simulator.stop().await;
}

#[tokio::test]
async fn a_stop_sends_close_frames() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    let (code, ()) = tokio::join!(client.end(), simulator.stop());
    assert_eq!(code, Some(1001));
}

#[tokio::test]
async fn a_flood_arrives_complete() {
    let listings = vec!["BTCUSDT".parse().unwrap()];
    let simulator = started(Options::new(Source::Flood(Flood { listings, seed: 3, trades: 30_000 }))).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    let begun = tokio::time::Instant::now();
    let mut received = 0;
    let mut last = String::new();
    while received < 30_000 {
        if let Message::Text(text) = client.message().await.unwrap().unwrap() {
            received += 1;
            last = text.to_string();
        }
    }
    println!("{:.0} frames/s in this build", 30_000.0 / begun.elapsed().as_secs_f64());
    let last: Value = serde_json::from_str(&last).unwrap();
    let published = simulator.control.published("BTCUSDT");
    assert_eq!(published.len(), 30_000);
    assert_eq!(last["data"]["t"], published[29_999].id);
    simulator.stop().await;
}

#[tokio::test]
async fn a_capture_is_played_byte_for_byte_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    let frame = |id: i64| {
        format!(
            r#"{{"stream":"ethusdt@trade","data":{{"e":"trade","E":{0},"s":"ETHUSDT","t":{0},"p":"5.10000000","q":"1.00000000","T":{0},"m":true,"M":true}}}}"#,
            id
        )
    };
    let lines: Vec<String> = (1..=50).map(|id| format!("{} {}", id * 1_000_000_000_i64, frame(id))).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let simulator = started(Options::new(Source::Capture { paths: vec![path], speed: 100.0 })).await;
    assert_eq!(get(&simulator, "/api/v3/historicalTrades?symbol=ETHUSDT").await.2, json!([]));
    let mut client = Client::subscribed(&simulator, &["ethusdt@trade"]).await;
    for id in 1..=50 {
        assert_eq!(client.text().await, frame(id));
    }
    simulator.control.finished().cancelled().await;
    let (_, _, rows) = get(&simulator, "/api/v3/historicalTrades?symbol=ETHUSDT&fromId=49").await;
    assert_eq!(rows[0]["price"], "5.10000000");
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(get(&simulator, "/api/v3/time").await.2["serverTime"], 50);
    let (_, _, rows) = get(&simulator, "/api/v3/aggTrades?symbol=ETHUSDT&fromId=49").await;
    assert_eq!((&rows[0]["a"], &rows[0]["f"], &rows[0]["l"]), (&json!(49), &json!(49), &json!(49)));
    simulator.stop().await;
}

#[test]
fn the_real_capture_is_read_completely() {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let directory = std::env::var_os("TAPEKEEPER_CAPTURES").map_or(beside, PathBuf::from);
    let path = directory.join("binance/ethusdt_20240808.gz");
    if !path.exists() {
        println!("SKIPPED: no captures, set TAPEKEEPER_CAPTURES");
        return;
    }
    let capture = Capture::read(&[path, directory.join("binance/BINANCE_TR.ws.1.0")]).unwrap();
    let trades: Vec<i64> = capture.frames.iter().filter_map(|recorded| recorded.trade.map(|trade| trade.id)).collect();
    assert_eq!(trades.len(), 6_106);
    assert_eq!(jumps(&trades), []);
    let closed = capture.frames.iter().filter(|recorded| recorded.kline.is_some_and(|candle| candle.kline.closed));
    assert!(closed.count() > 0);
}
