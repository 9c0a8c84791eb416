//! The lies of the WebSocket, as a client sees them.

use super::*;

/// Reads frames until one fits; returns its `data`.
async fn until_data(client: &mut Client, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let data = client.json().await["data"].take();
        if fits(&data) {
            return data;
        }
    }
}

#[tokio::test]
async fn a_poisoned_frame_replaces_the_right_one() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade", "btcusdt@bookTicker"]).await;
    client.trades(5).await;
    inject(&simulator, "poison:BTCUSDT:trade.t=+1000000000000:1");
    let data = until_data(&mut client, |data| data["t"].as_i64() > Some(1_000_000_000_000)).await;
    let real = data["t"].as_i64().unwrap() - 1_000_000_000_000;
    // Only REST has the right trade.
    let next = until_data(&mut client, |data| data["e"] == "trade").await;
    assert_eq!(next["t"], real + 1);
    let path = format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={real}&limit=1");
    assert_eq!(get(&simulator, &path).await.2[0]["price"], data["p"]);
    inject(&simulator, "poison:BTCUSDT:book.u=max:1");
    until_data(&mut client, |data| data["u"] == i64::MAX).await;
    inject(&simulator, "poison:BTCUSDT:trade.T=year3000:1");
    until_data(&mut client, |data| data["T"] == 32_503_680_000_000_i64).await;
    assert_eq!(simulator.control.counters().frames_poisoned, 3);
    simulator.stop().await;
}

#[tokio::test]
async fn every_trade_of_a_time_has_the_id_0() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(5).await;
    inject(&simulator, "poison:BTCUSDT:trade.t=0:300ms");
    until_data(&mut client, |data| data["t"] == 0).await;
    let mut zeros = 1;
    while client.trade().await == 0 {
        zeros += 1;
    }
    assert!(zeros > 5, "{zeros} trades with the id 0");
    simulator.stop().await;
}

#[tokio::test]
async fn a_poisoned_kline_follows_the_right_one() {
    let mut options = options();
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.time_scale = 60.0;
    let simulator = started(options).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@kline_1m"]).await;
    inject(&simulator, "poisoncopy:BTCUSDT:kline.L=max&f=0&x=true:1");
    let mut before = client.json().await["data"]["k"].take();
    let poisoned = loop {
        let kline = client.json().await["data"]["k"].take();
        if kline["L"] == i64::MAX {
            break kline;
        }
        before = kline;
    };
    assert_eq!((&poisoned["f"], &poisoned["x"]), (&json!(0), &json!(true)));
    assert_eq!((&poisoned["t"], &poisoned["c"]), (&before["t"], &before["c"]));
    inject(&simulator, "poison:BTCUSDT:kline.E=*1000:1");
    until_data(&mut client, |data| data["E"].as_i64() > Some(1_000_000_000_000_000)).await;
    simulator.stop().await;
}

#[tokio::test]
async fn a_field_has_another_type_for_a_time() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(5).await;
    inject(&simulator, "poison:BTCUSDT:trade.p=unquoted&q=unquoted:300ms");
    until_data(&mut client, |data| data["p"].is_number() && data["q"].is_number()).await;
    until_data(&mut client, |data| data["p"].is_string()).await;
    simulator.stop().await;
}

#[tokio::test]
async fn injected_bytes_arrive_as_they_are_on_their_stream_only() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    let mut other = Client::subscribed(&simulator, &["ethusdt@trade"]).await;
    client.trades(5).await;
    let frame = r#"{"stream":"btcusdt@trade","data":{"e":"trade","t":-9223372036854775808}}"#;
    assert_eq!(simulator.control.inject_frame("btcusdt@trade", frame), 2, "two connections are open");
    while client.text().await != frame {}
    assert_eq!(simulator.control.inject_frame("btcusdt@trade", vec![0xff_u8, 0x00]), 2);
    loop {
        if let Message::Binary(bytes) = client.message().await.unwrap().unwrap() {
            assert_eq!(bytes.as_ref(), [0xff, 0x00]);
            break;
        }
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/simulator/frames?stream=btcusdt@trade", simulator.rest_url());
    assert_eq!(http.post(url).body("not json").send().await.unwrap().status(), 202);
    while client.text().await != "not json" {}
    for _ in 0..50 {
        assert_eq!(other.json().await["data"]["s"], "ETHUSDT");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn foreign_symbols_come_that_nobody_subscribed_to() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    inject(&simulator, "foreign:2500");
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 2_500 {
        let data = client.json().await["data"].take();
        if data["s"] != "BTCUSDT" {
            seen.insert(data["s"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(simulator.control.counters().frames_foreign, 2_500);
    simulator.stop().await;
}

#[tokio::test]
async fn a_refused_stream_is_an_error_and_the_others_of_a_new_request_come() {
    let simulator = started(options()).await;
    inject(&simulator, "refusestream:ETHUSDT:trade:ever");
    let mut client = Client::connect(&simulator, "/stream").await;
    let both = json!({"method": "SUBSCRIBE", "params": ["btcusdt@trade", "ethusdt@trade"], "id": 1});
    assert_eq!(client.ask(both.clone()).await["code"], -1121);
    client.ask(json!({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 2})).await;
    client.trades(3).await;
    inject(&simulator, "refusestream:ETHUSDT:trade:0s");
    assert_eq!(client.ask(both).await["result"], Value::Null);
    client.trade_of("ETHUSDT").await;
    assert_eq!(simulator.control.counters().requests_answered_wrongly, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_muted_stream_is_acknowledged_and_never_comes() {
    let simulator = started(options()).await;
    inject(&simulator, "mute:ETHUSDT:trade:ever");
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade", "ethusdt@trade", "ethusdt@bookTicker"]).await;
    until_data(&mut client, |data| data["s"] == "ETHUSDT" && data["u"].is_i64()).await;
    for _ in 0..200 {
        let data = client.json().await["data"].take();
        assert!(data["e"] != "trade" || data["s"] == "BTCUSDT", "{data}");
    }
    inject(&simulator, "mute:ETHUSDT:trade:0s");
    until_data(&mut client, |data| data["e"] == "trade" && data["s"] == "ETHUSDT").await;
    simulator.stop().await;
}

#[tokio::test]
async fn requests_get_wrong_answers() {
    let simulator = started(options()).await;
    let subscribe = json!({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 7});
    for (lie, expected) in [("wrong", json!(99_999_999)), ("text", json!("7")), ("null", Value::Null)] {
        inject(&simulator, &format!("ack:{lie}:ever"));
        let mut client = Client::connect(&simulator, "/stream").await;
        client.send(subscribe.to_string()).await;
        let answer = client.json().await;
        assert_eq!((&answer["id"], answer.get("result")), (&expected, Some(&Value::Null)), "{lie}");
        client.trades(2).await;
    }
    inject(&simulator, "ack:error:ever");
    let mut client = Client::connect(&simulator, "/stream").await;
    let answer = client.ask(subscribe.clone()).await;
    assert_eq!((&answer["code"], &answer["id"]), (&json!(2), &json!(7)));
    inject(&simulator, "ack:absent:ever");
    client.send(subscribe.to_string()).await;
    assert_eq!(client.json().await["data"]["s"], "BTCUSDT", "the frames come without an answer");
    inject(&simulator, "ack:close:ever");
    client.send(subscribe.to_string()).await;
    assert_eq!(client.end().await, Some(1008));
    simulator.stop().await;
}

#[tokio::test]
async fn an_upgrade_is_refused_with_retry_after() {
    let simulator = started(options()).await;
    inject(&simulator, "upgrade:429:20m:ever");
    let refused = tokio_tungstenite::connect_async(format!("{}/stream", simulator.ws_url())).await;
    let Err(Error::Http(response)) = refused else { panic!("connected") };
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "1200"));
    inject(&simulator, "upgrade:429:20m:0s");
    Client::subscribed(&simulator, &["btcusdt@trade"]).await.trades(2).await;
    assert_eq!(simulator.control.counters().upgrades_refused, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_hole_is_lost_on_the_wire_and_hidden_by_rest_for_a_time() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(5).await;
    inject(&simulator, "hole:BTCUSDT:10:2s");
    let mut last = client.trade().await;
    let first = loop {
        let id = client.trade().await;
        if id != last + 1 {
            assert_eq!(id, last + 11);
            break last + 1;
        }
        last = id;
    };
    let path = format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={}&limit=2", first - 1);
    let served = async || ids(&get(&simulator, &path).await.2, "id");
    assert_eq!(served().await, [first - 1, first + 10]);
    let shown = async {
        while served().await != [first - 1, first] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, shown).await.unwrap();
    assert_eq!(simulator.control.counters().frames_in_holes, 10);
    simulator.stop().await;
}

#[tokio::test]
async fn the_clock_jumps_and_trade_times_do_not() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade"]).await;
    client.trades(5).await;
    inject(&simulator, "clock:+1h:1s");
    let ahead = |data: &Value| data["E"].as_i64().unwrap() - data["T"].as_i64().unwrap();
    until_data(&mut client, |data| ahead(data) >= 3_600_000).await;
    let time = get(&simulator, "/api/v3/time").await.2["serverTime"].as_i64().unwrap();
    let newest = simulator.control.published("BTCUSDT").last().unwrap().ts.millis();
    assert!(time - newest >= 3_500_000, "{time} {newest}");
    let before = client.trade().await;
    until_data(&mut client, |data| ahead(data).abs() < 60_000).await;
    assert!(client.trade().await > before, "the market trades on");
    inject(&simulator, "clock:-1h:1s");
    until_data(&mut client, |data| ahead(data) <= -3_500_000).await;
    simulator.stop().await;
}
