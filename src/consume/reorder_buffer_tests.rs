//! What the buffer makes of records, one rule per test.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::exchange::binance::Binance;

/// One frame as Binance sends it, at log offset and receive time `at` (in 10 ms steps).
fn record(at: i64, payload: String) -> Record {
    Record {
        partition: 0,
        offset: at,
        frame: Frame {
            key: Arc::from("binance:BTCUSDT"),
            received_at: Timestamp(at * 10_000),
            connection: 1,
            origin: Origin::Socket,
            payload: Bytes::from(payload),
        },
    }
}

fn trade(id: i64) -> String {
    format!(
        r#"{{"stream":"btcusdt@trade","data":{{"e":"trade","E":{id},"s":"BTCUSDT","t":{id},"p":"1.50000000","q":"2.00000000","T":{id},"m":true,"M":true}}}}"#
    )
}

fn kline(minute: i64, closed: bool, last: i64) -> String {
    let (open, close) = (minute * 60_000, minute * 60_000 + 59_999);
    format!(
        r#"{{"stream":"btcusdt@kline_1m","data":{{"e":"kline","E":{close},"s":"BTCUSDT","k":{{"t":{open},"T":{close},"s":"BTCUSDT","i":"1m","f":1,"L":{last},"o":"1.5","c":"1.5","h":"1.5","l":"1.5","v":"2","n":{last},"x":{closed},"q":"3","V":"0","Q":"0","B":"0"}}}}}}"#
    )
}

fn new_buffer() -> ReorderBuffer {
    let binance: Arc<dyn Dialect> = Arc::new(Binance);
    ReorderBuffer::new([binance])
}

/// Pushes frames in order as one delivery, then declares gaps after every grace period is over.
fn sort(frames: &[String]) -> (ReorderBuffer, ReadyBatch) {
    let mut buffer = new_buffer();
    for (at, frame) in frames.iter().enumerate() {
        buffer.push(record(at as i64, frame.clone()));
    }
    buffer.declare_gaps(Timestamp(i64::MAX / 2), false);
    let ready = buffer.take_ready();
    (buffer, ready)
}

fn ids(ready: &ReadyBatch) -> Vec<i64> {
    ready.rows.batch.trades.iter().map(|row| row.trade.id).collect()
}

fn gaps(ready: &ReadyBatch) -> Vec<(i64, i64)> {
    ready.detected.iter().map(|gap| (gap.range.first, gap.range.last)).collect()
}

#[test]
fn a_jump_in_trade_ids_is_a_gap_with_its_evidence() {
    let (_, ready) = sort(&[trade(5), trade(8)]);
    assert_eq!((ids(&ready), gaps(&ready)), (vec![5, 8], vec![(6, 7)]));
    let gap = &ready.detected[0];
    assert_eq!((gap.next, gap.offset, gap.connection), (Some(8), Some(1), Some(1)));
    assert_eq!((gap.from_ts, gap.to_ts), (Some(Timestamp(5_000)), Some(Timestamp(8_000))));
}

#[test]
fn offsets_behind_a_held_frame_are_not_committed() {
    let mut buffer = new_buffer();
    for (at, id) in [5, 6, 9, 10].into_iter().enumerate() {
        buffer.push(record(at as i64, trade(id)));
    }
    buffer.declare_gaps(Timestamp(40_000), false);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), ready.positions), (vec![5, 6], Offsets::from([(0, 2)])));
    buffer.declare_gaps(Timestamp(10_000_000), false);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready)), (vec![9, 10], vec![(7, 8)]));
    assert_eq!(ready.positions, Offsets::from([(0, 4)]));
}

#[test]
fn progress_past_a_gap_is_published_without_another_frame() {
    let mut buffer = new_buffer();
    for (at, frame) in [trade(5), trade(9), kline(1, true, 0), kline(5, true, 0)].into_iter().enumerate() {
        buffer.push(record(at as i64, frame));
    }
    buffer.declare_gaps(Timestamp(40_000), false);
    buffer.take_ready();
    buffer.declare_gaps(Timestamp(10_000_000), false);
    let ready = buffer.take_ready();
    let progress: Vec<_> =
        ready.progress.iter().map(|(stream, progress)| (stream.channel.as_str(), progress.next)).collect();
    assert_eq!(progress, [("trade", Some(10)), ("kline_1m", Some(360_000_000))]);
}

#[test]
fn a_frame_that_cannot_be_decoded_is_a_dead_letter_with_its_bytes() {
    let (_, ready) = sort(&[trade(5), r#"{"stream":"btcusdt@trade","data":{"e":"trade""#.to_owned()]);
    let letter = &ready.rows.batch.dead_letters[0];
    assert_eq!((letter.offset, ready.positions[&0]), (1, 2));
    assert!(letter.payload.starts_with(b"{\"stream\"") && !letter.reason.is_empty());
    assert_eq!(&*letter.stream, "binance:BTCUSDT:trade");
}

#[test]
fn a_frame_whose_content_is_of_another_symbol_than_its_stream_is_a_dead_letter() {
    let (_, ready) = sort(&[trade(5), trade(6).replace("\"s\":\"BTCUSDT\"", "\"s\":\"EVILUSDT\""), trade(6)]);
    assert_eq!((ids(&ready), ready.rows.batch.dead_letters.len()), (vec![5, 6], 1));
    assert!(ready.rows.batch.dead_letters[0].reason.contains("EVILUSDT"));
}

#[test]
fn frames_of_another_type_for_half_a_minute_are_an_outage_until_one_decodes() {
    let number = |id| trade(id).replace("\"1.50000000\"", "1.5");
    let mut buffer = new_buffer();
    buffer.push(record(0, trade(1)));
    for at in 1..40 {
        buffer.push(record(at * 100, number(at)));
        buffer.push(record(at * 100 + 1, r#"{"result":null,"id":1}"#.to_owned()));
    }
    let parts: Vec<String> = buffer.outages().iter().map(Outage::part).collect();
    assert_eq!(parts, ["binance", "binance:BTCUSDT:trade"]);
    buffer.push(record(4_000, trade(40)));
    assert!(buffer.outages().is_empty());
}

#[test]
fn the_log_may_hold_symbols_that_this_recorder_does_not_record() {
    let foreign = trade(7).replace("btcusdt", "这是测试币456").replace("BTCUSDT", "这是测试币456");
    let (_, ready) = sort(&[trade(5), foreign]);
    let symbols: Vec<&str> = ready.rows.batch.trades.iter().map(|row| row.symbol.as_str()).collect();
    assert_eq!(symbols, ["BTCUSDT", "这是测试币456"]);
}

#[test]
fn a_watermark_from_before_a_restart_reveals_the_gap_of_the_restart() {
    let mut buffer = new_buffer();
    buffer.seed([("binance:BTCUSDT:trade".parse().unwrap(), 5)]);
    buffer.push(record(0, trade(8)));
    buffer.declare_gaps(Timestamp(10_000_000), false);
    assert_eq!(gaps(&buffer.take_ready()), [(6, 7)]);
}

#[test]
fn a_closed_kline_reveals_missing_trades() {
    let (_, ready) = sort(&[trade(1), trade(2), kline(1, true, 4)]);
    assert_eq!(gaps(&ready), [(3, 4)]);
    assert_eq!(ready.detected[0].by, "kline");
}

#[test]
fn a_frame_held_behind_an_expected_gap_is_released() {
    let mut buffer = new_buffer();
    buffer.push(record(0, trade(5)));
    let stream = "binance:BTCUSDT:trade".parse().unwrap();
    buffer.expect(&Expectation { stream, last: 9, by: "tail" }, Timestamp(0));
    // It is held at the deadline of the expectation, but not long enough to reveal a gap itself.
    buffer.push(record(200, trade(8)));
    buffer.declare_gaps(Timestamp(EXPECT_GRACE_US + 10_000), false);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready)), (vec![5, 8], vec![(6, 7)]));
    assert_eq!(ready.positions, Offsets::from([(0, 201)]));
    // An expected position behind it is a gap as well, and the stream continues.
    buffer.push(record(210, trade(10)));
    buffer.declare_gaps(Timestamp(EXPECT_GRACE_US + 110_000), false);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready)), (vec![10], vec![(9, 9)]));
}

#[test]
fn a_kline_held_behind_an_expected_gap_is_released() {
    let mut buffer = new_buffer();
    buffer.push(record(0, kline(1, true, -1)));
    let (stream, last) = ("binance:BTCUSDT:kline_1m".parse().unwrap(), 2 * 60_000_000);
    buffer.expect(&Expectation { stream, last, by: "tail" }, Timestamp(0));
    buffer.push(record(200, kline(3, true, -1)));
    buffer.declare_gaps(Timestamp(EXPECT_GRACE_US + 10_000), false);
    let ready = buffer.take_ready();
    assert_eq!((ready.rows.batch.klines.len(), gaps(&ready)), (2, vec![(last, last)]));
}

#[test]
fn a_missing_closed_kline_is_a_gap_of_its_channel() {
    let (_, ready) = sort(&[kline(1, true, -1), kline(2, false, -1), kline(3, false, -1), kline(3, true, -1)]);
    assert_eq!(gaps(&ready), [(120_000_000, 120_000_000)]);
    assert_eq!(ready.rows.batch.klines.len(), 2);
}

#[test]
fn a_closed_kline_is_expected_once_the_exchanges_time_is_well_past_it() {
    let (_, ready) = sort(&[kline(1, true, -1), kline(2, false, -1), trade(131_000)]);
    assert_eq!(gaps(&ready), [], "before its end the kline is not late");
    let mut frames = vec![kline(1, true, -1), kline(2, false, -1)];
    frames.push(trade(186_000));
    let mut buffer = new_buffer();
    for (at, frame) in frames.iter().enumerate() {
        buffer.push(record(at as i64, frame.clone()));
    }
    buffer.declare_gaps(Timestamp(0), false);
    assert_eq!(gaps(&buffer.take_ready()), [], "it may still arrive");
    buffer.declare_gaps(Timestamp(EXPECT_GRACE_US + 1), false);
    assert_eq!(gaps(&buffer.take_ready()), [(120_000_000, 120_000_000)]);
}

#[test]
fn expected_positions_that_arrive_in_time_are_no_gap() {
    let mut buffer = new_buffer();
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    buffer.push(record(0, trade(5)));
    buffer.expect(&Expectation { stream: stream.clone(), last: 7, by: "tail" }, Timestamp(0));
    buffer.push(record(1, trade(6)));
    buffer.push(record(2, trade(7)));
    buffer.declare_gaps(Timestamp(i64::MAX / 2), false);
    assert_eq!(gaps(&buffer.take_ready()), []);
    buffer.expect(&Expectation { stream, last: 9, by: "tail" }, Timestamp(0));
    assert!(buffer.is_waiting());
    buffer.declare_gaps(Timestamp(EXPECT_GRACE_US), false);
    assert_eq!(gaps(&buffer.take_ready()), [(8, 9)]);
}

#[test]
fn a_long_backlog_behind_a_gap_is_not_held_without_limit() {
    let mut buffer = new_buffer();
    buffer.push(record(0, trade(1)));
    for at in 1..10_000 {
        buffer.push(record(at, trade(at + 5)));
    }
    buffer.declare_gaps_over_limit();
    let ready = buffer.take_ready();
    assert_eq!((gaps(&ready), ready.positions[&0]), (vec![(2, 5)], 10_000));
}

proptest! {
    #[test]
    fn rows_and_gaps_together_are_what_the_exchange_published(
        lost in prop::collection::btree_set(2_i64..120, 0..40),
        twice in prop::collection::vec(0_usize..120, 0..10),
        swaps in prop::collection::vec(1_usize..120, 0..20),
        seals in prop::collection::btree_set(0_usize..140, 0..10),
    ) {
        let mut sent: Vec<i64> = (1..=120).filter(|id| !lost.contains(id)).collect();
        for at in swaps.into_iter().filter(|at| at + 1 < sent.len()).collect::<Vec<_>>() {
            sent.swap(at, at + 1);
        }
        for at in twice {
            let copy = sent[at % sent.len()];
            sent.push(copy);
        }
        let mut buffer = new_buffer();
        let (mut stored, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let mut commit = 0;
        let mut absorb = |ready: ReadyBatch| {
            stored.extend(ids(&ready));
            missing.extend(gaps(&ready).into_iter().flat_map(|(first, last)| first..=last));
            // Invariant 1: every committed frame is stored.
            commit = ready.positions.get(&0).copied().unwrap_or(commit);
            for id in &sent[..commit as usize] {
                assert!(stored.contains(id), "{id} was committed and is not stored");
            }
        };
        for (at, id) in sent.iter().enumerate() {
            buffer.push(record(at as i64, trade(*id)));
            if seals.contains(&at) {
                buffer.declare_gaps(Timestamp(at as i64 * 10_000), false);
                absorb(buffer.take_ready());
            }
        }
        buffer.declare_gaps(Timestamp(i64::MAX / 2), false);
        absorb(buffer.take_ready());
        prop_assert_eq!(commit as usize, sent.len());
        // Adjacent swaps span at most 0.2 s here, within the grace period, so exactly the lost positions are missing.
        let last = *stored.iter().max().expect("something was sent");
        let first = sent[0];
        let expected: BTreeSet<i64> = lost.into_iter().filter(|id| (first..last).contains(id)).collect();
        prop_assert_eq!(missing, expected);
    }
}
