//! A venue whose REST returns only its newest trades: two sockets carry them always, and the cut of one of them loses
//! nothing.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tapekeeper::exchange::catalog;
use tapekeeper::exchange::spec::Refill;
use tapekeeper::market::{Channel, Exchange};
use tapekeeper::simulator::{BrokenLimits, Simulator};

use super::app::{TestApp, WAIT_MAX, seed, wait_for};
use super::truth::HistoryFile;
use super::venues::{Market, Row, published, stored, two_symbols};

/// Trades a second: while a socket connects again, more of them happen than REST returns.
const RATE: f64 = 600.0;
const CUTS: u64 = 10;

/// The venues that return only their newest trades.
fn venues() -> Vec<Exchange> {
    let is_recent = |exchange: &Exchange| {
        let spec = catalog::dialect(*exchange).unwrap().spec();
        spec.channel(Channel::Trade).is_some_and(|channel| matches!(channel.refill, Refill::Recent(_)))
    };
    let venues: Vec<Exchange> = catalog::names().filter(is_recent).collect();
    assert!(!venues.is_empty());
    venues
}

/// The status, once two sockets are connected after this many reconnects in all.
async fn connected(app: &TestApp, reconnects: u64) -> Value {
    wait_for("both sockets are connected", WAIT_MAX, async || {
        let status = app.get("/api/v1/status").await;
        let sockets = status["connections"].as_array()?.clone();
        let is_open = sockets.iter().all(|socket| socket["state"] == "connected");
        let count: u64 = sockets.iter().filter_map(|socket| socket["reconnects"].as_u64()).sum();
        (is_open && sockets.len() == 2 && count == reconnects).then_some(status)
    })
    .await
}

/// Every trade since the recording began, as published and as stored.
fn recorded(app: &TestApp, simulator: &Simulator, symbol: &str) -> (Vec<Row>, Vec<Row>) {
    let stored: Vec<Row> = stored(&HistoryFile::open(app), symbol, Channel::Trade).into_values().collect();
    let first = stored.first().map_or(i64::MAX, |row| row.0.id);
    let published = published(simulator, symbol, Channel::Trade).into_iter().filter(|row| row.0.id >= first);
    (published.collect(), stored)
}

async fn cut_one_socket_at_a_time(exchange: Exchange) {
    let spec = catalog::dialect(exchange).unwrap().spec();
    let market = Market::start(spec, two_symbols(spec), RATE, 4.0, "").await;
    let simulator = &market.simulator;
    let mut app = TestApp::new(&market.feed());
    app.start().await;
    let mut random = StdRng::seed_from_u64(seed());
    let status = connected(&app, 0).await;
    let streams = |status: &Value, at: usize| status["connections"][at]["streams"].as_u64();
    assert_eq!((streams(&status, 0), streams(&status, 1)), (Some(6), Some(2)), "all streams, and the trades: {status}");
    for cuts in 1..=CUTS {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
        simulator.control.inject(&"cut:1".parse().unwrap());
        connected(&app, cuts).await;
    }
    let status = app.get("/api/v1/status").await;
    assert_eq!(status["reconnects"], CUTS, "{status}");
    simulator.stop_publishing().await;
    for symbol in &market.symbols {
        wait_for("the last trade is stored", WAIT_MAX, async || {
            let (published, stored) = recorded(&app, simulator, symbol);
            (published.last() == stored.last()).then_some(())
        })
        .await;
        let (published, stored) = recorded(&app, simulator, symbol);
        assert!(published.len() > 1_000, "{symbol}: only {} trades", published.len());
        assert!(published == stored, "{symbol}: {} published, {} stored\n{}", published.len(), stored.len(), app.log());
    }
    app.stop_cleanly().await;
    let history = HistoryFile::open(&app);
    let gaps = history.number("SELECT count(*) FROM gaps WHERE channel = 'trade' AND detected_by != 'begin'");
    assert_eq!(gaps, 0, "{:?}", history.gaps());
    assert!(history.dead_letters().is_empty(), "{:?}", history.dead_letters());
    assert_eq!(simulator.control.counters().broken, BrokenLimits::default(), "no limit is broken");
    market.simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cut_of_one_of_two_sockets_loses_nothing() {
    for exchange in venues() {
        cut_one_socket_at_a_time(exchange).await;
    }
}
