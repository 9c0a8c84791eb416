//! The recorder on a real Kafka, ClickHouse and Redis, each of which is killed.

mod export;
mod proxy;
mod redis;
mod stores;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rust_decimal::Decimal;
use tapekeeper::log::Log;
use tapekeeper::log::kafka::KafkaLog;
use tapekeeper::market::{Frame, Origin, Timestamp};
use tapekeeper::simulator::Simulator;
use tokio::time::Instant;

use super::app::{TestApp, WAIT_MAX, feed, metric, seed, soak, wait_for};
use super::capture::trades_of;
use super::simulated_exchange::{capture_path, playback, start_market};
use super::truth::{TradeTruth, assert_same};
use stores::Stores;

const CAPTURE: &str = "binance/ethusdt_20240808.gz";

/// A process that a test kills.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Recorder,
    Kafka,
    Clickhouse,
    Redis,
}

/// Plans `recorder` kills of the recorder and `each_server` kills of each server, at random moments of the span.
fn plan(random: &mut StdRng, span_ms: u64, recorder: usize, each_server: usize) -> Vec<(u64, Victim)> {
    let mut victims = vec![Victim::Recorder; recorder];
    for server in [Victim::Kafka, Victim::Clickhouse, Victim::Redis] {
        victims.extend(vec![server; each_server]);
    }
    victims.shuffle(random);
    let mut moments: Vec<u64> = victims.iter().map(|_| random.random_range(span_ms / 20..span_ms * 9 / 10)).collect();
    moments.sort_unstable();
    moments.into_iter().zip(victims).collect()
}

async fn kill(plan: Vec<(u64, Victim)>, app: &mut TestApp, stores: &Stores) {
    let opened = Instant::now();
    for (moment, victim) in plan {
        tokio::time::sleep_until(opened + Duration::from_millis(moment)).await;
        eprintln!("{:?}: {victim:?} is killed", opened.elapsed());
        match victim {
            Victim::Recorder => {
                app.kill().await;
                app.spawn();
            }
            Victim::Kafka => Stores::restart(&stores.kafka.server),
            Victim::Clickhouse => Stores::restart(&stores.clickhouse.server),
            Victim::Redis => Stores::restart(&stores.redis.server),
        }
    }
}

/// Plays a capture with cuts and kills, and compares ClickHouse with the file.
async fn capture_with_kills(speed: f64, recorder: usize, each_server: usize) {
    let Some(path) = capture_path(CAPTURE) else { return };
    let Some(stores) = Stores::start().await else { return };
    let truth = trades_of(&path);
    assert_eq!(truth.len(), 6_106);
    let mut random = StdRng::seed_from_u64(seed());
    let span_ms = (360_000.0 / speed) as u64;
    let cuts: Vec<String> =
        (0..3).map(|_| format!("cut@{}ms", random.random_range(span_ms / 20..span_ms * 9 / 10))).collect();
    let plan = plan(&mut random, span_ms, recorder, each_server);
    eprintln!("{cuts:?}, {plan:?}");
    let simulator = playback(path, speed, &cuts.join(",")).await;
    let mut app = stores.recorder("", &feed(&simulator, &["ETHUSDT"], &["trade", "book_ticker"]));
    app.start().await;
    kill(plan, &mut app, &stores).await;
    let over = simulator.control.finished();
    let limit = Duration::from_millis(span_ms) + WAIT_MAX;
    tokio::time::timeout(limit, over.cancelled_owned()).await.expect("the capture does not end");
    app.wait_until_ready().await;
    stores.assert_complete(&simulator, WAIT_MAX * 3).await;
    app.stop_cleanly().await;
    assert_same("ETHUSDT", &stores.trades("ETHUSDT").await, &truth);
    assert_eq!(stores.number("SELECT count() FROM trades FINAL").await, 6_106);
    assert_eq!(stores.number("SELECT count() FROM dead_letters").await, 0);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_complete_after_everything_was_killed() {
    capture_with_kills(15.0, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_complete_after_thirty_five_kills() {
    if soak() {
        capture_with_kills(2.0, 20, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_market_is_complete_after_everything_was_killed() {
    let Some(stores) = Stores::start().await else { return };
    let seed = seed();
    let symbols = ["AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT"];
    let simulator = start_market(seed, &symbols, 400.0, "cut@3s,drop:AAAUSDT:30@5s,duplicate:20@6s").await;
    let mut app = stores.recorder("", &feed(&simulator, &symbols, &["trade", "kline_1m"]));
    app.start().await;
    let plan = plan(&mut StdRng::seed_from_u64(seed), 15_000, 2, 1);
    kill(plan, &mut app, &stores).await;
    app.wait_until_ready().await;
    simulator.stop_publishing().await;
    stores.assert_complete(&simulator, WAIT_MAX * 3).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_recorders_share_a_group_and_one_takes_over() {
    let Some(stores) = Stores::start().await else { return };
    let symbols = ["AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT", "FFFUSDT"];
    let simulator = start_market(seed(), &symbols, 200.0, "").await;
    let feeds = feed(&simulator, &symbols, &["trade"]);
    let (mut east, mut west) = (stores.recorder("east", &feeds), stores.recorder("west", &feeds));
    east.start().await;
    west.start().await;
    let frames = async |app: &TestApp| metric(app, "tapekeeper_frames_consumed_total").await;
    wait_for("both consume", WAIT_MAX, async || (frames(&east).await > 100 && frames(&west).await > 100).then_some(()))
        .await;
    // A recorder asks the exchange about a stream that was silent for 5 s, and recovers it 5 s later. At 200 trades a
    // second this number takes 15 s.
    let both = async || frames(&east).await + frames(&west).await;
    let before = both().await;
    wait_for("both keep consuming", WAIT_MAX, async || (both().await > before + 3_000).then_some(())).await;
    east.kill().await;
    let before = frames(&west).await;
    wait_for("west takes over", WAIT_MAX, async || (frames(&west).await > before + 500).then_some(())).await;
    simulator.stop_publishing().await;
    stores.assert_complete(&simulator, WAIT_MAX * 2).await;
    for app in [&east, &west] {
        assert!(!app.log().contains("silent although it trades"), "the streams of the other recorder are not silent");
    }
    assert_eq!(metric(&west, "tapekeeper_connects_total").await, 1, "west has not reconnected");
    let gaps = stores.gaps().await;
    assert!(gaps.is_empty(), "nothing was missing:\n{gaps}");
    west.stop_cleanly().await;
    simulator.stop().await;
}

/// The committed offsets in the state file.
fn offsets(app: &TestApp) -> BTreeMap<String, i64> {
    let text = std::fs::read_to_string(app.data_dir.join("service_state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(state["consumer_offsets"].clone()).unwrap()
}

/// Starts the recorder while a server is down, records, starts the server; nothing is missing in the end.
async fn down_at_the_start(part: &str, server: impl Fn(&Stores) -> &crate::servers::Server) {
    let Some(stores) = Stores::start().await else { return };
    let simulator = start_market(seed(), &["AAAUSDT", "BBBUSDT"], 200.0, "").await;
    let feeds = feed(&simulator, &["AAAUSDT", "BBBUSDT"], &["trade", "kline_1m"]);
    let mut app = stores.recorder("", &feeds);
    // A first run commits offsets, which the second run must keep.
    app.start().await;
    wait_for_trades(&simulator, 500).await;
    app.stop_cleanly().await;
    let before = offsets(&app);
    assert!(!before.is_empty());
    tokio::task::block_in_place(|| server(&stores).kill());
    app.spawn();
    // `/readyz` waits for a log that takes frames.
    wait_for("the recorder is ready", WAIT_MAX, async || {
        (app.log().matches("  INFO ready: ").count() == 2).then_some(())
    })
    .await;
    let after = offsets(&app);
    assert!(before.iter().all(|(id, next)| after.get(id) >= Some(next)), "{before:?} were committed, then {after:?}");
    let names_it = async || app.get("/healthz").await.to_string().contains(part);
    wait_for("health names the part that is down", WAIT_MAX, async || names_it().await.then_some(())).await;
    wait_for_trades(&simulator, 2_000).await;
    assert!(app.is_alive());
    Stores::restart(server(&stores));
    let whole = async || !app.get("/healthz").await.to_string().contains(part);
    wait_for("health names the part no longer", WAIT_MAX, async || whole().await.then_some(())).await;
    wait_for_trades(&simulator, 3_000).await;
    simulator.stop_publishing().await;
    stores.assert_complete(&simulator, WAIT_MAX * 2).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

async fn wait_for_trades(simulator: &Simulator, count: u64) {
    let published = || simulator.control.summary().iter().map(|symbol| symbol.count).sum::<u64>();
    wait_for("the market trades", WAIT_MAX, async || (published() >= count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recording_starts_while_history_is_down_and_history_is_waited_for() {
    down_at_the_start("history", |stores| &stores.clickhouse.server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    down_at_the_start("log", |stores| &stores.kafka.server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_down_at_the_start_delays_nothing() {
    down_at_the_start("cache", |stores| &stores.redis.server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_is_refused_or_whose_answer_is_cut_loses_nothing() {
    let Some(stores) = Stores::start().await else { return };
    let simulator = start_market(seed(), &["AAAUSDT"], 500.0, "").await;
    let mut app = stores.recorder("", &feed(&simulator, &["AAAUSDT"], &["trade"]));
    app.start().await;
    wait_for_trades(&simulator, 500).await;
    for turn in 0..3 {
        stores.proxy.refuse(2);
        stores.proxy.cut(1);
        wait_for("the faults happen", WAIT_MAX, async || (stores.proxy.remaining() == 0).then_some(())).await;
        if turn == 1 {
            app.kill().await;
            app.start().await;
        }
    }
    simulator.stop_publishing().await;
    stores.assert_complete(&simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_every_server_its_version_and_what_is_missing() {
    let Some(stores) = Stores::start().await else { return };
    let feed = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"AAAUSDT\"]\nchannels = [\"trade\"]\n\
                ws_url = \"ws://127.0.0.1:1\"\nrest_url = \"http://127.0.0.1:1\"\n\n";
    let mut app = stores.recorder("", feed);
    let before = app.command(&["check", "--connect"]).await;
    assert_eq!(before.code, Some(0), "{before:?}");
    for part in ["Kafka 4.1.x", "ClickHouse 26.", "redis ", "missing: the topic", "has no tables", "our function"] {
        assert!(before.out.contains(part), "{part} is not in:\n{}", before.out);
    }
    app.start().await;
    app.stop_cleanly().await;
    let after = app.command(&["check", "--connect", "--format", "json"]).await;
    let lines: Vec<serde_json::Value> = after.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines.iter().map(|line| line["store"].as_str().unwrap()).collect::<Vec<_>>(),
        ["log", "history", "cache"]
    );
    assert_eq!((&lines[0]["missing"], &lines[1]["missing"]), (&serde_json::json!([]), &serde_json::json!([])));
    tokio::task::block_in_place(|| stores.redis.server.kill());
    let down = app.command(&["check", "--connect"]).await;
    assert_eq!(down.code, Some(69), "{down:?}");
    assert!(down.out.contains("cache    redis://"), "{}", down.out);
}

/// Kills a recorder amid frames that were in the topic before its start; the exchange is down.
async fn kill_during_a_backlog(frames: u64) {
    let Some(stores) = Stores::start().await else { return };
    let options = tapekeeper::log::KafkaOptions {
        brokers: format!("127.0.0.1:{}", stores.kafka.server.port),
        partitions: 3,
        ..Default::default()
    };
    let options = tapekeeper::log::Options { kafka: options, ..Default::default() };
    let log = KafkaLog::open(&options, "feeder").await.unwrap();
    for first in (0..frames).step_by(5_000) {
        log.append((first..(first + 5_000).min(frames)).map(backlog_frame).collect()).await.unwrap();
    }
    let feed = "[[feed]]\nexchange = \"binance\"\nsymbols = [\"AAA\", \"BBB\", \"CCC\", \"DDD\"]\nchannels = [\"trade\"]\n\
                ws_url = \"ws://127.0.0.1:1\"\nrest_url = \"http://127.0.0.1:1\"\n\n";
    let mut app = stores.recorder("", feed);
    app.start().await;
    let count = async || stores.number("SELECT count() FROM trades FINAL").await;
    wait_for("a quarter is stored", WAIT_MAX, async || (count().await > frames as i64 / 4).then_some(())).await;
    app.kill().await;
    let (before, killed) = (count().await, Instant::now());
    assert!(before < frames as i64, "everything was stored before the kill");
    app.spawn();
    wait_for("the recorder consumes again", WAIT_MAX, async || (count().await > before).then_some(())).await;
    eprintln!("consuming again after {:?}, at {before} rows of {frames}", killed.elapsed());
    wait_for("everything is stored", WAIT_MAX * 5, async || (count().await >= frames as i64).then_some(())).await;
    assert_eq!(count().await, frames as i64, "a row is stored twice");
    let mut expected: BTreeMap<&str, Vec<TradeTruth>> = BTreeMap::new();
    for n in 0..frames {
        let (symbol, trade) = backlog_trade(n);
        expected.entry(symbol).or_default().push(trade);
    }
    for (symbol, expected) in expected {
        assert_same(symbol, &stores.trades(symbol).await, &expected);
    }
    assert_eq!(stores.open_gaps().await, 0, "{}", stores.gaps().await);
    app.stop_cleanly().await;
}

/// Trade number `n`: numbers from tiny to huge, a millisecond after the trade before it.
fn backlog_trade(n: u64) -> (&'static str, TradeTruth) {
    let symbol = ["AAA", "BBB", "CCC", "DDD"][n as usize % 4];
    let price = Decimal::from_str_exact(&format!("{}.{:08}", n * 7_919 % 100_000_000, n * 31 % 100_000_000)).unwrap();
    let quantity = Decimal::from_str_exact(&format!("{}.{:08}", n % 3, n * 17 % 99_999_999 + 1)).unwrap();
    let side = if n.is_multiple_of(3) { "sell" } else { "buy" };
    let (id, ts) = (1_000 + n as i64 / 4, (1_723_161_254_000 + n as i64) * 1_000);
    (symbol, TradeTruth { id, ts, price, quantity, side: side.to_owned() })
}

fn backlog_frame(n: u64) -> Frame {
    let (symbol, trade) = backlog_trade(n);
    let TradeTruth { id, ts, price, quantity, side } = &trade;
    let payload = format!(
        r#"{{"stream":"{}@trade","data":{{"e":"trade","E":{time},"s":"{symbol}","t":{id},"p":"{price}","q":"{quantity}","T":{time},"m":{},"M":true}}}}"#,
        symbol.to_lowercase(),
        side == "sell",
        time = ts / 1_000,
    );
    let key = format!("binance:{symbol}").into();
    Frame { key, received_at: Timestamp(*ts), connection: 1, origin: Origin::Socket, payload: payload.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorder_killed_during_a_backlog_resumes_and_stores_every_number_as_sent() {
    kill_during_a_backlog(100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorder_killed_during_a_million_rows_resumes_and_stores_every_number_as_sent() {
    if soak() {
        kill_during_a_backlog(1_000_000).await;
    }
}
