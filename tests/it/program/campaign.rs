//! Generated markets: with every fault nothing is missing in the end; without a loss no gap is found.

use std::time::Duration;

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tapekeeper::simulator::{Fault, Simulator, parse_schedule};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::app::{TestApp, WAIT_MAX, feed, metric, seed, soak, wait_for};
use super::simulated_exchange::{generated_options, start, start_market};
use super::truth::{HistoryFile, assert_complete, assert_klines_complete};

/// Every fault except those that have a test of their own (a lost tail, a ban).
const FAULTS: [&str; 12] = [
    "cut",
    "close",
    "drop:BTCUSDT:40",
    "silent:ETHUSDT:3s",
    "duplicate:20",
    "reorder:10",
    "outage:1500ms",
    "rest:503:2s",
    "ratelimit:2s",
    "lag:1s",
    "shutdown:500ms",
    "stall:2s",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_market_with_every_fault_is_complete_in_the_end() {
    every_fault(seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_markets_with_every_fault_are_complete_in_the_end() {
    if !soak() {
        return;
    }
    let first = seed();
    for seed in first..first + 20 {
        eprintln!("campaign of seed {seed}");
        every_fault(seed).await;
    }
}

async fn every_fault(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = FAULTS.to_vec();
    faults.shuffle(&mut random);
    let mut schedule: Vec<String> = (faults.iter().zip(1..))
        .map(|(fault, turn)| format!("{fault}@{}ms", turn * 1_200 + random.random_range(0..1_000)))
        .collect();
    // Not during another fault: a stalled connection would lose these frames, and the test counts them.
    schedule.push("garbage:BTCUSDT:2@21s".to_owned());
    let schedule = schedule.join(",");
    eprintln!("schedule {schedule}");
    let simulator = start_market(seed, &["BTCUSDT", "ETHUSDT", "TUSDUSDT:quiet"], 300.0, &schedule).await;
    let symbols = ["BTCUSDT", "ETHUSDT", "TUSDUSDT"];
    let mut app = TestApp::new(&feed(&simulator, &symbols, &["trade", "kline_1m", "book_ticker"]));
    let opened = opening(&simulator);
    app.start().await;
    // A kline that closes after the faults reveals the lost ones before it. A quiet symbol has no trade for so long.
    wait_for_rows_after_the_faults(&app, &simulator, &schedule, opened, "klines", "close_time").await;
    assert!(app.is_alive());
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    assert_klines_complete(&app, &simulator, WAIT_MAX).await;
    let counters = simulator.control.counters();
    let history = HistoryFile::open(&app);
    let letters = history.dead_letters();
    assert_eq!(letters.len() as u64, counters.frames_garbage, "every garbage frame is a dead letter: {counters:?}");
    for (payload, reason) in &letters {
        let text = String::from_utf8_lossy(payload);
        assert!(text.starts_with("{\"stream\":\"btcusdt@trade\""), "a dead letter has the bytes as received: {text}");
        assert!(!reason.is_empty());
    }
    assert!(history.number("SELECT count(*) FROM gaps WHERE channel = 'trade' AND state = 'filled'") > 0);
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_symbol_raises_no_gap() {
    for channels in [&["trade", "kline_1m"][..], &["trade"][..]] {
        // In a market ten times as fast a quiet symbol trades about every fifteen seconds.
        let simulator = start(generated_options(seed(), &["TUSDUSDT:quiet"], 10.0, "")).await;
        let mut app = TestApp::new(&feed(&simulator, &["TUSDUSDT"], channels));
        app.start().await;
        let trades = || simulator.control.summary()[0].count;
        wait_for("the quiet symbol trades", WAIT_MAX * 2, async || (trades() >= 2).then_some(())).await;
        // From here on only the silence of the stream causes a request.
        let requests = async || metric(&app, "tapekeeper_rest_requests_total").await;
        let before = requests().await;
        wait_for("REST is asked for the newest trade", WAIT_MAX, async || (requests().await > before).then_some(()))
            .await;
        simulator.stop_publishing().await;
        assert_complete(&app, &simulator, WAIT_MAX).await;
        app.stop_cleanly().await;
        let history = HistoryFile::open(&app);
        assert_eq!(history.gaps(), Vec::<String>::new(), "a quiet market loses nothing");
        assert_eq!(history.number("SELECT count(*) FROM trades WHERE is_backfilled = 1"), 0);
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_and_reorderings_raise_no_gap() {
    let faults = "duplicate:50@500ms,reorder:8@1s,reorder:BTCUSDT:12@2s,duplicate:30@2500ms,reorder:6@3s";
    let simulator = start_market(seed(), &["BTCUSDT", "ETHUSDT"], 400.0, faults).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade", "kline_1m"]));
    app.start().await;
    let done = || {
        let counters = simulator.control.counters();
        counters.frames_reordered >= 26 && counters.frames_duplicated >= 80
    };
    wait_for("every fault has happened", WAIT_MAX, async || done().then_some(())).await;
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX).await;
    app.stop_cleanly().await;
    assert_eq!(HistoryFile::open(&app).gaps(), Vec::<String>::new(), "nothing was lost");
    simulator.stop().await;
}

/// Faults that a random schedule draws from; each lasts a second at most.
const RANDOM_FAULTS: [&str; 14] = [
    "cut",
    "close",
    "drop:BTCUSDT:30",
    "drop:5",
    "silent:ETHUSDT:1s",
    "duplicate:20",
    "reorder:10",
    "garbage:ETHUSDT:2",
    "outage:700ms",
    "rest:503:1s",
    "ratelimit:1s",
    "lag:500ms",
    "shutdown:800ms",
    "stall:1s",
];
/// Recorders at a time: more are only slower on two processors.
const CONCURRENT_MAX: usize = 6;

/// A hundred schedules, or a thousand with TAPEKEEPER_SOAK=1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_fault_schedules_leave_nothing_missing_and_no_gap_open() {
    let schedules = if std::env::var_os("TAPEKEEPER_SOAK").is_some() { 1_000 } else { 100 };
    let first = seed();
    let runs = (first..first + schedules).map(random_schedule);
    let outcomes: Vec<i64> = futures_util::stream::iter(runs).buffer_unordered(CONCURRENT_MAX).collect().await;
    let gaps: i64 = outcomes.iter().sum();
    eprintln!("{schedules} schedules: {gaps} gaps found and filled, 0 missing, 0 open");
    assert!(gaps > 0, "the faults lost nothing, so the test shows nothing");
}

/// Notes when the market opens: the times of a schedule count from there.
fn opening(simulator: &Simulator) -> JoinHandle<Instant> {
    let opened = simulator.control.opened();
    tokio::spawn(async move {
        opened.cancelled().await;
        Instant::now()
    })
}

/// How long after the opening the last fault of a schedule ends.
fn end_of(schedule: &str) -> Duration {
    let lasts = |fault: &Fault| match fault {
        Fault::Outage(time) | Fault::Silent(_, time) | Fault::Rest(_, time) => *time,
        Fault::RateLimit(time) | Fault::Shutdown(time) | Fault::Stall(time) => *time,
        _ => Duration::ZERO,
    };
    let faults = parse_schedule(schedule).unwrap();
    faults.iter().map(|scheduled| scheduled.after + lasts(&scheduled.fault)).max().unwrap_or_default()
}

/// Waits until the faults are over, then until a row of every symbol that the exchange made after them came over the
/// socket; `time` is the column with the exchange's time.
async fn wait_for_rows_after_the_faults(
    app: &TestApp,
    simulator: &Simulator,
    schedule: &str,
    opened: JoinHandle<Instant>,
    table: &str,
    time: &str,
) {
    let opened = tokio::time::timeout(WAIT_MAX, opened).await.expect("the market does not open").unwrap();
    // The faults themselves: they last as long as the schedule says.
    tokio::time::sleep_until(opened + end_of(schedule)).await;
    let end = simulator.control.exchange_time().micros();
    for symbol in simulator.control.symbols() {
        let sql =
            format!("SELECT count(*) FROM {table} WHERE symbol = '{symbol}' AND is_backfilled = 0 AND {time} > {end}");
        let count = || HistoryFile::open(app).number(&sql);
        let what = format!("{table} of {symbol} are recorded after the faults ({schedule})");
        wait_for(&what, WAIT_MAX, async || (count() > 0).then_some(())).await;
    }
}

/// Runs one random schedule; returns how many gaps of trades were filled.
async fn random_schedule(seed: u64) -> i64 {
    let mut random = StdRng::seed_from_u64(seed);
    let faults: Vec<String> = (0..random.random_range(1..6))
        .map(|_| {
            format!(
                "{}@{}ms",
                RANDOM_FAULTS[random.random_range(0..RANDOM_FAULTS.len())],
                random.random_range(1_000..4_000)
            )
        })
        .collect();
    let schedule = faults.join(",");
    eprintln!("seed {seed}: {schedule}");
    let simulator = start_market(seed, &["BTCUSDT", "ETHUSDT"], 120.0, &schedule).await;
    let mut app = TestApp::new(&feed(&simulator, &["BTCUSDT", "ETHUSDT"], &["trade", "kline_1m"]));
    let opened = opening(&simulator);
    app.start().await;
    // The first fault begins when every stream has had a frame, for its first frame is where a recording begins. A
    // trade after the last one reveals the lost ones before it.
    wait_for_rows_after_the_faults(&app, &simulator, &schedule, opened, "trades", "ts").await;
    assert!(app.is_alive(), "seed {seed}: {schedule}");
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, WAIT_MAX * 2).await;
    let history = HistoryFile::open(&app);
    let lost = "SELECT count(*) FROM gaps WHERE channel = 'trade' AND state IN ('never_existed', 'unrecoverable')";
    assert_eq!(history.number(lost), 0, "seed {seed}: {schedule}: {:?}", history.gaps());
    let filled = "SELECT count(*) FROM gaps WHERE channel = 'trade' AND state = 'filled'";
    let came_late = format!("{filled} AND filled_by != 'rest'");
    assert_eq!(history.number(&came_late), 0, "seed {seed}: {schedule}: a false gap: {:?}", history.gaps());
    let gaps = history.number(filled);
    app.stop_cleanly().await;
    simulator.stop().await;
    gaps
}
