//! Two contents of a position, and an exchange that serves one of them, or another.

use rust_decimal::Decimal;

use super::super::tests::{BEGIN_MS, Harness, NEWEST, complete_exchange, stream};
use super::*;
use crate::heartbeat::Heartbeats;
use crate::market::{Exchange, Side};

/// A trade as the exchange serves it, but with this price; it serves 1.5.
fn trade(id: i64, price: &str) -> Trade {
    let ts = Timestamp::from_millis(BEGIN_MS + id * 1_000);
    let (price, quantity) = (price.parse().unwrap(), Decimal::TWO);
    Trade { id, ts, price, quantity, side: Side::Sell, trade_ids: None }
}

async fn harness() -> Harness {
    Harness::new(complete_exchange()).await
}

/// Stores these trades, and a conflict of trade 1,050 that `arrived` is the other content of.
async fn store(harness: &Harness, stored: Vec<Trade>, arrived: &Trade) {
    let row = |trade: Trade| TradeRow {
        exchange: Exchange::named("binance"),
        symbol: stream().symbol,
        trade,
        received_at: trade.ts,
        is_backfilled: false,
        epoch: 0,
        version: row_version(false),
    };
    let first = stored.iter().find(|trade| trade.id == arrived.id).unwrap();
    let conflict = ConflictRow {
        stream: stream(),
        epoch: 0,
        position: arrived.id,
        stored: trade_content(first),
        arrived: trade_content(arrived),
        at: arrived.ts,
        verdict: Verdict::Pending,
    };
    let trades = stored.into_iter().map(row).collect();
    let batch = Batch { trades, conflicts: vec![conflict], ..Batch::default() };
    harness.deps.writer.history().insert(&batch).await.unwrap();
}

/// Asks about the pending conflicts once; returns how many were decided.
async fn ask(harness: &Harness, third: &mut Third) -> usize {
    let pending = harness.deps.history().conflicts(true, 9).await.unwrap();
    let heartbeat = Heartbeats::default().watch("test");
    decide(&harness.deps, &stream(), pending, third, &heartbeat, &harness.stop).await.unwrap()
}

/// The price and version of a stored trade, and the verdicts.
async fn outcome(harness: &Harness, id: i64) -> (String, i64, Vec<Verdict>) {
    let history = harness.deps.history();
    let row = history.trades(&stream(), Range { first: id, last: id }, 1).await.unwrap().remove(0);
    let verdicts = history.conflicts(false, 99).await.unwrap().into_iter().map(|row| row.verdict).collect();
    (row.trade.price.normalize().to_string(), row.version, verdicts)
}

#[tokio::test]
async fn the_content_that_the_exchange_serves_is_the_row() {
    let harness_of_arrived = harness().await;
    store(&harness_of_arrived, vec![trade(1_050, "9")], &trade(1_050, "1.5")).await;
    assert_eq!(ask(&harness_of_arrived, &mut Third::new()).await, 1);
    let version = row_version(false) + 2;
    assert_eq!(outcome(&harness_of_arrived, 1_050).await, ("1.5".to_owned(), version, vec![Verdict::Arrived]));
    let harness_of_stored = harness().await;
    store(&harness_of_stored, vec![trade(1_050, "1.5")], &trade(1_050, "9")).await;
    assert_eq!(ask(&harness_of_stored, &mut Third::new()).await, 1);
    let version = row_version(false);
    assert_eq!(outcome(&harness_of_stored, 1_050).await, ("1.5".to_owned(), version, vec![Verdict::Stored]));
}

#[tokio::test]
async fn a_third_content_needs_two_answers_and_all_three_are_kept() {
    let harness = harness().await;
    store(&harness, vec![trade(1_050, "8")], &trade(1_050, "9")).await;
    let mut third = Third::new();
    assert_eq!(ask(&harness, &mut third).await, 0);
    assert_eq!(outcome(&harness, 1_050).await, ("8".to_owned(), row_version(false), vec![Verdict::Pending]));
    ask(&harness, &mut third).await;
    let (price, _, mut verdicts) = outcome(&harness, 1_050).await;
    verdicts.sort_by_key(|verdict| verdict.as_str());
    assert_eq!((price.as_str(), verdicts), ("1.5", vec![Verdict::Arrived, Verdict::Stored]));
}

#[tokio::test]
async fn trades_around_a_replaced_one_are_compared_too() {
    let harness = harness().await;
    // The exchange replaced 1,030 to 1,060; only one of the new trades arrived.
    let price = |id: i64| if (1_030..=1_060).contains(&id) { "9" } else { "1.5" };
    store(&harness, (1_000..=1_099).map(|id| trade(id, price(id))).collect(), &trade(1_050, "1.5")).await;
    ask(&harness, &mut Third::new()).await;
    let rows = harness.deps.history().trades(&stream(), Range { first: 1_000, last: 1_099 }, 200).await.unwrap();
    let is_served = |row: &TradeRow| row.trade == trade(row.trade.id, "1.5");
    assert!(rows.len() == 100 && rows.iter().all(is_served));
    assert_eq!(harness.deps.history().conflicts(false, 99).await.unwrap().len(), 31, "each content is kept");
}

#[tokio::test]
async fn a_position_that_the_exchange_does_not_serve_waits() {
    let harness = harness().await;
    harness.exchange.lock().unwrap().shown_to = 1_000;
    store(&harness, vec![trade(1_050, "9")], &trade(1_050, "1.5")).await;
    assert_eq!(ask(&harness, &mut Third::new()).await, 0);
    harness.exchange.lock().unwrap().shown_to = NEWEST;
    assert_eq!(ask(&harness, &mut Third::new()).await, 1);
}

/// The watchdog takes a loop without a beat for a stuck one.
#[tokio::test]
async fn the_loop_beats_while_there_is_no_conflict() {
    let harness = harness().await;
    let heartbeats = Heartbeats::default();
    let (heartbeat, stop) = (heartbeats.watch("conflicts"), CancellationToken::new());
    let running = tokio::spawn(run(harness.deps.clone(), Doubts::default(), heartbeat, stop.clone()));
    let beats = || heartbeats.statuses().first().map_or(0, |status| status.count);
    let beating = async {
        while beats() < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), beating).await.expect("it beats");
    stop.cancel();
    running.await.unwrap();
}
