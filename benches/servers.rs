//! Kafka -> ClickHouse + Redis: one recorder process on real servers on this machine, with fsync on.
//!
//! `cargo bench --bench servers [-- --frames 2000000 --runs 3 --seconds 20 --outage 60]`
//!
//! * Throughput: the topic contains all frames before the recorder starts; measured from its first durable row to its
//!   last. CPU time and memory are those of the recorder, from /proc.
//! * Latency: 10,000 frames per second, from just before the append to Kafka until a query finds the row. The query
//!   runs every 20 ms, so the figures may be that much too high.
//! * Keys: how fast the cache updates many keys.
//! * Outage: the same rate while ClickHouse is down; the memory of the recorder before, at the peak and after.

#[path = "../tests/it/servers/mod.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the tests use more of it, and a test may panic")]
mod servers;

use std::collections::VecDeque;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use servers::clickhouse::Clickhouse;
use servers::kafka::Kafka;
use servers::redis::Redis;
use tapekeeper::cache::redis::RedisCache;
use tapekeeper::cache::{Cache, Update};
use tapekeeper::log::kafka::KafkaLog;
use tapekeeper::log::{KafkaOptions, Log, Options};
use tapekeeper::market::{Exchange, Frame, Origin, Side, Symbol, Tick, Timestamp};

/// The number of symbols; they spread over six partitions.
const SYMBOLS: usize = 24;
const PARTITIONS: i32 = 6;
/// Frames per second of the latency and outage parts.
const RATE: u64 = 10_000;
const DEADLINE: Duration = Duration::from_secs(600);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let (frames, runs) = (value("--frames", 2_000_000), value("--runs", 3));
    println!(
        "{} bytes a frame, {SYMBOLS} symbols, {PARTITIONS} partitions, everything on this machine",
        frame(0).payload.len()
    );
    let mut rates = Vec::new();
    println!("{:>4} {:>12} {:>20} {:>10}", "run", "rows/s", "CPU-s/million rows", "RSS MiB");
    for run in 1..=runs {
        let (rate, cpu, rss) = runtime.block_on(throughput(frames))?;
        println!("{run:>4} {rate:>12.0} {cpu:>20.2} {rss:>10}");
        rates.push((rate, cpu));
    }
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((rate, cpu)) = rates.get(rates.len() / 2) {
        println!("median: {rate:.0} rows/s, {cpu:.2} CPU-seconds per million rows");
    }
    runtime.block_on(keys())?;
    let (seconds, outage) = (value("--seconds", 20), value("--outage", 60));
    if seconds > 0 {
        runtime.block_on(latency(seconds))?;
    }
    if outage > 0 {
        runtime.block_on(measure_outage(outage))?;
    }
    Ok(())
}

/// A trade frame as Binance sends it. The ids of each symbol are dense.
fn frame(n: u64) -> Frame {
    let symbol = format!("S{:02}USDT", n as usize % SYMBOLS);
    let (id, ms) = (1_000_000_000 + n / SYMBOLS as u64, 1_723_161_254_000 + n / 10);
    let payload = format!(
        r#"{{"stream":"{}@trade","data":{{"e":"trade","E":{ms},"s":"{symbol}","t":{id},"p":"{}.{:02}000000","q":"0.{:05}000","T":{ms},"m":{},"M":true}}}}"#,
        symbol.to_lowercase(),
        2_600 + n % 97,
        n % 100,
        n % 99_991 + 1,
        n.is_multiple_of(3),
    );
    let (key, payload) = (format!("binance:{symbol}").into(), Bytes::from(payload));
    Frame { key, received_at: Timestamp(ms as i64 * 1_000), connection: 1, origin: Origin::Socket, payload }
}

/// New servers, and the configuration of a recorder that uses them.
struct Setup {
    kafka: Kafka,
    clickhouse: Clickhouse,
    _redis: Redis,
    log: KafkaLog,
    directory: tempfile::TempDir,
    admin: u16,
}

impl Setup {
    async fn new() -> anyhow::Result<Self> {
        let none = "a server is not installed here";
        let kafka = Kafka::start().context(none)?;
        let (clickhouse, redis) = (Clickhouse::start().context(none)?, Redis::start().context(none)?);
        let directory = tempfile::tempdir()?;
        let admin = servers::free_port();
        let symbols: Vec<String> = (0..SYMBOLS).map(|number| format!("S{number:02}USDT")).collect();
        let config = format!(
            "data_dir = {:?}\n[[feed]]\nexchange = \"binance\"\nsymbols = {symbols:?}\nchannels = [\"trade\"]\n\
             ws_url = \"ws://127.0.0.1:1\"\nrest_url = \"http://127.0.0.1:1\"\n\
             [log]\nbackend = \"kafka\"\n[log.kafka]\nbrokers = \"127.0.0.1:{}\"\n\
             [history]\nbackend = \"clickhouse\"\n[history.clickhouse]\nurl = \"http://127.0.0.1:{}\"\n\
             [cache]\nbackend = \"redis\"\n[cache.redis]\nurl = \"redis://127.0.0.1:{}\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\n",
            directory.path().join("data").display().to_string(),
            kafka.server.port,
            clickhouse.server.port,
            redis.server.port
        );
        std::fs::write(directory.path().join("tapekeeper.toml"), config)?;
        let options = KafkaOptions {
            brokers: format!("127.0.0.1:{}", kafka.server.port),
            partitions: PARTITIONS,
            ..KafkaOptions::default()
        };
        let log = KafkaLog::open(&Options { kafka: options, ..Options::default() }, "bench").await?;
        Ok(Self { kafka, clickhouse, _redis: redis, log, directory, admin })
    }

    /// Starts the recorder. There is no exchange: the recorder consumes what the benchmark appends to the topic.
    fn recorder(&self) -> anyhow::Result<Recorder> {
        let config = self.directory.path().join("tapekeeper.toml");
        let log = std::fs::File::create(self.directory.path().join("recorder.log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapekeeper"));
        command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stderr(log);
        Ok(Recorder { child: command.spawn()?, admin: self.admin })
    }

    async fn query(&self, sql: &str) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{}/?database=tapekeeper", self.clickhouse.server.port);
        Ok(client()?.post(url).body(sql.to_owned()).send().await?.error_for_status()?.text().await?)
    }

    /// Appends frames to Kafka at `RATE` until `until`; returns the number of the next frame.
    async fn produce(&self, mut next: u64, until: Instant, sent: &mut VecDeque<(u64, Instant)>) -> anyhow::Result<u64> {
        let (began, first) = (Instant::now(), next);
        while Instant::now() < until {
            let due = first + began.elapsed().as_millis() as u64 * RATE / 1_000;
            if due > next {
                sent.push_back((due - 1, Instant::now()));
                self.log.append((next..due).map(frame).collect()).await?;
                next = due;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(next)
    }
}

/// A recorder process that ends when it is dropped.
struct Recorder {
    child: Child,
    admin: u16,
}

impl Recorder {
    /// The number of rows that it has made durable.
    async fn rows(&self) -> anyhow::Result<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin);
        let Ok(answer) = client()?.get(url).send().await else { return Ok(0) };
        let text = answer.text().await?;
        let line = text.lines().find(|line| line.starts_with("tapekeeper_rows_total"));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) as u64)
    }

    async fn wait_for_rows(&self, rows: u64) -> anyhow::Result<u64> {
        let began = Instant::now();
        loop {
            let found = self.rows().await?;
            if found >= rows {
                return Ok(found);
            }
            anyhow::ensure!(began.elapsed() < DEADLINE, "{found} of {rows} rows");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The CPU time, user and system, in seconds.
    fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Fields 14 and 15 of the whole line, in ticks of 1/100 s (USER_HZ, the same on every Linux).
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
    }

    fn rss_mib(&self) -> anyhow::Result<u64> {
        let mut status = String::new();
        std::fs::File::open(format!("/proc/{}/status", self.child.id()))?.read_to_string(&mut status)?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()? / 1024)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.child.kill().is_err() || self.child.wait().is_err() {
            eprintln!("the recorder had ended already");
        }
    }
}

fn client() -> anyhow::Result<reqwest::Client> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
    Ok(http.tls_backend_preconfigured((*tapekeeper::exchange::tls_config()).clone()).build()?)
}

/// Rows per second, CPU seconds per million rows, and resident memory in MiB at the end.
async fn throughput(frames: u64) -> anyhow::Result<(f64, f64, u64)> {
    let setup = Setup::new().await?;
    let mut next = 0;
    while next < frames {
        let end = (next + 5_000).min(frames);
        setup.log.append((next..end).map(frame).collect()).await?;
        next = end;
    }
    let recorder = setup.recorder()?;
    let first = recorder.wait_for_rows(1).await?;
    let (began, cpu) = (Instant::now(), recorder.cpu()?);
    recorder.wait_for_rows(frames).await?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), recorder.cpu()? - cpu);
    let rows = (frames - first) as f64;
    let rss = recorder.rss_mib()?;
    let stored = setup.query("SELECT count() FROM trades FINAL").await?;
    anyhow::ensure!(stored.trim() == frames.to_string(), "{} rows of {frames}", stored.trim());
    Ok((rows / wall, cpu * 1e6 / rows, rss))
}

/// Measures the time from just before the append of a frame until a query finds its row.
async fn latency(seconds: u64) -> anyhow::Result<()> {
    let setup = Setup::new().await?;
    setup.log.append(vec![frame(0)]).await?;
    let recorder = setup.recorder()?;
    recorder.wait_for_rows(1).await?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut sent = VecDeque::new();
    let (sender, mut seen) = tokio::sync::mpsc::channel(100_000);
    let polling = async {
        while Instant::now() < until + Duration::from_secs(2) {
            // Batches span partitions, so visibility is checked per symbol, by its newest id.
            let newest = setup.query("SELECT symbol, max(trade_id) FROM trades GROUP BY symbol").await?;
            let now = Instant::now();
            for line in newest.lines() {
                let (symbol, id) = line.split_once('\t').context("two columns")?;
                let symbol: u64 = symbol[1..3].parse()?;
                let number = (id.parse::<u64>()? - 1_000_000_000) * SYMBOLS as u64 + symbol;
                sender.try_send((number, now)).ok();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let (last, polled) = tokio::join!(setup.produce(1, until, &mut sent), polling);
    polled?;
    drop(sender);
    let mut newest = vec![VecDeque::new(); SYMBOLS];
    while let Some((number, at)) = seen.recv().await {
        newest[number as usize % SYMBOLS].push_back((number, at));
    }
    let mut waits: Vec<f64> = Vec::new();
    for (number, at) in &sent {
        let found = newest[*number as usize % SYMBOLS].iter().find(|(newest, _)| newest >= number);
        waits.extend(found.map(|(_, seen)| seen.duration_since(*at).as_secs_f64() * 1e3));
    }
    anyhow::ensure!(!waits.is_empty(), "nothing became visible");
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!(
        "{} frames at {RATE}/s: produced to visible p50 {:.0} ms, p99 {:.0} ms, at most {:.0} ms ({} of {} samples seen)",
        last?,
        at(0.5),
        at(0.99),
        at(1.0),
        waits.len(),
        sent.len()
    );
    Ok(())
}

/// Measures the memory of the recorder while ClickHouse is down.
async fn measure_outage(seconds: u64) -> anyhow::Result<()> {
    let setup = Setup::new().await?;
    setup.log.append(vec![frame(0)]).await?;
    let recorder = setup.recorder()?;
    recorder.wait_for_rows(1).await?;
    let mut sent = VecDeque::new();
    let next = setup.produce(1, Instant::now() + Duration::from_secs(5), &mut sent).await?;
    let before = recorder.rss_mib()?;
    setup.clickhouse.server.kill();
    let (mut most, mut next) = (before, next);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        next = setup.produce(next, Instant::now() + Duration::from_secs(1), &mut sent).await?;
        sent.clear();
        most = most.max(recorder.rss_mib()?);
    }
    setup.clickhouse.server.restart();
    let began = Instant::now();
    recorder.wait_for_rows(next).await?;
    println!(
        "ClickHouse down for {seconds} s at {RATE}/s: {before} MiB before, {most} MiB at the peak, {} MiB after; \
         {next} rows were stored {:.1} s after it was up again (port {})",
        recorder.rss_mib()?,
        began.elapsed().as_secs_f64(),
        setup.kafka.server.port
    );
    Ok(())
}

/// Measures updates of Redis with different numbers of keys.
async fn keys() -> anyhow::Result<()> {
    let redis = Redis::start().context("a server is not installed here")?;
    for keys in [1_i64, 100, 400, 2_000] {
        let cache = RedisCache::connect(&redis.database())?;
        let rounds = 40_000 / keys;
        let began = Instant::now();
        for round in 0..rounds {
            let tick = |key: i64| Tick {
                id: round,
                ts: Timestamp(round),
                price: key.into(),
                quantity: key.into(),
                side: Side::Buy,
                trade_ids: None,
            };
            let value = |key: i64| (Exchange::named("binance"), Symbol::new(&format!("S{key}USDT")), tick(key));
            let update = Update { ticks: (0..keys).map(value).collect(), ..Update::default() };
            anyhow::ensure!(cache.apply(&update).await? == keys as u64, "keys did not move");
        }
        let each = began.elapsed().as_secs_f64() / rounds as f64;
        println!("{keys} keys: {:.2} ms an update, {:.0} keys/s", each * 1e3, keys as f64 / each);
    }
    Ok(())
}
