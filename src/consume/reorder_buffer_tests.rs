//! What the buffer makes of records, one rule per test.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::exchange::binance::Binance;
use crate::history::LetterSource;
use crate::market::Frame;

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

/// The log is read to its end, this many microseconds after its last record.
fn at(us: i64) -> Moment {
    Moment { monotonic: Duration::from_micros(us as u64), wall: Timestamp(us), at_end: BTreeSet::from([0]) }
}

fn declare(buffer: &mut ReorderBuffer, us: i64) {
    buffer.declare_gaps(&at(us), Force::None);
}

/// Pushes frames in order as one delivery, then declares gaps after every grace period is over.
fn sort(frames: &[String]) -> (ReorderBuffer, ReadyBatch) {
    let mut buffer = new_buffer();
    for (at, frame) in frames.iter().enumerate() {
        buffer.push(record(at as i64, frame.clone()));
    }
    declare(&mut buffer, i64::MAX / 2);
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
    declare(&mut buffer, 40_000);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), ready.positions), (vec![5, 6], Offsets::from([(0, 2)])));
    declare(&mut buffer, 10_000_000);
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
    declare(&mut buffer, 40_000);
    buffer.take_ready();
    declare(&mut buffer, 10_000_000);
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
fn a_dead_letter_names_its_recorder() {
    let mut buffer = new_buffer().with_recorder("north-1");
    buffer.push(record(7, "{".to_owned()));
    let letter = buffer.take_ready().rows.batch.dead_letters.remove(0);
    assert_eq!((&*letter.recorder, letter.source, letter.offset), ("north-1", LetterSource::Log, 7));
    assert!(!letter.id.is_empty());
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
    let names: Vec<String> = buffer.outages().iter().map(Outage::part).collect();
    assert_eq!(names, ["binance", "binance:BTCUSDT:trade"]);
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
    buffer.seed([("binance:BTCUSDT:trade".parse().unwrap(), Watermark { position: 5, ts: None })]);
    buffer.push(record(0, trade(8)));
    declare(&mut buffer, 10_000_000);
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
    buffer.expect(&Expectation { stream, last: 9, by: "tail" }, &at(0));
    // It is held at the deadline of the expectation, but not long enough to reveal a gap itself.
    buffer.push(record(200, trade(8)));
    declare(&mut buffer, EXPECT_GRACE_US + 10_000);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready)), (vec![5, 8], vec![(6, 7)]));
    assert_eq!(ready.positions, Offsets::from([(0, 201)]));
    // An expected position behind it is a gap as well, and the stream continues.
    buffer.push(record(210, trade(10)));
    declare(&mut buffer, EXPECT_GRACE_US + 110_000);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready)), (vec![10], vec![(9, 9)]));
}

#[test]
fn a_kline_held_behind_an_expected_gap_is_released() {
    let mut buffer = new_buffer();
    buffer.push(record(0, kline(1, true, -1)));
    let (stream, last) = ("binance:BTCUSDT:kline_1m".parse().unwrap(), 2 * 60_000_000);
    buffer.expect(&Expectation { stream, last, by: "tail" }, &at(0));
    buffer.push(record(200, kline(3, true, -1)));
    declare(&mut buffer, EXPECT_GRACE_US + 10_000);
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
    buffer.set_clock(Exchange::named("binance"), Some(0), Timestamp::from_millis(186_000));
    for (at, frame) in frames.into_iter().enumerate() {
        buffer.push(record(at as i64, frame));
    }
    declare(&mut buffer, 0);
    assert_eq!(gaps(&buffer.take_ready()), [], "it may still arrive");
    declare(&mut buffer, EXPECT_GRACE_US + 1);
    assert_eq!(gaps(&buffer.take_ready()), [(120_000_000, 120_000_000)]);
}

#[test]
fn expected_positions_that_arrive_in_time_are_no_gap() {
    let mut buffer = new_buffer();
    let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
    buffer.push(record(0, trade(5)));
    buffer.expect(&Expectation { stream: stream.clone(), last: 7, by: "tail" }, &at(0));
    buffer.push(record(1, trade(6)));
    buffer.push(record(2, trade(7)));
    declare(&mut buffer, i64::MAX / 2);
    assert_eq!(gaps(&buffer.take_ready()), []);
    buffer.expect(&Expectation { stream, last: 9, by: "tail" }, &at(0));
    assert!(buffer.is_waiting());
    declare(&mut buffer, EXPECT_GRACE_US);
    assert_eq!(gaps(&buffer.take_ready()), [(8, 9)]);
}

#[test]
fn a_long_backlog_behind_a_gap_is_not_held_without_limit() {
    let mut buffer = new_buffer();
    buffer.push(record(0, trade(1)));
    for at in 1..10_000 {
        buffer.push(record(at, trade(at + 5)));
    }
    buffer.declare_gaps(&Moment::default(), Force::None);
    let ready = buffer.take_ready();
    assert_eq!((gaps(&ready), ready.positions[&0]), (vec![(2, 5)], 10_000));
}

fn letters(ready: &ReadyBatch) -> Vec<(i64, String)> {
    ready.rows.batch.dead_letters.iter().map(|letter| (letter.offset, letter.reason.clone())).collect()
}

fn btc() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

/// Ids that no market reaches within a second.
const ABSURD: [i64; 3] = [1_000_000, 1_000_000_000_000, 1 << 53];

#[test]
fn a_kline_whose_trade_ids_are_not_its_trades_is_set_aside() {
    let absurd = kline(1, true, 4).replace("\"L\":4", "\"L\":9223372036854775807");
    let (_, ready) = sort(&[trade(1), trade(2), absurd]);
    assert_eq!((gaps(&ready), letters(&ready).len(), ready.rows.batch.klines.len()), (vec![], 1, 0));
}

#[test]
fn a_kline_whose_open_time_is_long_past_or_between_two_klines_is_set_aside() {
    let between = kline(2_001, true, -1).replace("\"t\":120060000", "\"t\":120060017");
    let (_, ready) = sort(&[kline(2_000, true, -1), kline(0, true, -1), between, kline(2_001, true, -1)]);
    assert_eq!((gaps(&ready), letters(&ready).len(), ready.rows.batch.klines.len()), (vec![], 2, 2), "{ready:?}");
}

#[test]
fn a_hole_in_a_backlog_ends_by_the_receive_times_of_its_own_partition() {
    let mut buffer = new_buffer();
    for (offset, id) in [5, 7, 8].into_iter().enumerate() {
        buffer.push(record(offset as i64, trade(id)));
    }
    // Nothing says that the log is read to its end, and the wall clock does not move.
    buffer.declare_gaps(&Moment::default(), Force::None);
    assert_eq!(buffer.take_ready().positions[&0], 1);
    buffer.push(record(60, trade(9)));
    buffer.declare_gaps(&Moment::default(), Force::None);
    let ready = buffer.take_ready();
    assert_eq!((gaps(&ready), ready.positions[&0]), (vec![(6, 6)], 61));
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_a_partition() {
    let mut buffer = new_buffer();
    let set_back = |offset: i64, id: i64, us: i64| {
        let mut record = record(offset, trade(id));
        record.frame.received_at = Timestamp(us);
        record
    };
    let hour = 3_600_000_000;
    buffer.push(set_back(0, 5, hour));
    buffer.push(set_back(1, 7, hour + 1));
    buffer.push(set_back(2, 8, 0));
    buffer.push(set_back(3, 9, 400_000));
    buffer.declare_gaps(&Moment::default(), Force::None);
    let ready = buffer.take_ready();
    assert_eq!((gaps(&ready), ready.positions[&0]), (vec![(6, 6)], 4));
}

#[test]
fn a_rebalance_ends_only_the_holes_of_the_partitions_that_leave() {
    let mut buffer = new_buffer();
    buffer.push(record(0, trade(5)));
    buffer.push(record(1, trade(7)));
    buffer.declare_gaps(&Moment::default(), Force::Partitions(&[1, 2]));
    assert_eq!(gaps(&buffer.take_ready()), []);
    buffer.declare_gaps(&Moment::default(), Force::Partitions(&[0]));
    assert_eq!(gaps(&buffer.take_ready()), [(6, 6)]);
}

#[test]
fn all_streams_together_hold_a_bounded_number_of_bytes() {
    let mut buffer = new_buffer();
    let of = |symbol: usize, id: i64, padding: &str| {
        let name = format!("SYM{symbol}USDT");
        trade(id)
            .replace("BTCUSDT", &name)
            .replace("btcusdt", &name.to_lowercase())
            .replace("\"M\":true", &format!("\"M\":true,\"x\":\"{padding}\""))
    };
    let padding = "x".repeat(100_000);
    for symbol in 0..10 {
        buffer.push(record(symbol as i64, of(symbol, 1, "")));
    }
    for n in 0..1_000 {
        let (symbol, id) = (n as usize % 10, 3 + n / 10);
        buffer.push(record(10 + n, of(symbol, id, &padding)));
        assert!(buffer.routed.held_bytes <= HELD_BYTES_MAX, "{}", buffer.routed.held_bytes);
    }
    let ready = buffer.take_ready();
    assert_eq!(letters(&ready), []);
    assert!(!gaps(&ready).is_empty(), "the largest holder's gap is declared early");
    declare(&mut buffer, 60_000_000);
    buffer.take_ready();
    assert_eq!(buffer.routed.held_bytes, 0, "every held byte is counted once");
}

#[test]
fn a_book_id_at_the_end_of_all_numbers_moves_no_cache() {
    let book = |id: i64| {
        format!(
            r#"{{"stream":"btcusdt@bookTicker","data":{{"u":{id},"s":"BTCUSDT","b":"1","B":"2","a":"3","A":"4"}}}}"#
        )
    };
    let (_, ready) = sort(&[book(10), book(i64::MAX), book(11)]);
    assert_eq!((ready.update.books[0].2.update_id, letters(&ready).len()), (11, 1));
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
            buffer.set_monotonic(Duration::from_millis(at as u64 * 10));
            buffer.push(record(at as i64, trade(*id)));
            if seals.contains(&at) {
                declare(&mut buffer, at as i64 * 10_000);
                absorb(buffer.take_ready());
            }
        }
        declare(&mut buffer, i64::MAX / 2);
        absorb(buffer.take_ready());
        prop_assert_eq!(commit as usize, sent.len());
        // Adjacent swaps span at most 0.2 s here, within the grace period, so exactly the lost positions are missing.
        let last = *stored.iter().max().expect("something was sent");
        let first = sent[0];
        let expected: BTreeSet<i64> = lost.into_iter().filter(|id| (first..last).contains(id)).collect();
        prop_assert_eq!(missing, expected);
    }
}

#[test]
fn an_older_open_kline_does_not_replace_a_newer_one_in_the_same_batch() {
    let mut buffer = new_buffer();
    for (at, (minute, last)) in [(10, 3), (10, 9), (10, 5), (9, 2)].into_iter().enumerate() {
        buffer.push(record(at as i64, kline(minute, false, last)));
    }
    let klines = buffer.take_ready().update.klines;
    assert_eq!(klines.len(), 1);
    assert_eq!((klines[0].2.open_time, klines[0].2.trade_count), (Timestamp(600_000_000), 9));
}

#[test]
fn a_partition_that_leaves_does_not_end_the_grace_of_the_others() {
    let mut buffer = new_buffer();
    let eth = |at: i64, id: i64| {
        let mut record = record(at, trade(id).replace("btcusdt", "ethusdt").replace("BTCUSDT", "ETHUSDT"));
        record.partition = 1;
        record.frame.key = Arc::from("binance:ETHUSDT");
        record
    };
    for (at, id) in [1, 3].into_iter().enumerate() {
        buffer.push(record(at as i64, trade(id)));
        buffer.push(eth(at as i64, id));
    }
    buffer.declare_gaps(&Moment::default(), Force::Partitions(&[0]));
    let ready = buffer.take_ready();
    let found: Vec<String> = ready.detected.iter().map(|gap| gap.stream.symbol.to_string()).collect();
    assert_eq!(found, ["BTCUSDT"]);
    assert_eq!((ready.positions[&0], ready.positions[&1]), (2, 1), "the held trade of ETHUSDT stays uncommitted");
    // Its neighbour was only late.
    buffer.push(eth(2, 2));
    assert_eq!(ids(&buffer.take_ready()), [2, 3]);
}

#[path = "agg_trade_tests.rs"]
mod agg_trade_tests;
#[path = "numbering_tests.rs"]
mod numbering_tests;
#[path = "plausible_tests.rs"]
mod plausible_tests;
