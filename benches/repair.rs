//! How long repairs take after the exchange could not be reached: 50 symbols, the exchange's own request
//! weight limits, one `run` process on the embedded stores.
//!
//! `cargo bench --bench repair [-- --rounds 5 --outage 30 --rate 500]`; takes a minute a round.
//!
//! The clock of a symbol starts when the exchange can be reached again, so the back-off of the sockets is part of the
//! figure, and ends when its last gap of the outage is closed, which means that history has the trades.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use tapekeeper::clock::Clock;
use tapekeeper::market::{Symbol, Timestamp};
use tapekeeper::simulator::fault::Fault;
use tapekeeper::simulator::{self, Generated, Listing, Options, Simulator, Source};
use tokio_util::sync::CancellationToken;

const SYMBOLS: usize = 50;
/// Time between two outages: the request weight of a minute is available again.
const PAUSE: Duration = Duration::from_secs(40);
const DEADLINE: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (rounds, outage, rate) = (value("--rounds", 5), value("--outage", 30), value("--rate", 500));
    println!("{SYMBOLS} symbols, {rate} trades a second, an outage of {outage} s");
    let runtime = tokio::runtime::Runtime::new()?;
    let mut all = runtime.block_on(measure(rounds, Duration::from_secs(outage), rate as f64))?;
    all.sort_by(f64::total_cmp);
    let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize];
    println!(
        "{} outages of a symbol: p50 {:.2} s, p99 {:.2} s, slowest {:.2} s",
        all.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

/// Seconds from the end of each outage until the last gap of each symbol was closed.
async fn measure(rounds: u64, outage: Duration, rate: f64) -> anyhow::Result<Vec<f64>> {
    let (stop, clock) = (CancellationToken::new(), Clock::system());
    let simulator = exchange(rate, stop.clone()).await?;
    let setup = Setup::new(&simulator)?;
    let recorder = setup.start()?;
    tokio::time::sleep(PAUSE).await;
    let mut all = Vec::new();
    println!("{:>5} {:>8} {:>9} {:>8} {:>8}", "round", "gaps", "trades", "p50 s", "last s");
    for round in 1..=rounds {
        let began = clock.now();
        simulator.control.inject(&Fault::Outage(outage));
        tokio::time::sleep(outage).await;
        let ended = clock.now();
        tokio::time::sleep(PAUSE).await;
        let gaps = setup.closed_gaps(began).await?;
        let mut recovered = Vec::new();
        for symbol in simulator.control.symbols() {
            let of = gaps.iter().filter(|gap| gap["symbol"] == symbol.as_str());
            let closed = of.filter_map(|gap| Timestamp::parse(gap["closed_at"].as_str()?)).max();
            // A symbol without a trade during the outage has no gap.
            recovered.extend(closed.map(|closed| (closed.micros() - ended.micros()) as f64 / 1e6));
        }
        recovered.sort_by(f64::total_cmp);
        let trades: i64 = gaps.iter().filter_map(|gap| gap["filled"].as_i64()).sum();
        let (middle, last) = (recovered.get(recovered.len() / 2), recovered.last());
        let (middle, last) = (middle.context("nothing was lost")?, last.context("nothing was lost")?);
        println!("{round:>5} {:>8} {trades:>9} {middle:>8.2} {last:>8.2}", gaps.len());
        all.extend(recovered);
    }
    drop(recorder);
    stop.cancel();
    simulator.stop().await;
    Ok(all)
}

async fn exchange(rate: f64, stop: CancellationToken) -> anyhow::Result<Simulator> {
    let listing = |number| Listing { symbol: Symbol::new(&format!("S{number:02}USDT")), quiet: false };
    let source = Source::Generated(Generated {
        listings: (0..SYMBOLS).map(listing).collect(),
        seed: 1,
        rate,
        time_scale: 1.0,
        history: Duration::ZERO,
        opens_at_first_subscription: false,
    });
    simulator::start(Options::new(source), stop).await
}

/// A recorder's directory.
struct Setup {
    directory: tempfile::TempDir,
    admin: u16,
}

impl Setup {
    fn new(simulator: &Simulator) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let symbols: Vec<&str> = simulator.control.symbols().iter().map(Symbol::as_str).collect();
        let config = format!(
            "data_dir = {:?}\n[[feed]]\nexchange = \"binance\"\nsymbols = {symbols:?}\nchannels = [\"trade\"]\n\
             ws_url = {:?}\nrest_url = {:?}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n",
            directory.path().join("data").display().to_string(),
            simulator.ws_url(),
            simulator.rest_url()
        );
        std::fs::write(directory.path().join("tapekeeper.toml"), config)?;
        Ok(Self { directory, admin })
    }

    fn start(&self) -> anyhow::Result<Recorder> {
        let log = std::fs::File::create(self.directory.path().join("recorder.log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapekeeper"));
        command.arg("run").arg("--config").arg(self.directory.path().join("tapekeeper.toml"));
        Ok(Recorder(command.stdin(Stdio::null()).stderr(log).spawn()?))
    }

    /// The gaps found since an instant, when all of them are closed.
    async fn closed_gaps(&self, since: Timestamp) -> anyhow::Result<Vec<Value>> {
        let began = Instant::now();
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE);
        let client = http.tls_backend_preconfigured((*tapekeeper::exchange::tls_config()).clone()).build()?;
        loop {
            let url = format!("http://127.0.0.1:{}/api/v1/gaps?limit=10000", self.admin);
            let gaps: Vec<Value> = serde_json::from_slice(&client.get(url).send().await?.bytes().await?)?;
            let found =
                |gap: &Value| gap["detected_at"].as_str().and_then(Timestamp::parse).is_some_and(|at| at >= since);
            let gaps: Vec<Value> = gaps.into_iter().filter(found).collect();
            if !gaps.is_empty() && gaps.iter().all(|gap| !gap["closed_at"].is_null()) {
                return Ok(gaps);
            }
            ensure!(began.elapsed() < DEADLINE, "{} gaps are not closed\n{}", gaps.len(), self.log()?);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn log(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        std::fs::File::open(self.directory.path().join("recorder.log"))?.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Ends with the benchmark.
struct Recorder(Child);

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("the recorder was not stopped: {error}");
        }
    }
}
