//! Sweeps over windows, shares and sparse rows.

use super::*;

#[tokio::test]
async fn a_sweep_finds_a_missing_range_behind_thousands_of_settled_ones() {
    let stores = Stores::new();
    // Every second id up to 4,000 never existed; one more missing range follows.
    stores.store("BTCUSDT", (1..=4_001).step_by(2).chain([4_002, 4_006])).await;
    for first in (2..=4_000).step_by(2) {
        let range = Range { first, last: first };
        let mut gap = Gap::open(trades()[0].clone(), range, Evidence::default(), Timestamp(OPEN));
        gap.advance(GapState::NeverExisted, "no such trades", Timestamp(OPEN));
        stores.backfill.ledger.with(|ledger| ledger.load([gap.clone()]));
    }
    let stop = CancellationToken::new();
    let report = sweep(&stores.history, &stores.backfill, &trades(), SweepScope::All, &stop).await.unwrap();
    assert_eq!((report.streams, report.present, report.missing, report.opened), (1, 2_003, 2_003, 1));
    assert_eq!(stores.open_gaps().await, [("sweep".to_owned(), 4_003, 4_005)]);
    let report = sweep(&stores.history, &stores.backfill, &trades(), SweepScope::All, &stop).await.unwrap();
    assert_eq!(report.opened, 0, "a known gap is not opened again");
    stop.cancel();
    assert!(sweep(&stores.history, &stores.backfill, &trades(), SweepScope::All, &stop).await.is_err());
}

#[tokio::test]
async fn a_windowed_sweep_counts_its_window_and_adjoining_windows_miss_nothing() {
    let stores = Stores::new();
    // A trade has the time OPEN + id ms: one a minute for an hour, with ids missing between most of them.
    stores.store("BTCUSDT", (1..=3_600_000).step_by(60_000).chain([1_799_989, 1_800_021, 1_999_999, 2_000_001])).await;
    let stop = CancellationToken::new();
    let at = |id: i64| Timestamp(OPEN + id * 1_000);
    let windows = [(at(0), at(1_800_000)), (at(1_800_000), at(3_600_001))];
    for window in windows {
        sweep(&stores.history, &stores.backfill, &trades(), SweepScope::Window(window.0, window.1), &stop)
            .await
            .unwrap();
    }
    let by_windows = stores.open_gaps().await;
    sweep(&stores.history, &stores.backfill, &trades(), SweepScope::All, &stop).await.unwrap();
    assert_eq!(stores.open_gaps().await, by_windows, "a sweep over everything finds no more");
    let later = (at(10_000_000), at(20_000_000));
    let report =
        sweep(&stores.history, &stores.backfill, &trades(), SweepScope::Window(later.0, later.1), &stop).await.unwrap();
    assert_eq!((report.present, report.missing), (0, 0));
}

#[tokio::test]
async fn a_windowed_sweep_costs_as_many_reads_for_many_streams_as_for_one() {
    let stores = Stores::new();
    let mut streams = Vec::new();
    for number in 0..50 {
        let symbol = format!("S{number}USDT");
        // Each of them lacks two ranges: what is missing is looked for in all of them together too.
        stores.store(&symbol, (1..=100).filter(|id| id % 40 != 0)).await;
        streams.push(format!("binance:{symbol}:trade").parse().unwrap());
    }
    let stop = CancellationToken::new();
    let window = SweepScope::Window(Timestamp(OPEN), Timestamp(OPEN + 200_000));
    // The gaps are opened first: opening one is a write.
    let report = sweep(&stores.history, &stores.backfill, &streams, window, &stop).await.unwrap();
    assert_eq!((report.streams, report.present, report.missing, report.opened), (50, 50 * 98, 100, 100));
    let mut reads = Vec::new();
    for count in [1, 50] {
        let faults = Faults::none();
        let counted: Arc<dyn History> = Arc::new(FaultyHistory::new(stores.history.clone(), faults.clone()));
        let report = sweep(&counted, &stores.backfill, &streams[..count], window, &stop).await.unwrap();
        assert_eq!((report.missing, report.opened), (2 * count as i64, 0));
        reads.push(faults.calls());
    }
    assert_eq!(reads, [2, 2]);
}

#[tokio::test]
async fn the_shares_of_a_sweep_find_what_a_whole_one_finds() {
    let stores = Stores::new();
    stores.store("BTCUSDT", (1..=2_000).filter(|id| id % 97 != 0 && !(700..740).contains(id))).await;
    let stop = CancellationToken::new();
    let mut present = 0;
    for index in 0..7 {
        let share = SweepScope::Share { index, of: 7 };
        present += sweep(&stores.history, &stores.backfill, &trades(), share, &stop).await.unwrap().present;
    }
    let by_shares = stores.open_gaps().await;
    let report = sweep(&stores.history, &stores.backfill, &trades(), SweepScope::All, &stop).await.unwrap();
    assert_eq!((report.opened, stores.open_gaps().await), (0, by_shares));
    assert_eq!(report.missing, 20 + 40, "97 divides 20 of the ids");
    assert!(present >= report.present && present <= report.present + 6, "a share begins at the end of the one before");
}

#[tokio::test]
async fn rows_far_apart_cost_few_queries() {
    let stores = Stores::new();
    stores.store("BTCUSDT", [1, 1_000_000_000_000]).await;
    let stop = CancellationToken::new();
    let all = trades();
    let swept = sweep(&stores.history, &stores.backfill, &all, SweepScope::All, &stop);
    let report = tokio::time::timeout(std::time::Duration::from_secs(60), swept).await.unwrap().unwrap();
    assert_eq!((report.present, report.missing), (2, 999_999_999_998));
}
