//! The monitor against a server on loopback that fails at first.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::clock::Clock;
use crate::exchange::binance::Binance;
use crate::exchange::rest::RestOptions;
use crate::exchange::{Since, SymbolPattern};
use crate::market::{Channel, Symbol};

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(10), Duration::from_millis(20))
}

/// A client of a server that answers its n-th request, counted from 0, with `answer(n)`.
async fn client(answer: impl Fn(u64) -> Option<String> + Send + Sync + 'static) -> Arc<Rest> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (answer, requests) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
    let router = axum::Router::new().fallback(move || {
        let answer = answer(requests.fetch_add(1, Ordering::Relaxed));
        async move { answer.ok_or(StatusCode::SERVICE_UNAVAILABLE) }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let options = RestOptions { base: Some(base), ..RestOptions::default() };
    Arc::new(Rest::new(Arc::new(Binance), options, Clock::system(), None).unwrap())
}

/// A feed of trades.
fn feed(symbols: &[&str]) -> Feed {
    let (patterns, exact): (Vec<&str>, Vec<&str>) = symbols.iter().partition(|text| SymbolPattern::is_pattern(text));
    Feed {
        exchange: Exchange::named("binance"),
        symbols: exact.into_iter().map(Symbol::new).collect(),
        patterns: patterns.into_iter().map(SymbolPattern::new).collect(),
        exclude: Vec::new(),
        channels: vec![Channel::Trade],
        since: Since::Now,
        succeeds: None,
        ws_url: None,
        rest_url: None,
    }
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, met).await.expect("the condition in time");
}

#[tokio::test]
async fn the_clock_is_measured_again_soon_after_a_failure() {
    let now = Clock::system();
    let rest =
        client(move |request| (request > 0).then(|| format!(r#"{{"serverTime":{}}}"#, now.now().millis()))).await;
    let (health, stop) = (Health::default(), CancellationToken::new());
    let measured = async {
        until(|| rest.clock_offset().is_some()).await;
        stop.cancel();
    };
    tokio::join!(watch_clock(Exchange::named("binance"), &rest, &health, backoff(), &stop), measured);
    assert!(health.degraded_parts().is_empty());
}

#[tokio::test]
async fn a_listing_that_stays_unreadable_is_shown_and_then_learnt() {
    let good = r#"{"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":5000}],
        "symbols":[{"symbol":"BTCUSDT","status":null}]}"#;
    let rest = client(move |request| (request >= 3).then(|| good.to_owned())).await;
    let (health, stop) = (Health::default(), CancellationToken::new());
    let (_sender, feeds) = watch::channel(vec![feed(&["BTCUSDT"])]);
    let learnt = async {
        until(|| !health.degraded_parts().is_empty()).await;
        assert!(format!("{:?}", health.degraded_parts()).contains("does not say what it lists"));
        until(|| rest.status().limit == 5_000 && health.degraded_parts().is_empty()).await;
        stop.cancel();
    };
    tokio::join!(
        watch_listing((Exchange::named("binance"), &rest), feeds, &health, |_| LISTING_INTERVAL, backoff(), &stop),
        learnt
    );
}

#[tokio::test]
async fn an_empty_listing_says_nothing_and_a_reload_asks_again() {
    let listing = |symbols: &str| format!(r#"{{"rateLimits":[],"symbols":[{symbols}]}}"#);
    let entry = r#"{"symbol":"BTCUSDT","status":"TRADING"}"#;
    let rest = client(move |request| Some(listing(if request < 3 { "" } else { entry }))).await;
    let (health, stop) = (Health::default(), CancellationToken::new());
    let (sender, feeds) = watch::channel(vec![feed(&["*USDT"])]);
    let answers = AtomicU64::new(0);
    let report = |said: Said| {
        assert_eq!((said.entries.len(), &said.question), (1, &Question::Everything));
        answers.fetch_add(1, Ordering::Relaxed);
        LISTING_INTERVAL
    };
    let learnt = async {
        until(|| !health.degraded_parts().is_empty()).await;
        assert!(format!("{:?}", health.degraded_parts()).contains("its listing is empty"));
        assert_eq!(answers.load(Ordering::Relaxed), 0);
        until(|| health.degraded_parts().is_empty()).await;
        sender.send_replace(vec![feed(&["*USDT"])]);
        until(|| answers.load(Ordering::Relaxed) == 2).await;
        stop.cancel();
    };
    tokio::join!(watch_listing((Exchange::named("binance"), &rest), feeds, &health, report, backoff(), &stop), learnt);
}

#[test]
fn only_patterns_need_everything() {
    let exchange = Exchange::named("binance");
    assert_eq!(question(exchange, &[feed(&["B", "A"])]), Question::Symbols(vec!["A".to_owned(), "B".to_owned()]));
    assert_eq!(question(exchange, &[feed(&["B"]), feed(&["A*"])]), Question::Everything);
    assert_eq!(question(Exchange::named("okx"), &[feed(&["A*"])]), Question::Symbols(Vec::new()));
}

#[test]
fn a_complaint_is_made_once() {
    let mut known = BTreeSet::new();
    let (first, second) = (["a".to_owned()], ["a".to_owned(), "b".to_owned()]);
    complain(Exchange::named("binance"), &first, &mut known);
    assert!(known.contains("a"));
    complain(Exchange::named("binance"), &second, &mut known);
    assert_eq!(known.len(), 2);
    complain(Exchange::named("binance"), &[], &mut known);
    assert!(known.is_empty());
}
