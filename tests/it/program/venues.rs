//! Every venue of the catalog, recorded from a simulated exchange that speaks as the venue does and breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tapekeeper::exchange::catalog;
use tapekeeper::exchange::spec::{ChannelKind, ChannelSpec, Numbering, Refill, Spec};
use tapekeeper::market::{Channel, Exchange, Interval};
use tapekeeper::simulator::{BrokenLimits, Generated, Listing, Options, Simulator, Source, Venue, parse_schedule};
use tokio::time::Instant;

use super::app::{TestApp, WAIT_MAX, cpu_seconds, resident_kib, seed, soak, wait_for};
use super::simulated_exchange::start;
use super::truth::{HistoryFile, TradeTruth};
use crate::contracts::venues::spelled;

/// What happens to the first symbol, and to all connections. The clock of the exchange is four times as fast.
const FAULTS: &str = "drop:SYMBOL:20@2s,duplicate:20@3s,reorder:10@4s,cut@5s,rest:503:2s@5s,silent:SYMBOL:2s@8s,lag:2s@10s,\
                      cut@12s,lag:0s@14s,ratelimit:2s@15s,drop:SYMBOL:7@15s";

fn venues() -> Vec<Exchange> {
    catalog::names().filter(|exchange| Venue::named(*exchange).is_some()).collect()
}

/// The documented channels of trades.
fn trade_channels(spec: &Spec) -> Vec<Channel> {
    let is_documented = |channel: &Channel| spec.channel(*channel).is_some_and(|spec| !spec.undocumented);
    Channel::TRADES.into_iter().filter(is_documented).collect()
}

/// A trade, and of an aggregate its first and last trade.
pub(super) type Row = (TradeTruth, Option<(i64, i64)>);

pub(super) fn published(simulator: &Simulator, symbol: &str, channel: Channel) -> Vec<Row> {
    let trades = match channel {
        Channel::AggTrade => simulator.control.published_agg_trades(symbol),
        _ => simulator.control.published(symbol),
    };
    trades.iter().map(|trade| (TradeTruth::from(trade), trade.trade_ids)).collect()
}

pub(super) fn stored(history: &HistoryFile, symbol: &str, channel: Channel) -> BTreeMap<i64, Row> {
    let rows: Vec<Row> = match channel {
        Channel::AggTrade => history.agg_trades(symbol).into_iter().map(|(row, ids)| (row, Some(ids))).collect(),
        _ => history.trades(symbol).into_iter().map(|row| (row, None)).collect(),
    };
    rows.into_iter().map(|row| (row.0.id, row)).collect()
}

/// Its example and another symbol, as the venue spells them.
pub(super) fn two_symbols(spec: &Spec) -> Vec<String> {
    let second = symbol(spec, "ETH");
    assert_ne!(second, spec.example, "the example of {} is also the second symbol of this test", spec.exchange);
    vec![spec.example.to_owned(), second]
}

/// The market of this asset against the dollar, as the venue spells it.
fn symbol(spec: &Spec, asset: &str) -> String {
    let dialect = catalog::dialect(spec.exchange).unwrap();
    spelled(|text| dialect.symbol(text), &format!("{asset}-USD")).to_string()
}

fn channels(spec: &Spec) -> Vec<&'static str> {
    let minute = Channel::Kline(Interval::M1);
    let others = [minute, Channel::BookTicker].into_iter().filter(|channel| spec.channel(*channel).is_some());
    trade_channels(spec).into_iter().chain(others).map(Channel::as_str).collect()
}

/// A simulated venue and what is recorded of it.
pub(super) struct Market {
    pub(super) spec: &'static Spec,
    pub(super) symbols: Vec<String>,
    pub(super) simulator: Simulator,
}

impl Market {
    /// Starts the venue; `rate` is its trades per second.
    pub(super) async fn start(
        spec: &'static Spec,
        symbols: Vec<String>,
        rate: f64,
        time_scale: f64,
        faults: &str,
    ) -> Self {
        let mut options = Options::at(
            Venue::named(spec.exchange).unwrap(),
            Source::Generated(Generated {
                listings: symbols.iter().map(|symbol| symbol.parse::<Listing>().unwrap()).collect(),
                seed: seed(),
                rate,
                time_scale,
                opens_at_first_subscription: true,
                ..Generated::default()
            }),
        );
        options.faults = parse_schedule(faults).unwrap();
        let simulator = start(options).await;
        Self { spec, symbols, simulator }
    }

    pub(super) fn feed(&self) -> String {
        format!(
            "[[feed]]\nexchange = \"{}\"\nsymbols = {:?}\nchannels = {:?}\nws_url = \"{}\"\nrest_url = \"{}\"\n\n",
            self.spec.exchange,
            self.symbols,
            channels(self.spec),
            self.simulator.ws_url(),
            self.simulator.rest_url()
        )
    }

    /// Whether some ids never existed.
    fn has_holes(&self) -> bool {
        self.spec.channel(Channel::Trade).is_some_and(|channel| channel.numbering == Numbering::WithHoles)
    }

    pub(super) fn trades(&self) -> u64 {
        self.simulator.control.summary().iter().map(|truth| truth.count).sum()
    }

    /// Waits until no gap is open and history has all that the venue can return, then compares every trade.
    async fn assert_complete(&self, app: &TestApp) {
        let until = Instant::now() + WAIT_MAX * 2;
        loop {
            let history = HistoryFile::open(app).of(self.spec.exchange);
            let lacking: Vec<String> = self
                .symbols
                .iter()
                .filter_map(|symbol| lacking(&history, &self.simulator, self.spec, symbol))
                .collect();
            if lacking.is_empty() && history.open_gaps() == 0 {
                return;
            }
            if Instant::now() > until {
                panic!("{}: {lacking:?}; gaps:\n{}\n{}", self.spec.title, history.gaps().join("\n"), app.log());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until every stored kline has the published values: one whose last frames were lost is corrected over REST.
    async fn assert_klines(&self, app: &TestApp) {
        let until = Instant::now() + WAIT_MAX * 2;
        while let Err(difference) = self.compare_klines(app) {
            assert!(Instant::now() < until, "{}: {difference}\n{}", self.spec.title, app.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn compare_klines(&self, app: &TestApp) -> Result<(), String> {
        let is_kline = |channel: &ChannelSpec| matches!(channel.kind, ChannelKind::Kline { .. });
        if !self.spec.channels.iter().any(is_kline) {
            return Ok(());
        }
        for symbol in &self.symbols {
            let published: BTreeMap<i64, String> = self
                .simulator
                .control
                .published_klines(symbol, Interval::M1)
                .iter()
                .map(|kline| {
                    let numbers = [kline.open, kline.high, kline.low, kline.close, kline.volume];
                    let text: Vec<String> = numbers.iter().map(|number| number.normalize().to_string()).collect();
                    (kline.open_time.micros(), text.join(" "))
                })
                .collect();
            let stored = HistoryFile::open(app).of(self.spec.exchange).klines(symbol);
            if stored.len() < 2 {
                return Err(format!("{symbol}: {} klines are stored, {} published", stored.len(), published.len()));
            }
            for (open_time, text) in stored {
                let values: Vec<&str> = text.split(' ').skip(1).take(5).collect();
                let (stored, published) = (values.join(" "), published.get(&open_time));
                if published != Some(&stored) {
                    return Err(format!("{symbol} {open_time} is stored as {stored}, published as {published:?}"));
                }
            }
        }
        Ok(())
    }

    /// Everything that the venue can return is stored, nothing else, and the venue's limits are kept.
    async fn assert_recorded(&self, app: &TestApp) {
        self.assert_complete(app).await;
        self.assert_klines(app).await;
        let letters = HistoryFile::open(app).dead_letters();
        assert!(letters.is_empty(), "{}: {letters:?}", self.spec.title);
        let broken = self.simulator.control.counters().broken;
        assert_eq!(broken, BrokenLimits::default(), "{}: no limit is broken", self.spec.title);
    }
}

/// What is missing or different; `None` when nothing is. A venue that serves only its newest trades may lose others, and
/// each of those must be in a gap that says so.
fn lacking(history: &HistoryFile, simulator: &Simulator, spec: &Spec, symbol: &str) -> Option<String> {
    for channel in trade_channels(spec) {
        let recent = matches!(spec.channel(channel).map(|channel| channel.refill), Some(Refill::Recent(_)));
        let stored = stored(history, symbol, channel);
        let Some(first) = stored.keys().next().copied() else {
            return Some(format!("{symbol} has no {channel}"));
        };
        for published in published(simulator, symbol, channel) {
            let id = published.0.id;
            // What happened before the first frame is not recorded.
            if id < first {
                continue;
            }
            match stored.get(&id) {
                Some(row) if *row == published => {}
                Some(row) => panic!("{symbol} {channel}: stored {row:?}, published {published:?}"),
                None if recent && is_lost(history, spec.exchange, symbol, id) => {}
                None => return Some(format!("{symbol} lacks {channel} {id}")),
            }
        }
    }
    None
}

fn is_lost(history: &HistoryFile, exchange: Exchange, symbol: &str, id: i64) -> bool {
    let sql = format!(
        "SELECT count(*) FROM gaps WHERE exchange = '{exchange}' AND symbol = '{symbol}' AND state = 'unrecoverable' \
         AND first_missing <= {id} AND last_missing >= {id} AND reason LIKE '%newest%'"
    );
    history.number(&sql) > 0
}

/// Ids that never existed are in gaps that say so, and no other ids are.
fn assert_holes(history: &HistoryFile, market: &Market) {
    let Market { spec, symbols, simulator } = market;
    let mut count = 0;
    for symbol in symbols {
        let rows = stored(history, symbol, Channel::Trade);
        let ends = rows.first_key_value().zip(rows.last_key_value());
        let (first, last) = ends.map(|((first, _), (last, _))| (*first, *last)).expect("there are trades");
        let existing: BTreeSet<i64> =
            published(simulator, symbol, Channel::Trade).into_iter().map(|(trade, _)| trade.id).collect();
        let holes: Vec<i64> = (first..=last).filter(|id| !existing.contains(id)).collect();
        let sql = format!(
            "WITH RECURSIVE ids(id, last) AS (SELECT first_missing, last_missing FROM gaps WHERE symbol = '{symbol}' AND \
             state = 'never_existed' UNION ALL SELECT id + 1, last FROM ids WHERE id < last) \
             SELECT CAST(id AS TEXT) FROM ids WHERE id > {first} ORDER BY id"
        );
        let settled: Vec<i64> = history.strings(&sql).iter().map(|id| id.parse().unwrap()).collect();
        assert_eq!(settled, holes, "{symbol}: {:?}", history.gaps());
        count += holes.len();
    }
    assert!(count > 0, "{}: no id was skipped", spec.title);
}

async fn record_through_faults(exchange: Exchange) {
    let spec = catalog::dialect(exchange).unwrap().spec();
    let symbols = two_symbols(spec);
    let faults = FAULTS.replace("SYMBOL", &symbols[0]);
    let market = Market::start(spec, symbols, 40.0, 4.0, &faults).await;
    // An id that never existed is asked for as long as that; the faults hide nothing for longer.
    let backfill = if market.has_holes() { "[backfill]\nconfirm_after = \"5s\"\n" } else { "" };
    let mut app = TestApp::new(&format!("{}{backfill}", market.feed()));
    app.start().await;
    wait_for("the faults are over", WAIT_MAX * 2, async || (market.trades() > 3_000).then_some(())).await;
    // The recorder is killed as well.
    app.kill().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    app.start().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    market.simulator.stop_publishing().await;
    market.assert_recorded(&app).await;
    if market.has_holes() {
        assert_holes(&HistoryFile::open(&app), &market);
    }
    app.stop_cleanly().await;
    market.simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_venue_is_recorded_through_faults_as_far_as_it_gives_back() {
    // Together, because most of the time is spent waiting.
    futures_util::future::join_all(venues().into_iter().map(record_through_faults)).await;
}

/// The assets of the soak.
const ASSETS: [&str; 20] = [
    "BTC", "ETH", "SOL", "XRP", "ADA", "DOGE", "LTC", "LINK", "AVAX", "DOT", "UNI", "BCH", "ATOM", "NEAR", "FIL",
    "APT", "ARB", "OP", "SUI", "ALGO",
];
/// What happens at random to a venue in the soak.
const RANDOM_FAULTS: [&str; 12] = [
    "cut",
    "close",
    "drop:SYMBOL:40",
    "drop:5",
    "silent:SYMBOL:8s",
    "duplicate:50",
    "reorder:20",
    "outage:3s",
    "rest:503:5s",
    "ratelimit:3s",
    "lag:2s",
    "stall:5s",
];
const SOAK: Duration = Duration::from_secs(600);

/// Twenty symbols of every venue in one process, 500 trades a second from each, with a random fault somewhere every three
/// seconds. Prints what the recorder needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_symbols_of_every_venue_are_recorded_for_ten_minutes() {
    if !soak() {
        return;
    }
    let mut markets = Vec::new();
    for exchange in venues() {
        let spec = catalog::dialect(exchange).unwrap().spec();
        let symbols = ASSETS.iter().map(|asset| symbol(spec, asset)).collect();
        markets.push(Market::start(spec, symbols, 500.0, 1.0, "").await);
    }
    let feeds: String = markets.iter().map(Market::feed).collect();
    // No fault hides a row for longer.
    let mut app = TestApp::new(&format!("{feeds}[backfill]\nconfirm_after = \"30s\"\n"));
    app.start().await;
    let started = Instant::now();
    let mut random = StdRng::seed_from_u64(seed());
    while started.elapsed() < SOAK {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let market = &markets[random.random_range(0..markets.len())];
        let symbol = &market.symbols[random.random_range(0..market.symbols.len())];
        let fault = RANDOM_FAULTS[random.random_range(0..RANDOM_FAULTS.len())].replace("SYMBOL", symbol);
        market.simulator.control.inject(&fault.parse().unwrap());
    }
    for market in &markets {
        market.simulator.control.inject(&"lag:0s".parse().unwrap());
        market.simulator.stop_publishing().await;
    }
    let (seconds, trades) = (started.elapsed().as_secs_f64(), markets.iter().map(Market::trades).sum::<u64>());
    eprintln!(
        "{trades} trades, their klines and quotes, in {seconds:.0} s: {:.1} s of CPU, {} KiB resident at most",
        cpu_seconds(app.pid()),
        resident_kib(app.pid(), "VmHWM")
    );
    for market in &markets {
        market.assert_recorded(&app).await;
    }
    app.stop_cleanly().await;
    for market in markets {
        market.simulator.stop().await;
    }
}
