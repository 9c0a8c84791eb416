//! A recorder that was stopped for half a day, with the frames of that time in its log.

use std::collections::BTreeSet;
use std::time::Duration;

use tapekeeper::log::Log as _;
use tapekeeper::log::embedded::{EmbeddedLog, Options as LogOptions};
use tapekeeper::market::{Frame, Origin, Side, Timestamp, Trade};
use tapekeeper::simulator::{Generated, Listing, Options, Simulator, Source};
use tokio::time::Instant;

use super::app::{TestApp, feed, metric, resident_kib, seed, soak, wait_for};
use super::simulated_exchange::start;
use super::truth::{HistoryFile, assert_complete};

const SYMBOLS: usize = 400;
const SPAN: Duration = Duration::from_secs(12 * 3_600);
/// The frames of this time in the middle are lost.
const CUT: Duration = Duration::from_secs(120);
const LIMIT: Duration = Duration::from_secs(1_800);

/// Twelve hours of trades of 400 symbols, with one cut in the middle: the recorder commits as it consumes, finds the hole of
/// every symbol, and ends with every trade. Prints what it needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_day_of_frames_with_a_cut_is_consumed_and_every_hole_is_found() {
    if !soak() {
        return;
    }
    let names: Vec<String> = (0..SYMBOLS).map(|n| format!("S{n:03}USDT")).collect();
    let simulator = start(Options::new(Source::Generated(Generated {
        listings: names.iter().map(|name| name.parse::<Listing>().unwrap()).collect(),
        seed: seed(),
        rate: 20.0,
        history: SPAN,
        ..Generated::default()
    })))
    .await;
    let symbols: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut app = TestApp::new(&feed(&simulator, &symbols, &["trade"]));
    let (frames, cut) = write_log(&app, &simulator, &names).await;
    app.start().await;
    let pid = app.pid();
    let (started, mut lags, mut resident) = (Instant::now(), BTreeSet::new(), Vec::new());
    wait_for("the backlog is consumed", LIMIT, async || {
        let lag = metric(&app, "tapekeeper_log_lag_frames").await;
        lags.insert(lag);
        resident.push(resident_kib(pid, "VmRSS"));
        (lag < 100).then_some(())
    })
    .await;
    eprintln!(
        "{frames} frames in {:.0} s; resident {} KiB after a tenth of that time, {} KiB at most",
        started.elapsed().as_secs_f64(),
        resident[resident.len() / 10],
        resident_kib(pid, "VmHWM"),
    );
    assert!(lags.len() > 10, "offsets are committed while the backlog is consumed: {lags:?}");
    simulator.stop_publishing().await;
    assert_complete(&app, &simulator, LIMIT).await;
    let history = HistoryFile::open(&app);
    let found: BTreeSet<String> = history
        .strings("SELECT DISTINCT symbol FROM gaps WHERE state = 'filled' AND detected_by = 'neighbour'")
        .into_iter()
        .collect();
    assert_eq!(cut.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "every cut symbol has a gap");
    app.stop_cleanly().await;
    simulator.stop().await;
}

/// Writes what the exchange has published into the log of a recorder that does not run yet, but for the cut. Returns the
/// number of frames, and the symbols that lost trades.
async fn write_log(app: &TestApp, simulator: &Simulator, names: &[String]) -> (usize, BTreeSet<String>) {
    // The market opens when its past is generated.
    simulator.control.opened().cancelled().await;
    let mut trades: Vec<(usize, Trade)> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        trades.extend(simulator.control.published(name).into_iter().map(|trade| (n, trade)));
    }
    trades.sort_by_key(|(_, trade)| (trade.ts, trade.id));
    let end = trades.last().map_or(0, |(_, trade)| trade.ts.micros());
    let cut_from = end - SPAN.as_micros() as i64 / 2;
    let cut_to = cut_from + CUT.as_micros() as i64;
    let mut cut = BTreeSet::new();
    let mut frames = Vec::new();
    for (n, trade) in trades {
        let at = trade.ts.micros();
        if (cut_from..cut_to).contains(&at) {
            cut.insert(names[n].clone());
        } else {
            frames.push(frame(&names[n], &trade, if at < cut_from { 1 } else { 2 }));
        }
    }
    let count = frames.len();
    std::fs::create_dir_all(&app.data_dir).unwrap();
    let log = EmbeddedLog::open(&app.data_dir.join("log.db"), LogOptions::default()).unwrap();
    let mut frames = frames.into_iter().peekable();
    while frames.peek().is_some() {
        log.append(frames.by_ref().take(10_000).collect()).await.unwrap();
    }
    (count, cut)
}

fn frame(symbol: &str, trade: &Trade, connection: i64) -> Frame {
    let payload = format!(
        r#"{{"stream":"{}@trade","data":{{"e":"trade","E":{time},"s":"{symbol}","t":{},"p":"{}","q":"{}","T":{time},"m":{},"M":true}}}}"#,
        symbol.to_lowercase(),
        trade.id,
        trade.price,
        trade.quantity,
        trade.side == Side::Sell,
        time = trade.ts.micros() / 1_000,
    );
    Frame {
        key: format!("binance:{symbol}").into(),
        received_at: Timestamp(trade.ts.micros() + 50_000),
        connection,
        origin: Origin::Socket,
        payload: payload.into(),
    }
}
