//! Windows of time, and the missing ranges of many streams.

use tapekeeper::gap::Range;
use tapekeeper::history::WindowCount;
use tapekeeper::market::{Stream, Timestamp};

use super::rows::{kline, klines, stream, trade, trades};
use super::{HistoryStore, NOON};

/// Minute `n` after noon: the time of trade `n`, and the open time of kline `n`.
fn at(n: i64) -> Timestamp {
    kline("BTCUSDT", n).kline.open_time
}

pub async fn rows_of_a_window_are_counted(store: &dyn HistoryStore) {
    let history = store.open();
    for id in [9, 1, 2, 3, 5, 6, 8] {
        // Each row once more, as a backfilled copy.
        let mut copy = trade("BTCUSDT", id);
        copy.is_backfilled = true;
        for row in [trade("BTCUSDT", id), copy, trade("币安人生?USDT", id + 100)] {
            history.insert(&trades(vec![row])).await.unwrap();
        }
        history.insert(&klines(vec![kline("BTCUSDT", id)])).await.unwrap();
    }
    let [btc, other, minutes, hours, none] = [
        ("BTCUSDT", "trade"),
        ("币安人生?USDT", "trade"),
        ("BTCUSDT", "kline_1m"),
        ("BTCUSDT", "kline_1h"),
        ("NONEUSDT", "trade"),
    ]
    .map(|(symbol, channel)| stream(symbol, channel));
    let all = [btc.clone(), other.clone(), minutes.clone(), hours, none, stream("BTCUSDT", "book_ticker")];
    let windows = async |from: Timestamp, to: Timestamp| -> Vec<(Stream, i64, i64, i64)> {
        let mut found: Vec<_> = history.windows(&all, from, to).await.unwrap();
        found.sort_by_key(|(stream, _)| stream.to_string());
        let row = |(stream, WindowCount { range, present }): (Stream, WindowCount)| {
            (stream, range.first, range.last, present)
        };
        found.into_iter().map(row).collect()
    };
    let expected = |first: i64, last: i64, present: i64| {
        let mut expected = vec![
            (btc.clone(), first, last, present),
            (minutes.clone(), at(first).micros(), at(last).micros(), present),
            (other.clone(), first + 100, last + 100, present),
        ];
        // The other symbol's ids, and so its times, are 100 minutes later.
        expected.retain(|row| row.0 != other);
        expected.sort_by_key(|(stream, ..)| stream.to_string());
        expected
    };
    // Rows 3, 5, 6; the end is not part of the window.
    assert_eq!(windows(at(3), at(8)).await, expected(3, 6, 3));
    // The missing range before the first row belongs to the window of that row.
    assert_eq!(windows(at(4), at(8)).await, expected(4, 6, 2));
    assert_eq!(windows(at(5), at(6)).await, expected(4, 5, 1));
    assert_eq!(windows(at(7), at(8)).await, [], "no row in it");
    assert_eq!(windows(at(8), at(50)).await, expected(7, 9, 2));
    // A stream begins with its first row.
    assert_eq!(windows(at(-600), at(3)).await, expected(1, 2, 2));
    assert_eq!(windows(at(0), at(1)).await, []);
    let of_other = history.windows(&all, at(100), Timestamp(i64::MAX)).await.unwrap();
    assert_eq!(of_other, [(other, WindowCount { range: Range { first: 101, last: 109 }, present: 7 })]);
    assert_eq!(history.windows(&[], NOON, at(9)).await.unwrap(), []);
    assert_eq!(windows(at(9), at(9)).await, []);
}

pub async fn missing_ranges_of_many_streams_are_found(store: &dyn HistoryStore) {
    let history = store.open();
    let [btc, eth, minutes, none] =
        [("BTCUSDT", "trade"), ("E'T\\H?", "trade"), ("BTCUSDT", "kline_1m"), ("NONEUSDT", "trade")]
            .map(|(symbol, channel)| stream(symbol, channel));
    history.insert(&trades([2, 3, 5, 8].map(|id| trade("BTCUSDT", id)).to_vec())).await.unwrap();
    history.insert(&trades([2, 3, 5, 8].map(|id| trade("E'T\\H?", id)).to_vec())).await.unwrap();
    history.insert(&klines([2, 3, 5].map(|minute| kline("BTCUSDT", minute)).to_vec())).await.unwrap();
    let range = |first, last| Range { first, last };
    let of_time = |first: i64, last: i64| range(at(first).micros(), at(last).micros());
    let asked = [
        (btc.clone(), range(1, 9)),
        (minutes.clone(), of_time(1, 6)),
        (eth.clone(), range(2, 5)),
        (none.clone(), range(7, i64::MAX)),
    ];
    let found = async |limit| {
        let mut found = history.missing_each(&asked, limit).await.unwrap();
        found.sort_by_key(|(stream, range)| (stream.to_string(), range.first));
        found
    };
    let mut expected = vec![
        (btc.clone(), range(1, 1)),
        (btc.clone(), range(4, 4)),
        (btc.clone(), range(6, 7)),
        (btc.clone(), range(9, 9)),
        (eth.clone(), range(4, 4)),
        (minutes.clone(), of_time(1, 1)),
        (minutes.clone(), of_time(4, 4)),
        (minutes.clone(), of_time(6, 6)),
        (none.clone(), range(7, i64::MAX)),
    ];
    expected.sort_by_key(|(stream, range)| (stream.to_string(), range.first));
    assert_eq!(found(9).await, expected);
    let firsts = [(btc, range(1, 1)), (eth, range(4, 4)), (minutes, of_time(1, 1)), (none, range(7, i64::MAX))];
    let mut firsts = firsts.to_vec();
    firsts.sort_by_key(|(stream, range)| (stream.to_string(), range.first));
    assert_eq!(found(1).await, firsts, "at most one of each stream");
    assert_eq!(found(0).await, []);
    assert_eq!(history.missing_each(&[], 9).await.unwrap(), []);
}
