//! Aggregate trades beside trades of the same symbol with the same numbers: no read mixes them.

use std::collections::BTreeMap;

use tapekeeper::gap::{Evidence, Gap, Range};
use tapekeeper::history::{Batch, Count, EpochRow, GapFilter, History, Retention, TradeRow, Watermark, row_version};
use tapekeeper::market::{Channel, Stream, Trade};

use super::HistoryStore;
use super::rows::{epoch, stream, trade};
use crate::contracts::{BINANCE, NOON, symbol};

const NAME: &str = "BTCUSDT";
const WHOLE: Range = Range { first: 0, last: i64::MAX };

/// The aggregate trade `id` of trades 3 x `id` to 3 x `id` + 2.
fn agg_trade(id: i64) -> TradeRow {
    let row = trade(NAME, id);
    let trade = Trade { trade_ids: Some((3 * id, 3 * id + 2)), quantity: 7.into(), ..row.trade };
    TradeRow { trade, ..row }
}

fn streams() -> [Stream; 2] {
    [stream(NAME, "trade"), stream(NAME, "agg_trade")]
}

/// Trades 10 to 19, and aggregate trades 15 to 29 without 20.
async fn fill(history: &dyn History) -> (Vec<TradeRow>, Vec<TradeRow>) {
    let trades: Vec<TradeRow> = (10..20).map(|id| trade(NAME, id)).collect();
    let aggregates: Vec<TradeRow> = (15..30).filter(|id| *id != 20).map(agg_trade).collect();
    // One batch has both, in any order.
    let mixed = aggregates.iter().rev().chain(&trades).cloned().collect();
    history.insert(&Batch { trades: mixed, token: "both".to_owned(), ..Batch::default() }).await.unwrap();
    (trades, aggregates)
}

async fn stored(history: &dyn History, channel: &str) -> Vec<TradeRow> {
    history.trades(&stream(NAME, channel), WHOLE, 1_000).await.unwrap()
}

pub async fn no_read_mixes_them_with_trades(store: &dyn HistoryStore) {
    let history = store.open();
    let (trades, aggregates) = fill(&*history).await;
    drop(history);
    let history = store.open();
    let [of_trades, of_aggregates] = streams();
    assert_eq!(stored(&*history, "trade").await, trades);
    assert_eq!(stored(&*history, "agg_trade").await, aggregates);
    for (channel, rows) in [(Channel::Trade, &trades), (Channel::AggTrade, &aggregates)] {
        let latest = history.latest_trades(BINANCE, channel, &[symbol(NAME)]).await.unwrap();
        assert_eq!(latest, rows[rows.len() - 1..], "{channel}");
        let keys = [12, 17, 25].map(|id| (symbol(NAME), id));
        let mut found = history.trades_by_id(BINANCE, channel, &keys).await.unwrap();
        found.sort_by_key(|row| row.trade.id);
        let expected: Vec<_> = rows.iter().filter(|row| [12, 17, 25].contains(&row.trade.id)).cloned().collect();
        assert_eq!(found, expected, "{channel}");
    }
    let marks = history.watermarks(&streams()).await.unwrap();
    let mark = |stream: &Stream, row: &TradeRow| Watermark {
        stream: stream.clone(),
        position: row.trade.id,
        ts: row.trade.ts,
    };
    let expected = [mark(&of_trades, &trades[9]), mark(&of_aggregates, &aggregates[13])];
    assert!(marks.len() == 2 && expected.iter().all(|mark| marks.contains(mark)), "{marks:?}");
    assert_eq!(history.extent(&of_aggregates).await.unwrap(), Some(Range { first: 15, last: 29 }));
    let counted = history.count(&of_aggregates, Range { first: 0, last: 22 }).await.unwrap();
    assert_eq!(counted, Count { present: 7, backfilled: 0 });
    let missing = [Range { first: 14, last: 14 }, Range { first: 20, last: 20 }, Range { first: 30, last: 31 }];
    let asked = Range { first: 14, last: 31 };
    assert_eq!(history.missing(&of_aggregates, asked, 9).await.unwrap(), missing);
    let parts = [(of_trades.clone(), Range { first: 10, last: 20 }), (of_aggregates.clone(), asked)];
    let mut each: BTreeMap<Stream, Vec<Range>> = BTreeMap::new();
    for (stream, range) in history.missing_each(&parts, 9).await.unwrap() {
        each.entry(stream).or_default().push(range);
    }
    assert_eq!(each[&of_trades], [Range { first: 20, last: 20 }]);
    assert_eq!(each[&of_aggregates], missing);
}

pub async fn they_are_counted_by_time(store: &dyn HistoryStore) {
    let history = store.open();
    let (trades, aggregates) = fill(&*history).await;
    let sum = |rows: Vec<(Stream, i64)>| {
        let mut sums: BTreeMap<Stream, i64> = BTreeMap::new();
        rows.into_iter().for_each(|(stream, rows)| *sums.entry(stream).or_default() += rows);
        streams().map(|stream| sums.get(&stream).copied().unwrap_or_default())
    };
    let days = history.days(&streams(), None).await.unwrap();
    assert_eq!(sum(days.into_iter().map(|(stream, day)| (stream, day.present)).collect()), [10, 14]);
    let since = aggregates[3].trade.ts;
    let minutes = history.per_minute(&streams(), since).await.unwrap();
    assert_eq!(sum(minutes.into_iter().map(|(stream, minute)| (stream, minute.present)).collect()), [2, 11]);
    let windows = history.windows(&streams(), trades[4].trade.ts, aggregates[8].trade.ts).await.unwrap();
    assert_eq!(sum(windows.into_iter().map(|(stream, window)| (stream, window.present)).collect()), [6, 8]);
}

pub async fn a_numbering_that_begins_again_is_of_one_channel(store: &dyn HistoryStore) {
    let history = store.open();
    let (trades, aggregates) = fill(&*history).await;
    let again = TradeRow { epoch: 1, ..agg_trade(3) };
    let began = EpochRow { channel: Channel::AggTrade, ..epoch(NAME, 1) };
    let gap = |channel: &str, epoch: i64| Gap {
        gap_id: format!("{channel}-{epoch}"),
        epoch,
        ..Gap::open(stream(NAME, channel), Range { first: 50, last: 59 }, Evidence::default(), NOON)
    };
    let gaps = vec![gap("trade", 0), gap("agg_trade", 0), gap("agg_trade", 1)];
    let batch = Batch { epochs: vec![began.clone()], trades: vec![again.clone()], gaps, ..Batch::default() };
    history.insert(&batch).await.unwrap();
    assert_eq!(history.epochs().await.unwrap(), [began]);
    let filter = GapFilter { of_read_epoch: true, ..GapFilter::default() };
    let mut read: Vec<String> = history.gaps(&filter).await.unwrap().into_iter().map(|gap| gap.gap_id).collect();
    read.sort_unstable();
    assert_eq!(read, ["agg_trade-1", "trade-0"]);
    assert_eq!(stored(&*history, "agg_trade").await, [again]);
    assert_eq!(stored(&*history, "trade").await, trades);
    assert_eq!(stored(&*history.at_epoch(0), "agg_trade").await, aggregates);
    let marks = history.watermarks(&streams()).await.unwrap();
    let mut positions: Vec<i64> = marks.iter().map(|mark| mark.position).collect();
    positions.sort_unstable();
    assert_eq!(positions, [3, 19]);
}

pub async fn the_higher_version_is_read_and_old_ones_are_removed(store: &dyn HistoryStore) {
    let history = store.open();
    fill(&*history).await;
    let other = Trade { trade_ids: Some((1, 2)), ..agg_trade(16).trade };
    let later = TradeRow { trade: other, version: row_version(false) + 2, ..agg_trade(16) };
    let earlier = TradeRow { trade: other, is_backfilled: true, version: row_version(true), ..agg_trade(17) };
    let batch = Batch { trades: vec![later.clone(), earlier], token: "versions".to_owned(), ..Batch::default() };
    history.insert(&batch).await.unwrap();
    let rows = stored(&*history, "agg_trade").await;
    assert_eq!(rows[1..3], [later, agg_trade(17)]);
    let day = 86_400_000_000;
    let retention = Retention { rows_before: Some(NOON.plus_micros(day * 30)), ..Retention::default() };
    history.retain(&retention).await.unwrap();
    assert!(stored(&*history, "agg_trade").await.is_empty() && stored(&*history, "trade").await.is_empty());
}
