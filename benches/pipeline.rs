//! Frames per second through the real recording path: socket -> embedded log -> decoder and tracker -> embedded history
//! and cache, with fsync on.
//!
//! The exchange is a child process on loopback that sends prepared trade frames as fast as the recorder reads them. Its
//! CPU time does not count; that of the recorder is from /proc. Run it on one core with `taskset -c 0`.
//!
//! `cargo bench --bench pipeline [-- --frames 1000000 --runs 5]`

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tapekeeper::cache::embedded::EmbeddedCache;
use tapekeeper::cache::{self, PendingUpdates};
use tapekeeper::clock::Clock;
use tapekeeper::consume::{self, ReorderBuffer};
use tapekeeper::exchange::Dialect;
use tapekeeper::exchange::binance::Binance;
use tapekeeper::exchange::socket::{Connections, Socket, SocketOptions};
use tapekeeper::health::Health;
use tapekeeper::heartbeat::Heartbeats;
use tapekeeper::history::History;
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::ingest::{self, Counters};
use tapekeeper::ledger::SharedLedger;
use tapekeeper::log::Log;
use tapekeeper::log::embedded::{EmbeddedLog, Options};
use tapekeeper::market::Stream;
use tapekeeper::progress::Progress;
use tapekeeper::writer::Writer;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const SYMBOLS: [&str; 4] = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let frames = value("--frames", 1_000_000);
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.iter().any(|argument| argument == "--exchange") {
        return runtime.block_on(exchange(frames));
    }
    println!("{frames} trade frames of {} bytes, {} symbols, fsync on", frame(0).len(), SYMBOLS.len());
    println!("{:>4} {:>12} {:>14} {:>16} {:>10}", "run", "frames/s", "us CPU/frame", "frames/CPU-s", "RSS MiB");
    let mut rates = Vec::new();
    for run in 1..=value("--runs", 3) {
        let mut child = spawn_exchange(frames)?;
        let address = {
            let mut line = String::new();
            BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line)?;
            line.trim().to_owned()
        };
        let (cpu, began) = (cpu_seconds()?, Instant::now());
        runtime.block_on(record(address, frames))?;
        let (cpu, wall) = (cpu_seconds()? - cpu, began.elapsed().as_secs_f64());
        child.wait()?;
        let (rate, per_core) = (frames as f64 / wall, frames as f64 / cpu);
        println!("{run:>4} {rate:>12.0} {:>14.2} {per_core:>16.0} {:>10}", cpu * 1e6 / frames as f64, rss_mib()?);
        rates.push((rate, per_core));
    }
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let median = rates[rates.len() / 2];
    println!("median: {:.0} frames/s, {:.0} frames per CPU-second", median.0, median.1);
    Ok(())
}

fn spawn_exchange(frames: u64) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exchange", "--frames", &frames.to_string()]).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

/// A trade frame as Binance sends it; `n` determines its id.
fn frame(n: u64) -> String {
    let symbol = SYMBOLS[n as usize % SYMBOLS.len()];
    let (id, ms) = (1_000_000_000 + n / SYMBOLS.len() as u64, 1_723_161_254_000 + n / 100);
    format!(
        r#"{{"stream":"{}@trade","data":{{"e":"trade","E":{ms},"s":"{symbol}","t":{id},"p":"{}.{:02}000000","q":"0.{:05}000","T":{ms},"m":{},"M":true}}}}"#,
        symbol.to_lowercase(),
        2_600 + n % 97,
        n % 100,
        n % 99_991 + 1,
        n.is_multiple_of(3),
    )
}

/// Sends all frames to one connection, then waits until it closes.
async fn exchange(frames: u64) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("ws://{}", listener.local_addr()?);
    let (stream, _) = listener.accept().await?;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let request: serde_json::Value = serde_json::from_str(&text)?;
        socket.send(Message::text(format!(r#"{{"result":null,"id":{}}}"#, request["id"]))).await?;
        break;
    }
    for n in 0..frames {
        socket.feed(Message::text(frame(n))).await?;
    }
    socket.flush().await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

fn streams() -> Vec<Stream> {
    SYMBOLS.iter().map(|symbol| format!("binance:{symbol}:trade").parse().expect("a stream")).collect()
}

async fn record(url_base: String, frames: u64) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let clock = Clock::system();
    let (health, heartbeats, stop) = (Health::default(), Heartbeats::default(), CancellationToken::new());
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(&directory.path().join("log.db"), Options::default())?);
    let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db"))?);
    let pending_updates = Arc::new(PendingUpdates::default());
    let progress = Arc::new(Progress::default());
    let dialect: Arc<dyn Dialect> = Arc::new(Binance);
    let (_streams, streams) = watch::channel(streams());
    let (events, received) = mpsc::channel(64);
    let (_commands, commands) = mpsc::channel(1);
    let socket = Socket {
        dialect: dialect.clone(),
        options: SocketOptions { url_base: Some(url_base), ..SocketOptions::default() },
        clock: clock.clone(),
        next_connection: Arc::new(AtomicI64::new(1)),
        connections: Connections::default(),
        events,
        commands,
        streams: streams.clone(),
        stop: stop.clone(),
    };
    let socket = tokio::spawn(socket.run());
    let (connection_events, _received) = mpsc::channel(16);
    let deps = ingest::Deps {
        log: log.clone(),
        dialect: dialect.clone(),
        health: health.clone(),
        clock: clock.clone(),
        counters: Arc::new(Counters::default()),
        streams: streams.clone(),
        connection_events,
    };
    let ingest = tokio::spawn(ingest::run(deps, received, heartbeats.watch("ingest"), CancellationToken::new()));
    let deps = consume::Deps {
        log,
        writer: Writer::new(history.clone(), pending_updates.clone(), health.clone()),
        ledger: SharedLedger::default(),
        progress: progress.clone(),
        health: health.clone(),
        clock,
        rest: HashMap::new(),
        doubts: consume::Doubts::default(),
        streams,
        assigned: watch::channel(Vec::new()).0,
    };
    let (_probes, received_probes) = mpsc::channel(1);
    let drain = CancellationToken::new();
    let (buffer, options) = (ReorderBuffer::new([dialect]), consume::Options::default());
    let heartbeat = heartbeats.watch("consume");
    let consume_stop = CancellationToken::new();
    let consume = consume::run(deps, buffer, received_probes, options, heartbeat, drain.clone(), consume_stop);
    let consume = tokio::spawn(consume);
    let cache_stop = CancellationToken::new();
    let (cache, heartbeat) = (Arc::new(EmbeddedCache::new()), heartbeats.watch("cache"));
    let cache_writer =
        tokio::spawn(cache::run_write_behind(cache, pending_updates, health, heartbeat, cache_stop.clone()));
    while progress.rows.load(Ordering::Relaxed) < frames {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    socket.await?;
    ingest.await??;
    drain.cancel();
    consume.await??;
    cache_stop.cancel();
    cache_writer.await?;
    Ok(())
}

/// The CPU time of this process, user and system, in seconds.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 and 15 of the whole line, in ticks of 1/100 s (USER_HZ, the same on every Linux).
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

fn rss_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()? / 1024)
}
