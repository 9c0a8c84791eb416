//! Frames that cannot be believed, and clocks that jump.

use super::*;

/// The streams that the exchange must say something about.
fn questions(buffer: &mut ReorderBuffer) -> Vec<Stream> {
    buffer.take_doubtful().into_iter().map(|question| question.stream).collect()
}

#[test]
fn an_id_far_ahead_moves_nothing_and_waits_for_the_exchange() {
    for absurd in ABSURD {
        let mut buffer = new_buffer();
        for (offset, id) in [5, absurd, 6, 7].into_iter().enumerate() {
            buffer.push(record(offset as i64, trade(id)));
        }
        declare(&mut buffer, 5_000_000);
        assert_eq!(questions(&mut buffer), [btc()], "{absurd}");
        let ready = buffer.take_ready();
        assert_eq!((ids(&ready), gaps(&ready)), (vec![5, 6, 7], vec![]), "{absurd}");
        assert_eq!(ready.positions[&0], 1, "the frame in doubt is not committed");
        buffer.answer(&btc(), &Numbering::Continues { newest: 7 }, &at(6_000_000));
        let ready = buffer.take_ready();
        let [(1, reason)] = &letters(&ready)[..] else { panic!("{absurd}: {ready:?}") };
        assert!(reason.contains("the exchange's newest is 7"), "{reason}");
        assert_eq!((ready.positions[&0], ready.rejected.len(), buffer.is_waiting()), (4, 1, false), "{absurd}");
        // A loss after it is found as ever.
        buffer.push(record(4, trade(10)));
        declare(&mut buffer, 10_000_000);
        assert_eq!(gaps(&buffer.take_ready()), [(8, 9)], "{absurd}");
    }
}

#[test]
fn the_last_ids_of_all_are_no_trade_ids() {
    for absurd in [i64::MAX / 2, i64::MAX - 1, i64::MAX] {
        let (buffer, ready) = sort(&[trade(5), trade(absurd), trade(6)]);
        assert_eq!((ids(&ready), letters(&ready).len(), gaps(&ready)), (vec![5, 6], 1, vec![]), "{absurd}");
        assert!(!buffer.is_waiting(), "{absurd}");
    }
}

#[test]
fn a_jump_that_the_exchange_confirms_is_a_gap() {
    let mut buffer = new_buffer();
    buffer.seed([(btc(), Watermark { position: 5, ts: None })]);
    for offset in 0..3 {
        buffer.push(record(offset, trade(8_000 + offset)));
    }
    declare(&mut buffer, 1_000_000);
    assert_eq!((ids(&buffer.take_ready()), buffer.is_waiting()), (vec![], true));
    buffer.answer(&btc(), &Numbering::Continues { newest: 8_001 }, &at(1_000_000));
    declare(&mut buffer, 3_000_000);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready)), (vec![8_000, 8_001, 8_002], vec![(6, 7_999)]));
    assert_eq!((ready.positions[&0], letters(&ready).len()), (3, 0));
}

#[test]
fn trades_that_follow_each_other_confirm_a_jump_when_the_exchange_says_nothing() {
    for (count, confirmed) in [(3, false), (20, true)] {
        let mut buffer = new_buffer();
        buffer.seed([(btc(), Watermark { position: 5, ts: None })]);
        for offset in 0..count {
            buffer.push(record(offset, trade(80_000 + offset)));
        }
        declare(&mut buffer, 60_000_000);
        declare(&mut buffer, 70_000_000);
        let ready = buffer.take_ready();
        let expected = if confirmed { (count as usize, 0) } else { (0, count as usize) };
        assert_eq!((ids(&ready).len(), letters(&ready).len()), expected);
        assert_eq!(ready.positions[&0], count, "nothing waits for ever");
    }
}

#[test]
fn a_position_that_only_one_answer_of_rest_names_opens_no_gap() {
    let mut buffer = new_buffer();
    buffer.push(record(0, trade(5)));
    buffer.expect(&Expectation { stream: btc(), last: i64::MAX, by: "tail" }, &at(0));
    declare(&mut buffer, 60_000_000);
    assert_eq!((gaps(&buffer.take_ready()), questions(&mut buffer)), (vec![], vec![btc()]));
    buffer.answer(&btc(), &Numbering::Continues { newest: 7 }, &at(60_000_000));
    declare(&mut buffer, 70_000_000);
    assert_eq!(gaps(&buffer.take_ready()), [(6, 7)], "the second answer is believed");
}

#[test]
fn a_time_ahead_of_the_exchanges_clock_is_rejected_and_an_event_time_counts_a_minute_at_most() {
    let mut buffer = new_buffer();
    buffer.set_clock(Exchange::named("binance"), Some(0), Timestamp(0));
    buffer.push(record(0, kline(1, true, -1).replace("\"L\":-1", "\"L\":1").replace("\"n\":-1", "\"n\":1")));
    buffer.push(record(1, trade(1)));
    let ahead = trade(2).replace("\"T\":2", "\"T\":32503680000000");
    buffer.push(record(2, ahead));
    // The event time alone is wrong: the trade counts, and no kline is late.
    let micros = trade(2).replace("\"E\":2", "\"E\":1753963200000000");
    buffer.push(record(3, micros));
    declare(&mut buffer, 1_000_000);
    declare(&mut buffer, 60_000_000);
    let ready = buffer.take_ready();
    assert_eq!((ids(&ready), gaps(&ready), letters(&ready).len()), (vec![1, 2], vec![], 1));
}

#[test]
fn trades_confirm_each_other_also_after_the_exchange_said_nothing_in_time() {
    let mut buffer = new_buffer();
    buffer.seed([(btc(), Watermark { position: 5, ts: None })]);
    for offset in 0..3 {
        buffer.push(record(offset, trade(80_000 + offset)));
    }
    declare(&mut buffer, 60_000_000);
    assert_eq!(letters(&buffer.take_ready()).len(), 3, "three are too few");
    for offset in 3..40 {
        buffer.push(record(offset, trade(80_000 + offset)));
    }
    declare(&mut buffer, 120_000_000);
    let ready = buffer.take_ready();
    let (used, aside) = (ids(&ready).len(), letters(&ready).len());
    assert!(used >= 20 && used + aside == 37, "{used} used, {aside} set aside");
    let [(6, last)] = gaps(&ready)[..] else { panic!("{:?}", gaps(&ready)) };
    assert_eq!(last + 1, ids(&ready)[0], "REST refills what was set aside");
}

#[test]
fn a_stream_without_a_frame_starts_behind_the_confirmed_newest_position() {
    let mut buffer = new_buffer();
    buffer.answer(&btc(), &Numbering::Continues { newest: i64::MAX }, &at(0));
    buffer.answer(&btc(), &Numbering::Continues { newest: 7 }, &at(0));
    buffer.push(record(0, trade(10)));
    declare(&mut buffer, 10_000_000);
    assert_eq!(gaps(&buffer.take_ready()), [(8, 9)]);
}

/// Kraken says nowhere that a kline is final: the next one closes it.
fn kraken_kline(offset: i64, received_at: Timestamp, minute: i64, close: i64) -> Record {
    let begin = Timestamp(minute * 60_000_000).rfc3339();
    let payload = format!(
        r#"{{"channel":"ohlc","type":"update","data":[{{"symbol":"BTC/USD","interval":1,"interval_begin":"{begin}","open":1,"high":9,"low":1,"close":{close},"volume":2,"vwap":1,"trades":{close}}}]}}"#
    );
    Record {
        partition: 0,
        offset,
        frame: Frame { key: Arc::from("kraken:BTC/USD"), received_at, ..record(0, payload).frame },
    }
}

#[test]
fn a_kline_that_has_not_begun_closes_none() {
    let kraken: Arc<dyn Dialect> = Arc::new(crate::exchange::kraken::Kraken);
    let mut buffer = ReorderBuffer::new([kraken]);
    let now = Timestamp(30_000_010 * 60_000_000 + 30_000_000);
    buffer.set_clock(Exchange::named("kraken"), Some(0), now);
    let closed = |ready: &ReadyBatch| -> Vec<(i64, rust_decimal::Decimal)> {
        let rows = ready.rows.batch.klines.iter();
        rows.map(|row| (row.kline.open_time.micros() / 60_000_000 - 30_000_000, row.kline.close)).collect()
    };
    buffer.push(kraken_kline(0, now, 30_000_010, 3));
    // A day ahead, then half a minute ahead: neither is the next one yet.
    buffer.push(kraken_kline(1, now, 30_001_450, 4));
    buffer.push(kraken_kline(2, now, 30_000_011, 5));
    assert_eq!(closed(&buffer.take_ready()), [], "minute 10 is not over");
    buffer.push(kraken_kline(3, now, 30_000_010, 7));
    buffer.push(kraken_kline(4, now.plus_micros(60_000_000), 30_000_011, 8));
    assert_eq!(closed(&buffer.take_ready()), [(10, rust_decimal::Decimal::from(7))], "with what came before its end");
}
