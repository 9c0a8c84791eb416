//! Copies, other contents, and rows that history lacks.

use std::sync::Arc;

use bytes::Bytes;
use rust_decimal::Decimal;
use tempfile::TempDir;

use super::*;
use crate::heartbeat::Heartbeats;
use crate::history::embedded::EmbeddedHistory;
use crate::history::{Batch, row_version};
use crate::market::{Kline, Side, Trade};

fn source() -> Source {
    Source { partition: 0, offset: 7, received_at: Timestamp(9), payload: Bytes::from_static(b"frame") }
}

fn trade(id: i64, price: i64) -> TradeRow {
    let trade =
        Trade { id, ts: Timestamp(id), price: price.into(), quantity: 1.into(), side: Side::Buy, trade_ids: None };
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        trade,
        received_at: Timestamp(9),
        is_backfilled: false,
        epoch: 0,
        version: row_version(false),
    }
}

fn kline(close: i64) -> KlineRow {
    let one = Decimal::ONE;
    let kline = Kline {
        interval: Interval::M1,
        open_time: Timestamp(0),
        close_time: Timestamp(59_999_000),
        open: one,
        high: one,
        low: one,
        close: close.into(),
        volume: one,
        quote_volume: one,
        trade_count: 1,
        first_trade_id: 1,
        last_trade_id: 1,
        closed: true,
    };
    let (exchange, symbol, version) = (Exchange::named("binance"), Symbol::new("BTCUSDT"), row_version(false));
    KlineRow { exchange, symbol, kline, is_backfilled: false, version }
}

/// What a batch becomes when history holds `stored` and `repeated` arrives.
async fn settled(stored: Batch, batch: Batch, repeated: RepeatedRows) -> ReadyBatch {
    let directory = TempDir::new().unwrap();
    let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
    history.insert(&stored).await.unwrap();
    let mut ready = ReadyBatch { rows: Rows { batch, ..Rows::default() }, repeated, ..ReadyBatch::default() };
    let heartbeat = Heartbeats::default().watch("test");
    assert!(settle(&history, &Health::default(), &mut ready, &heartbeat, &CancellationToken::new()).await.unwrap());
    assert!(ready.repeated.is_empty());
    ready
}

fn repeated(trades: Vec<TradeRow>) -> RepeatedRows {
    RepeatedRows { trades: trades.into_iter().map(|row| (row, source())).collect(), klines: Vec::new() }
}

#[tokio::test]
async fn a_copy_changes_nothing_and_a_row_that_history_lacks_is_stored() {
    let backfilled = TradeRow { is_backfilled: true, version: row_version(true), ..trade(2, 1) };
    let stored = Batch { trades: vec![trade(1, 1), backfilled], ..Batch::default() };
    let ready =
        settled(stored, Batch::default(), repeated(vec![trade(1, 1), trade(2, 1), trade(3, 1), trade(3, 1)])).await;
    assert_eq!(ready.rows.batch.trades, [trade(2, 1), trade(3, 1)], "a live copy replaces a backfilled one");
    assert_eq!((ready.rows.trade_sources.len(), ready.rows.batch.conflicts.len()), (2, 0));
}

#[tokio::test]
async fn another_content_is_a_conflict_and_the_stored_row_stays() {
    // Stored before, and in the same batch.
    let batch = Batch { trades: vec![trade(2, 1)], ..Batch::default() };
    let stored = Batch { trades: vec![trade(1, 1)], ..Batch::default() };
    let ready = settled(stored, batch, repeated(vec![trade(1, 5), trade(2, 6)])).await;
    assert_eq!(ready.rows.batch.trades, [trade(2, 1)]);
    let conflicts: Vec<_> = ready.rows.batch.conflicts.iter().map(|row| (row.position, row.verdict)).collect();
    assert_eq!(conflicts, [(1, Verdict::Pending), (2, Verdict::Pending)]);
    let first = &ready.rows.batch.conflicts[0];
    assert!(first.stored.contains("\"price\":\"1\"") && first.arrived.contains("\"price\":\"5\""), "{first:?}");
    assert_eq!(ready.rejected.len(), 2, "health shows the stream");
}

#[tokio::test]
async fn a_trade_of_another_numbering_and_the_result_of_a_newer_decoder_are_no_conflicts() {
    let stored = || Batch { trades: vec![trade(1, 1)], ..Batch::default() };
    let of_another = TradeRow { epoch: 1, ..trade(1, 5) };
    let decoded_anew = TradeRow { version: row_version(false) + 2, ..trade(1, 5) };
    for row in [of_another, decoded_anew] {
        let ready = settled(stored(), Batch::default(), repeated(vec![row.clone()])).await;
        assert_eq!((ready.rows.batch.trades, ready.rows.batch.conflicts), (vec![row], vec![]));
    }
}

#[tokio::test]
async fn of_two_klines_the_later_one_is_the_row_and_both_are_kept() {
    for (is_later, verdict) in
        [(Some(true), Verdict::Arrived), (Some(false), Verdict::Stored), (None, Verdict::Pending)]
    {
        let stored = Batch { klines: vec![kline(1)], ..Batch::default() };
        let klines = vec![(kline(1), source(), is_later), (kline(2), source(), is_later)];
        let ready = settled(stored, Batch::default(), RepeatedRows { trades: Vec::new(), klines }).await;
        let conflicts: Vec<_> = ready.rows.batch.conflicts.iter().map(|row| row.verdict).collect();
        assert_eq!(conflicts, [verdict]);
        let rows: Vec<_> = ready.rows.batch.klines.iter().map(|row| (row.kline.close, row.version)).collect();
        let winner = (Decimal::TWO, row_version(false) + 2);
        assert_eq!(rows, if is_later == Some(true) { vec![winner] } else { vec![] });
    }
}

#[test]
fn a_kline_over_rest_without_trade_ids_is_the_same() {
    let (one, mut other) = (kline(1).kline, kline(1).kline);
    (other.first_trade_id, other.last_trade_id) = (-1, -1);
    assert!(same_kline(&one, &other) && same_kline(&other, &one));
    other.close = Decimal::TWO;
    assert!(!same_kline(&one, &other));
}
