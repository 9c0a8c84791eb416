//! Every venue of the catalog, recorded from a simulated exchange that speaks as the venue does and breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tapekeeper::exchange::catalog;
use tapekeeper::exchange::spec::{ChannelKind, Numbering, Refill, Spec};
use tapekeeper::market::{Channel, Exchange, Interval};
use tapekeeper::simulator::{BrokenLimits, Generated, Listing, Options, Simulator, Source, Venue, parse_schedule};
use tokio::time::Instant;

use super::app::{TestApp, WAIT_MAX, seed, wait_for};
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

/// Two symbols as the venue spells them.
pub(super) fn symbols(spec: &Spec) -> [String; 2] {
    let dialect = catalog::dialect(spec.exchange).unwrap();
    let second = spelled(|text| dialect.symbol(text), "ETH-USD").to_string();
    assert_ne!(second, spec.example, "the example of {} is also the second symbol of this test", spec.exchange);
    [spec.example.to_owned(), second]
}

fn channels(spec: &Spec) -> Vec<&'static str> {
    let minute = Channel::Kline(Interval::M1);
    let others = [minute, Channel::BookTicker].into_iter().filter(|channel| spec.channel(*channel).is_some());
    trade_channels(spec).into_iter().chain(others).map(Channel::as_str).collect()
}

pub(super) async fn market(exchange: Exchange, spec: &Spec, rate: f64, faults: &str) -> Simulator {
    let symbols = symbols(spec);
    let mut options = Options::at(
        Venue::named(exchange).unwrap(),
        Source::Generated(Generated {
            listings: symbols.iter().map(|symbol| symbol.parse::<Listing>().unwrap()).collect(),
            seed: seed(),
            rate,
            time_scale: 4.0,
            opens_at_first_subscription: true,
            ..Generated::default()
        }),
    );
    options.faults = parse_schedule(&faults.replace("SYMBOL", &symbols[0])).unwrap();
    start(options).await
}

pub(super) fn feed(exchange: Exchange, spec: &Spec, simulator: &Simulator) -> String {
    format!(
        "[[feed]]\nexchange = \"{exchange}\"\nsymbols = {:?}\nchannels = {:?}\nws_url = \"{}\"\nrest_url = \"{}\"\n\n",
        symbols(spec),
        channels(spec),
        simulator.ws_url(),
        simulator.rest_url()
    )
}

/// Waits until no gap is open and history has all that the venue can return, then compares every trade.
async fn assert_complete(app: &TestApp, spec: &Spec, simulator: &Simulator) {
    let until = Instant::now() + WAIT_MAX * 2;
    loop {
        let history = HistoryFile::open(app);
        let lacking: Vec<String> =
            symbols(spec).iter().filter_map(|symbol| lacking(&history, simulator, spec, symbol)).collect();
        if lacking.is_empty() && history.open_gaps() == 0 {
            return;
        }
        if Instant::now() > until {
            panic!("{}: {lacking:?}; gaps:\n{}\n{}", spec.title, history.gaps().join("\n"), app.log());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
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
                None if recent && is_lost(history, symbol, id) => {}
                None => return Some(format!("{symbol} lacks {channel} {id}")),
            }
        }
    }
    None
}

fn is_lost(history: &HistoryFile, symbol: &str, id: i64) -> bool {
    let sql = format!(
        "SELECT count(*) FROM gaps WHERE symbol = '{symbol}' AND state = 'unrecoverable' AND first_missing <= {id} \
         AND last_missing >= {id} AND reason LIKE '%newest%'"
    );
    history.number(&sql) > 0
}

/// Waits until every stored kline has the published values: one whose last frames were lost is corrected over REST.
async fn assert_klines(app: &TestApp, spec: &Spec, simulator: &Simulator) {
    let until = Instant::now() + WAIT_MAX * 2;
    while let Err(difference) = compare_klines(app, spec, simulator) {
        assert!(Instant::now() < until, "{}: {difference}\n{}", spec.title, app.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn compare_klines(app: &TestApp, spec: &Spec, simulator: &Simulator) -> Result<(), String> {
    let sends = spec.channels.iter().any(|channel| matches!(channel.kind, ChannelKind::Kline { .. }));
    if !sends {
        return Ok(());
    }
    for symbol in symbols(spec) {
        let published: BTreeMap<i64, String> = simulator
            .control
            .published_klines(&symbol, Interval::M1)
            .iter()
            .map(|kline| {
                let numbers = [kline.open, kline.high, kline.low, kline.close, kline.volume];
                let text: Vec<String> = numbers.iter().map(|number| number.normalize().to_string()).collect();
                (kline.open_time.micros(), text.join(" "))
            })
            .collect();
        let stored = HistoryFile::open(app).klines(&symbol);
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

/// Ids that never existed are in gaps that say so, and no other ids are.
fn assert_holes(history: &HistoryFile, spec: &Spec, simulator: &Simulator) {
    let mut count = 0;
    for symbol in symbols(spec) {
        let rows = stored(history, &symbol, Channel::Trade);
        let ends = rows.first_key_value().zip(rows.last_key_value());
        let (first, last) = ends.map(|((first, _), (last, _))| (*first, *last)).expect("there are trades");
        let existing: BTreeSet<i64> =
            published(simulator, &symbol, Channel::Trade).into_iter().map(|(trade, _)| trade.id).collect();
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
    let simulator = market(exchange, spec, 40.0, FAULTS).await;
    let has_holes = spec.channel(Channel::Trade).is_some_and(|channel| channel.numbering == Numbering::WithHoles);
    // An id that never existed is asked for as long as that; the faults hide nothing for longer.
    let backfill = if has_holes { "[backfill]\nconfirm_after = \"5s\"\n" } else { "" };
    let mut app = TestApp::new(&format!("{}{backfill}", feed(exchange, spec, &simulator)));
    app.start().await;
    wait_for("the faults are over", WAIT_MAX * 2, async || {
        (simulator.control.summary().iter().map(|truth| truth.count).sum::<u64>() > 3_000).then_some(())
    })
    .await;
    // The recorder is killed as well.
    app.kill().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    app.start().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    simulator.stop_publishing().await;
    assert_complete(&app, spec, &simulator).await;
    assert_klines(&app, spec, &simulator).await;
    if has_holes {
        assert_holes(&HistoryFile::open(&app), spec, &simulator);
    }
    let letters = HistoryFile::open(&app).dead_letters();
    assert!(letters.is_empty(), "{}: {letters:?}", spec.title);
    assert_eq!(simulator.control.counters().broken, BrokenLimits::default(), "{}: no limit is broken", spec.title);
    app.stop_cleanly().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_venue_is_recorded_through_faults_as_far_as_it_gives_back() {
    // Together, because most of the time is spent waiting.
    futures_util::future::join_all(venues().into_iter().map(record_through_faults)).await;
}
