//! The cost of counting what is stored, with a hundred million trades: the sweep of a window, as it runs every 15 minutes,
//! and the full recount with what another read waits for meanwhile. Runs on the embedded store, and on ClickHouse if
//! `tests/servers/prepare` has installed it.
//!
//! `cargo bench --bench sweep -- [--trades N] [--symbols N] [--only embedded|clickhouse]`. The servers make their own
//! rows. The embedded store takes 100 bytes a trade in `TAPEKEEPER_BENCH_DIR`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

#[path = "../tests/it/servers/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod servers;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use servers::clickhouse::Clickhouse;
use tapekeeper::audit::{self, SweepReport, SweepScope};
use tapekeeper::backfill;
use tapekeeper::cache::PendingUpdates;
use tapekeeper::clock::Clock;
use tapekeeper::health::Health;
use tapekeeper::history::clickhouse::ClickhouseHistory;
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::{ClickhouseOptions, History};
use tapekeeper::ledger::SharedLedger;
use tapekeeper::market::{Stream, Timestamp};
use tapekeeper::writer::Writer;
use tokio_util::sync::CancellationToken;

/// 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000_000;
/// The trades cover five days.
const SPAN: i64 = 5 * 86_400_000_000;
const MINUTE: i64 = 60_000_000;
const ROUNDS: usize = 5;
/// The pause between two small reads beside the recount.
const EVERY: Duration = Duration::from_millis(20);

struct Size {
    trades: i64,
    symbols: i64,
}

impl Size {
    fn each(&self) -> i64 {
        self.trades / self.symbols
    }

    /// Microseconds between two trades of a symbol.
    fn pace(&self) -> i64 {
        SPAN / self.each()
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone());
    let number = |name: &str, default: i64| value(name).map_or(default, |text| text.parse().unwrap());
    let size = Size { trades: number("--trades", 100_000_000), symbols: number("--symbols", 400) };
    let is_wanted = |backend: &str| value("--only").is_none_or(|only| only == backend);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if is_wanted("embedded") {
            let base = std::env::var_os("TAPEKEEPER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
            let directory = tempfile::tempdir_in(base).unwrap();
            let path = directory.path().join("history.db");
            let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&path).unwrap());
            fill_embedded(&path, &size);
            bench("embedded", &history, &size).await;
            history.close().await.unwrap();
        }
        if is_wanted("clickhouse") {
            let Some(clickhouse) = Clickhouse::start() else { return };
            let options = clickhouse.database();
            let history: Arc<dyn History> = Arc::new(ClickhouseHistory::new(&options));
            history.identity().await.unwrap();
            fill_clickhouse(&options, &size);
            bench("clickhouse", &history, &size).await;
        }
    });
}

async fn bench(name: &str, history: &Arc<dyn History>, size: &Size) {
    let streams: Vec<Stream> =
        (0..size.symbols).map(|n| format!("binance:SYM{n:03}USDT:trade").parse().unwrap()).collect();
    let end = Timestamp(BEGIN + SPAN);
    let deps = deps(history.clone());
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let report = sweep(history, &deps, &streams, SweepScope::Window(end.plus_micros(-15 * MINUTE), end)).await;
        times.push(began.elapsed());
        assert_eq!((report.streams, report.missing), (streams.len(), 0), "{report:?}");
        assert!(report.present >= 24 * MINUTE / size.pace() * size.symbols, "{report:?}");
    }
    times.sort();
    println!("{name}: sweep of 15 minutes of {} trades: {:.3} s", size.trades, times[ROUNDS / 2].as_secs_f64());

    let (recounted, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut alone = Duration::ZERO;
    for _ in 0..50 {
        alone = alone.max(small_read(history, &streams, size).await);
    }
    let beside = {
        let (history, streams, recounted, waits) = (history.clone(), streams.clone(), recounted.clone(), waits.clone());
        let size = Size { ..*size };
        tokio::spawn(async move {
            let mut reads = 0_u64;
            while !recounted.load(Ordering::Relaxed) {
                let took = small_read(&history, &streams, &size).await;
                waits.fetch_max(u64::try_from(took.as_micros()).unwrap(), Ordering::Relaxed);
                reads += 1;
                tokio::time::sleep(EVERY).await;
            }
            reads
        })
    };
    let began = Instant::now();
    let report = sweep(history, &deps, &streams, SweepScope::All).await;
    let took = began.elapsed();
    recounted.store(true, Ordering::Relaxed);
    let reads = beside.await.unwrap();
    assert_eq!((report.present, report.missing), (size.each() * size.symbols, 0));
    println!("{name}: full recount of {} trades: {:.1} s", size.trades, took.as_secs_f64());
    println!(
        "{name}: a small read takes at most {:.1} ms alone, and of {reads} beside the recount at most {:.1} ms",
        alone.as_secs_f64() * 1e3,
        waits.load(Ordering::Relaxed) as f64 / 1e3
    );
}

/// What the page of a symbol or a gap's repair asks: ten trades by id.
async fn small_read(history: &Arc<dyn History>, streams: &[Stream], size: &Size) -> Duration {
    let stream = &streams[rand::random_range(0..streams.len())];
    let first = rand::random_range(1..size.each() - 10);
    let began = Instant::now();
    let rows = history.trades(stream, tapekeeper::gap::Range { first, last: first + 9 }, 10).await.unwrap();
    let took = began.elapsed();
    assert_eq!(rows.len(), 10);
    took
}

async fn sweep(
    history: &Arc<dyn History>,
    deps: &backfill::Deps,
    streams: &[Stream],
    scope: SweepScope,
) -> SweepReport {
    audit::sweep(history, deps, streams, scope, &CancellationToken::new()).await.unwrap()
}

fn deps(history: Arc<dyn History>) -> backfill::Deps {
    backfill::Deps {
        rest: HashMap::new(),
        dialects: HashMap::new(),
        writer: Writer::new(history, Arc::new(PendingUpdates::default()), Health::default()),
        ledger: SharedLedger::default(),
        clock: Clock::from_fn(|| Timestamp(BEGIN + SPAN)),
        rows: Arc::default(),
        confirm_after: Duration::ZERO,
        answers: Arc::default(),
    }
}

/// The columns of a trade that are the same in both stores; `n` counts from 0 within a symbol.
const COLUMNS: &str =
    "exchange, symbol, trade_id, ts, received_at, price, quantity, side, is_backfilled, version, epoch";

fn fill_embedded(path: &Path, size: &Size) {
    let began = Instant::now();
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000").unwrap();
    let Size { symbols, .. } = size;
    for symbol in 0..*symbols {
        let sql = format!(
            "WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < {} - 1)
             INSERT INTO trades({COLUMNS})
             SELECT 'binance', 'SYM{symbol:03}USDT', n + 1, {BEGIN} + n * {pace}, {BEGIN} + n * {pace} + 80000,
               (61234 + n % 1000) || '.56', '0.00' || (100 + n % 800), 'buy', 0, 3, 0 FROM number",
            size.each(),
            pace = size.pace()
        );
        connection.execute_batch(&sql).unwrap();
    }
    println!(
        "embedded: {} trades made in {:.0} s, {} MiB",
        size.trades,
        began.elapsed().as_secs_f64(),
        std::fs::metadata(path).unwrap().len() >> 20
    );
}

fn fill_clickhouse(options: &ClickhouseOptions, size: &Size) {
    let began = Instant::now();
    const PARTS: i64 = 10;
    for part in 0..PARTS {
        let (from, to) = (size.symbols * part / PARTS, size.symbols * (part + 1) / PARTS);
        statement(
            options,
            &format!(
                "INSERT INTO {{db}}.trades ({COLUMNS})
                 SELECT 'binance', concat('SYM', leftPad(toString(intDiv(number, {each}) + {from}), 3, '0'), 'USDT'),
                   number % {each} + 1 AS id, fromUnixTimestamp64Micro({BEGIN} + toInt64(number % {each}) * {pace}, 'UTC') AS at,
                   at + INTERVAL 80 MILLISECOND, toDecimal128(61234.56 + number % 1000, 18),
                   toDecimal128(0.001 + number % 800 / 1000000, 18), 'buy', 0, 3, 0
                 FROM numbers({each} * {count}) SETTINGS max_partitions_per_insert_block = 0",
                each = size.each(),
                count = to - from,
                pace = size.pace()
            ),
        );
    }
    println!("clickhouse: {} trades made in {:.0} s", size.trades, began.elapsed().as_secs_f64());
}

/// Runs one statement, however long it takes.
fn statement(options: &ClickhouseOptions, sql: &str) {
    let sql = sql.replace("{db}", &format!("`{}`", options.database));
    let mut connection = TcpStream::connect(options.url.trim_start_matches("http://")).unwrap();
    write!(connection, "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{sql}", sql.len()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
