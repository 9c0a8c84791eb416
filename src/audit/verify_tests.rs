//! Stored klines against their trades.

use super::*;

#[tokio::test]
async fn a_kline_is_rebuilt_from_its_trades_and_every_difference_is_reported() {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1..=30).await;
    let whole = |n: i64, first: i64, last: i64| {
        let trades: Vec<Trade> = (first..=last).map(trade).collect();
        let (first_trade, last_trade) = (trades[0], trades[trades.len() - 1]);
        Kline {
            open: first_trade.price,
            high: last_trade.price,
            low: first_trade.price,
            close: last_trade.price,
            volume: Decimal::new(25 * trades.len() as i64, 2),
            trade_count: trades.len() as i64,
            first_trade_id: first,
            last_trade_id: last,
            ..minute(n)
        }
    };
    let wrong = Kline { high: Decimal::from(1), volume: Decimal::TWO, ..whole(1, 11, 20) };
    // The third one's trades are incomplete; the fourth had none.
    let no_trades = Kline { trade_count: 0, first_trade_id: -1, last_trade_id: -1, ..minute(3) };
    let empty = Kline { volume: Decimal::ZERO, quote_volume: Decimal::ZERO, ..no_trades };
    stores.store_klines([whole(0, 1, 10), wrong, Kline { last_trade_id: 31, ..whole(2, 21, 30) }, empty]).await;
    let all = streams(&["binance:BTCUSDT:trade", "binance:BTCUSDT:kline_1m"]);
    let stop = CancellationToken::new();
    let closed = (Timestamp(OPEN), Timestamp(OPEN + 4 * MINUTE));
    let report = verify_klines(&stores.history, &stores.backfill, &all, closed, &stop).await.unwrap();
    assert_eq!((report.klines, report.against_trades, report.without_trades), (4, 2, 1), "{report:?}");
    assert_eq!((report.against_rest, report.differences), (0, 2), "{report:?}");
    let fields: Vec<(&str, &str, &str)> =
        report.listed.iter().map(|found| (found.field, found.stored.as_str(), found.found.as_str())).collect();
    assert_eq!(fields, [("high", "1", "61234.76"), ("volume", "2", "2.5")]);
    assert_eq!(report.listed[0].open_time, "2026-01-01T23:58:00.000Z");
    // Klines that closed before the window are not checked again.
    let later = (Timestamp(OPEN + 2 * MINUTE), Timestamp(OPEN + 4 * MINUTE));
    let report = verify_klines(&stores.history, &stores.backfill, &all, later, &stop).await.unwrap();
    assert_eq!((report.klines, report.differences), (2, 0), "{report:?}");
}

#[tokio::test]
async fn klines_that_do_not_name_their_trades_are_rebuilt_by_time() {
    // Six trades a minute, from the first minute's start to the fourth minute's end.
    let at = |id: i64| Trade { ts: Timestamp(OPEN + id * MINUTE / 6), ..trade(id) };
    let whole = |n: i64| Kline {
        open: at(6 * n).price,
        high: at(6 * n + 5).price,
        low: at(6 * n).price,
        close: at(6 * n + 5).price,
        volume: Decimal::new(25 * 6, 2),
        trade_count: 0,
        first_trade_id: -1,
        last_trade_id: -1,
        ..minute(n)
    };
    let wrong = Kline { high: Decimal::from(1), ..whole(2) };
    for (hole, rebuilt, differences) in [(None, 2, 1), (Some(11), 0, 0), (Some(9), 1, 1)] {
        let stores = Stores::new();
        let trades = (0..24).filter(|id| Some(*id) != hole).map(|id| row("BTCUSDT", at(id))).collect();
        stores.history.insert(&Batch { trades, token: "trades".to_owned(), ..Batch::default() }).await.unwrap();
        stores.store_klines([whole(0), whole(1), wrong, whole(3)]).await;
        let all = streams(&["binance:BTCUSDT:trade", "binance:BTCUSDT:kline_1m"]);
        let closed = (Timestamp(OPEN), Timestamp(OPEN + 4 * MINUTE));
        let report =
            verify_klines(&stores.history, &stores.backfill, &all, closed, &CancellationToken::new()).await.unwrap();
        // Trades of the first minute may be older than history, and those of the last one may not be stored yet.
        let found = (report.against_trades, report.without_trades, report.differences);
        assert_eq!(found, (rebuilt, 4 - rebuilt, differences), "{hole:?}: {report:?}");
        assert!(report.listed.iter().all(|found| found.field == "high" && found.stored == "1"), "{report:?}");
    }
}
