//! Rows per day from a day on: what the status page draws of the last weeks.

use tapekeeper::history::{Batch, CoverageDay, DISORDER_MAX};
use tapekeeper::market::{DAY_US, Stream, Timestamp};

use super::rows::{kline, stream, trade};
use super::{HistoryStore, NOON};

/// The documentation of `days`.
pub async fn days_are_counted_from_one_on(store: &dyn HistoryStore) {
    let history = store.open();
    let [btc, eth, minutes] = [("BTCUSDT", "trade"), ("ETHUSDT", "trade"), ("BTCUSDT", "kline_1m")]
        .map(|(symbol, channel)| stream(symbol, channel));
    let all = [btc.clone(), eth.clone(), minutes.clone()];
    let today = NOON.day();
    assert_eq!(history.days(&all, Some(today)).await.unwrap(), [], "nothing is stored yet");
    // Ten days with a hole in the ids of each; ids grow with time but for the two about midnight.
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
    // The first id of the day before yesterday was traded just before midnight, and an id of an hour before it was
    // traded at midnight.
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
    let begun = CoverageDay { first: early, ..ids(2) };
    let found = from(today - 2).await;
    assert_eq!(of(&found, &btc), [begun, ids(1), ids(0)], "each trade in its own day, wherever its id stands");
    assert_eq!(of(&found, &eth).len(), 1);
    let klines = [
        open(midnight - DAY_US - 60_000_000, midnight - DAY_US - 60_000_000, 1),
        open(midnight - DAY_US, midnight - 60_000_000, 2),
        open(midnight, midnight, 1),
    ];
    assert_eq!(of(&found, &minutes), klines);
    // A bound exactly on a kline's and a trade's time, and a stream that has nothing since.
    let found = from(today - 1).await;
    assert_eq!((of(&found, &btc), of(&found, &minutes)), (vec![ids(1), ids(0)], klines[1..].to_vec()));
    assert_eq!(of(&found, &eth), []);
    // After the last row, before the first one, and before the time of computers.
    assert_eq!(from(today + 1).await, []);
    let whole = history.days(&all, None).await.unwrap();
    assert_eq!(of(&whole, &btc).len(), 10);
    for first_day in [today - 9, today - 100, 0, -1, i64::MIN] {
        assert_eq!(from(first_day).await, whole, "from day {first_day} on");
    }
}
