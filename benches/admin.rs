//! The cost of readers: 500 requests a second on the API and ten open pages, while 10,000 trades a second are recorded
//! on the embedded stores with fsync on.
//!
//! `cargo bench --bench admin [-- --runs 3 --seconds 20 --rate 10000 --requests 500 --pages 10]`
//!
//! Paired runs, without and with readers: a new exchange, a new recorder and new stores each time. Exchange, recorder
//! and readers share this machine's cores, which is worse than any real dashboard. Rows a second and delay (from a
//! frame's arrival until it is durable; the bound of the histogram's bucket) are the recorder's own metrics, processor
//! time is from /proc. It fails when a gap was found, or when the median of the pairs is more than 5 % slower.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::task::JoinSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tapekeeper");
const SYMBOLS: &str = "BTCUSDT,ETHUSDT,SOLUSDT,BNBUSDT,XRPUSDT,DOGEUSDT,ADAUSDT,PEPEUSDT";
/// The requested paths, in turn: those of a scraper, a dashboard and a person.
const PATHS: [&str; 8] = [
    "/api/v1/status",
    "/api/v1/streams",
    "/healthz",
    "/api/v1/gaps?state=open",
    "/api/v1/jobs",
    "/metrics",
    "/api/v1/jobs/history?limit=20",
    "/api/v1/gaps?limit=100",
];
/// Connections that send requests.
const CLIENTS: u64 = 10;
const START_MAX: Duration = Duration::from_secs(60);
/// How long to wait until the first rows are stored and every part runs.
const WARM_UP: Duration = Duration::from_secs(5);
const SLOWER_MAX: f64 = 0.05;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (runs, requests, pages) = (value("--runs", 3), value("--requests", 500), value("--pages", 10));
    let (rate, span) = (value("--rate", 10_000), Duration::from_secs(value("--seconds", 20)));
    println!("{rate} trades/s, {requests} requests/s and {pages} pages, {} s a run, fsync on", span.as_secs());
    println!(
        "{:>3} {:<9} {:>8} {:>10} {:>9} {:>5} {:>11} {:>9}",
        "run", "readers", "rows/s", "CPU cores", "p99 s", "gaps", "requests/s", "refused"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    let mut ratios = Vec::new();
    let mut gaps = 0.0;
    for run in 1..=runs {
        let mut pair = Vec::new();
        for load in [None, Some(Load { requests, pages })] {
            let result = runtime.block_on(measure(rate, span, load))?;
            let readers = if load.is_some() { "yes" } else { "no" };
            println!(
                "{run:>3} {readers:<9} {:>8.0} {:>10.2} {:>9.3} {:>5} {:>11.0} {:>9}",
                result.rows, result.cores, result.delay, result.gaps, result.requests, result.refused
            );
            gaps += result.gaps;
            pair.push(result.rows);
        }
        ratios.push(pair[1] / pair[0]);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("median of the pairs: {:+.2} % rows/s with readers; {gaps} gaps found", (median - 1.0) * 100.0);
    ensure!(gaps == 0.0, "a gap was found");
    ensure!(median > 1.0 - SLOWER_MAX, "recording is more than {} % slower", SLOWER_MAX * 100.0);
    Ok(())
}

/// The readers of a run.
#[derive(Clone, Copy)]
struct Load {
    requests: u64,
    pages: u64,
}

/// The result of a run.
struct Measurement {
    rows: f64,
    cores: f64,
    delay: f64,
    gaps: f64,
    requests: f64,
    refused: u64,
}

/// A child that ends with its handle.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.kill().is_err() || self.0.wait().is_err() {
            eprintln!("process {} is left behind", self.0.id());
        }
    }
}

fn spawn(arguments: &[&str]) -> anyhow::Result<Process> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("RUST_LOG", "warn").stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Process(command.spawn().with_context(|| format!("start {PROGRAM}"))?))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn measure(rate: u64, span: Duration, load: Option<Load>) -> anyhow::Result<Measurement> {
    let (exchange, admin) = (free_port()?, free_port()?);
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("tapekeeper.toml");
    let symbols: Vec<&str> = SYMBOLS.split(',').collect();
    std::fs::write(
        &config,
        format!(
            "data_dir = {:?}\n[[feed]]\nexchange = \"binance\"\nsymbols = {symbols:?}\nchannels = [\"trade\"]\n\
             ws_url = \"ws://127.0.0.1:{exchange}\"\nrest_url = \"http://127.0.0.1:{exchange}\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\n",
            directory.path().join("data").display().to_string()
        ),
    )?;
    let listen = format!("127.0.0.1:{exchange}");
    let _exchange = spawn(&["simulate", "--listen", &listen, "--symbols", SYMBOLS, "--rate", &rate.to_string()])?;
    let http = client()?;
    wait_until_up(&http, &format!("http://{listen}/api/v3/time")).await?;
    let recorder = spawn(&["run", "--config", &config.display().to_string()])?;
    let base = format!("http://127.0.0.1:{admin}");
    wait_until_up(&http, &format!("{base}/readyz")).await?;
    tokio::time::sleep(WARM_UP).await;
    let mut clients = JoinSet::new();
    let (sent, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    if let Some(load) = load {
        start_load(&mut clients, load, &base, &sent, &refused)?;
        tokio::time::sleep(WARM_UP).await;
    }
    let (before, cpu, requests) =
        (metrics(&http, &base).await?, cpu_seconds(recorder.0.id())?, sent.load(Ordering::Relaxed));
    let began = Instant::now();
    tokio::time::sleep(span).await;
    let (after, took) = (metrics(&http, &base).await?, began.elapsed().as_secs_f64());
    let requests = sent.load(Ordering::Relaxed) - requests;
    let cores = (cpu_seconds(recorder.0.id())? - cpu) / took;
    clients.shutdown().await;
    Ok(Measurement {
        rows: (number(&after, "tapekeeper_rows_total")? - number(&before, "tapekeeper_rows_total")?) / took,
        cores,
        delay: delay(&before, &after)?,
        gaps: number(&after, "tapekeeper_gaps_found_total")?,
        requests: requests as f64 / took,
        refused: refused.load(Ordering::Relaxed),
    })
}

/// Starts the clients that send requests and those that have a page open.
fn start_load(
    clients: &mut JoinSet<()>,
    load: Load,
    base: &str,
    sent: &Arc<AtomicU64>,
    refused: &Arc<AtomicU64>,
) -> anyhow::Result<()> {
    for number in 0..CLIENTS {
        let (http, base, sent, refused) = (client()?, base.to_owned(), sent.clone(), refused.clone());
        let mut turns = tokio::time::interval(Duration::from_secs_f64(CLIENTS as f64 / load.requests.max(1) as f64));
        clients.spawn(async move {
            for path in PATHS.iter().cycle().skip(number as usize) {
                turns.tick().await;
                let answer =
                    async { http.get(format!("{base}{path}")).send().await?.error_for_status()?.bytes().await };
                sent.fetch_add(1, Ordering::Relaxed);
                if answer.await.is_err() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    for _ in 0..load.pages {
        let (http, base, refused) = (client()?, base.to_owned(), refused.clone());
        clients.spawn(async move {
            // As a browser does: the page, then its changes for as long as it is open.
            let page = async {
                http.get(&base).send().await?.error_for_status()?.bytes().await?;
                let mut events = http.get(format!("{base}/events")).send().await?.error_for_status()?;
                while events.chunk().await?.is_some() {}
                anyhow::Ok(())
            };
            if page.await.is_err() {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    Ok(())
}

fn client() -> anyhow::Result<reqwest::Client> {
    let http = reqwest::Client::builder().no_proxy();
    Ok(http.tls_backend_preconfigured((*tapekeeper::exchange::tls_config()).clone()).build()?)
}

/// Waits until an address answers with success.
async fn wait_until_up(http: &reqwest::Client, url: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        if http.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if began.elapsed() > START_MAX {
            bail!("{url} does not answer");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn metrics(http: &reqwest::Client, base: &str) -> anyhow::Result<String> {
    Ok(http.get(format!("{base}/metrics")).send().await?.error_for_status()?.text().await?)
}

/// The value of a sample.
fn number(metrics: &str, sample: &str) -> anyhow::Result<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("there is no {sample}"))
}

/// The bound under which 99 % of the batches between the two were.
fn delay(before: &str, after: &str) -> anyhow::Result<f64> {
    let name = "tapekeeper_batch_delay_seconds";
    let grown = |sample: &str| anyhow::Ok(number(after, sample)? - number(before, sample)?);
    let wanted = grown(&format!("{name}_count"))? * 0.99;
    let bounds =
        after.lines().filter_map(|line| line.strip_prefix(&format!("{name}_bucket{{le=\""))?.split('"').next());
    for bound in bounds {
        if grown(&format!("{name}_bucket{{le=\"{bound}\"}}"))? >= wanted {
            return Ok(bound.parse().unwrap_or(f64::INFINITY));
        }
    }
    Ok(f64::INFINITY)
}

/// CPU time of a process so far, user and system.
fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // Fields 14 and 15 of the whole line, in ticks of 1/100 s (USER_HZ, the same on every Linux).
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
