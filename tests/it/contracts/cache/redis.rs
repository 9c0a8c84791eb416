//! Runs the suite on the cache in a real Redis, and tests what only a server can do to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use tapekeeper::cache::redis::RedisCache;
use tapekeeper::cache::{Cache, RedisOptions};
use tapekeeper::faults::{Faults, Odds};
use tapekeeper::market::Interval;

use super::{CacheStore, book, books, keeps_every_promise, kline, klines, latest_tick, tick, ticks};
use crate::contracts::retry::Retrying;
use crate::contracts::{BINANCE, symbol};
use crate::servers::redis::Redis;

/// One server or a cluster, with or without faults.
pub(super) struct RedisStore {
    pub(super) options: RedisOptions,
    pub(super) faults: Option<Faults>,
}

impl CacheStore for RedisStore {
    fn open(&self) -> Arc<dyn Cache> {
        let cache: Arc<dyn Cache> = Arc::new(RedisCache::connect(&self.options).unwrap());
        match &self.faults {
            None => cache,
            Some(faults) => {
                let faulty = tapekeeper::cache::faulty::FaultyCache::new(cache, faults.clone());
                Arc::new(Retrying::<dyn Cache>(Arc::new(faulty)))
            }
        }
    }
}

/// Sends one command, as an operator would, and returns the response.
async fn run_command<T: redis::FromRedisValue>(options: &RedisOptions, command: &[&str]) -> T {
    let client = redis::Client::open(options.url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut query = redis::cmd(command[0]);
    query.arg(&command[1..]);
    query.query_async(&mut connection).await.unwrap()
}

#[test]
fn redis_keeps_every_promise() {
    let Some(redis) = Redis::shared() else { return };
    keeps_every_promise(&|| Box::new(RedisStore { options: redis.database(), faults: None }));
}

#[test]
fn redis_behind_faults_keeps_every_promise_to_a_caller_that_retries() {
    let Some(redis) = Redis::shared() else { return };
    let odds = Odds { fail: 100, lose_answer: 100, tear: 100, delay: 50, delay_max: Duration::from_millis(1) };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let faults = Faults::seeded(seed, odds);
    keeps_every_promise(&|| Box::new(RedisStore { options: redis.database(), faults: Some(faults.clone()) }));
    assert!(faults.injected() > 0);
}

/// DESIGN.md section 5: other programs read the keys.
#[tokio::test]
async fn other_programs_read_the_keys_in_the_documented_encoding() {
    let Some(redis) = Redis::shared() else { return };
    let options = redis.database();
    let cache = RedisCache::connect(&options).unwrap();
    assert!(cache.ping().await.unwrap().starts_with("redis "), "{:?}", cache.ping().await);
    let mut sent = tick(5, 7);
    sent.price = "61234.5600".parse().unwrap();
    sent.quantity = Decimal::ZERO;
    let mut update = ticks(&[sent]);
    update.klines = klines(&[kline(5, 3, true)]).klines;
    update.books = books(&[book(4)]).books;
    assert_eq!(cache.apply(&update).await.unwrap(), 3);
    let stored: Vec<String> =
        run_command(&options, &["HMGET", "tick:{binance:BTCUSDT}", "trade_id", "ts", "price", "quantity", "side"])
            .await;
    assert_eq!(stored, ["7", &sent.ts.micros().to_string(), "61234.56", "0", "buy"]);
    let stored: Vec<String> =
        run_command(&options, &["HMGET", "kline:{binance:BTCUSDT}:1m", "interval", "trade_count", "closed"]).await;
    assert_eq!(stored, [Interval::M1.as_str(), "3", "1"]);
    let stored: Vec<String> = run_command(
        &options,
        &["HMGET", "book:{binance:BTCUSDT}", "update_id", "bid", "bid_quantity", "ask", "ask_quantity"],
    )
    .await;
    assert_eq!(stored, ["4", "4", "1", "5", "2"]);
    cache.put_state("b", "{}").await.unwrap();
    assert_eq!(run_command::<String>(&options, &["GET", "service_state:market_data:b"]).await, "{}");
    // No key expires.
    assert_eq!(run_command::<i64>(&options, &["TTL", "service_state:market_data:b"]).await, -1);
}

#[tokio::test]
async fn the_cache_reconnects_to_a_redis_that_was_killed_and_lost_everything() {
    let Some(redis) = Redis::start() else { return };
    let options = redis.database();
    let cache = RedisCache::connect(&options).unwrap();
    cache.apply(&ticks(&[tick(10, 5)])).await.unwrap();
    redis.server.kill();
    let began = Instant::now();
    for _ in 0..3 {
        let failure = cache.apply(&ticks(&[tick(11, 6)])).await.unwrap_err().to_string();
        assert!(failure.contains("in Redis"), "{failure}");
        cache.ticks(BINANCE, &[symbol("BTCUSDT")]).await.unwrap_err();
    }
    assert!(began.elapsed() < Duration::from_secs(20), "a call to a dead server fails soon: {:?}", began.elapsed());
    redis.server.restart();
    // The first call after a restart succeeds: it reconnects and loads the function.
    assert_eq!(cache.apply(&ticks(&[tick(9, 4)])).await.unwrap(), 1);
    assert_eq!(latest_tick(&cache).await, Some(tick(9, 4)));
    let _: String = run_command(&options, &["FUNCTION", "FLUSH"]).await;
    assert_eq!(cache.apply(&ticks(&[tick(8, 3), tick(12, 7)])).await.unwrap(), 1);
    assert_eq!(latest_tick(&cache).await, Some(tick(12, 7)));
}

#[tokio::test]
async fn an_unreachable_redis_fails_calls_and_an_invalid_url_fails_at_once() {
    let nowhere =
        RedisOptions { url: format!("redis://127.0.0.1:{}", crate::servers::free_port()), ..RedisOptions::default() };
    let cache = RedisCache::connect(&nowhere).unwrap();
    cache.ping().await.unwrap_err();
    cache.apply(&ticks(&[tick(1, 1)])).await.unwrap_err();
    let bad = RedisOptions { url: "http://127.0.0.1".to_owned(), ..RedisOptions::default() };
    RedisCache::connect(&bad).unwrap_err();
}

#[tokio::test]
async fn a_key_of_another_type_costs_that_key_and_an_invalid_hash_is_overwritten() {
    let Some(redis) = Redis::shared() else { return };
    let options = redis.database();
    let cache = RedisCache::connect(&options).unwrap();
    let _: i64 = run_command(&options, &["HSET", "tick:{binance:BTCUSDT}", "ts", "soon", "trade_id", "x"]).await;
    assert_eq!(latest_tick(&cache).await, None);
    let foreign = "tick:{binance:ETHUSDT}";
    let _: String = run_command(&options, &["SET", foreign, "mine"]).await;
    let mut update = ticks(&[tick(1, 1)]);
    update.ticks.insert(0, (BINANCE, symbol("ETHUSDT"), tick(1, 1)));
    assert_eq!(cache.apply(&update).await.unwrap(), 1, "the other key is written");
    assert_eq!(cache.refused_keys(), [foreign]);
    let read = cache.ticks(BINANCE, &[symbol("ETHUSDT"), symbol("BTCUSDT")]).await.unwrap();
    assert_eq!(read, [None, Some(tick(1, 1))], "also a read loses only that key");
    assert_eq!(run_command::<String>(&options, &["GET", foreign]).await, "mine", "it is not ours to delete");
    let _: i64 = run_command(&options, &["DEL", foreign]).await;
    assert_eq!(cache.apply(&update).await.unwrap(), 1);
    assert_eq!(cache.refused_keys(), [""; 0]);
}
