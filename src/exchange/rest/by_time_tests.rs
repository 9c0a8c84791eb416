//! Pages by time against a server as Kraken's: at most a thousand rows after a nanosecond, and hundreds of trades share one.

use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use tokio::net::TcpListener;

use super::*;
use crate::clock::Clock;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::kraken::Kraken;
use crate::exchange::rest::RestOptions;

const SYMBOL: &str = "BTC/USD";
/// 2023-07-06, in seconds.
const BEGIN_S: i64 = 1_688_669_597;

/// Ids with their times in nanoseconds, and how many requests there were.
#[derive(Clone)]
struct Server(Arc<Vec<(i64, i64)>>, Arc<Mutex<usize>>);

#[derive(serde::Deserialize)]
struct Asked {
    pair: String,
    since: Option<i64>,
    count: Option<usize>,
}

async fn trades(State(Server(trades, requests)): State<Server>, Query(asked): Query<Asked>) -> String {
    assert_eq!(asked.pair, "XBTUSD");
    *requests.lock().unwrap() += 1;
    let count = asked.count.unwrap_or(1_000);
    let first = match asked.since {
        Some(since) => trades.partition_point(|(_, ns)| *ns <= since),
        None => trades.len().saturating_sub(count),
    };
    let page: Vec<(i64, i64)> = trades.iter().skip(first).take(count).copied().collect();
    let row = |(id, ns): &(i64, i64)| {
        // As Kraken's floats: seven digits of a second.
        let (whole, part) = (ns / 1_000_000_000, ns % 1_000_000_000 / 100);
        format!(r#"["1.5","2",{whole}.{part:07},"b","l","",{id}]"#)
    };
    let rows: Vec<String> = page.iter().map(row).collect();
    let last = page.last().map_or(0, |(_, ns)| *ns);
    format!(r#"{{"error":[],"result":{{"XXBTZUSD":[{}],"last":"{last}"}}}}"#, rows.join(","))
}

async fn serve(trades_of: Vec<(i64, i64)>) -> (Server, Rest) {
    let server = Server(Arc::new(trades_of), Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/0/public/Trades", axum::routing::get(trades)).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let started = std::time::Instant::now();
    let begin = Timestamp((BEGIN_S + 10_000_000) * 1_000_000);
    let clock = Clock::from_fn(move || begin.plus_micros(started.elapsed().as_micros() as i64));
    let rest = Rest::new(
        Arc::new(ChangedDialect::unlimited(Kraken)),
        RestOptions { base: Some(base), ..RestOptions::default() },
        clock,
        None,
    );
    (server, rest.unwrap())
}

/// Bursts of these numbers of trades, each at one nanosecond, `step_ns` after the one before; ids from 1,000 on.
fn bursts(sizes: &[i64], step_ns: i64) -> Vec<(i64, i64)> {
    let mut trades = Vec::new();
    for (burst, size) in sizes.iter().enumerate() {
        let ns = BEGIN_S * 1_000_000_000 + burst as i64 * step_ns;
        trades.extend((0..*size).map(|_| ns).enumerate().map(|(n, ns)| (n as i64, ns)));
    }
    trades.iter().enumerate().map(|(n, (_, ns))| (1_000 + n as i64, *ns)).collect()
}

fn micros(trades: &[(i64, i64)], id: i64) -> Timestamp {
    Timestamp(trades.iter().find(|(known, _)| *known == id).unwrap().1 / 1_000)
}

/// Fills a range page after page, as a repair does; the repair of what is not found would be tried again.
async fn try_fill(rest: &Rest, range: Range) -> (Vec<i64>, Option<RestError>) {
    let (mut ids, mut next) = (Vec::new(), Some(range));
    while let Some(range) = next {
        let page = match rest.trades(SYMBOL, range, &CancellationToken::new()).await {
            Ok(page) => page,
            Err(error) => return (ids, Some(error)),
        };
        let Some(last) = page.rows.last() else { break };
        next = Range::new(last.id + 1, range.last);
        ids.extend(page.rows.iter().map(|trade| trade.id));
    }
    (ids, None)
}

async fn fill(rest: &Rest, range: Range) -> Vec<i64> {
    let (ids, error) = try_fill(rest, range).await;
    assert_eq!(error, None);
    ids
}

fn ids(range: Range) -> Vec<i64> {
    (range.first..=range.last).collect()
}

#[tokio::test]
async fn no_trade_of_a_shared_instant_is_lost_at_the_seam_of_two_pages() {
    // Nearly every page ends amid a burst. Bursts that share a microsecond are more than a page has.
    for step_ns in [1_000_000_000, 700, 300, 100, 1] {
        let trades = bursts(&[3, 700, 650, 1, 999, 320, 333, 347, 1, 1, 800, 400], step_ns);
        let range = Range { first: 1_002, last: trades[trades.len() - 1].0 };
        let (_, rest) = serve(trades.clone()).await;
        rest.learn_time(SYMBOL, 1_001, micros(&trades, 1_001));
        assert_eq!(fill(&rest, range).await, ids(range), "{step_ns}");
    }
}

#[tokio::test]
async fn a_range_far_back_is_found_without_a_known_time() {
    let sizes: Vec<i64> = (0..20_000).map(|n| if n % 97 == 0 { 300 } else { 1 }).collect();
    let trades = bursts(&sizes, 13_000_000_000);
    let (server, rest) = serve(trades.clone()).await;
    let range = Range { first: 31_234, last: 33_700 };
    assert_eq!(fill(&rest, range).await, ids(range));
    let requests = *server.1.lock().unwrap();
    assert!(requests <= 30, "{requests}");
}

#[tokio::test]
async fn a_wrong_time_of_a_known_trade_proves_no_absence() {
    let trades = bursts(&[1; 5_000], 1_000_000_000);
    let range = Range { first: 2_000, last: 2_010 };
    for wrong in [
        micros(&trades, 4_000),
        micros(&trades, 1_100),
        micros(&trades, 5_999).plus_micros(9_000_000_000),
        Timestamp(0),
    ] {
        let (_, rest) = serve(trades.clone()).await;
        rest.learn_time(SYMBOL, 1_999, wrong);
        assert_eq!(fill(&rest, range).await, ids(range), "too low: {wrong}");
        let (_, rest) = serve(trades.clone()).await;
        rest.learn_time(SYMBOL, 2_011, wrong);
        assert_eq!(fill(&rest, range).await, ids(range), "too high: {wrong}");
    }
}

#[tokio::test]
async fn an_id_that_never_existed_is_absent_between_its_neighbours() {
    let mut trades = bursts(&[1; 3_000], 1_000_000_000);
    trades.retain(|(id, _)| !(1_500..=1_510).contains(id));
    let (server, rest) = serve(trades.clone()).await;
    rest.learn_time(SYMBOL, 1_499, micros(&trades, 1_499));
    let page = rest.trades(SYMBOL, Range { first: 1_500, last: 1_510 }, &CancellationToken::new()).await.unwrap();
    assert!(page.is_empty());
    assert_eq!(*server.1.lock().unwrap(), 1);
    let next = rest.trade_from(SYMBOL, 1_500, &CancellationToken::new()).await.unwrap();
    assert_eq!(next.map(|trade| trade.id), Some(1_511));
}

#[tokio::test]
async fn what_does_not_exist_yet_and_what_was_before_the_first_trade_is_not_served() {
    let trades = bursts(&[1; 3_000], 1_000_000_000);
    let (server, rest) = serve(trades.clone()).await;
    let stop = CancellationToken::new();
    rest.learn_time(SYMBOL, 3_999, micros(&trades, 3_999));
    assert!(rest.trades(SYMBOL, Range { first: 4_000, last: 4_005 }, &stop).await.unwrap().is_empty());
    assert_eq!(*server.1.lock().unwrap(), 1, "the page ends with the trade before");
    let (_, rest) = serve(trades.clone()).await;
    assert!(rest.trades(SYMBOL, Range { first: 4_000, last: 4_005 }, &stop).await.unwrap().is_empty());
    let range = Range { first: 1, last: 1_001 };
    assert_eq!(fill(&rest, range).await, [1_000, 1_001]);
    let (_, rest) = serve(Vec::new()).await;
    assert!(rest.trades(SYMBOL, range, &stop).await.unwrap().is_empty());
}

#[tokio::test]
async fn more_trades_at_one_instant_than_a_page_has_end_the_search() {
    let trades = bursts(&[5, 2_500, 10], 1_000_000_000);
    let (_, rest) = serve(trades.clone()).await;
    rest.learn_time(SYMBOL, 1_004, micros(&trades, 1_004));
    let range = Range { first: 1_005, last: 3_514 };
    let (filled, error) = try_fill(&rest, range).await;
    // The exchange gives the first thousand after a nanosecond, and nothing but the next instant after them.
    assert_eq!(error, None);
    assert_eq!(filled, [ids(Range { first: 1_005, last: 2_004 }), ids(Range { first: 3_505, last: 3_514 })].concat());
    let page = rest.trades(SYMBOL, Range { first: 2_500, last: 2_600 }, &CancellationToken::new()).await.unwrap();
    let (unreachable, why) = page.unreachable.unwrap();
    assert_eq!((unreachable, page.rows.len()), (Range { first: 2_005, last: 3_504 }, 0));
    assert!(why.contains("at most 1000 trades of one instant"), "{why}");
}
