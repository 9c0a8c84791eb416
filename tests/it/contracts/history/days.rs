//! `RowStore::days` with a first day, as the status page uses it for the last weeks.

use tapekeeper::history::{Batch, CoverageDay, DISORDER_MAX};
use tapekeeper::market::{DAY_US, Stream, Timestamp};

use super::rows::{kline, stream, trade};
use super::{HistoryStore, NOON};

/// Checks the documentation of `days`.
pub async fn rows_per_day_start_at_the_first_day(store: &dyn HistoryStore) {
    let history = store.open();
    let [btc, eth, minutes] = [("BTCUSDT", "trade"), ("ETHUSDT", "trade"), ("BTCUSDT", "kline_1m")]
        .map(|(symbol, channel)| stream(symbol, channel));
    let all = [btc.clone(), eth.clone(), minutes.clone()];
    let today = NOON.day();
    assert_eq!(history.days(&all, Some(today)).await.unwrap(), [], "nothing is stored yet");
    // Ten days, each with one missing id. Ids increase with time, except for two around midnight.
    let midnight = today * DAY_US;
    let mut batch = Batch::default();
    let late = DISORDER_MAX.as_micros() as i64;
    for day in -9..=0_i64 {
        for id in (0..1_000).filter(|id| *id != 500) {
            let mut row = trade("BTCUSDT", (day + 9) * 1_000 + id);
            row.trade.ts = Timestamp(midnight + day * DAY_US + id * (DAY_US / 1_000));
            row.is_backfilled = id == 7;
            batch.trades.push(row);
        }
    }
    let first_of = |day: i64| ((day + 9) * 999) as usize;
    // The first id of the day before yesterday traded just before midnight, and an id of one hour earlier traded at
    // midnight.
    batch.trades[first_of(-2)].trade.ts = Timestamp(midnight - 2 * DAY_US - 1);
    let early = first_of(-2) - (late / (DAY_US / 1_000)) as usize;
    batch.trades[early].trade.ts = Timestamp(midnight - 2 * DAY_US);
    let early = batch.trades[early].trade.id;
    for open in [midnight - DAY_US - 60_000_000, midnight - DAY_US, midnight - 60_000_000, midnight] {
        let mut row = kline("BTCUSDT", 0);
        row.kline.open_time = Timestamp(open);
        row.kline.close_time = Timestamp(open + 59_999_999);
        batch.klines.push(row);
    }
    let mut old = trade("ETHUSDT", 5);
    old.trade.ts = Timestamp(midnight - DAY_US - 1);
    batch.trades.push(old);
    history.insert(&batch).await.unwrap();

    let from = async |first_day: i64| history.days(&all, Some(first_day)).await.unwrap();
    let of = |days: &[(Stream, CoverageDay)], stream: &Stream| -> Vec<CoverageDay> {
        days.iter().filter(|(of, _)| of == stream).map(|(_, day)| *day).collect()
    };
    let ids = |ago: i64| CoverageDay {
        day: today - ago,
        first: (9 - ago) * 1_000,
        last: (9 - ago) * 1_000 + 999,
        present: 999,
        backfilled: 1,
    };
    let open = |at: i64, last: i64, present| {
        let day = Timestamp(at).day();
        CoverageDay { day, first: at, last, present, backfilled: 0 }
    };
    let partial = CoverageDay { first: early, ..ids(2) };
    let found = from(today - 2).await;
    assert_eq!(of(&found, &btc), [partial, ids(1), ids(0)], "each trade counts in its own day, independent of its id");
    assert_eq!(of(&found, &eth).len(), 1);
    let klines = [
        open(midnight - DAY_US - 60_000_000, midnight - DAY_US - 60_000_000, 1),
        open(midnight - DAY_US, midnight - 60_000_000, 2),
        open(midnight, midnight, 1),
    ];
    assert_eq!(of(&found, &minutes), klines);
    // A first day that begins exactly at a kline and a trade, and a stream without later rows.
    let found = from(today - 1).await;
    assert_eq!((of(&found, &btc), of(&found, &minutes)), (vec![ids(1), ids(0)], klines[1..].to_vec()));
    assert_eq!(of(&found, &eth), []);
    // After the last row, before the first one, and before 1970.
    assert_eq!(from(today + 1).await, []);
    let whole = history.days(&all, None).await.unwrap();
    assert_eq!(of(&whole, &btc).len(), 10);
    for first_day in [today - 9, today - 100, 0, -1, i64::MIN] {
        assert_eq!(from(first_day).await, whole, "from day {first_day} on");
    }
}
