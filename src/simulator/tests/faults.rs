//! Each fault, tested with a real client.

use super::*;

/// A client that has received trades, so that the connection is in use.
async fn recording(simulator: &Simulator) -> Client {
    let mut client = Client::subscribed(simulator, &["btcusdt@trade", "btcusdt@kline_1m"]).await;
    client.trades(20).await;
    client
}

/// Reads trades until `seen` finds the effect of a fault in their ids; returns the ids.
async fn until(client: &mut Client, seen: impl Fn(&[i64]) -> bool) -> Vec<i64> {
    let mut ids = client.trades(2).await;
    while !seen(&ids) {
        ids.push(client.trade().await);
        assert!(ids.len() < 100_000, "the fault had no effect");
    }
    ids
}

#[tokio::test]
async fn a_cut_is_a_reset_and_the_market_continues() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "cut");
    let error = loop {
        if let Err(error) = client.message().await.unwrap() {
            break error;
        }
    };
    assert!(matches!(&error, Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionReset), "{error}");
    assert_eq!(simulator.control.counters().connections_cut, 1);
    let before = simulator.control.published("BTCUSDT").len();
    wait_for("more is published", || simulator.control.published("BTCUSDT").len() > before).await;
    recording(&simulator).await;
    simulator.stop().await;
}

#[tokio::test]
async fn a_close_has_a_close_frame() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "close");
    assert_eq!(client.end().await, Some(1001));
    simulator.stop().await;
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "outage:500ms");
    assert_eq!(client.end().await, None);
    let url = format!("{}/stream", simulator.ws_url());
    assert!(tokio_tungstenite::connect_async(&url).await.is_err());
    assert!(simulator.control.counters().connections_refused >= 1);
    let again = async {
        while tokio_tungstenite::connect_async(&url).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, again).await.unwrap();
    simulator.stop().await;
}

#[tokio::test]
async fn dropped_trades_are_lost_on_the_wire_but_not_in_rest() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "drop:BTCUSDT:40");
    let ids = until(&mut client, |ids| !jumps(ids).is_empty()).await;
    let (before, after) = jumps(&ids)[0];
    assert_eq!(after - before - 1, 40);
    assert_eq!(simulator.control.counters().frames_dropped, 40);
    let path = format!("/api/v3/historicalTrades?symbol=BTCUSDT&fromId={}&limit=1", before + 1);
    assert_eq!(get(&simulator, &path).await.2[0]["id"], before + 1);
    simulator.stop().await;
}

#[tokio::test]
async fn a_silent_stream_does_not_affect_the_others() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade", "ethusdt@trade"]).await;
    let mut ids = [vec![client.trade_of("BTCUSDT").await], Vec::new()];
    inject(&simulator, "silent:BTCUSDT:400ms");
    while jumps(&ids[0]).is_empty() {
        let data = client.json().await["data"].take();
        ids[usize::from(data["s"] == "ETHUSDT")].push(data["t"].as_i64().unwrap());
        assert!(ids[0].len() < 100_000, "never silent");
    }
    assert_eq!(jumps(&ids[1]), []);
    assert!(simulator.control.counters().frames_silenced > 0);
    simulator.stop().await;
}

#[tokio::test]
async fn duplicates_come_twice() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "duplicate:BTCUSDT:3");
    let twice = |ids: &[i64]| ids.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let ids = until(&mut client, |ids| twice(ids) == 3).await;
    assert_eq!(twice(&ids), 3);
    simulator.stop().await;
}

#[tokio::test]
async fn reordered_trades_all_arrive() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "reorder:BTCUSDT:7");
    let mut ids = until(&mut client, |ids| ids.windows(2).filter(|pair| pair[1] < pair[0]).count() == 6).await;
    ids.extend(client.trades(5).await);
    ids.sort_unstable();
    assert_eq!(jumps(&ids), []);
    simulator.stop().await;
}

#[tokio::test]
async fn garbage_comes_between_valid_frames() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "garbage:2");
    let (mut garbage, mut ids) = (0, Vec::new());
    while garbage < 2 {
        match serde_json::from_str::<Value>(&client.text().await) {
            Ok(value) => ids.extend(value["data"]["t"].as_i64()),
            Err(_) => garbage += 1,
        }
    }
    ids.extend(client.trades(5).await);
    assert_eq!(jumps(&ids), []);
    simulator.stop().await;
}

#[tokio::test]
async fn only_rest_serves_a_lost_tail() {
    let simulator = started(options()).await;
    let mut client = Client::subscribed(&simulator, &["btcusdt@trade", "ethusdt@trade"]).await;
    client.trades(10).await;
    let from = simulator.control.published("BTCUSDT").last().unwrap().id + 100;
    inject(&simulator, &format!("losetail:BTCUSDT:{from}"));
    wait_for("trades are lost", || simulator.control.counters().frames_lost_tail > 20).await;
    simulator.stop_publishing().await;
    client.send(json!({"method": "LIST_SUBSCRIPTIONS", "id": 9}).to_string()).await;
    let mut last = 0;
    loop {
        let value = client.json().await;
        if value.get("id").is_some() {
            break;
        }
        if value["data"]["s"] == "BTCUSDT" {
            last = value["data"]["t"].as_i64().unwrap();
        }
    }
    assert!(last < from);
    assert!(simulator.control.published("BTCUSDT").last().unwrap().id >= from + 20);
    simulator.stop().await;
}

#[tokio::test]
async fn rest_is_refused_limited_and_banned_on_request() {
    let simulator = started(options()).await;
    inject(&simulator, "rest:503:30s");
    assert_eq!(get(&simulator, "/api/v3/ping").await.0, 503);
    inject(&simulator, "rest:503:0s");
    inject(&simulator, "ratelimit:30s");
    let (status, headers, _) = get(&simulator, "/api/v3/ping").await;
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "30"));
    inject(&simulator, "ratelimit:0s");
    assert_eq!(get(&simulator, "/api/v3/ping").await.0, 200);
    inject(&simulator, "ban:30s");
    assert_eq!(get(&simulator, "/api/v3/ping").await.0, 418);
    let counters = simulator.control.counters();
    assert_eq!((counters.rest_refused, counters.rest_rate_limited, counters.rest_banned), (1, 1, 1));
    simulator.stop().await;
}

#[tokio::test]
async fn a_lagging_database_hides_the_newest_rows() {
    let simulator = started(options()).await;
    recording(&simulator).await;
    inject(&simulator, "lag:1m");
    assert_eq!(get(&simulator, "/api/v3/historicalTrades?symbol=BTCUSDT").await.2, json!([]));
    assert_eq!(get(&simulator, "/api/v3/aggTrades?symbol=BTCUSDT").await.2, json!([]));
    assert_eq!(get(&simulator, "/api/v3/klines?symbol=BTCUSDT&interval=1m").await.2, json!([]));
    // `trades` comes from memory.
    assert_ne!(get(&simulator, "/api/v3/trades?symbol=BTCUSDT").await.2, json!([]));
    inject(&simulator, "lag:0s");
    assert_ne!(get(&simulator, "/api/v3/historicalTrades?symbol=BTCUSDT").await.2, json!([]));
    simulator.stop().await;
}

#[tokio::test]
async fn a_shutdown_is_announced_before_the_close() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "shutdown:200ms");
    while client.json().await["stream"] != "!serverShutdown" {}
    assert_eq!(client.end().await, Some(1001));
    simulator.stop().await;
}

#[tokio::test]
async fn a_stalled_connection_stays_open_and_sends_nothing() {
    let simulator = started(options()).await;
    let mut client = recording(&simulator).await;
    inject(&simulator, "stall:500ms");
    let ids = until(&mut client, |ids| !jumps(ids).is_empty()).await;
    assert_eq!(jumps(&ids).len(), 1);
    let counters = simulator.control.counters();
    assert_eq!(counters.connections_stalled, 1);
    assert!(counters.frames_stalled > 0);
    simulator.stop().await;
}

#[tokio::test]
async fn faults_are_injected_over_http_and_on_schedule() {
    let mut options = options();
    options.faults = parse_schedule("drop:BTCUSDT:5@100ms").unwrap();
    let simulator = started(options).await;
    let mut client = recording(&simulator).await;
    wait_for("the schedule's drop", || simulator.control.counters().frames_dropped == 5).await;
    rustls::crypto::ring::default_provider().install_default().ok();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = |body: &'static str| http.post(format!("{}/simulator/faults", simulator.rest_url())).body(body).send();
    assert_eq!(post(r#"{"faults":"explode"}"#).await.unwrap().status(), 400);
    assert_eq!(post(r#"{"faults":"drop:BTCUSDT:2,cut@100ms"}"#).await.unwrap().status(), 202);
    assert_eq!(client.end().await, None);
    assert_eq!(get(&simulator, "/simulator/faults").await.2["connections_cut"], 1);
    simulator.stop().await;
}
