//! The klines before a stream's first row: lost ones, an exchange whose clock differs, a symbol that is listed later.

use std::time::Duration;

use rust_decimal::Decimal;

use super::super::since::{StartPoint, exchange_time, open_leading_gap};
use super::*;
use crate::backfill::tests::{BEGIN_MS, Harness, NEWEST, complete_exchange};
use crate::history::{Batch, KlineRow, row_version};
use crate::log::Offsets;
use crate::market::{Exchange, Kline, Symbol};
use crate::progress::StreamProgress;

const MINUTE_US: i64 = 60_000_000;
const HOUR_MS: i64 = 3_600_000;
/// The kline of one minute during which the recordings of these tests begin, by the exchange's clock.
const FIRST: i64 = (BEGIN_MS / 60_000 + 20) * MINUTE_US;

fn stream(interval: Interval) -> Stream {
    format!("binance:BTCUSDT:kline_{interval}").parse().unwrap()
}

/// An exchange whose clock is `skew_ms` ahead of ours, and a recorder that believes a `confirm_after` of six hours.
async fn harness(skew_ms: i64) -> (Harness, Progress) {
    let mut harness = Harness::new(complete_exchange()).await;
    harness.exchange.lock().unwrap().skew_ms = Some(skew_ms);
    harness.deps.confirm_after = Duration::from_secs(6 * 3_600);
    (harness, Progress::default())
}

/// The recording began 13 s after the exchange opened the kline `FIRST`.
async fn check(harness: &Harness, progress: &Progress, stream: &Stream, skew_ms: i64) -> Check {
    let began = Timestamp(FIRST + 13_000_000 - skew_ms * 1_000);
    let theirs =
        exchange_time(&harness.deps.rest[&Exchange::named("binance")], began, "begin", &harness.stop).await.unwrap();
    let start = StartPoint::RecordingSince(theirs, "begin");
    open_leading_gap(&harness.deps, progress, stream, start, &harness.stop).await
}

async fn store(harness: &Harness, interval: Interval, open_time: i64) {
    let (open_time, close_time) = (Timestamp(open_time), Timestamp(open_time + interval.micros() - 1_000));
    let one = Decimal::ONE;
    let kline = Kline {
        interval,
        open_time,
        close_time,
        open: one,
        high: one,
        low: one,
        close: one,
        volume: one,
        quote_volume: one,
        trade_count: 1,
        first_trade_id: 1,
        last_trade_id: 1,
        closed: true,
    };
    let (exchange, symbol, version) = (Exchange::named("binance"), Symbol::new("BTCUSDT"), row_version(false));
    let row = KlineRow { exchange, symbol, kline, is_backfilled: false, version };
    harness.deps.history().insert(&Batch { klines: vec![row], ..Batch::default() }).await.unwrap();
}

fn follow_from(progress: &Progress, stream: &Stream, next: i64) {
    let following = StreamProgress { next: Some(next), ..StreamProgress::default() };
    progress.publish([(stream.clone(), following)], &Offsets::new());
}

/// The open gaps of a stream, in klines counted from `first`.
fn gaps(harness: &Harness, stream: &Stream, first: i64) -> Vec<(i64, i64)> {
    let step = stream.channel.step().unwrap();
    harness.deps.ledger.with(|ledger| {
        let rows = ledger.rows().filter(|gap| gap.stream == *stream);
        rows.map(|gap| ((gap.range.first - first) / step, (gap.range.last - first) / step)).collect()
    })
}

#[tokio::test]
async fn klines_between_the_subscription_and_the_first_row_are_a_gap_with_any_exchange_clock() {
    for skew_ms in [0, 5 * HOUR_MS, -5 * HOUR_MS] {
        for interval in Interval::ALL {
            let ((harness, progress), stream) = (harness(skew_ms).await, stream(interval));
            let step = interval.micros();
            let first = FIRST.div_euclid(step) * step;
            follow_from(&progress, &stream, first);
            assert_eq!(check(&harness, &progress, &stream, skew_ms).await, Check::NotYet, "the first is not over");
            assert!(gaps(&harness, &stream, first).is_empty());
            store(&harness, interval, first + 2 * step).await;
            follow_from(&progress, &stream, first + 3 * step);
            assert_eq!(check(&harness, &progress, &stream, skew_ms).await, Check::Finished, "{interval} {skew_ms}");
            assert_eq!(gaps(&harness, &stream, first), [(0, 1)], "{interval} {skew_ms}");
        }
    }
}

#[tokio::test]
async fn a_first_kline_that_is_stored_needs_no_request() {
    let ((harness, progress), stream) = (harness(0).await, stream(Interval::M1));
    store(&harness, Interval::M1, FIRST).await;
    follow_from(&progress, &stream, FIRST + MINUTE_US);
    let rest = &harness.deps.rest[&Exchange::named("binance")];
    rest.measure_clock(&harness.stop).await.unwrap();
    let before = rest.status().requests;
    assert_eq!(check(&harness, &progress, &stream, 0).await, Check::Finished);
    assert_eq!((gaps(&harness, &stream, FIRST), rest.status().requests), (vec![], before));
}

#[tokio::test]
async fn klines_of_a_stream_without_any_frame_are_a_gap_and_its_start_stays_pending() {
    let ((harness, progress), stream) = (harness(0).await, stream(Interval::M1));
    assert_eq!(check(&harness, &progress, &stream, 0).await, Check::Asked, "a kill now must not lose the start");
    let [(0, last)] = gaps(&harness, &stream, FIRST)[..] else { panic!("{:?}", gaps(&harness, &stream, FIRST)) };
    let oldest = NEWEST / 60 - 20 - 2;
    assert!(last >= oldest, "{last}: every kline that has ended");
    // The rows come back; then the first frame arrives, and the klines between are a gap too.
    for kline in 0..=last {
        store(&harness, Interval::M1, FIRST + kline * MINUTE_US).await;
    }
    follow_from(&progress, &stream, FIRST + (last + 3) * MINUTE_US);
    assert_eq!(check(&harness, &progress, &stream, 0).await, Check::Finished);
    let reach = gaps(&harness, &stream, FIRST).into_iter().map(|gap| gap.1).max();
    assert_eq!(reach, Some(last + 2), "{:?}", gaps(&harness, &stream, FIRST));
}

#[tokio::test]
async fn a_symbol_that_is_listed_later_has_no_gap_before_its_listing() {
    let ((mut harness, progress), stream) = (harness(0).await, stream(Interval::M1));
    harness.exchange.lock().unwrap().listed_minute = FIRST / MINUTE_US + 5;
    store(&harness, Interval::M1, FIRST + 7 * MINUTE_US).await;
    follow_from(&progress, &stream, FIRST + 8 * MINUTE_US);
    assert_eq!(check(&harness, &progress, &stream, 0).await, Check::Finished);
    assert_eq!(gaps(&harness, &stream, FIRST), [(5, 6)]);

    let other: Stream = "binance:ETHUSDT:kline_1m".parse().unwrap();
    follow_from(&progress, &other, FIRST + 5 * MINUTE_US);
    assert_eq!(check(&harness, &progress, &other, 0).await, Check::Asked, "one answer is no proof");
    assert!(gaps(&harness, &other, FIRST).is_empty());
    harness.deps.confirm_after = Duration::ZERO;
    assert_eq!(check(&harness, &progress, &other, 0).await, Check::Asked, "no row outlives a kill yet");
}

#[tokio::test]
async fn a_kline_that_the_exchange_hides_between_others_is_a_gap() {
    let ((harness, progress), stream) = (harness(0).await, stream(Interval::M1));
    harness.exchange.lock().unwrap().never = [FIRST / MINUTE_US].into();
    store(&harness, Interval::M1, FIRST + MINUTE_US).await;
    follow_from(&progress, &stream, FIRST + 2 * MINUTE_US);
    assert_eq!(check(&harness, &progress, &stream, 0).await, Check::Finished);
    assert_eq!(gaps(&harness, &stream, FIRST), [(0, 0)], "the ledger asks for it until it is certain");
}

/// The recording began before the symbol's first kline. That one is never served, and hides no loss behind it.
#[tokio::test]
async fn klines_lost_behind_a_refilled_one_are_a_gap_although_the_exchange_does_not_serve_the_first_minute() {
    let ((harness, progress), stream) = (harness(0).await, stream(Interval::M1));
    harness.exchange.lock().unwrap().listed_minute = FIRST / MINUTE_US + 1;
    store(&harness, Interval::M1, FIRST + MINUTE_US).await;
    follow_from(&progress, &stream, FIRST + 5 * MINUTE_US);
    assert_eq!(check(&harness, &progress, &stream, 0).await, Check::Asked);
    assert_eq!(gaps(&harness, &stream, FIRST), [(2, 4)]);
}
