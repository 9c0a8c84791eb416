//! What is wanted in front of a first row, of an exchange that lags or whose clock is far from ours.

use rust_decimal::Decimal;

use super::*;
use crate::backfill::tests::{BEGIN_MS, Bench, NEWEST, stream, whole};
use crate::consume::Standing;
use crate::heartbeat::Heartbeats;
use crate::history::Batch;
use crate::log::Offsets;
use crate::market::{Exchange, Side, Trade};

const HOUR_MS: i64 = 3_600_000;

/// Trade n happened n seconds after the beginning, by the exchange's clock.
fn time_of(id: i64) -> Timestamp {
    Timestamp::from_millis(BEGIN_MS + id * 1_000)
}

/// The stream's first row is there.
async fn first_row_is(bench: &Bench, board: &Board, id: i64) {
    let trade = Trade { id, ts: time_of(id), price: Decimal::ONE, quantity: Decimal::ONE, side: Side::Buy };
    let (exchange, symbol, received_at) = (Exchange::Binance, stream().symbol, bench.parts.clock.now());
    let row = TradeRow { exchange, symbol, trade, received_at, is_backfilled: false };
    bench.parts.history().insert(&Batch { trades: vec![row], ..Batch::default() }).await.unwrap();
    stands_at(board, id + 1);
}

fn stands_at(board: &Board, next: i64) {
    board.publish([(stream(), Standing { next: Some(next), ..Standing::default() })], &Offsets::new());
}

fn open_ranges(bench: &Bench) -> Vec<(i64, i64)> {
    bench.parts.ledger.with(|ledger| ledger.rows().map(|gap| (gap.range.first, gap.range.last)).collect())
}

async fn begun(bench: &Bench, board: &Board, at: Timestamp) -> bool {
    open(&bench.parts, board, &stream(), Wish::Begun(at, "begin"), &bench.stop).await
}

#[tokio::test]
async fn what_came_between_the_subscription_and_the_first_row_is_a_gap_whatever_the_exchanges_clock_says() {
    for skew_ms in [0, 5 * HOUR_MS, -5 * HOUR_MS] {
        let (bench, board) = (Bench::new(whole()).await, Board::default());
        bench.market.lock().unwrap().skew_ms = Some(skew_ms);
        let subscribed = time_of(1_000).plus_micros(-skew_ms * 1_000);
        assert!(!begun(&bench, &board, subscribed).await, "nothing is known of the stream yet");
        first_row_is(&bench, &board, 2_000).await;
        assert!(begun(&bench, &board, subscribed).await);
        let ranges = open_ranges(&bench);
        let [(first, 1_999)] = ranges[..] else { panic!("{skew_ms}: {ranges:?}") };
        // The bench's clock runs so fast that its offset is measured to some seconds only.
        assert!((950..1_050).contains(&first), "{skew_ms}: {ranges:?}");
    }
}

#[tokio::test]
async fn what_was_missed_of_a_stream_without_a_row_is_a_gap_too() {
    let (bench, board) = (Bench::new(whole()).await, Board::default());
    bench.market.lock().unwrap().skew_ms = Some(0);
    stands_at(&board, NEWEST + 1);
    assert!(begun(&bench, &board, time_of(4_000)).await);
    assert!(matches!(open_ranges(&bench)[..], [(3_900..4_100, NEWEST)]), "{:?}", open_ranges(&bench));
}

#[tokio::test]
async fn a_database_that_does_not_show_the_first_row_yet_settles_nothing() {
    let (bench, board) = (Bench::new(whole()).await, Board::default());
    {
        let mut market = bench.market.lock().unwrap();
        (market.skew_ms, market.shown_to) = (Some(0), 3_000);
    }
    first_row_is(&bench, &board, 4_500).await;
    assert!(!begun(&bench, &board, time_of(4_000)).await);
    bench.market.lock().unwrap().shown_to = i64::MAX;
    assert!(begun(&bench, &board, time_of(4_000)).await);
    assert!(matches!(open_ranges(&bench)[..], [(3_900..4_100, 4_499)]), "{:?}", open_ranges(&bench));
}

#[tokio::test]
async fn a_first_row_of_before_the_subscription_leaves_nothing_to_ask() {
    let (bench, board) = (Bench::new(whole()).await, Board::default());
    bench.market.lock().unwrap().skew_ms = Some(0);
    first_row_is(&bench, &board, 1_000).await;
    let rest = &bench.parts.rest[&Exchange::Binance];
    rest.measure_clock(&bench.stop).await.unwrap();
    let before = rest.status().requests;
    assert!(begun(&bench, &board, time_of(2_000)).await);
    assert_eq!((open_ranges(&bench), rest.status().requests), (vec![], before));
}

#[tokio::test]
async fn what_a_feed_that_a_reload_brings_asks_for_is_a_gap() {
    let (bench, board) = (Bench::new(whole()).await, Arc::new(Board::default()));
    first_row_is(&bench, &board, 2_000).await;
    let feed = |id| Feed {
        exchange: Exchange::Binance,
        symbols: vec![stream().symbol],
        channels: vec![Channel::Trade],
        since: Since::TradeId(id),
        ws_url: None,
        rest_url: None,
    };
    let (feeds, watched) = watch::channel(vec![feed(1_900)]);
    let (anchors, heartbeat) = (Arc::new(Anchors::default()), Heartbeats::default().watch("since"));
    let running = tokio::spawn(run(bench.parts.clone(), board, watched, anchors, heartbeat, bench.stop.clone()));
    let opened = async |first| {
        let opened = async {
            while open_ranges(&bench) != [(first, 1_999)] {
                bench.parts.ledger.news.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), opened).await.expect("a gap in time");
    };
    opened(1_900).await;
    // It has looked at the feeds of the start; these come later.
    feeds.send_replace(vec![feed(1_500)]);
    opened(1_500).await;
    bench.stop.cancel();
    running.await.unwrap();
}
