//! Klines that were stored before their last frames.

use std::sync::Arc;
use std::time::Instant;

use rust_decimal::Decimal;

use super::super::tests::{BEGIN_MS, Harness, NEWEST, complete_exchange};
use super::*;
use crate::clock::Clock;
use crate::exchange::binance::Binance;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::spec::{ChannelKind, ChannelSpec, Spec};
use crate::heartbeat::Heartbeats;
use crate::history::{Batch, Verdict, row_version};
use crate::market::Interval;

/// The exchange's clock: its present minute is 20 s old.
const NOW_MS: i64 = BEGIN_MS + NEWEST * 1_000 - 20_000;

fn stream() -> Stream {
    "binance:BTCUSDT:kline_1m".parse().unwrap()
}

/// The venue whose klines are closed by the next one. It serves klines without trades, at the price 1.
fn venue() -> ChangedDialect {
    ChangedDialect::new(Binance, |spec| {
        let changed = |channel: &ChannelSpec| match channel.kind {
            ChannelKind::Kline { intervals, names_trades, .. } => {
                let close = KlineClose::Successor;
                ChannelSpec { kind: ChannelKind::Kline { intervals, close, names_trades }, ..*channel }
            }
            _ => *channel,
        };
        let channels: Vec<ChannelSpec> = spec.channels.iter().map(changed).collect();
        Spec { channels: channels.leak(), ..spec }
    })
}

async fn harness() -> Harness {
    let (now, began) = (Timestamp::from_millis(NOW_MS), Instant::now());
    let clock = Clock::from_fn(move || now.plus_micros(began.elapsed().as_micros() as i64));
    Harness::as_venue(Arc::new(venue()), complete_exchange(), clock).await
}

/// The minute that ended `ago` minutes before the exchange's present one began.
fn minute(ago: i64) -> i64 {
    (NOW_MS / 60_000 - 1 - ago) * 60_000_000
}

async fn store(harness: &Harness, ago: i64, close: i64, trade_count: i64) {
    let (open_time, price) = (Timestamp(minute(ago)), Decimal::ONE);
    let kline = Kline {
        interval: Interval::M1,
        open_time,
        close_time: open_time.plus_micros(59_999_000),
        open: price,
        high: price,
        low: price,
        close: Decimal::from(close),
        volume: Decimal::ZERO,
        quote_volume: Decimal::from(7),
        trade_count,
        first_trade_id: -1,
        last_trade_id: -1,
        closed: true,
    };
    let (exchange, symbol) = (stream().exchange, stream().symbol);
    let row = KlineRow { exchange, symbol, kline, is_backfilled: false, version: row_version(false) };
    harness.deps.history().insert(&Batch { klines: vec![row], ..Batch::default() }).await.unwrap();
}

/// The stored closing price, and whether the row was backfilled.
async fn closing_price(harness: &Harness, ago: i64) -> (i64, bool) {
    let range = Range { first: minute(ago), last: minute(ago) };
    let row = harness.deps.history().klines(&stream(), range, 1).await.unwrap().remove(0);
    (i64::try_from(row.kline.close).unwrap(), row.is_backfilled)
}

async fn compare(harness: &Harness, state: &mut Checked) {
    let heartbeat = Heartbeats::default().watch("test");
    check(&harness.deps, &stream(), state, (&heartbeat, &harness.stop)).await.unwrap();
}

#[tokio::test]
async fn a_kline_that_the_exchange_serves_otherwise_is_replaced_after_two_answers() {
    let harness = harness().await;
    store(&harness, 9, 1, 0).await;
    store(&harness, 8, 2, 0).await;
    let mut state = Checked::default();
    compare(&harness, &mut state).await;
    assert_eq!(closing_price(&harness, 8).await, (2, false), "one answer is not believed");
    compare(&harness, &mut state).await;
    assert_eq!(closing_price(&harness, 8).await, (1, true));
    assert_eq!(closing_price(&harness, 9).await, (1, false), "its quote volume alone differs");
    let conflicts = harness.deps.history().conflicts(false, 9).await.unwrap();
    let [conflict] = &conflicts[..] else { panic!("{conflicts:?}") };
    assert_eq!((conflict.position, conflict.verdict), (minute(8), Verdict::Arrived));
    assert!(conflict.stored.contains(r#""close":"2""#), "the replaced content is kept: {conflict:?}");
    assert_eq!(state.from, Some(minute(7)), "the next check begins after it");
}

#[tokio::test]
async fn a_kline_with_fewer_trades_than_the_stored_one_replaces_nothing() {
    let harness = harness().await;
    store(&harness, 8, 2, 5).await;
    let mut state = Checked::default();
    compare(&harness, &mut state).await;
    compare(&harness, &mut state).await;
    assert_eq!(closing_price(&harness, 8).await, (2, false), "the server lags");
}

#[tokio::test]
async fn a_kline_that_has_just_ended_is_compared_later() {
    let harness = harness().await;
    const { assert!((NOW_MS % 60_000) * 1_000 < SETTLED_US) };
    store(&harness, 0, 2, 0).await;
    let mut state = Checked::default();
    compare(&harness, &mut state).await;
    assert!(state.differing.is_empty(), "{state:?}");
    store(&harness, 1, 2, 0).await;
    compare(&harness, &mut state).await;
    assert_eq!(state.differing.len(), 1, "{state:?}");
}

#[tokio::test]
async fn the_klines_of_a_symbol_whose_trades_had_a_gap_are_compared_soon() {
    let harness = harness().await;
    let now = harness.deps.rest[&stream().exchange].exchange_now();
    let heartbeat = Heartbeats::default().watch("test");
    let hour = now.plus_micros(CHECK_EVERY_US);
    let mut state = Checked { due: Some(hour), ..Checked::default() };
    let on = (&heartbeat, &harness.stop);
    check_when_due(&harness.deps, &stream(), &mut state, &HashSet::new(), on).await;
    assert_eq!(state.due, Some(hour));
    harness.open(100, 120).await;
    harness.attempt(1).await;
    let refilled = harness.deps.answers.take_refilled(stream().exchange);
    assert_eq!(refilled, HashSet::from([stream().symbol]));
    check_when_due(&harness.deps, &stream(), &mut state, &refilled, on).await;
    assert!(state.due.is_some_and(|due| due.since(now) < 2 * SETTLED_US), "{state:?}");
    assert!(harness.deps.answers.take_refilled(stream().exchange).is_empty(), "once");
}

#[tokio::test]
async fn an_exchange_that_says_something_else_each_time_is_not_asked_on_and_on() {
    let harness = harness().await;
    store(&harness, 8, 2, 0).await;
    let now = harness.deps.rest[&stream().exchange].exchange_now();
    let heartbeat = Heartbeats::default().watch("test");
    let mut state = Checked { due: Some(now), ..Checked::default() };
    let on = (&heartbeat, &harness.stop);
    check_when_due(&harness.deps, &stream(), &mut state, &HashSet::new(), on).await;
    assert!(state.due.is_some_and(|due| due.since(now) < 2 * ASK_AGAIN_US), "the first time it is asked again soon");
    state.differing.values_mut().for_each(|kline| kline.close = Decimal::from(9));
    state.due = Some(now);
    check_when_due(&harness.deps, &stream(), &mut state, &HashSet::new(), on).await;
    assert!(state.due.is_some_and(|due| due.since(now) >= CHECK_EVERY_US), "{state:?}");
    assert_eq!(closing_price(&harness, 8).await, (2, false), "nothing is confirmed");
}
