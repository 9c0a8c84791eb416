//! A gap in trades that the exchange has and that no page of it shows: more of them share one instant than a page has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::routing::get;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Deps;
use super::repair::repair;
use crate::cache::PendingUpdates;
use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::kraken::Kraken;
use crate::exchange::rest::{Rest, RestOptions};
use crate::gap::{Evidence, GapState, Range};
use crate::health::Health;
use crate::history::GapFilter;
use crate::history::embedded::EmbeddedHistory;
use crate::ledger::SharedLedger;
use crate::market::{Exchange, Stream, Timestamp};
use crate::writer::Writer;

/// 2023-07-06, in nanoseconds.
const BEGIN_NS: i64 = 1_688_669_597_000_000_000;

/// Trade n is one second after the one before; those in `SHARED` have one instant.
const SHARED: Range = Range { first: 20, last: 1_519 };
const NEWEST: i64 = 1_530;

fn ns(id: i64) -> i64 {
    let hidden = (id.min(SHARED.last) - SHARED.first).max(0);
    BEGIN_NS + (id - hidden) * 1_000_000_000
}

/// At most a thousand trades after `since`.
async fn trades(Query(asked): Query<HashMap<String, String>>) -> String {
    let since: i64 = asked.get("since").map_or(ns(NEWEST) - 1, |since| since.parse().unwrap());
    let ids: Vec<i64> = (1..=NEWEST).filter(|id| ns(*id) > since).take(1_000).collect();
    let row = |id: &i64| json!(["1.5", "2", ns(*id) / 1_000_000_000, "b", "l", "", id]);
    let rows: Vec<_> = ids.iter().map(row).collect();
    json!({"error": [], "result": {"XXBTZUSD": rows, "last": ids.last().map_or(0, |id| ns(*id)).to_string()}})
        .to_string()
}

#[tokio::test]
async fn trades_of_one_instant_beyond_a_page_are_unrecoverable_and_no_claim_says_that_they_never_existed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let routes = axum::Router::new().route("/0/public/Trades", get(trades));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let clock = Clock::from_fn(|| Timestamp(ns(NEWEST) / 1_000 + 3_600_000_000));
    let dialect: Arc<dyn Dialect> = Arc::new(ChangedDialect::unlimited(Kraken));
    let options = RestOptions { base: Some(base), ..RestOptions::default() };
    let rest = Rest::new(dialect.clone(), options, clock.clone(), None).unwrap();
    let directory = TempDir::new().unwrap();
    let history = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
    let exchange = Exchange::named("kraken");
    let deps = Deps {
        rest: HashMap::from([(exchange, Arc::new(rest))]),
        dialects: HashMap::from([(exchange, dialect)]),
        writer: Writer::new(history, Arc::new(PendingUpdates::default()), Health::default()),
        ledger: SharedLedger::default(),
        clock,
        rows: Arc::default(),
        confirm_after: Duration::ZERO,
        answers: Arc::default(),
    };
    let stream: Stream = "kraken:BTC/USD:trade".parse().unwrap();
    deps.open(&stream, Range { first: 10, last: 1_525 }, &Evidence::default()).await.unwrap();
    let stop = CancellationToken::new();
    for _ in 0..6 {
        let open: Vec<_> = deps.ledger.with(|ledger| ledger.rows().cloned().collect());
        for gap in open {
            repair(&deps, gap, &stop).await;
        }
    }
    let mut gaps = deps.history().gaps(&GapFilter::default()).await.unwrap();
    gaps.retain(|gap| gap.state != GapState::Superseded);
    gaps.sort_by_key(|gap| gap.range.first);
    let states: Vec<_> = gaps.iter().map(|gap| (gap.range.first, gap.range.last, gap.state)).collect();
    let expected = [
        (10, 1_019, GapState::Filled),
        (1_020, SHARED.last, GapState::Unrecoverable),
        (SHARED.last + 1, 1_525, GapState::Filled),
    ];
    assert_eq!(states, expected, "{:?}", gaps.iter().map(|gap| &gap.reason).collect::<Vec<_>>());
    assert!(gaps[1].reason.contains("at most 1000 trades of one instant"), "{}", gaps[1].reason);
}
