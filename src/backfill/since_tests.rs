//! Gaps before a first row, with an exchange that lags or whose clock is far from ours.

use rust_decimal::Decimal;

use super::*;
use crate::backfill::tests::{BEGIN_MS, Harness, NEWEST, complete_exchange, stream};
use crate::heartbeat::Heartbeats;
use crate::history::Batch;
use crate::log::Offsets;
use crate::market::{Exchange, Side, Trade};
use crate::progress::StreamProgress;

const HOUR_MS: i64 = 3_600_000;

/// Trade n happened n seconds after the beginning, by the exchange's clock.
fn time_of(id: i64) -> Timestamp {
    Timestamp::from_millis(BEGIN_MS + id * 1_000)
}

/// Stores the stream's first row.
async fn first_row_is(harness: &Harness, progress: &Progress, id: i64) {
    let trade =
        Trade { id, ts: time_of(id), price: Decimal::ONE, quantity: Decimal::ONE, side: Side::Buy, trade_ids: None };
    let (exchange, symbol, received_at) = (Exchange::named("binance"), stream().symbol, harness.deps.clock.now());
    let row = TradeRow {
        exchange,
        symbol,
        trade,
        received_at,
        is_backfilled: false,
        epoch: 0,
        version: crate::history::row_version(false),
    };
    harness.deps.history().insert(&Batch { trades: vec![row], ..Batch::default() }).await.unwrap();
    set_next(progress, id + 1);
}

fn set_next(progress: &Progress, next: i64) {
    progress.publish([(stream(), StreamProgress { next: Some(next), ..StreamProgress::default() })], &Offsets::new());
}

fn open_ranges(harness: &Harness) -> Vec<(i64, i64)> {
    harness.deps.ledger.with(|ledger| ledger.rows().map(|gap| (gap.range.first, gap.range.last)).collect())
}

async fn is_settled(harness: &Harness, progress: &Progress, at: Timestamp) -> bool {
    let theirs =
        exchange_time(&harness.deps.rest[&Exchange::named("binance")], at, "begin", &harness.stop).await.unwrap();
    let start = StartPoint::RecordingSince(theirs, "begin");
    open_leading_gap(&harness.deps, progress, &stream(), start, &harness.stop).await == Check::Finished
}

#[tokio::test]
async fn trades_between_the_subscription_and_the_first_row_are_a_gap_with_any_exchange_clock() {
    for skew_ms in [0, 5 * HOUR_MS, -5 * HOUR_MS] {
        let (harness, progress) = (Harness::new(complete_exchange()).await, Progress::default());
        harness.exchange.lock().unwrap().skew_ms = Some(skew_ms);
        let subscribed = time_of(1_000).plus_micros(-skew_ms * 1_000);
        assert!(!is_settled(&harness, &progress, subscribed).await, "the stream has no progress yet");
        first_row_is(&harness, &progress, 2_000).await;
        assert!(is_settled(&harness, &progress, subscribed).await);
        let ranges = open_ranges(&harness);
        let [(first, 1_999)] = ranges[..] else { panic!("{skew_ms}: {ranges:?}") };
        // The test's clock runs so fast that its offset is exact only to some seconds.
        assert!((950..1_050).contains(&first), "{skew_ms}: {ranges:?}");
    }
}

#[tokio::test]
async fn missed_trades_of_a_stream_without_a_row_are_a_gap() {
    let (harness, progress) = (Harness::new(complete_exchange()).await, Progress::default());
    harness.exchange.lock().unwrap().skew_ms = Some(0);
    set_next(&progress, NEWEST + 1);
    assert!(is_settled(&harness, &progress, time_of(4_000)).await);
    assert!(matches!(open_ranges(&harness)[..], [(3_900..4_100, NEWEST)]), "{:?}", open_ranges(&harness));
}

#[tokio::test]
async fn a_start_without_a_trade_stays_pending_until_the_first_row() {
    let (harness, progress) = (Harness::new(complete_exchange()).await, Progress::default());
    {
        let mut exchange = harness.exchange.lock().unwrap();
        (exchange.skew_ms, exchange.shown_to) = (Some(0), 3_000);
    }
    set_next(&progress, 3_001);
    assert!(!is_settled(&harness, &progress, time_of(3_500)).await, "a kill now would lose the first trade");
    first_row_is(&harness, &progress, 3_900).await;
    harness.exchange.lock().unwrap().shown_to = i64::MAX;
    assert!(is_settled(&harness, &progress, time_of(3_500)).await);
    assert!(matches!(open_ranges(&harness)[..], [(3_400..3_600, 3_899)]), "{:?}", open_ranges(&harness));
}

#[tokio::test]
async fn the_pauses_between_two_questions_about_a_start_grow_to_five_minutes() {
    let (mut pauses, began, mut waits) = (PausedChecks::default(), Instant::now(), Vec::new());
    let mut now = began;
    for _ in 0..8 {
        pauses.checked(&stream(), Check::Asked, now);
        let wait = (1..=301).find(|s| pauses.is_over(&stream(), now + Duration::from_secs(*s))).unwrap();
        waits.push(wait);
        now += Duration::from_secs(wait);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
    pauses.checked(&stream(), Check::NotYet, now);
    assert!(pauses.is_over(&stream(), now), "what costs nothing needs no pause");
}

#[tokio::test]
async fn a_database_that_does_not_show_the_first_row_yet_settles_nothing() {
    let (harness, progress) = (Harness::new(complete_exchange()).await, Progress::default());
    {
        let mut exchange = harness.exchange.lock().unwrap();
        (exchange.skew_ms, exchange.shown_to) = (Some(0), 3_000);
    }
    first_row_is(&harness, &progress, 4_500).await;
    assert!(!is_settled(&harness, &progress, time_of(4_000)).await);
    harness.exchange.lock().unwrap().shown_to = i64::MAX;
    assert!(is_settled(&harness, &progress, time_of(4_000)).await);
    assert!(matches!(open_ranges(&harness)[..], [(3_900..4_100, 4_499)]), "{:?}", open_ranges(&harness));
}

#[tokio::test]
async fn a_first_row_from_before_the_subscription_needs_no_request() {
    let (harness, progress) = (Harness::new(complete_exchange()).await, Progress::default());
    harness.exchange.lock().unwrap().skew_ms = Some(0);
    first_row_is(&harness, &progress, 1_000).await;
    let rest = &harness.deps.rest[&Exchange::named("binance")];
    rest.measure_clock(&harness.stop).await.unwrap();
    let before = rest.status().requests;
    assert!(is_settled(&harness, &progress, time_of(2_000)).await);
    assert_eq!((open_ranges(&harness), rest.status().requests), (vec![], before));
}

#[tokio::test]
async fn the_since_of_a_feed_that_a_reload_adds_is_a_gap() {
    let (harness, progress) = (Harness::new(complete_exchange()).await, Arc::new(Progress::default()));
    first_row_is(&harness, &progress, 2_000).await;
    let feed = |id| Feed {
        exchange: Exchange::named("binance"),
        symbols: vec![stream().symbol],
        patterns: Vec::new(),
        exclude: Vec::new(),
        channels: vec![Channel::Trade],
        succeeds: None,
        since: Since::TradeId(id),
        ws_url: None,
        rest_url: None,
    };
    let (feeds, watched) = watch::channel(vec![feed(1_900)]);
    let (recording_starts, heartbeat) = (Arc::new(RecordingStarts::default()), Heartbeats::default().watch("since"));
    let running =
        tokio::spawn(run(harness.deps.clone(), progress, watched, recording_starts, heartbeat, harness.stop.clone()));
    let opened = async |first| {
        let opened = async {
            while open_ranges(&harness) != [(first, 1_999)] {
                harness.deps.ledger.gap_opened.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), opened).await.expect("a gap in time");
    };
    opened(1_900).await;
    // The loop has checked the first feeds; this one is added later.
    feeds.send_replace(vec![feed(1_500)]);
    opened(1_500).await;
    harness.stop.cancel();
    running.await.unwrap();
}

#[test]
fn an_exchange_whose_clock_turns_out_to_be_ahead_later_does_not_shorten_the_gap() {
    let mut starts = ExchangeStarts::default();
    for (measured, expected) in [(50, 50), (7_200, 50), (40, 40), (50, 40)] {
        assert_eq!(starts.earliest(&stream(), time_of(measured)), time_of(expected));
    }
    starts.forget(&stream());
    assert_eq!(starts.earliest(&stream(), time_of(60)), time_of(60), "a feed that was removed and added again");
}
