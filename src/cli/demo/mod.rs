//! `demo`: records a simulated exchange, injects faults on a schedule, and compares the published trades with history.
//!
//! The recorder is the real service as a child process, so that the demo can kill it.

mod market;
mod recorder;
mod reporter;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit::{Failure, NO};
use crate::simulator::fault::duration;
use crate::simulator::{Fault, Venue};

use super::output::Format;
pub use market::{spelled, venue};

use market::Market;
use recorder::Recorder;
use reporter::Reporter;

/// Speed of the exchange's clock: several minutes close within the demo.
const TIME_SCALE: f64 = 10.0;
/// Longest time for the repair of all gaps after the market has halted.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Shortest run that has time for every fault and its repair.
const FOR_MIN: Duration = Duration::from_secs(20);

/// Arguments of `demo`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Exchanges to simulate and record, all at once
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "binance", value_parser = market::venue)]
    exchanges: Vec<Venue>,
    /// How long the market trades, at least 20 s; Ctrl-C ends it earlier, also with a verdict
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    run_for: Duration,
    /// The same seed makes the same market
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Trades per second of each exchange
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Keep the directory with the recorder's files
    #[arg(long)]
    keep: bool,
}

/// Runs the demo; returns 0 only if no trade is missing and none is duplicated.
pub async fn run(args: Args, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    let run_for = args.run_for.max(FOR_MIN);
    let directory = make_directory()?;
    let reporter = Reporter::new(format);
    let mut markets = Vec::new();
    for venue in &args.exchanges {
        let market = Market::open(venue.clone(), args.seed, f64::from(args.rate.max(1))).await?;
        let (exchange, symbols) = (market.exchange(), market.symbols());
        let rate = format!("{symbols} symbols, {} trades a second, seed {}", args.rate, args.seed);
        reporter.report("market", &format!("{exchange}: {rate}"));
        markets.push(market);
    }
    let mut recorder = Recorder::start(&directory, &markets).await?;
    reporter.report("recorder", &format!("process {}, status page {}/", recorder.process(), recorder.client().base()));
    let outcome = trade(run_for, &markets, &mut recorder, &reporter, &stop).await;
    if let Err(error) = outcome {
        recorder.kill().await;
        reporter.report("recorder", &format!("its log is in {}", directory.display()));
        return Err(error.into());
    }
    for market in &markets {
        market.simulator.stop_publishing().await;
    }
    reporter.report("market", "halted; waiting until all gaps are closed");
    recorder.wait_recovered(&markets, &reporter, RECOVERY_MAX).await?;
    let gaps = recorder.gaps().await?;
    reporter.report_gaps(&gaps);
    recorder.stop().await?;
    reporter.report("recorder", "stopped in order");
    let verdict = verdict::compare(&markets, &recorder.config_path(), &gaps).await?;
    for market in markets {
        market.simulator.stop().await;
    }
    verdict.print(format);
    let kept = args.keep || !verdict.is_good();
    if kept {
        reporter.report("recorder", &format!("its files are in {}", directory.display()));
    } else {
        std::fs::remove_dir_all(&directory).context("remove the demo's directory")?;
    }
    Ok(if verdict.is_good() { 0 } else { NO })
}

/// What the demo breaks, with the text to print.
enum Disruption {
    Fault(Fault, &'static str),
    Kill,
}

fn schedule() -> [(f64, Disruption); 7] {
    [
        (0.10, Disruption::Fault(Fault::Cut, "the network is cut")),
        (0.22, Disruption::Fault(Fault::Drop(None, 40), "40 trades of the busiest symbol are lost on the wire")),
        (
            0.32,
            Disruption::Fault(
                Fault::Silent(None, Duration::from_secs(5)),
                "the busiest symbol is silent for 5 s on a live connection",
            ),
        ),
        (0.46, Disruption::Kill),
        (0.60, Disruption::Fault(Fault::Outage(Duration::from_secs(3)), "the exchange is unreachable for 3 s")),
        (0.72, Disruption::Fault(Fault::Rest(503, Duration::from_secs(3)), "REST answers 503 for 3 s")),
        (0.73, Disruption::Fault(Fault::Cut, "the network is cut at the same time")),
    ]
}

/// Lets the market trade and injects the faults, until the time is over or `stop`.
async fn trade(
    run_for: Duration,
    markets: &[Market],
    recorder: &mut Recorder,
    reporter: &Reporter,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut todo = schedule().into_iter().peekable();
    let mut printed_at = Instant::now();
    while began.elapsed() < run_for && !stop.is_cancelled() {
        if let Some((_, what)) = todo.next_if(|(part, _)| began.elapsed() >= run_for.mul_f64(*part)) {
            match what {
                Disruption::Fault(fault, words) => {
                    reporter.report_fault(words);
                    markets.iter().for_each(|market| market.inject(&fault));
                }
                Disruption::Kill => {
                    reporter.report_fault("the recorder is killed (SIGKILL) and restarted");
                    recorder.kill().await;
                    recorder.start_again().await?;
                    reporter.report("recorder", &format!("process {} continues", recorder.process()));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        recorder.ensure_alive()?;
        if let Ok(gaps) = recorder.gaps().await {
            reporter.report_gaps(&gaps);
        }
        if printed_at.elapsed() >= Duration::from_secs(5) {
            printed_at = Instant::now();
            let published: u64 = markets.iter().map(Market::published).sum();
            reporter.report("market", &format!("{published} trades published"));
        }
    }
    Ok(())
}

fn make_directory() -> anyhow::Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("tapekeeper-demo-{}", std::process::id()));
    if Path::new(&directory).exists() {
        std::fs::remove_dir_all(&directory).context("remove an older demo's directory")?;
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}
