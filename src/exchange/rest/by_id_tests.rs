//! Searches by id against a server as OKX's: it serves ids from a floor on, a hundred a page, newest first.

use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;
use crate::clock::Clock;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::okx::Okx;
use crate::exchange::rest::RestOptions;

const SYMBOL: &str = "BTC-USDT";
/// Trade n happened n seconds after this, in milliseconds.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// The lowest and the highest id, and how many requests there were.
#[derive(Clone)]
struct Server(Arc<Mutex<(i64, i64, usize)>>);

#[derive(serde::Deserialize)]
struct Asked {
    after: Option<i64>,
    limit: i64,
}

async fn trades(State(Server(state)): State<Server>, Query(asked): Query<Asked>) -> String {
    let mut state = state.lock().unwrap();
    state.2 += 1;
    let (floor, newest, _) = *state;
    let last = asked.after.map_or(newest, |after| newest.min(after - 1));
    let row = |id: i64| {
        let ts = BEGIN_MS + id * 1_000;
        format!(r#"{{"instId":"{SYMBOL}","tradeId":"{id}","px":"1","sz":"1","side":"buy","ts":"{ts}"}}"#)
    };
    let rows: Vec<String> = (floor.max(last - asked.limit + 1)..=last).rev().map(row).collect();
    format!(r#"{{"code":"0","msg":"","data":[{}]}}"#, rows.join(","))
}

async fn serve(floor: i64, newest: i64) -> (Server, Rest) {
    let server = Server(Arc::new(Mutex::new((floor, newest, 0))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new()
        .route("/api/v5/market/trades", get(trades))
        .route("/api/v5/market/history-trades", get(trades))
        .with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let clock = Clock::from_fn(move || Timestamp((BEGIN_MS + newest * 1_000) * 1_000));
    let options = RestOptions { base: Some(base), ..RestOptions::default() };
    let rest = Rest::new(Arc::new(ChangedDialect::unlimited(Okx)), options, clock, None).unwrap();
    (server, rest)
}

fn at(id: i64) -> Timestamp {
    Timestamp((BEGIN_MS + id * 1_000) * 1_000)
}

#[tokio::test]
async fn the_oldest_served_trade_is_found_behind_a_floor() {
    let stop = CancellationToken::new();
    for (floor, newest) in [(1, 5_000), (4_321, 5_000), (4_999, 5_000), (5_000, 5_000), (700_000, 900_000_000)] {
        let (server, rest) = serve(floor, newest).await;
        for asked in [1, floor - 1, floor, newest] {
            let found = rest.trade_from(SYMBOL, asked, &stop).await.unwrap();
            assert_eq!(found.map(|trade| trade.id), Some(asked.max(floor)), "{floor} {newest} from {asked}");
        }
        let above = rest.trade_from(SYMBOL, newest + 1, &stop).await.unwrap();
        assert_eq!(above, None, "nothing is above the newest");
        let requests = server.0.lock().unwrap().2;
        assert!(requests < 80, "{requests} requests");
    }
}

#[tokio::test]
async fn the_first_trade_at_a_time_is_found() {
    let stop = CancellationToken::new();
    let (_, rest) = serve(1_000, 2_000_000).await;
    for id in [1_000, 1_001, 1_099, 1_100, 54_321, 1_999_999, 2_000_000] {
        assert_eq!(rest.trade_at(SYMBOL, at(id), &stop).await, Ok(Some(id)));
        assert_eq!(rest.trade_at(SYMBOL, at(id).plus_micros(-1), &stop).await, Ok(Some(id)));
    }
    assert_eq!(rest.trade_at(SYMBOL, at(5), &stop).await, Ok(Some(1_000)), "the oldest that is served");
    assert_eq!(rest.trade_at(SYMBOL, at(2_000_001), &stop).await, Ok(None));
}
