//! The contract of the cache: `src/cache/mod.rs`, promises 1 to 4.

mod redis;
mod redis_cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rust_decimal::Decimal;
use tapekeeper::cache::embedded::EmbeddedCache;
use tapekeeper::cache::faulty::FaultyCache;
use tapekeeper::cache::{Cache, Update};
use tapekeeper::faults::{Faults, Odds};
use tapekeeper::market::{Book, Interval, Kline, Side, Tick};

use super::retry::Retrying;
use super::{BINANCE, NOON, run, runtime, symbol};

/// A cache that is empty when first opened. After it is opened again it may be empty too (promise 4).
pub trait CacheStore: Send + Sync {
    fn open(&self) -> Arc<dyn Cache>;
}

/// Checks every promise on a backend; each check gets a fresh store.
pub fn keeps_every_promise(new_store: &dyn Fn() -> Box<dyn CacheStore>) {
    run("1: ticks move forward", new_store, |s| Box::pin(a_tick_only_moves_forward(s)));
    run("1: klines move forward", new_store, |s| Box::pin(a_kline_only_moves_forward(s)));
    run("1: books move forward", new_store, |s| Box::pin(a_book_only_moves_forward(s)));
    run("1: concurrent writers", new_store, |s| Box::pin(concurrent_writers_leave_the_newest(s)));
    run("2: applying again", new_store, |s| Box::pin(applying_again_changes_nothing(s)));
    run("3: exact values", new_store, |s| Box::pin(values_are_read_exactly(s)));
    run("reads in the order of the keys", new_store, |s| Box::pin(values_are_returned_in_the_order_of_the_keys(s)));
    run("the state's backup", new_store, |s| Box::pin(a_state_is_kept_per_instance(s)));
    behaves_like_a_maximum(new_store);
}

fn tick(ts: i64, id: i64) -> Tick {
    Tick {
        id,
        ts: NOON.plus_micros(ts),
        price: Decimal::from(ts),
        quantity: Decimal::from(id),
        side: Side::Buy,
        trade_ids: None,
    }
}

fn kline(minute: i64, trade_count: i64, closed: bool) -> Kline {
    let open_time = NOON.plus_micros(minute * Interval::M1.micros());
    Kline {
        interval: Interval::M1,
        open_time,
        close_time: open_time.plus_micros(59_999_000),
        open: Decimal::ONE,
        high: Decimal::from(trade_count + 1),
        low: Decimal::ONE,
        close: Decimal::TWO,
        volume: Decimal::from(trade_count),
        quote_volume: Decimal::from(trade_count * 2),
        trade_count,
        first_trade_id: 10,
        last_trade_id: 9 + trade_count,
        closed,
    }
}

fn book(update_id: i64) -> Book {
    let price = Decimal::from(update_id);
    Book { update_id, bid: price, bid_quantity: Decimal::ONE, ask: price + Decimal::ONE, ask_quantity: Decimal::TWO }
}

fn ticks(values: &[Tick]) -> Update {
    Update { ticks: values.iter().map(|tick| (BINANCE, symbol("BTCUSDT"), *tick)).collect(), ..Update::default() }
}

fn klines(values: &[Kline]) -> Update {
    Update { klines: values.iter().map(|kline| (BINANCE, symbol("BTCUSDT"), *kline)).collect(), ..Update::default() }
}

fn books(values: &[Book]) -> Update {
    Update { books: values.iter().map(|book| (BINANCE, symbol("BTCUSDT"), *book)).collect(), ..Update::default() }
}

async fn latest_tick(cache: &dyn Cache) -> Option<Tick> {
    cache.ticks(BINANCE, &[symbol("BTCUSDT")]).await.unwrap()[0]
}

async fn latest_kline(cache: &dyn Cache) -> Option<Kline> {
    cache.klines(BINANCE, &[(symbol("BTCUSDT"), Interval::M1)]).await.unwrap()[0]
}

async fn latest_book(cache: &dyn Cache) -> Option<Book> {
    cache.books(BINANCE, &[symbol("BTCUSDT")]).await.unwrap()[0]
}

async fn a_tick_only_moves_forward(store: &dyn CacheStore) {
    let cache = store.open();
    assert_eq!(latest_tick(&*cache).await, None);
    // The applied (ts, id), and whether it is the latest afterwards.
    for (ts, id, wins) in
        [(10, 5, true), (9, 99, false), (10, 4, false), (10, 6, true), (11, 1, true), (10, 100, false), (12, 2, true)]
    {
        cache.apply(&ticks(&[tick(ts, id)])).await.unwrap();
        assert_eq!(latest_tick(&*cache).await == Some(tick(ts, id)), wins, "after ({ts}, {id})");
    }
}

async fn a_kline_only_moves_forward(store: &dyn CacheStore) {
    let cache = store.open();
    assert_eq!(latest_kline(&*cache).await, None);
    for (minute, trade_count, closed, wins) in [
        (5, 10, false, true),
        (4, 99, true, false),
        (5, 9, false, false),
        (5, 11, false, true),
        (5, 11, true, true),
        (5, 11, false, false),
        (6, 0, false, true),
        (5, 11, true, false),
        // A minute without a trade closes as well.
        (6, 0, true, true),
    ] {
        let applied = kline(minute, trade_count, closed);
        cache.apply(&klines(&[applied])).await.unwrap();
        assert_eq!(latest_kline(&*cache).await == Some(applied), wins, "after {applied:?}");
    }
    // Not every exchange counts the trades of a kline: more volume is newer.
    for (volume, wins) in [("1.5", true), ("1.25", false), ("10.000000000000000001", true), ("9.9", false)] {
        let applied = Kline { volume: volume.parse().unwrap(), ..kline(7, 0, false) };
        cache.apply(&klines(&[applied])).await.unwrap();
        assert_eq!(latest_kline(&*cache).await == Some(applied), wins, "after {applied:?}");
    }
}

async fn a_book_only_moves_forward(store: &dyn CacheStore) {
    let cache = store.open();
    assert_eq!(latest_book(&*cache).await, None);
    for (update_id, wins) in [(7, true), (6, false), (8, true), (1, false), (1 << 53, true), ((1 << 53) + 1, true)] {
        cache.apply(&books(&[book(update_id)])).await.unwrap();
        assert_eq!(latest_book(&*cache).await == Some(book(update_id)), wins, "after {update_id}");
    }
}

async fn concurrent_writers_leave_the_newest(store: &dyn CacheStore) {
    let cache = store.open();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                for step in 0..100_i64 {
                    // Each writer applies the same values in another order.
                    let value = (step * [1, 3, 7, 9, 11, 13][writer]) % 100 + 1;
                    let mut update = ticks(&[tick(value, value)]);
                    update.books = books(&[book(value)]).books;
                    update.klines = klines(&[kline(value, 1, false)]).klines;
                    cache.apply(&update).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(latest_tick(&*cache).await, Some(tick(100, 100)));
    assert_eq!(latest_kline(&*cache).await, Some(kline(100, 1, false)));
    assert_eq!(latest_book(&*cache).await, Some(book(100)));
}

async fn applying_again_changes_nothing(store: &dyn CacheStore) {
    let cache = store.open();
    let mut update = ticks(&[tick(10, 5)]);
    update.klines = klines(&[kline(5, 3, true)]).klines;
    update.books = books(&[book(4)]).books;
    cache.apply(&update).await.unwrap();
    assert_eq!(cache.apply(&update).await.unwrap(), 0);
    assert_eq!(cache.apply(&Update::default()).await.unwrap(), 0);
    assert_eq!(latest_tick(&*cache).await, Some(tick(10, 5)));
    // Of several values of one key in one update the newest stays, at any place in the list.
    cache.apply(&ticks(&[tick(12, 7), tick(14, 9), tick(13, 8)])).await.unwrap();
    assert_eq!(latest_tick(&*cache).await, Some(tick(14, 9)));
}

async fn values_are_read_exactly(store: &dyn CacheStore) {
    let cache = store.open();
    let decimals = ["79228162514264337593543950335", "0.0000000000000000000000000001", "61234.56", "0"];
    for (at, text) in decimals.iter().enumerate() {
        let value: Decimal = text.parse().unwrap();
        let at = at as i64;
        let sent = Tick { id: i64::MAX - 10 + at, price: value, quantity: value, side: Side::Sell, ..tick(at, 0) };
        cache.apply(&ticks(&[sent])).await.unwrap();
        assert_eq!(latest_tick(&*cache).await, Some(sent));
        let sent = Kline { volume: value, quote_volume: value, first_trade_id: -1, ..kline(at, 1, true) };
        cache.apply(&klines(&[sent])).await.unwrap();
        assert_eq!(latest_kline(&*cache).await, Some(sent));
        let sent = Book { update_id: i64::MAX - 10 + at, bid: value, ask_quantity: value, ..book(1) };
        cache.apply(&books(&[sent])).await.unwrap();
        assert_eq!(latest_book(&*cache).await, Some(sent));
    }
}

async fn values_are_returned_in_the_order_of_the_keys(store: &dyn CacheStore) {
    let cache = store.open();
    let mut update = Update::default();
    for number in 0..50 {
        update.ticks.push((BINANCE, symbol(&format!("S{number}USDT")), tick(number, number)));
    }
    cache.apply(&update).await.unwrap();
    let symbols: Vec<_> = (0..60).rev().map(|number| symbol(&format!("S{number}USDT"))).collect();
    let expected: Vec<_> = (0..60).rev().map(|number| (number < 50).then(|| tick(number, number))).collect();
    assert_eq!(cache.ticks(BINANCE, &symbols).await.unwrap(), expected);
    let minute = kline(3, 1, true);
    let hour = Kline { interval: Interval::H1, ..kline(0, 60, false) };
    cache.apply(&klines(&[minute, hour])).await.unwrap();
    let keys = [Interval::H1, Interval::D1, Interval::M1].map(|interval| (symbol("BTCUSDT"), interval));
    assert_eq!(cache.klines(BINANCE, &keys).await.unwrap(), [Some(hour), None, Some(minute)]);
}

async fn a_state_is_kept_per_instance(store: &dyn CacheStore) {
    let cache = store.open();
    assert_eq!(cache.get_state("").await.unwrap(), None);
    cache.put_state("", "{\"a\":1}").await.unwrap();
    cache.put_state("b", "{}").await.unwrap();
    cache.put_state("", "{\"a\":2}").await.unwrap();
    assert_eq!(cache.get_state("").await.unwrap().as_deref(), Some("{\"a\":2}"));
    assert_eq!(cache.get_state("b").await.unwrap().as_deref(), Some("{}"));
    assert!(!cache.ping().await.unwrap().is_empty());
}

/// After updates in any order, the latest tick is the maximum by (ts, id).
fn behaves_like_a_maximum(new_store: &dyn Fn() -> Box<dyn CacheStore>) {
    eprintln!("promise: 1, against a naive model");
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let updates = prop::collection::vec(prop::collection::vec((0_i64..3, 0_i64..20, 0_i64..20), 0..8), 1..20);
    let outcome = proptest::test_runner::TestRunner::new(config).run(&updates, |updates| {
        let store = new_store();
        runtime().block_on(async {
            let cache = store.open();
            let mut model: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
            for values in updates {
                let mut update = Update::default();
                for (key, ts, id) in values {
                    update.ticks.push((BINANCE, symbol(&format!("S{key}")), tick(ts, id)));
                    let latest = model.entry(key).or_insert((ts, id));
                    *latest = (*latest).max((ts, id));
                }
                cache.apply(&update).await.unwrap();
                let symbols: Vec<_> = (0..3).map(|key| symbol(&format!("S{key}"))).collect();
                let expected: Vec<_> = (0..3).map(|key| model.get(&key).map(|&(ts, id)| tick(ts, id))).collect();
                assert_eq!(cache.ticks(BINANCE, &symbols).await.unwrap(), expected);
            }
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

struct Embedded {
    faults: Option<Faults>,
}

impl CacheStore for Embedded {
    fn open(&self) -> Arc<dyn Cache> {
        let cache: Arc<dyn Cache> = Arc::new(EmbeddedCache::new());
        match &self.faults {
            None => cache,
            Some(faults) => Arc::new(Retrying::<dyn Cache>(Arc::new(FaultyCache::new(cache, faults.clone())))),
        }
    }
}

#[test]
fn the_embedded_cache_keeps_every_promise() {
    keeps_every_promise(&|| Box::new(Embedded { faults: None }));
}

#[test]
fn a_cache_behind_faults_keeps_every_promise_to_a_caller_that_retries() {
    let delay_max = Duration::from_millis(1);
    let odds = Odds { fail: 100, lose_answer: 100, tear: 100, delay: 50, delay_max };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let faults = Faults::seeded(seed, odds);
    keeps_every_promise(&|| Box::new(Embedded { faults: Some(faults.clone()) }));
    assert!(faults.injected() > 0);
}
