//! `RowStore::per_minute`, as the status page uses it for today.

use tapekeeper::history::MinuteCount;
use tapekeeper::market::{Interval, Timestamp};

use super::rows::{kline, klines, stream, trade, trades};
use super::{HistoryStore, NOON};

/// Checks the documentation of `per_minute`.
pub async fn rows_per_minute_start_at_an_instant(store: &dyn HistoryStore) {
    let history = store.open();
    let [btc, eth, minutes] = [("BTCUSDT", "trade"), ("ETHUSDT", "trade"), ("BTCUSDT", "kline_1m")]
        .map(|(symbol, channel)| stream(symbol, channel));
    assert_eq!(history.per_minute(&[btc.clone(), minutes.clone()], NOON).await.unwrap(), []);
    // Ten thousand trades, one per minute, with a gap; then three in one minute, the last but one out of order.
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
    assert_eq!(of(&eth), [], "the stream was not requested");
    // From the middle of a minute, from after the last row, and for a stream without rows.
    let middle = history.per_minute(std::slice::from_ref(&btc), last.plus_micros(4)).await.unwrap();
    assert_eq!(middle, [(btc.clone(), count(10_000, 1, 0))]);
    assert_eq!(history.per_minute(&[btc], last.plus_micros(6)).await.unwrap(), []);
    assert_eq!(history.per_minute(&[stream("XRPUSDT", "trade")], NOON).await.unwrap(), []);
}
