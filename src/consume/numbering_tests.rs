//! Numberings that begin again, trades that come once more with another content, and klines that are corrected.

use super::*;
use crate::history::EpochRow;
use crate::market::{Symbol, Trade};

/// A trade with an id of the buffer's tests, at a time in milliseconds.
fn trade_at(id: i64, ms: i64) -> String {
    trade(id).replace(&format!("\"T\":{id}"), &format!("\"T\":{ms}"))
}

fn decoded(id: i64, ms: i64) -> Trade {
    let binance = Binance;
    let (frame, mut found) = (trade_at(id, ms), None);
    binance.decode(frame.as_bytes(), &mut |market| found = Some(market.event)).unwrap();
    match found {
        Some(Event::Trade(trade)) => trade,
        other => panic!("{other:?}"),
    }
}

/// A buffer that has the trades 1,001 to 1,020 of a numbering, at a millisecond each.
fn recorded() -> (ReorderBuffer, i64) {
    let mut buffer = new_buffer();
    for id in 1_001..=1_020 {
        buffer.push(record(id - 1_001, trade_at(id, id)));
    }
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready).len(), ready.positions[&0]), (20, 20));
    (buffer, 20)
}

fn restarted(first: i64, ms: i64, newest: i64) -> Numbering {
    Numbering::Restarted { first: decoded(first, ms), newest, reason: "test".to_owned() }
}

fn epochs(ready: &ReadyBatch) -> Vec<(i64, i64)> {
    ready.rows.batch.trades.iter().map(|row| (row.epoch, row.trade.id)).collect()
}

#[test]
fn ids_that_begin_again_wait_for_the_exchange_and_become_an_epoch() {
    // Far below, below the newest ones that are remembered, and with ids that are stored.
    for first in [1, 500, 1_005] {
        let (mut buffer, mut offset) = recorded();
        for id in [first + 3, first + 4] {
            buffer.push(record(offset, trade_at(id, 5_000 + id)));
            offset += 1;
        }
        let ready = buffer.take_ready();
        assert_eq!((ids(&ready), ready.positions[&0]), (vec![], 20), "{first}: held, not committed");
        let questions = buffer.take_doubtful();
        let last = questions.last().unwrap();
        assert_eq!((&last.stream, last.trades.len()), (&btc(), 2), "{first}");
        buffer.answer(&btc(), &restarted(first, 5_000 + first, first + 4), &at(1_000_000));
        declare(&mut buffer, 10_000_000);
        let ready = buffer.take_ready();
        let row = &ready.rows.batch.epochs[0];
        assert_eq!((row.epoch, row.first_id, row.began_at), (1, first, Timestamp::from_millis(5_000 + first)));
        assert_eq!(epochs(&ready), [(1, first + 3), (1, first + 4)], "{first}");
        assert_eq!(gaps(&ready), [(first, first + 2)], "{first}: the lost beginning is a gap");
        assert_eq!(ready.detected[0].epoch, 1);
        assert_eq!((ready.positions[&0], ready.progress[0].1.epoch), (offset, 1));
    }
}

#[test]
fn a_late_frame_of_the_ended_numbering_stays_in_it() {
    let (mut buffer, offset) = recorded();
    buffer.push(record(offset, trade_at(3, 5_003)));
    buffer.answer(&btc(), &restarted(3, 5_003, 3), &at(1_000_000));
    buffer.take_ready();
    buffer.push(record(offset + 1, trade_at(1_021, 4_900)));
    buffer.push(record(offset + 2, trade_at(4, 5_004)));
    let ready = buffer.take_ready();
    assert_eq!(epochs(&ready), [(0, 1_021), (1, 4)]);
    let versions: Vec<i64> = ready.rows.batch.trades.iter().map(|row| row.version).collect();
    assert!(versions[0] < crate::history::row_version(true), "it replaces no stored row: {versions:?}");
    // An id that the ended numbering cannot have reached stays in doubt.
    buffer.push(record(offset + 3, trade_at(900_000, 4_900)));
    assert_eq!((epochs(&buffer.take_ready()), !buffer.take_doubtful().is_empty()), (vec![], true));
}

#[test]
fn frames_that_are_consumed_again_after_a_crash_go_to_their_own_numbering() {
    let mut buffer = new_buffer();
    let epoch = EpochRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        channel: Channel::Trade,
        epoch: 1,
        first_id: 1,
        began_at: Timestamp::from_millis(5_000),
        reason: String::new(),
    };
    buffer.seed([(btc(), Watermark { position: 2, ts: Some(Timestamp::from_millis(5_002)) })]);
    buffer.seed_epochs(vec![epoch]);
    let frames = [trade_at(1_019, 1_019), trade_at(1_020, 1_020), trade_at(2, 5_002), trade_at(3, 5_003)];
    for (offset, frame) in frames.into_iter().enumerate() {
        buffer.push(record(offset as i64, frame));
    }
    let ready = buffer.take_ready();
    assert_eq!(epochs(&ready), [(0, 1_019), (0, 1_020), (1, 3)]);
    assert_eq!(ready.repeated.trades[0].0.trade.id, 2, "history says whether it is a copy");
    // Old frames after new ones are none that an earlier process left.
    buffer.push(record(4, trade_at(1_021, 1_021)));
    assert_eq!(epochs(&buffer.take_ready()), []);
}

#[test]
fn trades_that_the_exchange_does_not_serve_are_dead_letters() {
    let (mut buffer, offset) = recorded();
    for n in 0..3 {
        buffer.push(record(offset + n, trade_at(0, 5_000 + n)));
    }
    buffer.answer(&btc(), &Numbering::Continues { newest: 1_020 }, &at(1_000_000));
    let ready = buffer.take_ready();
    assert_eq!((letters(&ready).len(), ready.repeated.len(), ids(&ready)), (3, 0, vec![]));
    assert!(letters(&ready)[0].1.contains("it names trade 0, and 1021 was expected"), "{:?}", letters(&ready));
    assert_eq!((ready.positions[&0], ready.rows.batch.epochs.len()), (offset + 3, 0));
}

#[test]
fn trades_that_came_once_more_are_compared_with_history() {
    for numbering in [Numbering::RolledBack { newest: 1_022 }, Numbering::Confirmed { newest: 1_022 }] {
        let (mut buffer, offset) = recorded();
        for (n, id) in (1_018..=1_022).enumerate() {
            buffer.push(record(offset + n as i64, trade_at(id, 5_000 + id)));
        }
        buffer.answer(&btc(), &numbering, &at(1_000_000));
        let ready = buffer.take_ready();
        let repeated: Vec<i64> = ready.repeated.trades.iter().map(|(row, _)| row.trade.id).collect();
        assert_eq!((repeated, ids(&ready)), (vec![1_018, 1_019, 1_020], vec![1_021, 1_022]), "{numbering:?}");
        assert_eq!((ready.positions[&0], letters(&ready)), (offset + 5, vec![]));
    }
}

#[test]
fn another_content_of_the_same_time_is_a_conflict_and_a_copy_is_nothing() {
    let (mut buffer, offset) = recorded();
    buffer.push(record(offset, trade_at(1_005, 1_005)));
    buffer.push(record(offset + 1, trade_at(1_005, 1_005).replace("1.50000000", "1.60000000")));
    assert_eq!(buffer.take_doubtful().len(), 1);
    buffer.answer(&btc(), &Numbering::Continues { newest: 1_020 }, &at(1_000_000));
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), letters(&ready), ready.repeated.trades.len()), (vec![], vec![], 1));
}

#[test]
fn a_late_trade_that_is_not_remembered_is_compared_with_history() {
    let (mut buffer, offset) = recorded();
    buffer.push(record(offset, trade_at(7, 7)));
    let ready = buffer.take_ready();
    assert_eq!((ready.repeated.trades[0].0.trade.id, ready.positions[&0]), (7, offset + 1));
}

#[test]
fn of_two_closed_klines_the_one_that_was_sent_later_wins() {
    let other = |event_time: i64| {
        kline(1, true, 0)
            .replace("\"c\":\"1.5\"", "\"c\":\"1.7\"")
            .replace("\"E\":119999", &format!("\"E\":{event_time}"))
    };
    for (event_time, expected) in [(121_000, Some(true)), (119_000, Some(false)), (119_999, None)] {
        let (_, ready) = sort(&[kline(1, true, 0), kline(1, true, 0), other(event_time)]);
        let [(row, _, is_later)] = &ready.repeated.klines[..] else { panic!("{:?}", ready.repeated) };
        assert_eq!((*is_later, row.kline.close), (expected, "1.7".parse().unwrap()), "{event_time}");
        assert_eq!(ready.rows.batch.klines.len(), 1, "a copy is nothing");
    }
}
