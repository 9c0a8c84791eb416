//! Searches against a server as USD-M's: what lies below its floor is refused with -4166, not answered with an empty page.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;
use crate::clock::Clock;
use crate::exchange::binance_usdm::BinanceUsdm;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::rest::RestOptions;
use crate::market::Channel;

const SERIES: Series<'_> = Series { symbol: "BTCUSDT", channel: Channel::AggTrade };
/// Aggregate n happened n seconds after this, in milliseconds.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// The lowest and the highest number, whether times are answered with nothing, and how many requests there were.
#[derive(Clone)]
struct Server(Arc<Mutex<(i64, i64, bool, usize)>>);

async fn aggregates(
    State(Server(state)): State<Server>,
    Query(asked): Query<HashMap<String, String>>,
) -> (StatusCode, String) {
    let mut state = state.lock().unwrap();
    state.3 += 1;
    let (floor, newest, knows_no_times, _) = *state;
    let number = |name: &str| asked.get(name).and_then(|text| text.parse::<i64>().ok());
    let first = match (number("fromId"), number("startTime")) {
        (Some(id), _) => id,
        (None, Some(_)) if knows_no_times => newest + 1,
        (None, Some(ms)) => (ms - BEGIN_MS + 999).div_euclid(1_000),
        (None, None) => newest,
    };
    if first < floor {
        return (StatusCode::BAD_REQUEST, r#"{"code":-4166,"msg":"too old"}"#.to_owned());
    }
    let row = |id: i64| {
        let ts = BEGIN_MS + id * 1_000;
        format!(r#"{{"a":{id},"p":"1","q":"1","nq":"1","f":{id},"l":{id},"T":{ts},"m":true}}"#)
    };
    let rows: Vec<String> = (first..=newest.min(first + number("limit").unwrap_or(500) - 1)).map(row).collect();
    (StatusCode::OK, format!("[{}]", rows.join(",")))
}

async fn serve(floor: i64, newest: i64, knows_no_times: bool) -> (Server, Rest) {
    let server = Server(Arc::new(Mutex::new((floor, newest, knows_no_times, 0))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/fapi/v1/aggTrades", get(aggregates)).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let clock = Clock::from_fn(move || Timestamp((BEGIN_MS + newest * 1_000) * 1_000));
    let options = RestOptions { base: Some(base), ..RestOptions::default() };
    let rest = Rest::new(Arc::new(ChangedDialect::unlimited(BinanceUsdm)), options, clock, None).unwrap();
    (server, rest)
}

fn at(id: i64) -> Timestamp {
    Timestamp((BEGIN_MS + id * 1_000) * 1_000)
}

#[tokio::test]
async fn of_a_page_that_is_too_old_the_served_part_comes() {
    let stop = CancellationToken::new();
    let (server, rest) = serve(4_000, 9_000, false).await;
    let ask = async |first: i64, last: i64| {
        server.0.lock().unwrap().3 = 0;
        let page = rest.trades(SERIES, Range { first, last }, &stop).await.unwrap();
        let ids: Vec<i64> = page.rows.iter().map(|trade| trade.id).collect();
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
        (ids.first().copied(), ids.len(), server.0.lock().unwrap().3)
    };
    assert_eq!(ask(4_000, 4_100).await, (Some(4_000), 101, 1));
    assert_eq!(ask(3_999, 3_999).await, (None, 0, 1));
    assert_eq!(ask(2_000, 2_999).await, (None, 0, 2), "a page that is gone costs one request more");
    for first in [3_001, 3_002, 3_500, 3_998, 3_999] {
        let (found, rows, requests) = ask(first, 4_100).await;
        assert_eq!((found, rows), (Some(4_000), (4_100.min(first + 999) - 3_999) as usize), "{first}");
        assert!(requests <= 13, "{requests} requests");
    }
    assert_eq!(ask(1, i64::MAX).await, (None, 0, 2));
    assert_eq!(rest.status().failures, 0, "the exchange has answered");
}

/// Two days of aggregates.
const KEPT: i64 = 2 * 86_400;

#[tokio::test]
async fn the_documented_age_finds_the_served_part_with_few_requests() {
    let stop = CancellationToken::new();
    for (floor, newest, is_documented) in
        [(9_000, 9_000 + KEPT, true), (8_500, 9_000 + KEPT, false), (9_300, 9_000 + KEPT, false)]
    {
        let (server, rest) = serve(floor, newest, false).await;
        let range = Range { first: floor - 400, last: floor + 200 };
        let page = rest.trades(SERIES, range, &stop).await.unwrap();
        let first = page.rows[0].id;
        let requests = server.0.lock().unwrap().3;
        if is_documented {
            // The exchange forgets that one within the second.
            assert!((floor..=floor + 1).contains(&first), "{first}");
            assert!(requests <= 5, "{requests} requests");
        } else {
            assert_eq!(first, floor, "an exchange that serves other ages than it says is searched");
            assert!(requests <= 15, "{requests} requests");
        }
        server.0.lock().unwrap().3 = 0;
        let found = rest.trade_from(SERIES, 5, &stop).await.unwrap().map(|trade| trade.id);
        let requests = server.0.lock().unwrap().3;
        assert!(found.is_some_and(|found| (floor..=first).contains(&found)), "{found:?}");
        assert!(!is_documented || requests <= 6, "{requests} requests");
    }
}

#[tokio::test]
async fn the_oldest_served_aggregate_is_found() {
    let stop = CancellationToken::new();
    for (floor, newest) in [(1, 5_000), (4_321, 5_000), (5_000, 5_000), (3_000_000_000, 3_400_000_000)] {
        let (server, rest) = serve(floor, newest, false).await;
        for asked in [0, floor - 1, floor, newest] {
            let found = rest.trade_from(SERIES, asked, &stop).await.unwrap();
            assert_eq!(found.map(|trade| trade.id), Some(asked.max(floor)), "{floor} {newest} from {asked}");
        }
        let requests = server.0.lock().unwrap().3;
        assert!(requests < 100, "{requests} requests");
    }
}

#[tokio::test]
async fn a_channel_that_never_comes_back_says_so() {
    let stop = CancellationToken::new();
    let (_, rest) = serve(1, 9, false).await;
    let lost = rest.trades("BTCUSDT", Range { first: 1, last: 2 }, &stop).await;
    let text = "Binance USD-M returns no lost trade over its public REST".to_owned();
    assert_eq!(lost, Err(RestError::NotOffered { text }));
}

#[tokio::test]
async fn the_first_aggregate_at_a_time_is_found() {
    let stop = CancellationToken::new();
    for knows_no_times in [false, true] {
        let (_, rest) = serve(1_000, 2_000_000, knows_no_times).await;
        for asked in [1_000, 1_001, 1_777_777, 2_000_000] {
            let found = rest.trade_at(SERIES, at(asked), &stop).await;
            assert_eq!(found, Ok(Some(asked)), "{knows_no_times}");
        }
        assert_eq!(rest.trade_at(SERIES, at(5), &stop).await, Ok(Some(1_000)), "the oldest that is left");
        assert_eq!(rest.trade_at(SERIES, at(2_000_001), &stop).await, Ok(None));
    }
}
