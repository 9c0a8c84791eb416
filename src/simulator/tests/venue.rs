//! Another venue than Binance: what every [`Peer`](crate::exchange::peer::Peer) gets from the simulator.

use super::shell::{SPEC, Shell};
use super::*;
use crate::exchange::spec::Bucket;
use crate::market::Interval;

const SYMBOL: &str = "BTC/USD";

fn shell_options(rate: f64) -> Options {
    let listings = [SYMBOL, "ETH/USD"].map(|name| name.parse().unwrap()).to_vec();
    let generated = Generated { listings, seed: 7, rate, opens_at_first_subscription: true, ..Generated::default() };
    Options::at(Venue::new(&SPEC, Box::new(Shell)), Source::Generated(generated))
}

async fn halted_shell(change: impl FnOnce(&mut Options)) -> Simulator {
    let mut options = shell_options(5.0);
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.history = Duration::from_secs(3_600);
    generated.opens_at_first_subscription = false;
    change(&mut options);
    let simulator = started(options).await;
    simulator.control.opened().cancelled().await;
    simulator.stop_publishing().await;
    simulator
}

/// A client that has read the greeting and the answer to its subscription.
async fn subscribed(simulator: &Simulator, path: &str, request: &str) -> Client {
    let mut client = Client::connect(simulator, path).await;
    assert_eq!(client.text().await, r#"{"shell":"hello"}"#);
    client.send(request).await;
    assert_eq!(client.text().await, "ok BTC/USD");
    client
}

/// The ids of the next frame of trades.
async fn batch(client: &mut Client) -> Vec<i64> {
    loop {
        let value = client.json().await;
        if value["trades"] == SYMBOL {
            return row_ids(&value["rows"]);
        }
    }
}

fn row_ids(rows: &Value) -> Vec<i64> {
    rows.as_array().unwrap().iter().map(|row| row[0].as_i64().unwrap()).collect()
}

/// Reads from the trade `last` on until the effect of a fault is seen in the ids; returns them.
async fn until(client: &mut Client, last: i64, seen: impl Fn(&[i64]) -> bool) -> Vec<i64> {
    let mut ids = vec![last];
    while !seen(&ids) {
        ids.extend(batch(client).await);
        assert!(ids.len() < 20_000, "the fault had no effect");
    }
    ids
}

#[tokio::test]
async fn trades_come_in_batches_and_every_trade_once() {
    let simulator = started(shell_options(2_000.0)).await;
    let mut client = subscribed(&simulator, "/live", "+ trades BTC/USD").await;
    let (mut ids, mut longest) = (Vec::new(), 0);
    while ids.len() < 2_000 {
        let batch = batch(&mut client).await;
        longest = longest.max(batch.len());
        ids.extend(batch);
    }
    assert_eq!(jumps(&ids), []);
    assert!((2..=20).contains(&longest), "{longest} trades in a frame");
    // A second client gets the trades before its subscription first: an overlap.
    let mut second = subscribed(&simulator, "/live", "+ trades BTC/USD").await;
    let before = second.json().await;
    assert_eq!((&before["before"], row_ids(&before["rows"]).len()), (&json!(SYMBOL), 5));
    let last = *row_ids(&before["rows"]).last().unwrap();
    assert!(batch(&mut second).await[0] <= last + 1, "nothing is between the snapshot and the first frame");
    assert_eq!(simulator.control.counters().broken, BrokenLimits::default());
    simulator.stop().await;
}

#[tokio::test]
async fn faults_of_frames_act_on_single_trades() {
    let simulator = started(shell_options(2_000.0)).await;
    let mut client = subscribed(&simulator, "/live", "+ trades BTC/USD").await;
    let newest = |ids: &[i64]| *ids.iter().max().unwrap();
    let last = newest(&batch(&mut client).await);
    inject(&simulator, "drop:BTC/USD:7");
    let ids = until(&mut client, last, |ids| !jumps(ids).is_empty()).await;
    assert_eq!(jumps(&ids).iter().map(|(one, two)| two - one).collect::<Vec<_>>(), [8]);
    inject(&simulator, "duplicate:BTC/USD:1");
    let ids = until(&mut client, newest(&ids), |ids| ids.windows(2).any(|pair| pair[0] == pair[1])).await;
    assert_eq!(jumps(&ids).len(), 1);
    inject(&simulator, "reorder:BTC/USD:3");
    let backwards = |three: &[i64]| three[0] == three[1] + 1 && three[1] == three[2] + 1;
    let ids = until(&mut client, newest(&ids), |ids| ids.windows(3).any(backwards)).await;
    inject(&simulator, "mute:BTC/USD:trade:300ms");
    until(&mut client, newest(&ids), |ids| jumps(ids).iter().any(|(one, two)| *two > one + 20)).await;
    inject(&simulator, "cut");
    assert_eq!(client.end().await, None);
    simulator.stop().await;
}

#[tokio::test]
async fn each_channel_comes_on_its_own_address() {
    let mut options = shell_options(200.0);
    let Source::Generated(generated) = &mut options.source else { unreachable!() };
    generated.time_scale = 60.0;
    let simulator = started(options).await;
    let mut candles = subscribed(&simulator, "/candles", "+ candles BTC/USD").await;
    assert_eq!(candles.json().await["candle"], SYMBOL);
    // Trades are acknowledged here, and never come.
    candles.send("+ trades BTC/USD").await;
    while candles.text().await != "ok BTC/USD" {}
    for _ in 0..10 {
        assert!(candles.json().await["trades"].is_null());
    }
    assert_eq!(simulator.control.counters().broken, BrokenLimits { on_wrong_socket: 1, ..BrokenLimits::default() });
    let nowhere = tokio_tungstenite::connect_async(format!("{}/nowhere", simulator.ws_url())).await;
    assert!(matches!(nowhere, Err(Error::Http(response)) if response.status() == 404));
    simulator.stop().await;
}

#[tokio::test]
async fn a_silent_connection_gets_heartbeats_and_a_client_that_does_not_ping_is_cut() {
    let mut options = shell_options(1.0);
    options.limits.silence_max = Duration::from_millis(1_500);
    let simulator = started(options).await;
    let mut silent = Client::connect(&simulator, "/live").await;
    let mut pinging = Client::connect(&simulator, "/live").await;
    let pings = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            pinging.send("ping").await;
            while pinging.text().await != "pong" {}
        }
    };
    let heard = async {
        assert_eq!(silent.text().await, r#"{"shell":"hello"}"#);
        assert_eq!(silent.text().await, r#"{"shell":"alive"}"#);
        silent.end().await
    };
    let ((), code) = tokio::join!(pings, heard);
    assert_eq!((code, simulator.control.connections()), (Some(4_004), 1));
    assert_eq!(simulator.control.counters().broken.silent, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn limits_of_a_connection_are_counted() {
    let simulator = started(shell_options(1.0)).await;
    let mut client = Client::connect(&simulator, "/live").await;
    for _ in 0..4 {
        client.send("ping").await;
    }
    assert_eq!(client.end().await, Some(1008));
    let mut client = Client::connect(&simulator, "/live").await;
    client.send("nonsense").await;
    assert_eq!(client.end().await, Some(4_000));
    let broken = simulator.control.counters().broken;
    assert_eq!(broken, BrokenLimits { messages: 1, closed: 1, ..BrokenLimits::default() });
    simulator.stop().await;
}

#[tokio::test]
async fn subscriptions_are_refused_and_answered_wrongly() {
    let simulator = started(shell_options(500.0)).await;
    inject(&simulator, "refusestream:BTC/USD:trade:ever");
    let mut client = Client::connect(&simulator, "/live").await;
    client.text().await;
    client.send("+ trades BTC/USD").await;
    assert_eq!(client.text().await, "unknown BTC/USD");
    inject(&simulator, "refusestream:BTC/USD:trade:0s");
    inject(&simulator, "ack:error:ever");
    client.send("+ trades BTC/USD").await;
    assert_eq!(client.text().await, "unknown BTC/USD");
    inject(&simulator, "ack:absent:ever");
    client.send("+ trades BTC/USD").await;
    assert!(!batch(&mut client).await.is_empty());
    assert_eq!(simulator.control.counters().requests_answered_wrongly, 3);
    simulator.stop().await;
}

#[tokio::test]
async fn rest_pages_by_id_and_by_time() {
    let simulator = halted_shell(|_| {}).await;
    let published = simulator.control.published(SYMBOL);
    let page = async |query: &str| {
        let (status, _, rows) = get(&simulator, &format!("/trades?s=BTC/USD{query}")).await;
        assert_eq!(status, 200, "{query}: {rows}");
        let mut ids = row_ids(&rows);
        ids.reverse();
        ids
    };
    let ids: Vec<i64> = published.iter().map(|trade| trade.id).collect();
    let at = published[500].ts.micros();
    let first_at = published.partition_point(|trade| trade.ts.micros() < at);
    let first_after = published.partition_point(|trade| trade.ts.micros() <= at);
    assert_eq!(page("").await, ids[ids.len() - 50..]);
    assert_eq!(page(&format!("&before={}", ids[200])).await, ids[150..200]);
    assert_eq!(page(&format!("&from={}", ids[200])).await, ids[200..250]);
    assert_eq!(page(&format!("&since={at}")).await, ids[first_at..first_at + 50]);
    assert_eq!(page(&format!("&after={at}")).await, ids[first_after..first_after + 50]);
    inject(&simulator, &format!("hide:BTC/USD:{}-{}:ever", ids[190], ids[199]));
    assert_eq!(page(&format!("&before={}", ids[200])).await, ids[140..190]);
    inject(&simulator, &format!("forget:BTC/USD:{}", ids[180]));
    assert_eq!(page(&format!("&before={}", ids[200])).await, ids[180..190]);
    assert_eq!(get(&simulator, "/trades?s=NO/NO").await.2, json!({"error": "unknown"}));
    assert_eq!(get(&simulator, "/nowhere").await.0, 400);
    assert_eq!(simulator.control.counters().broken.bad_requests, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn rest_has_klines_a_clock_and_a_listing() {
    let simulator = halted_shell(|_| {}).await;
    let closed = simulator.control.published_klines(SYMBOL, Interval::M1);
    let (first, last) = (closed[2].open_time.micros(), closed[20].open_time.micros());
    let (_, _, rows) = get(&simulator, &format!("/candles?s=BTC/USD&first={first}&last={last}")).await;
    let expected: Vec<i64> = closed[16..=20].iter().map(|kline| kline.open_time.micros()).collect();
    assert_eq!(rows, json!(expected), "the newest five of too many");
    let (_, _, time) = get(&simulator, "/time").await;
    assert!((simulator.control.exchange_time().micros() - time["us"].as_i64().unwrap()).abs() < 5_000_000);
    assert_eq!(get(&simulator, "/symbols").await.2, json!([[SYMBOL, false], ["ETH/USD", false]]));
    inject(&simulator, "unknown:BTC/USD:ever");
    assert_eq!(get(&simulator, "/symbols").await.2, json!([["ETH/USD", false]]));
    assert_eq!(get(&simulator, "/symbols?s=BTC/USD").await.2, json!({"error": "unknown"}));
    simulator.stop().await;
}

#[tokio::test]
async fn rest_refuses_in_the_venues_words() {
    let simulator = halted_shell(|options| {
        options.limits.buckets[1] = Bucket::Window { weight: 2, per: Duration::from_secs(60) };
        options.limits.refusals_max = 1;
    })
    .await;
    let status = async |path: &str| get(&simulator, path).await.0;
    inject(&simulator, "rest:503:10s");
    assert_eq!(get(&simulator, "/trades?s=BTC/USD").await.2, json!({"error": "failed"}));
    inject(&simulator, "rest:503:0s");
    inject(&simulator, "ratelimit:200ms");
    let (limited, headers, _) = get(&simulator, "/trades?s=BTC/USD").await;
    assert_eq!((limited, headers["x-shell"].to_str().unwrap()), (429, "wait 1"));
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!((status("/time").await, status("/time").await, status("/time").await), (200, 200, 429));
    assert_eq!(status("/time").await, 403);
    assert_eq!(status("/trades?s=BTC/USD").await, 403, "a ban is of the address");
    let counters = simulator.control.counters();
    assert_eq!((counters.broken.requests, counters.rest_banned), (1, 2));
    simulator.stop().await;
}
