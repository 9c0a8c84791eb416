//! Random schedules in which REST lies, hides, lags and renumbers, and clocks jump.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tapekeeper::market::Trade;

use super::super::app::{WAIT_MAX, seed, wait_for};
use super::super::truth::TradeTruth;
use super::Recording;

/// Lies and faults that a schedule draws from; each lasts three seconds at most.
const LIES: [&str; 28] = [
    "cut",
    "drop:BTCUSDT:20",
    "drop:ETHUSDT:5",
    "lag:1s",
    "rest:503:1s",
    "hole:BTCUSDT:10:3s",
    "hole:ETHUSDT:3:2s",
    "young:BTCUSDT:+0:3s",
    "empty:2s",
    "unknown:BTCUSDT:2s",
    "newest:BTCUSDT:1000000000000000:2s",
    "page:conflicts:2s",
    "page:descending:2s",
    "page:foreign:2s",
    "page:holes:2s",
    "page:short:2s",
    "answer:error:2s",
    "answer:html:2s",
    "answer:truncated:2s",
    "refuse:429:2s:2s",
    "poison:BTCUSDT:trade.E=*1000:1",
    "poison:BTCUSDT:trade.t=1000000000000:1",
    "poison:ETHUSDT:trade.t=max:1",
    "poisoncopy:ETHUSDT:kline.L=max&f=0&x=true:1",
    "clock:+1h:2s",
    "clock:-1h:2s",
    "renumber:BTCUSDT:500",
    "wipe:ETHUSDT",
];
/// Recorders at a time: more are only slower on two processors.
const CONCURRENT_MAX: usize = 4;

// Needs: all of the behaviour that the other tests of this folder need.
/// Ten schedules, or a thousand with TAPEKEEPER_SOAK=1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_lies_leave_nothing_missing_and_nothing_false() {
    let schedules = if std::env::var_os("TAPEKEEPER_SOAK").is_some() { 1_000 } else { 10 };
    let first = seed();
    let runs = (first..first + schedules).map(random_schedule);
    futures_util::stream::iter(runs).buffer_unordered(CONCURRENT_MAX).collect::<Vec<()>>().await;
}

async fn random_schedule(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let lies: Vec<&str> = (0..random.random_range(2..7)).map(|_| LIES[random.random_range(0..LIES.len())]).collect();
    let schedule = lies.join(",");
    eprintln!("seed {seed}: {schedule}");
    let symbols = ["BTCUSDT", "ETHUSDT"];
    let recording = Recording::begin(&symbols, &["trade", "kline_1m"], 80.0).await;
    for lie in lies {
        recording.inject(lie);
        // Rows of different numbers of trades are between two lies, so that they overlap or not.
        recording.wait_for_trades("ETHUSDT", random.random_range(1..60)).await;
    }
    recording.inject("lag:0s");
    for symbol in symbols {
        recording.wait_for_trades(symbol, 100).await;
    }
    recording.simulator.stop_publishing().await;
    for symbol in symbols {
        let served = recording.simulator.control.published(symbol);
        let whole = async || (newest_rows(&recording, symbol, &served) == truths(&served)).then_some(());
        wait_for(&format!("seed {seed}: {symbol} is stored ({schedule})"), WAIT_MAX * 2, whole).await;
        let epochs = recording.simulator.control.published_epochs(symbol);
        let published: BTreeSet<String> =
            epochs.iter().flat_map(|epoch| truths(&epoch.trades)).map(|trade| text(&trade)).collect();
        let false_rows: Vec<TradeTruth> = (recording.history().trades(symbol).into_iter())
            .filter(|trade| !published.contains(&text(trade)))
            .collect();
        assert_eq!(false_rows, [], "seed {seed}: {symbol} has rows that the exchange never published ({schedule})");
    }
    // The market has stopped: a minute that a wrong clock called over never ends.
    let open = "SELECT count(*) FROM gaps WHERE closed_at IS NULL AND channel = 'trade'";
    let closed = async || (recording.number(open) == 0).then_some(());
    wait_for(&format!("seed {seed}: no gap is open ({schedule})"), WAIT_MAX * 2, closed).await;
    // Trades of an old numbering may be lost for good; of the present one nothing is.
    let is_wrong = |symbol: &str| {
        format!(
            "SELECT count(*) FROM gaps WHERE symbol = '{symbol}' AND channel = 'trade' AND state IN
             ('never_existed', 'unrecoverable', 'refused') AND epoch = (SELECT max(epoch) FROM trades WHERE symbol = '{symbol}')"
        )
    };
    for symbol in symbols {
        let wrong = recording.number(&is_wrong(symbol));
        assert_eq!(wrong, 0, "seed {seed}: {schedule}: {:?}", recording.history().gaps());
    }
    recording.end().await;
}

/// A trade as text, whatever the scale of its decimals.
fn text(trade: &TradeTruth) -> String {
    let TradeTruth { id, ts, price, quantity, side } = trade;
    format!("{id} {ts} {} {} {side}", price.normalize(), quantity.normalize())
}

fn truths(trades: &[Trade]) -> Vec<TradeTruth> {
    trades.iter().map(Into::into).collect()
}

/// History's row of the newest epoch for every id that the exchange serves, and for ids between them.
fn newest_rows(recording: &Recording, symbol: &str, served: &[Trade]) -> Vec<TradeTruth> {
    let (Some(first), Some(last)) = (served.first(), served.last()) else { return Vec::new() };
    let newest = format!("SELECT max(epoch) FROM trades WHERE symbol = '{symbol}'");
    let rows = recording.history().trades_of_epoch(symbol, recording.number(&newest));
    rows.into_iter().filter(|row| (first.id..=last.id).contains(&row.id)).collect()
}
