//! Numberings that begin again, as the exchange's REST shows them.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use axum::extract::{Query, State};
use axum::routing::get;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::binance::Binance;
use crate::exchange::rest::RestOptions;
use crate::history::embedded::EmbeddedHistory;
use crate::history::{Batch, row_version};
use crate::market::{Exchange, Side};

const BEGIN_MS: i64 = 1_700_000_000_000;

/// A trade of a second, with a price that tells numberings apart.
fn trade(id: i64, second: i64, price: i64) -> Trade {
    let ts = Timestamp::from_millis(BEGIN_MS + second * 1_000);
    Trade { id, ts, price: Decimal::from(price), quantity: Decimal::ONE, side: Side::Sell, trade_ids: None }
}

/// Trades with these ids, a second each, from `second` on.
fn trades(ids: std::ops::RangeInclusive<i64>, second: i64, price: i64) -> Vec<Trade> {
    let first = *ids.start();
    ids.map(|id| trade(id, second + id - first, price)).collect()
}

type Served = Arc<BTreeMap<i64, Trade>>;

async fn historical(State(served): State<Served>, Query(params): Query<HashMap<String, String>>) -> String {
    let number = |name: &str| params.get(name).and_then(|text| text.parse::<i64>().ok());
    let limit = number("limit").unwrap_or(500);
    let row = |trade: &Trade| {
        json!({"id": trade.id, "price": trade.price.to_string(), "qty": "1", "time": trade.ts.millis(),
               "isBuyerMaker": true})
    };
    let rows: Vec<Value> = match number("fromId") {
        Some(from) => served.range(from..).take(limit as usize).map(|(_, trade)| row(trade)).collect(),
        None => served.iter().next_back().map(|(_, trade)| row(trade)).into_iter().collect(),
    };
    Value::from(rows).to_string()
}

async fn aggregates(State(served): State<Served>) -> String {
    let newest = served.values().next_back().expect("the exchange has trades");
    json!([{"a": 1, "p": "1", "q": "1", "f": newest.id, "l": newest.id, "T": newest.ts.millis(), "m": true}])
        .to_string()
}

/// What is decided about `doubtful` when `stored` is in history and REST serves `served`.
async fn decide(stored: Vec<Trade>, served: Vec<Trade>, doubtful: Vec<Trade>) -> Result<Numbering, NoAnswer> {
    let served: Served = Arc::new(served.into_iter().map(|trade| (trade.id, trade)).collect());
    let routes = axum::Router::new()
        .route("/api/v3/historicalTrades", get(historical))
        .route("/api/v3/aggTrades", get(aggregates))
        .with_state(served);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let directory = TempDir::new().unwrap();
    let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    let row = |trade: Trade| TradeRow {
        exchange: Exchange::named("binance"),
        symbol: stream.symbol.clone(),
        trade,
        received_at: trade.ts,
        is_backfilled: false,
        epoch: 0,
        version: row_version(false),
    };
    let batch = Batch { trades: stored.into_iter().map(row).collect(), ..Batch::default() };
    history.insert(&batch).await.unwrap();
    // A minute of the budget passes in 60 ms.
    let began = Instant::now();
    let clock = Clock::from_fn(move || {
        Timestamp::from_millis(BEGIN_MS + 10_000_000).plus_micros(began.elapsed().as_micros() as i64 * 1_000)
    });
    let dialect: Arc<dyn Dialect> = Arc::new(Binance);
    let rest = Rest::new(dialect, RestOptions { base: Some(base), ..RestOptions::default() }, clock, None).unwrap();
    let stop = CancellationToken::new();
    let judge = Judge { rest: &rest, history: &history, stream: &stream, stop: &stop };
    judge.judge(&DoubtfulTrades { stream: stream.clone(), trades: doubtful }).await
}

fn first_of(numbering: Result<Numbering, NoAnswer>) -> i64 {
    match numbering {
        Ok(Numbering::Restarted { first, .. }) => first.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_numbering_that_begins_again_is_found_from_its_first_trade_on() {
    // Far below, with ids that are stored, and below trades of the old numbering that are still served.
    let old = || trades(1_000..=1_100, 0, 1);
    let new = trades(500..=560, 200, 2);
    assert_eq!(first_of(decide(old(), new.clone(), vec![new[40], new[60]]).await), 500);
    let new = trades(1..=1_050, 200, 2);
    assert_eq!(first_of(decide(old(), new.clone(), vec![new[1_009], new[1_019]]).await), 1);
    let both: Vec<Trade> = trades(1..=50, -900, 1).into_iter().chain(trades(500..=560, 200, 2)).collect();
    assert_eq!(first_of(decide(old(), both.clone(), vec![both[100]]).await), 500);
}

#[tokio::test]
async fn ids_that_continue_far_above_are_a_numbering_and_a_hole_that_time_explains_is_a_gap() {
    let new = trades(9_000_000_000_000..=9_000_000_000_050, 110, 2);
    assert_eq!(first_of(decide(trades(1..=100, 0, 1), new.clone(), vec![new[30]]).await), 9_000_000_000_000);
    // The exchange serves the old trades too.
    let both: Vec<Trade> = trades(1..=100, 0, 1).into_iter().chain(new.clone()).collect();
    assert_eq!(first_of(decide(trades(1..=100, 0, 1), both, vec![new[30]]).await), 9_000_000_000_000);
    let served = trades(1..=5_000, 0, 1);
    let decided = decide(trades(1..=100, 0, 1), served.clone(), vec![served[3_999]]).await;
    assert_eq!(decided.unwrap(), Numbering::Continues { newest: 5_000 });
}

#[tokio::test]
async fn ids_that_came_once_more_are_a_rollback() {
    for k in [1, 20, 99] {
        let kept = 100 - k;
        let served: Vec<Trade> = trades(1..=kept, 0, 1).into_iter().chain(trades(kept + 1..=110, 300, 2)).collect();
        // The first ones after the rollback may be lost.
        let doubtful = vec![served[(kept + k / 2) as usize], served[99]];
        let decided = decide(trades(1..=100, 0, 1), served, doubtful).await;
        assert_eq!(decided.unwrap(), Numbering::RolledBack { newest: 110 }, "{k}");
    }
}

#[tokio::test]
async fn trades_that_the_exchange_does_not_serve_decide_nothing() {
    let stored = || trades(1..=100, 0, 1);
    // It serves others at these ids: the frames were false.
    let decided = decide(stored(), trades(1..=120, 0, 1), vec![trade(7, 200, 2), trade(90, 200, 2)]).await;
    assert_eq!(decided.unwrap(), Numbering::Continues { newest: 120 });
    // It serves none: its database may lag.
    let decided = decide(stored(), trades(1..=120, 0, 1), vec![trade(1_000_000, 200, 2)]).await;
    assert!(matches!(decided, Err(NoAnswer::Exchange(_))), "{decided:?}");
    // A late trade that both sources have, while the stored ones are still there.
    let late = trade(50, 49, 1);
    let stored = stored().into_iter().filter(|trade| trade.id != 50).collect();
    let decided = decide(stored, trades(1..=120, 0, 1), vec![late]).await;
    assert_eq!(decided.unwrap(), Numbering::Confirmed { newest: 120 });
}
