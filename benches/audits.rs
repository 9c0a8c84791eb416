//! The cost of audits with 400 symbols: the consistency check, the preload of a cold cache, and the sweep's recount of
//! 4 million trades. Runs on the embedded stores, and on ClickHouse and Redis if `tests/servers/prepare` has installed
//! them.
//!
//! `cargo bench --bench audits`; prints the median of several rounds.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

#[path = "../tests/it/servers/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod servers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use servers::clickhouse::Clickhouse;
use servers::redis::Redis;
use tapekeeper::audit;
use tapekeeper::cache::embedded::EmbeddedCache;
use tapekeeper::cache::redis::RedisCache;
use tapekeeper::cache::{Cache, RedisOptions};
use tapekeeper::history::clickhouse::ClickhouseHistory;
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::{Batch, History, KlineRow, TradeRow};
use tapekeeper::market::{Channel, Exchange, Interval, Kline, Side, Stream, Symbol, Timestamp, Trade};

const SYMBOLS: usize = 400;
const TRADES_EACH: i64 = 10_000;
/// One day of closed minutes: the most that a preload reads to build the other intervals.
const MINUTES_EACH: i64 = 1_440;
const ROUNDS: usize = 5;
/// 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000_000;
const MINUTE: i64 = 60_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let base = std::env::var_os("TAPEKEEPER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = tempfile::tempdir_in(base).unwrap();
        let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        let cold = || -> Arc<dyn Cache> { Arc::new(EmbeddedCache::new()) };
        bench("embedded", &history, &cold).await;
        history.close().await.unwrap();
        let (Some(clickhouse), Some(redis)) = (Clickhouse::start(), Redis::start()) else { return };
        let history: Arc<dyn History> = Arc::new(ClickhouseHistory::new(&clickhouse.database()));
        let options =
            RedisOptions { url: format!("redis://127.0.0.1:{}", redis.server.port), ..RedisOptions::default() };
        let cache: Arc<dyn Cache> = Arc::new(RedisCache::connect(&options).unwrap());
        bench("clickhouse+redis", &history, &|| cache.clone()).await;
    });
}

async fn bench(name: &str, history: &Arc<dyn History>, cold: &dyn Fn() -> Arc<dyn Cache>) {
    let symbols: Vec<Symbol> = (0..SYMBOLS).map(|n| Symbol::new(&format!("SYM{n:03}USDT"))).collect();
    let streams: Vec<Stream> = symbols
        .iter()
        .flat_map(|symbol| ["trade", "kline_1m"].map(|channel| format!("binance:{symbol}:{channel}").parse().unwrap()))
        .collect();
    if history
        .latest_trades(Exchange::named("binance"), Channel::Trade, &symbols[SYMBOLS - 1..])
        .await
        .unwrap()
        .is_empty()
    {
        fill(history, &symbols).await;
    }
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let days = history.days(&streams, None).await.unwrap();
        times[0].push(began.elapsed());
        let rows: i64 =
            days.iter().filter(|(stream, _)| stream.channel.as_str() == "trade").map(|(_, day)| day.present).sum();
        assert_eq!(rows, SYMBOLS as i64 * TRADES_EACH);
        let cache = cold();
        let began = Instant::now();
        let report = audit::preload(history, &cache, &streams).await.unwrap();
        times[1].push(began.elapsed());
        assert_eq!((report.ticks, report.klines), (SYMBOLS, 6 * SYMBOLS));
        let began = Instant::now();
        let report = audit::check(history, &cache, &streams).await.unwrap();
        times[2].push(began.elapsed());
        assert!(report.issues.is_empty(), "{:?}", report.issues.first());
    }
    let what = [
        format!("recount of {} trades and {} klines", SYMBOLS as i64 * TRADES_EACH, SYMBOLS as i64 * MINUTES_EACH),
        format!("preload of {SYMBOLS} symbols, 5 of 6 intervals built from their minutes"),
        format!("audit of {SYMBOLS} symbols, a second of it waiting for rows in flight"),
    ];
    for (what, mut times) in what.into_iter().zip(times) {
        times.sort();
        println!("{name}: {what}: {:.3} s", times[ROUNDS / 2].as_secs_f64());
    }
}

async fn fill(history: &Arc<dyn History>, symbols: &[Symbol]) {
    for symbol in symbols {
        let trades = (1..=TRADES_EACH).map(|id| TradeRow {
            exchange: Exchange::named("binance"),
            symbol: symbol.clone(),
            trade: trade(id),
            received_at: Timestamp(BEGIN + id),
            is_backfilled: false,
            epoch: 0,
            version: tapekeeper::history::row_version(false),
        });
        let klines = (0..MINUTES_EACH).map(|n| KlineRow {
            exchange: Exchange::named("binance"),
            symbol: symbol.clone(),
            kline: minute(n),
            is_backfilled: false,
            version: tapekeeper::history::row_version(false),
        });
        let token = format!("fill:{symbol}");
        let batch = Batch { trades: trades.collect(), klines: klines.collect(), token, ..Batch::default() };
        history.insert(&batch).await.unwrap();
    }
}

fn trade(id: i64) -> Trade {
    let (price, quantity) = (Decimal::new(6_123_456 + id % 1_000, 2), Decimal::new(25 + id % 100, 5));
    Trade { id, ts: Timestamp(BEGIN + id * 8_000_000), price, quantity, side: Side::Buy, trade_ids: None }
}

fn minute(n: i64) -> Kline {
    let price = Decimal::new(6_123_456 + n, 2);
    Kline {
        interval: Interval::M1,
        open_time: Timestamp(BEGIN + n * MINUTE),
        close_time: Timestamp(BEGIN + n * MINUTE + MINUTE - 1_000),
        open: price,
        high: price,
        low: price,
        close: price,
        volume: Decimal::new(12_345, 4),
        quote_volume: Decimal::new(987_654, 3),
        trade_count: 7,
        first_trade_id: n * 7 + 1,
        last_trade_id: n * 7 + 7,
        closed: true,
    }
}
