//! Numberings that begin again, and positions with two contents.

use rust_decimal::Decimal;
use tapekeeper::gap::Range;
use tapekeeper::history::{Batch, Count, TradeRow, Verdict, WindowCount};
use tapekeeper::market::{Channel, Stream, Timestamp};

use super::rows::{conflict, epoch, stream, trade, trades};
use super::{HistoryStore, all_trades};
use crate::contracts::{BINANCE, NOON, symbol};

/// A trade of a numbering: its price tells it apart from the trade of another one with the same id.
fn trade_of(name: &str, number: i64, id: i64) -> TradeRow {
    let mut row = TradeRow { epoch: number, ..trade(name, id) };
    row.trade.price = Decimal::from(1_000 + number);
    // A numbering that begins again is a minute newer.
    row.trade.ts = row.trade.ts.plus_micros(number * 60_000_000);
    row
}

pub async fn reads_return_the_newest_numbering(store: &dyn HistoryStore) {
    let history = store.open();
    let of = |number: i64, first: i64, last: i64| (first..=last).map(move |id| trade_of("BTCUSDT", number, id));
    let old: Vec<TradeRow> = of(0, 1, 100).collect();
    history.insert(&trades(old.clone())).await.unwrap();
    history.insert(&trades((1..=7).map(|id| trade("ETHUSDT", id)).collect())).await.unwrap();
    assert_eq!(history.epochs().await.unwrap(), []);
    // A hole in the new numbering, at ids that the old one has.
    let new: Vec<TradeRow> = of(1, 10, 29).chain(of(1, 35, 40)).collect();
    let batch = Batch { epochs: vec![epoch("BTCUSDT", 1)], trades: new.clone(), ..Batch::default() };
    history.insert(&batch).await.unwrap();
    history.insert(&batch).await.unwrap();
    let (btc, eth) = (stream("BTCUSDT", "trade"), stream("ETHUSDT", "trade"));
    let whole = Range { first: 0, last: i64::MAX };
    assert_eq!(history.epochs().await.unwrap(), [epoch("BTCUSDT", 1)]);
    assert_eq!(all_trades(&*history, "BTCUSDT").await, new);
    assert_eq!(history.count(&btc, whole).await.unwrap(), Count { present: 26, backfilled: 0 });
    assert_eq!(history.extent(&btc).await.unwrap(), Some(Range { first: 10, last: 40 }));
    let missing = history.missing(&btc, Range { first: 10, last: 40 }, 9).await.unwrap();
    assert_eq!(missing, [Range { first: 30, last: 34 }]);
    assert_eq!(history.extent(&eth).await.unwrap(), Some(Range { first: 1, last: 7 }));
    let mut latest =
        history.latest_trades(BINANCE, Channel::Trade, &[symbol("BTCUSDT"), symbol("ETHUSDT")]).await.unwrap();
    latest.sort_by_key(|row| row.trade.id);
    assert_eq!(latest, [trade("ETHUSDT", 7), new[25].clone()]);
    let keys = [(symbol("BTCUSDT"), 10), (symbol("BTCUSDT"), 50), (symbol("ETHUSDT"), 7)];
    let mut by_id = history.trades_by_id(BINANCE, Channel::Trade, &keys).await.unwrap();
    by_id.sort_by_key(|row| row.trade.id);
    assert_eq!(by_id, [trade("ETHUSDT", 7), new[0].clone()]);
    let mut watermarks = history.watermarks(&[btc.clone(), eth.clone()]).await.unwrap();
    watermarks.sort_by_key(|watermark| watermark.position);
    assert_eq!(watermarks.iter().map(|watermark| watermark.position).collect::<Vec<_>>(), [7, 40]);
    assert_eq!(watermarks[1].ts, new[25].trade.ts);
    let count = |present: Vec<i64>| present.iter().sum::<i64>();
    let days = history.days(&[btc.clone(), eth.clone()], None).await.unwrap();
    assert_eq!(count(days.iter().map(|(_, day)| day.present).collect()), 26 + 7);
    let since = history.days(std::slice::from_ref(&btc), Some(NOON.micros() / 86_400_000_000 - 1)).await.unwrap();
    assert_eq!(count(since.iter().map(|(_, day)| day.present).collect()), 26);
    let minutes = history.per_minute(&[btc.clone(), eth.clone()], NOON.plus_micros(-86_400_000_000)).await.unwrap();
    assert_eq!(count(minutes.iter().map(|(_, minute)| minute.present).collect()), 26 + 7);
    let yesterday = NOON.plus_micros(-86_400_000_000);
    let mut windows = history.windows(&[btc.clone(), eth.clone()], yesterday, Timestamp(i64::MAX)).await.unwrap();
    windows.sort_by_key(|(_, window)| window.present);
    let window =
        |of: &Stream, first, last, present| (of.clone(), WindowCount { range: Range { first, last }, present });
    assert_eq!(windows, [window(&eth, 1, 7, 7), window(&btc, 10, 40, 26)]);
    let asked = [(btc.clone(), Range { first: 10, last: 40 })];
    let missing = history.missing_each(&asked, 9).await.unwrap();
    assert_eq!(missing, [(btc.clone(), Range { first: 30, last: 34 })]);
    // The rows of the old numbering stay, and are there for who asks.
    let past = history.at_epoch(0);
    let windows = past.windows(std::slice::from_ref(&btc), yesterday, Timestamp(i64::MAX)).await.unwrap();
    assert_eq!(windows, [window(&btc, 1, 100, 100)]);
    assert_eq!(all_trades(&*past, "BTCUSDT").await, old);
    assert_eq!(past.count(&btc, whole).await.unwrap().present, 100);
    assert_eq!(all_trades(&*history.at_epoch(2), "BTCUSDT").await, []);
}

/// Several recorders see a numbering begin; the earliest sight counts.
pub async fn the_earliest_beginning_of_a_numbering_counts(store: &dyn HistoryStore) {
    let history = store.open();
    let earlier = epoch("BTCUSDT", 1);
    let mut later = earlier.clone();
    (later.first_id, later.began_at) = (540, earlier.began_at.plus_micros(9));
    for row in [&later, &earlier, &later] {
        history.insert(&Batch { epochs: vec![row.clone()], ..Batch::default() }).await.unwrap();
    }
    history.insert(&Batch { epochs: vec![epoch("BTCUSDT", 2)], ..Batch::default() }).await.unwrap();
    assert_eq!(history.epochs().await.unwrap(), [earlier, epoch("BTCUSDT", 2)]);
}

pub async fn a_conflict_is_pending_until_it_is_decided(store: &dyn HistoryStore) {
    let history = store.open();
    let insert = async |conflicts| history.insert(&Batch { conflicts, ..Batch::default() }).await.unwrap();
    insert(vec![conflict(1, Verdict::Pending), conflict(2, Verdict::Pending)]).await;
    insert(vec![conflict(1, Verdict::Arrived)]).await;
    // The same frame is consumed again after a crash: the decision stays.
    insert(vec![conflict(1, Verdict::Pending)]).await;
    assert_eq!(history.conflicts(true, 9).await.unwrap(), [conflict(2, Verdict::Pending)]);
    let all = history.conflicts(false, 9).await.unwrap();
    assert_eq!(all, [conflict(2, Verdict::Pending), conflict(1, Verdict::Arrived)]);
    assert_eq!(history.conflicts(false, 1).await.unwrap(), all[..1]);
}

/// The winner of a decided conflict has a higher version: neither a live nor a backfilled copy replaces it.
pub async fn the_winner_of_a_conflict_stays(store: &dyn HistoryStore) {
    let history = store.open();
    let first = trade("BTCUSDT", 5);
    let mut winner = TradeRow { version: first.version + 2, ..first.clone() };
    winner.trade.price += Decimal::ONE;
    let backfilled = TradeRow { is_backfilled: true, version: first.version - 1, ..first.clone() };
    for row in [&first, &winner, &first, &backfilled] {
        history.insert(&trades(vec![row.clone()])).await.unwrap();
    }
    assert_eq!(all_trades(&*history, "BTCUSDT").await, [winner]);
}
