//! Which positions a range means, and which gaps are opened for it.

use super::requested_range::{MissingReport, RangeBound};
use super::tests::{BEGIN_MS, Harness, NEWEST, complete_exchange, stream};
use crate::gap::Range;
use crate::market::{Stream, Timestamp};

const MINUTE: i64 = 60_000_000;

/// Trade n happened n seconds after the beginning.
fn second(id: i64) -> RangeBound {
    RangeBound::At(Timestamp::from_millis(BEGIN_MS + id * 1_000))
}

async fn check(stream: Stream, from: RangeBound, to: Option<RangeBound>, newest: i64, expected: Option<(i64, i64)>) {
    let harness = Harness::new(complete_exchange()).await;
    let found = harness.deps.positions(&stream, (from, to), newest, &harness.stop).await.unwrap();
    assert_eq!(found.map(|range| (range.first, range.last)), expected, "{stream} {from:?} {to:?}");
}

#[tokio::test]
async fn an_id_as_end_is_included_and_an_instant_is_not() {
    check(stream(), RangeBound::Id(7), Some(RangeBound::Id(9)), NEWEST, Some((7, 9))).await;
    check(stream(), second(7), Some(second(9)), NEWEST, Some((7, 8))).await;
    check(stream(), RangeBound::Id(7), Some(second(7)), NEWEST, None).await;
}

#[tokio::test]
async fn positions_that_do_not_exist_yet_are_left_out() {
    check(stream(), RangeBound::Id(7), None, 20, Some((7, 20))).await;
    check(stream(), RangeBound::Id(7), Some(RangeBound::Id(i64::MAX)), 20, Some((7, 20))).await;
    check(stream(), second(7), Some(second(NEWEST + 5)), 20, Some((7, 20))).await;
    check(stream(), second(NEWEST + 1), None, NEWEST, None).await;
    check(stream(), RangeBound::Id(21), None, 20, None).await;
}

#[tokio::test]
async fn a_kline_belongs_to_the_range_that_contains_its_open_time() {
    let klines: Stream = "binance:BTCUSDT:kline_1m".parse().unwrap();
    let at = |micros: i64| RangeBound::At(Timestamp(micros));
    check(klines.clone(), at(1), Some(at(3 * MINUTE)), 9 * MINUTE, Some((MINUTE, 2 * MINUTE))).await;
    check(klines, at(0), Some(at(3 * MINUTE + 1)), 9 * MINUTE, Some((0, 3 * MINUTE))).await;
}

#[tokio::test]
async fn a_failed_request_to_the_exchange_is_an_error() {
    let harness = Harness::new(complete_exchange()).await;
    harness.stop.cancel();
    harness.deps.positions(&stream(), (second(7), None), NEWEST, &harness.stop).await.unwrap_err();
}

#[tokio::test]
async fn missing_ranges_are_opened_once_and_the_rest_is_reported() {
    let harness = Harness::new(complete_exchange()).await;
    let range = Range { first: 1, last: 9 };
    let opened = harness.deps.open_missing(&stream(), range, "manual", 10).await.unwrap();
    assert_eq!(opened, MissingReport { missing: 9, gaps: 1, asked_again: 0, rest: None });
    let opened = harness.deps.open_missing(&stream(), range, "manual", 10).await.unwrap();
    assert_eq!(opened, MissingReport { missing: 9, gaps: 0, asked_again: 1, rest: None }, "the ledger knows it");
    let opened = harness.deps.open_missing(&stream(), Range { first: 20, last: 29 }, "manual", 1).await.unwrap();
    assert_eq!(
        opened,
        MissingReport { missing: 10, gaps: 1, asked_again: 0, rest: None },
        "one missing range is the whole range"
    );
}
