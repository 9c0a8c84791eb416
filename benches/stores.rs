//! The cost of the embedded stores: append, consume, read and insert, with fsync on, in the directory
//! TAPEKEEPER_BENCH_DIR (default: the system's temporary directory, which must be on a real disk).
//!
//! `cargo bench --bench stores [-- log|history]`; prints the median of several rounds as rows/s and microseconds per
//! row.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use tapekeeper::gap::Range;
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::{Batch, History, RowStore, TradeRow};
use tapekeeper::log::embedded::{EmbeddedLog, Options};
use tapekeeper::log::{Delivery, Log, Offsets};
use tapekeeper::market::{Channel, Exchange, Frame, Origin, Side, Symbol, Timestamp, Trade};

/// The number of rows of a round.
const ROWS: usize = 200_000;
/// The number of rounds.
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted = |store: &str| !std::env::args().any(|arg| ["log", "history"].contains(&&*arg) && arg != store);
    runtime.block_on(async {
        if wanted("log") {
            for batch in [1, 100, 500, 5_000] {
                bench_log(batch).await;
            }
        }
        if !wanted("history") {
            return;
        }
        for symbols in [1, 100] {
            for batch in [1_000, 5_000] {
                bench_history(batch, symbols).await;
            }
        }
    });
}

fn directory() -> tempfile::TempDir {
    let base = std::env::var_os("TAPEKEEPER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(base).unwrap()
}

/// Elapsed time, and the CPU time of this process in steps of 10 ms. On a shared machine only the CPU time is
/// comparable.
#[derive(Clone, Copy, Debug)]
struct Cost {
    elapsed: Duration,
    cpu: Duration,
}

/// The start: the instant and the CPU time.
struct Stopwatch(Instant, Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now(), cpu_time())
    }

    fn stop(self) -> Cost {
        Cost { elapsed: self.0.elapsed(), cpu: cpu_time() - self.1 }
    }
}

fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // User and system time are the 14th and 15th field; the name before may hold anything but ')'.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Prints the medians of rounds of `rows` rows each.
fn report(what: &str, rows: usize, rounds: &[Cost]) {
    let median = |time: fn(&Cost) -> Duration| {
        let mut times: Vec<Duration> = rounds.iter().map(time).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let (elapsed, cpu) = (median(|cost| cost.elapsed), median(|cost| cost.cpu));
    let per_row = 1e6 / rows as f64;
    println!(
        "{what:<52}{:>10.0} rows/s {:>9.3} us/row, {:.3} us/row of CPU time",
        rows as f64 / elapsed,
        elapsed * per_row,
        cpu * per_row
    );
}

/// A trade frame as Binance sends it, about 180 bytes.
fn frame(symbol: &str, id: i64) -> Frame {
    let payload = format!(
        "{{\"stream\":\"{symbol}@trade\",\"data\":{{\"e\":\"trade\",\"E\":1723118400123,\"s\":\"{symbol}\",\"t\":{id},\
         \"p\":\"61234.56000000\",\"q\":\"0.00150000\",\"T\":1723118400123,\"m\":true,\"M\":true}}}}"
    );
    Frame {
        key: "binance:BTCUSDT".into(),
        received_at: Timestamp(1_723_118_400_000_000 + id),
        connection: 1,
        origin: Origin::Socket,
        payload: payload.into(),
    }
}

async fn bench_log(batch: usize) {
    let directory = directory();
    let path = directory.path().join("log.db");
    // A sync per frame is a thousand times slower, so fewer frames are enough.
    let rows = if batch == 1 { 500 } else { ROWS };
    let frames: Vec<Frame> = (0..rows).map(|id| frame("BTCUSDT", id as i64)).collect();
    let log = EmbeddedLog::open(&path, Options::default()).unwrap();
    let mut consumer = log.consumer().await.unwrap();
    let (mut appends, mut tails, mut backlogs) = (Vec::new(), Vec::new(), Vec::new());
    let mut end = 0;
    for _ in 0..ROUNDS {
        let chunks: Vec<Vec<Frame>> = frames.chunks(batch).map(<[Frame]>::to_vec).collect();
        let stopwatch = Stopwatch::start();
        for chunk in chunks {
            log.append(chunk).await.unwrap();
        }
        appends.push(stopwatch.stop());
        end += rows as i64;
        let stopwatch = Stopwatch::start();
        consume_to(&mut *consumer, end).await;
        tails.push(stopwatch.stop());
        consumer.commit(&Offsets::from([(0, end)])).await.unwrap();
        let stopwatch = Stopwatch::start();
        let cold = EmbeddedLog::open(&path, Options::default()).unwrap();
        let read = cold.read(0, end - rows as i64, rows).await.unwrap();
        backlogs.push(stopwatch.stop());
        assert_eq!(read.len(), rows);
    }
    report(&format!("log: append 180-byte frames, {batch} per call"), rows, &appends);
    report("log: consume", rows, &tails);
    report("log: read from the file", rows, &backlogs);
    let stopwatch = Stopwatch::start();
    let removed = log.retain(Timestamp(i64::MAX), 0).await.unwrap();
    report("log: retention", removed as usize, &[stopwatch.stop()]);
    println!("log: {:.1} MB on disk", log.usage().await.unwrap().bytes.unwrap() as f64 / 1e6);
}

async fn consume_to(consumer: &mut dyn tapekeeper::log::Consumer, end: i64) {
    loop {
        if let Delivery::Records { records, .. } = consumer.next().await.unwrap()
            && records.last().is_some_and(|last| last.offset + 1 == end)
        {
            return;
        }
    }
}

fn trade(symbol: &Symbol, id: i64) -> TradeRow {
    let ts = Timestamp(1_723_118_400_000_000 + id * 1_000);
    let price = Decimal::new(6_123_456_000_000 + id % 10_000, 8);
    let trade = Trade { id, ts, price, quantity: Decimal::new(150_000, 8), side: Side::Buy, trade_ids: None };
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: symbol.clone(),
        trade,
        received_at: ts,
        is_backfilled: false,
        epoch: 0,
        version: tapekeeper::history::row_version(false),
    }
}

async fn bench_history(batch: usize, symbols: usize) {
    let directory = directory();
    let history = EmbeddedHistory::open(&directory.path().join("history.db")).unwrap();
    let names: Vec<Symbol> = (0..symbols).map(|number| Symbol::new(&format!("S{number}USDT"))).collect();
    let (mut inserts, mut again) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let rows: Vec<TradeRow> = (0..ROWS)
            .map(|row| trade(&names[row % symbols], 4_000_000_000 + (round * ROWS + row) as i64 / symbols as i64))
            .collect();
        let batches: Vec<Batch> =
            rows.chunks(batch).map(|rows| Batch { trades: rows.to_vec(), ..Batch::default() }).collect();
        for durations in [&mut inserts, &mut again] {
            let stopwatch = Stopwatch::start();
            for batch in &batches {
                history.insert(batch).await.unwrap();
            }
            durations.push(stopwatch.stop());
        }
    }
    report(&format!("history: insert trades of {symbols} symbols, {batch} per call"), ROWS, &inserts);
    report("history: insert them again", ROWS, &again);
    let stream = tapekeeper::market::Stream::new(
        Exchange::named("binance"),
        names[0].clone(),
        tapekeeper::market::Channel::Trade,
    );
    let extent = history.extent(&stream).await.unwrap().unwrap();
    let stored = (ROUNDS * ROWS) / symbols;
    let stopwatch = Stopwatch::start();
    assert_eq!(history.missing(&stream, extent, 9).await.unwrap(), []);
    report("history: find missing ranges", stored, &[stopwatch.stop()]);
    let stopwatch = Stopwatch::start();
    history.days(std::slice::from_ref(&stream), None).await.unwrap();
    report("history: days", stored, &[stopwatch.stop()]);
    let stopwatch = Stopwatch::start();
    history.trades(&stream, Range { first: 0, last: i64::MAX }, ROWS).await.unwrap();
    report("history: read trades", stored.min(ROWS), &[stopwatch.stop()]);
    let stopwatch = Stopwatch::start();
    assert_eq!(history.latest_trades(Exchange::named("binance"), Channel::Trade, &names).await.unwrap().len(), symbols);
    report("history: latest trade of every symbol", symbols, &[stopwatch.stop()]);
    let bytes = history.bytes().await.unwrap().unwrap();
    println!("history: {:.0} bytes per row on disk", bytes as f64 / (ROUNDS * ROWS) as f64);
}
