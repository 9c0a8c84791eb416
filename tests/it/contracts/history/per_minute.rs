//! Rows per minute: what the status page draws of today.

use tapekeeper::history::MinuteCount;
use tapekeeper::market::{Interval, Timestamp};

use super::rows::{kline, klines, stream, trade, trades};
use super::{HistoryStore, NOON};

/// The documentation of `per_minute`.
pub async fn minutes_are_counted_from_an_instant_on(store: &dyn HistoryStore) {
    let history = store.open();
    let [btc, eth, minutes] = [("BTCUSDT", "trade"), ("ETHUSDT", "trade"), ("BTCUSDT", "kline_1m")]
        .map(|(symbol, channel)| stream(symbol, channel));
    assert_eq!(history.per_minute(&[btc.clone(), minutes.clone()], NOON).await.unwrap(), []);
    // A trade a minute, ten thousand of them with a hole; then three in one minute, the last but one out of order.
    let mut rows: Vec<_> =
        (0..10_000).filter(|id| !(9_990..9_995).contains(id)).map(|id| trade("BTCUSDT", id)).collect();
    let last = trade("BTCUSDT", 10_000).trade.ts;
    for (id, later) in [(10_000, 3), (10_001, 2), (10_002, -1), (10_003, 5)] {
        let mut row = trade("BTCUSDT", id);
        row.trade.ts = last.plus_micros(later);
        row.is_backfilled = id == 10_001;
        rows.push(row);
    }
    history.insert(&trades(rows)).await.unwrap();
    history.insert(&trades(vec![trade("ETHUSDT", 10_000)])).await.unwrap();
    history.insert(&klines((9_996..9_999).map(|minute| kline("BTCUSDT", minute)).collect())).await.unwrap();
    let minute = |at: Timestamp| at.micros() / Interval::M1.micros();
    let count = |id: i64, present, backfilled| MinuteCount {
        minute: minute(trade("BTCUSDT", id).trade.ts),
        present,
        backfilled,
    };
    let since = trade("BTCUSDT", 9_988).trade.ts;
    let found = history.per_minute(&[btc.clone(), minutes.clone()], since).await.unwrap();
    let of = |stream| found.iter().filter(move |(of, _)| of == stream).map(|(_, count)| *count).collect::<Vec<_>>();
    let mut expected: Vec<_> = [9_988, 9_989, 9_995, 9_996, 9_997, 9_998].map(|id| count(id, 1, 0)).into();
    expected.extend([count(9_999, 2, 0), count(10_000, 3, 1)]);
    assert_eq!(of(&btc), expected);
    assert_eq!(of(&minutes), [9_996, 9_997, 9_998].map(|minute| count(minute, 1, 0)));
    assert_eq!(of(&eth), [], "nobody asked for it");
    // From the middle of a minute on, from after the last row on, and for a stream without a row.
    let middle = history.per_minute(std::slice::from_ref(&btc), last.plus_micros(4)).await.unwrap();
    assert_eq!(middle, [(btc.clone(), count(10_000, 1, 0))]);
    assert_eq!(history.per_minute(&[btc], last.plus_micros(6)).await.unwrap(), []);
    assert_eq!(history.per_minute(&[stream("XRPUSDT", "trade")], NOON).await.unwrap(), []);
}
