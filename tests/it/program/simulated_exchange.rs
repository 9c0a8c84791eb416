//! Simulated exchanges to record from.

use std::path::PathBuf;

use tapekeeper::simulator::{self, Generated, Listing, Options, Simulator, Source, parse_schedule};
use tokio_util::sync::CancellationToken;

/// Starts a market that opens at its first subscription, with a clock ten times as fast as the wall clock: a minute's
/// kline closes every six seconds. A symbol may be `TUSDUSDT:quiet`.
pub async fn start_market(seed: u64, symbols: &[&str], rate: f64, faults: &str) -> Simulator {
    start(generated_options(seed, symbols, rate, faults)).await
}

/// The options of such a market.
pub fn generated_options(seed: u64, symbols: &[&str], rate: f64, faults: &str) -> Options {
    let mut options = Options::new(Source::Generated(Generated {
        listings: symbols.iter().map(|symbol| symbol.parse::<Listing>().unwrap()).collect(),
        seed,
        rate,
        time_scale: 10.0,
        opens_at_first_subscription: true,
        ..Generated::default()
    }));
    options.faults = parse_schedule(faults).unwrap();
    options
}

/// Plays a recorded session, `speed` times as fast as it was.
pub async fn playback(path: PathBuf, speed: f64, faults: &str) -> Simulator {
    let mut options = Options::new(Source::Capture { paths: vec![path], speed });
    options.faults = parse_schedule(faults).unwrap();
    start(options).await
}

/// Starts an exchange with these options.
pub async fn start(options: Options) -> Simulator {
    simulator::start(options, CancellationToken::new()).await.unwrap()
}

/// The path of a capture; prints a note when there is none.
pub fn capture_path(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("TAPEKEEPER_CAPTURES").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let path = named.into_iter().chain([beside]).map(|directory| directory.join(name)).find(|path| path.exists());
    if path.is_none() {
        eprintln!("SKIPPED: there is no capture {name} in $TAPEKEEPER_CAPTURES or ../shared/captures");
    }
    path
}
