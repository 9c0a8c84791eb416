//! Checks, repairs, sweeps, preloads and coverage on the embedded stores.

use std::collections::HashMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backfill::Deps;
use crate::cache::embedded::EmbeddedCache;
use crate::cache::faulty::FaultyCache;
use crate::cache::{Cache, PendingUpdates, Update};
use crate::clock::Clock;
use crate::faults::Faults;
use crate::gap::{Evidence, Gap, GapState, Range};
use crate::health::Health;
use crate::history::embedded::EmbeddedHistory;
use crate::history::faulty::FaultyHistory;
use crate::history::{Batch, History, KlineRow, TradeRow};
use crate::ledger::SharedLedger;
use crate::market::{Exchange, Interval, Kline, Side, Stream, Symbol, Timestamp, Trade};
use crate::writer::Writer;

const MINUTE: i64 = 60_000_000;
/// 2026-01-01T23:57:00Z: three minutes later every interval is over.
const OPEN: i64 = 1_767_311_820_000_000;

struct Stores {
    history: Arc<dyn History>,
    cache: Arc<dyn Cache>,
    backfill: Deps,
    _directory: TempDir,
}

impl Stores {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        let backfill = Deps {
            rest: HashMap::new(),
            dialects: HashMap::new(),
            writer: Writer::new(history.clone(), Arc::new(PendingUpdates::default()), Health::default()),
            ledger: SharedLedger::default(),
            clock: Clock::from_fn(|| Timestamp(OPEN)),
            rows: Arc::default(),
            confirm_after: std::time::Duration::ZERO,
            answers: Arc::default(),
        };
        Self { history, cache: Arc::new(EmbeddedCache::new()), backfill, _directory: directory }
    }

    async fn store(&self, symbol: &str, ids: impl IntoIterator<Item = i64>) {
        let trades: Vec<TradeRow> = ids.into_iter().map(|id| row(symbol, trade(id))).collect();
        let token = format!("{symbol}:{}", trades[0].trade.id);
        self.history.insert(&Batch { trades, token, ..Batch::default() }).await.unwrap();
    }

    async fn store_backfilled(&self, symbol: &str, id: i64) {
        let row =
            TradeRow { is_backfilled: true, version: crate::history::row_version(true), ..row(symbol, trade(id)) };
        let token = format!("{symbol}:{id}");
        self.history.insert(&Batch { trades: vec![row], token, ..Batch::default() }).await.unwrap();
    }

    async fn store_klines(&self, klines: impl IntoIterator<Item = Kline>) {
        let exchange = Exchange::named("binance");
        let row = |kline| KlineRow {
            exchange,
            symbol: Symbol::new("BTCUSDT"),
            kline,
            is_backfilled: false,
            version: crate::history::row_version(false),
        };
        let klines: Vec<KlineRow> = klines.into_iter().map(row).collect();
        let token = format!("klines:{}", klines[0].kline.open_time);
        self.history.insert(&Batch { klines, token, ..Batch::default() }).await.unwrap();
    }

    async fn cache_tick(&self, symbol: &str, tick: Trade) {
        let ticks = vec![(Exchange::named("binance"), Symbol::new(symbol), tick)];
        self.cache.apply(&Update { ticks, ..Update::default() }).await.unwrap();
    }

    async fn cache_kline(&self, kline: Kline) {
        let klines = vec![(Exchange::named("binance"), Symbol::new("BTCUSDT"), kline)];
        self.cache.apply(&Update { klines, ..Update::default() }).await.unwrap();
    }

    async fn kinds(&self, streams: &[Stream]) -> Vec<(String, IssueKind)> {
        let report = check(&self.history, &self.cache, streams).await.unwrap();
        assert_eq!(report.checked, streams.len());
        report.issues.into_iter().map(|issue| (issue.symbol, issue.kind)).collect()
    }

    async fn repair(&self, streams: &[Stream]) -> RepairReport {
        let report = check(&self.history, &self.cache, streams).await.unwrap();
        repair(&self.cache, &self.backfill, report).await.unwrap()
    }

    async fn open_gaps(&self) -> Vec<(String, i64, i64)> {
        let gaps = self.history.gaps(&crate::history::GapFilter::default()).await.unwrap();
        let mut gaps: Vec<_> =
            gaps.iter().map(|gap| (gap.evidence.by.clone(), gap.range.first, gap.range.last)).collect();
        gaps.sort();
        gaps
    }
}

fn trade(id: i64) -> Trade {
    Trade {
        id,
        ts: Timestamp(OPEN + id * 1_000),
        price: Decimal::new(6_123_456 + id, 2),
        quantity: Decimal::new(25, 2),
        side: Side::Buy,
        trade_ids: None,
    }
}

fn row(symbol: &str, trade: Trade) -> TradeRow {
    let received_at = trade.ts;
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new(symbol),
        trade,
        received_at,
        is_backfilled: false,
        epoch: 0,
        version: crate::history::row_version(false),
    }
}

fn kline(interval: Interval, open_time: i64, close: i64, closed: bool) -> Kline {
    let price = Decimal::from(close);
    Kline {
        interval,
        open_time: Timestamp(open_time),
        close_time: Timestamp(open_time + interval.micros() - 1_000),
        open: price,
        high: price,
        low: price,
        close: price,
        volume: Decimal::ONE,
        quote_volume: price,
        trade_count: 1,
        first_trade_id: close,
        last_trade_id: close,
        closed,
    }
}

fn minute(n: i64) -> Kline {
    kline(Interval::M1, OPEN + n * MINUTE, 100 + n, true)
}

fn streams(names: &[&str]) -> Vec<Stream> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn trades() -> Vec<Stream> {
    streams(&["binance:BTCUSDT:trade"])
}

#[tokio::test(start_paused = true)]
async fn equal_ids_with_different_values_are_an_issue() {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1..=5).await;
    stores.cache_tick("BTCUSDT", trade(5)).await;
    assert_eq!(stores.kinds(&trades()).await, []);
    for (changed, kind) in [
        (Trade { price: trade(5).price + Decimal::new(1, 4), ..trade(5) }, IssueKind::PriceMismatch),
        (Trade { quantity: Decimal::ONE, ..trade(5) }, IssueKind::PriceMismatch),
        (Trade { side: Side::Sell, ..trade(5) }, IssueKind::PriceMismatch),
        (Trade { ts: trade(5).ts.plus_micros(1), ..trade(5) }, IssueKind::TimestampMismatch),
    ] {
        let stores = Stores::new();
        stores.store("BTCUSDT", 1..=5).await;
        stores.cache_tick("BTCUSDT", changed).await;
        assert_eq!(stores.kinds(&trades()).await, [("BTCUSDT".to_owned(), kind)], "{changed:?}");
        let outcome = stores.repair(&trades()).await;
        assert_eq!((outcome.repaired, outcome.unrepaired.len()), (0, 1), "only a person can decide which one is right");
        stores.store("BTCUSDT", [6]).await;
        assert_eq!(stores.repair(&trades()).await.repaired, 1, "a newer row replaces both");
        assert_eq!(stores.kinds(&trades()).await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_lags_or_is_cold_moves_forward_and_never_back() {
    let stores = Stores::new();
    let both = streams(&["binance:BTCUSDT:trade", "binance:ETHUSDT:trade", "binance:XRPUSDT:trade"]);
    stores.store("BTCUSDT", 1..=5).await;
    stores.store("ETHUSDT", 1..=5).await;
    stores.cache_tick("BTCUSDT", trade(3)).await;
    let (btc, eth, xrp) = ("BTCUSDT".to_owned(), "ETHUSDT".to_owned(), "XRPUSDT".to_owned());
    let missing = IssueKind::MissingInCache;
    assert_eq!(stores.kinds(&both).await, [(btc, missing), (eth, missing), (xrp.clone(), IssueKind::NoData)]);
    let outcome = stores.repair(&both).await;
    assert_eq!((outcome.repaired, outcome.sent_to_backfill, outcome.unrepaired.len()), (2, 0, 0));
    assert_eq!(stores.kinds(&both).await, [(xrp, IssueKind::NoData)]);
}

#[tokio::test(start_paused = true)]
async fn rows_that_history_lacks_go_to_backfill_from_its_newest_row_on() {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1..=5).await;
    stores.cache_tick("BTCUSDT", trade(9)).await;
    stores.store_klines([minute(0)]).await;
    stores.cache_kline(minute(2)).await;
    let all = streams(&["binance:BTCUSDT:trade", "binance:BTCUSDT:kline_1m"]);
    let outcome = stores.repair(&all).await;
    assert_eq!((outcome.repaired, outcome.sent_to_backfill, outcome.unrepaired.len()), (0, 2, 0));
    let expected = [("audit".to_owned(), 6, 9), ("audit".to_owned(), OPEN + MINUTE, OPEN + 2 * MINUTE)];
    assert_eq!(stores.open_gaps().await, expected);
    stores.repair(&all).await;
    assert_eq!(stores.open_gaps().await, expected, "a known gap is not sent again");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_the_exchange_no_longer_serves_is_written_from_the_cache() {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1..=5).await;
    stores.cache_tick("BTCUSDT", trade(9)).await;
    assert_eq!(stores.repair(&trades()).await.sent_to_backfill, 1);
    let mut gap = stores.backfill.ledger.with(|ledger| ledger.rows().next().cloned()).unwrap();
    gap.advance(GapState::Unrecoverable, "no longer served", Timestamp(OPEN));
    stores.backfill.ledger.with(|ledger| ledger.load([gap.clone()]));
    let outcome = stores.repair(&trades()).await;
    assert_eq!((outcome.repaired, outcome.written_from_cache, outcome.sent_to_backfill), (1, 1, 0));
    let rows = stores.history.trades(&trades()[0], Range { first: 6, last: 9 }, 9).await.unwrap();
    assert_eq!((rows.len(), rows[0].trade, rows[0].is_backfilled), (1, trade(9), true));
    assert_eq!(stores.kinds(&trades()).await, [], "cache and history agree");
    let filter = crate::history::GapFilter::default();
    let written = stores.history.gaps(&filter).await.unwrap().into_iter().find(|gap| gap.filled_by == "cache").unwrap();
    assert_eq!((written.range, written.state), (Range { first: 9, last: 9 }, GapState::Filled));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_queries_does_not_grow_with_the_symbols() {
    let mut queries = Vec::new();
    for symbols in [4, 400] {
        let stores = Stores::new();
        let names: Vec<String> = (0..symbols).map(|n| format!("SYM{n}")).collect();
        let streams: Vec<Stream> = names
            .iter()
            .flat_map(|name| ["trade", "kline_1m"].map(|channel| format!("binance:{name}:{channel}").parse().unwrap()))
            .collect();
        let mut batch = Batch { token: "all".to_owned(), ..Batch::default() };
        for name in &names {
            batch.trades.extend((1..=3).map(|id| row(name, trade(id))));
            let klines = (0..3).map(|n| KlineRow {
                exchange: Exchange::named("binance"),
                symbol: Symbol::new(name),
                kline: minute(n),
                is_backfilled: false,
                version: crate::history::row_version(false),
            });
            batch.klines.extend(klines);
        }
        stores.history.insert(&batch).await.unwrap();
        let (of_history, of_cache) = (Faults::none(), Faults::none());
        let history: Arc<dyn History> = Arc::new(FaultyHistory::new(stores.history.clone(), of_history.clone()));
        let cache: Arc<dyn Cache> = Arc::new(FaultyCache::new(stores.cache.clone(), of_cache.clone()));
        let report = preload(&history, &cache, &streams).await.unwrap();
        assert_eq!((report.ticks, report.built), (symbols, 5 * symbols), "{report:?}");
        let preload_queries = (of_history.calls(), of_cache.calls());
        assert!(check(&history, &cache, &streams).await.unwrap().issues.is_empty());
        let stop = CancellationToken::new();
        assert!(coverage(&history, &streams, None).await.unwrap().iter().all(|row| row.complete));
        queries.push((preload_queries, of_history.calls(), of_cache.calls()));
        let report = sweep(&history, &stores.backfill, &streams, SweepScope::All, &stop).await.unwrap();
        assert_eq!((report.streams, report.present), (2 * symbols, 6 * symbols as i64));
    }
    assert_eq!(queries[0], queries[1], "queries for 4 and for 400 symbols");
}

// On the real clock: a paused one runs ahead while the store's own thread writes.
#[tokio::test]
async fn rows_that_arrive_during_the_check_are_no_issue() {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1..=5).await;
    stores.cache_tick("BTCUSDT", trade(6)).await;
    stores.cache_kline(minute(0)).await;
    let all = streams(&["binance:BTCUSDT:trade", "binance:BTCUSDT:kline_1m"]);
    // The check is polled first, so its first query runs before the rows are written.
    let arrive = async {
        stores.store("BTCUSDT", [6]).await;
        stores.store_klines([minute(0)]).await;
    };
    let (report, ()) = tokio::join!(check(&stores.history, &stores.cache, &all), arrive);
    let issues = report.unwrap().issues;
    assert!(issues.is_empty(), "{issues:?}");
}

#[tokio::test(start_paused = true)]
async fn an_open_kline_is_no_issue_until_history_has_a_later_one() {
    let stores = Stores::new();
    let all = streams(&["binance:BTCUSDT:kline_1m"]);
    stores.store_klines([minute(0)]).await;
    stores.cache_kline(kline(Interval::M1, OPEN + MINUTE, 7, false)).await;
    assert_eq!(stores.kinds(&all).await, []);
    stores.store_klines([minute(1)]).await;
    assert_eq!(stores.kinds(&all).await, [("BTCUSDT".to_owned(), IssueKind::MissingInCache)], "closed over open");
    assert_eq!(stores.repair(&all).await.repaired, 1);
    assert_eq!(stores.kinds(&all).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_report_has_its_documented_shape() {
    let stores = Stores::new();
    stores.store("BTCUSDT", [1]).await;
    let report = check(&stores.history, &stores.cache, &trades()).await.unwrap();
    let expected = serde_json::json!({"checked": 1, "issues": [{
        "exchange": "binance", "symbol": "BTCUSDT", "channel": "trade", "kind": "missing_in_cache", "cache": null,
        "history": {"trade_id": 1, "ts": OPEN + 1_000, "price": "61234.57", "quantity": "0.25", "side": "buy"},
    }]});
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    let outcome = repair(&stores.cache, &stores.backfill, report).await.unwrap();
    let expected = serde_json::json!({"repaired": 1, "written_from_cache": 0, "sent_to_backfill": 0, "unrepaired": []});
    assert_eq!(serde_json::to_value(&outcome).unwrap(), expected);
}

#[tokio::test]
async fn a_cold_cache_is_filled_with_every_available_interval() {
    let stores = Stores::new();
    stores.store("BTCUSDT", 1..=5).await;
    stores.store_klines([minute(0), minute(1), minute(2)]).await;
    let hour = kline(Interval::H1, OPEN - 57 * MINUTE, 500, true);
    stores.store_klines([hour]).await;
    let both = streams(&["binance:BTCUSDT:trade", "binance:BTCUSDT:kline_1m", "binance:ETHUSDT:trade"]);
    let report = preload(&stores.history, &stores.cache, &both).await.unwrap();
    let expected = PreloadReport { ticks: 1, klines: 6, built: 4, absent: 6, moved: 7 };
    assert_eq!(report, expected);
    let symbol = Symbol::new("BTCUSDT");
    let keys = Interval::ALL.map(|interval| (symbol.clone(), interval));
    let klines = stores.cache.klines(Exchange::named("binance"), &keys).await.unwrap();
    let shown: Vec<(i64, Decimal, Decimal, bool)> = klines
        .into_iter()
        .flatten()
        .map(|kline| (kline.open_time.micros(), kline.open, kline.close, kline.closed))
        .collect();
    let (first, last) = (Decimal::from(100), Decimal::from(102));
    assert_eq!(
        shown,
        [
            (OPEN + 2 * MINUTE, last, last, true),
            (OPEN - 2 * MINUTE, first, last, false),
            (OPEN - 12 * MINUTE, first, last, false),
            (OPEN - 57 * MINUTE, Decimal::from(500), Decimal::from(500), true),
            (OPEN - 237 * MINUTE, first, last, false),
            (OPEN - 1_437 * MINUTE, first, last, false),
        ]
    );
    let again = preload(&stores.history, &stores.cache, &both).await.unwrap();
    assert_eq!(again.moved, 0, "a warm cache does not change");
}

#[tokio::test]
async fn coverage_counts_existing_positions_and_lists_missing_ones() {
    let stores = Stores::new();
    stores.store("BTCUSDT", (1..=10).chain(13..=20).chain(22..=30)).await;
    let mut gap = Gap::open(trades()[0].clone(), Range { first: 11, last: 12 }, Evidence::default(), Timestamp(OPEN));
    gap.advance(GapState::NeverExisted, "no such trades", Timestamp(OPEN));
    let batch = Batch { gaps: vec![gap], token: "gap".to_owned(), ..Batch::default() };
    stores.history.insert(&batch).await.unwrap();
    let all = streams(&["binance:BTCUSDT:trade", "binance:ETHUSDT:trade", "binance:BTCUSDT:book_ticker"]);
    let found = coverage(&stores.history, &all, None).await.unwrap();
    assert_eq!(found.len(), 2, "books are not counted");
    let btc = &found[0];
    assert_eq!((btc.first, btc.last, btc.expected, btc.present), (Some(1), Some(30), 28, 27));
    assert_eq!((&btc.missing, btc.complete, btc.open_gaps), (&vec![(21, 21)], false, 0));
    assert_eq!((btc.days.len(), btc.days[0].date.as_str(), btc.days[0].expected), (1, "2026-01-01", 28));
    assert_eq!((btc.state, found[1].state), (CoverageState::Open, CoverageState::Empty));
    // From that day on, and from the next one on.
    let day = Timestamp(OPEN).day();
    assert_eq!(coverage(&stores.history, &all, Some(day)).await.unwrap()[0].missing, btc.missing);
    let later = &coverage(&stores.history, &all, Some(day + 1)).await.unwrap()[0];
    assert_eq!((later.first, later.expected, later.missing.len(), later.days.len()), (None, 0, 0, 0));
    stores.store("BTCUSDT", [21]).await;
    assert!(coverage(&stores.history, &all, None).await.unwrap()[0].complete);
}

/// The first id of the next day: `trade` deals one a millisecond, and midnight is three minutes after the first.
const MIDNIGHT: i64 = 180_000;

#[tokio::test]
async fn a_day_includes_the_positions_missing_before_it_and_the_days_add_up() {
    let stores = Stores::new();
    let today = Timestamp(OPEN);
    let gap = |first, last| Gap::open(trades()[0].clone(), Range { first, last }, Evidence::default(), today);
    let missing = [MIDNIGHT - 9, MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 5];
    let ids = (MIDNIGHT - 12..=MIDNIGHT + 9).filter(|id| !missing.contains(id));
    stores.store("BTCUSDT", ids).await;
    let days_of = async || {
        let found = coverage(&stores.history, &trades(), None).await.unwrap().remove(0);
        let total: i64 = found.days.iter().map(|day| day.expected).sum();
        assert_eq!((total, found.days.len()), (found.expected, 2), "{found:?}");
        let of_days: Vec<_> = found.days.iter().flat_map(|day| day.missing.clone()).collect();
        assert_eq!(of_days, found.missing);
        (found.state, found.days)
    };
    let (state, days) = days_of().await;
    assert_eq!([state, days[0].state, days[1].state], [CoverageState::Open; 3]);
    assert_eq!(days[0].missing, [(MIDNIGHT - 9, MIDNIGHT - 9)]);
    assert_eq!(days[1].missing, [(MIDNIGHT - 1, MIDNIGHT), (MIDNIGHT + 5, MIDNIGHT + 5)]);
    assert_eq!((days[1].expected, days[1].present), (11, 8));
    // The first day's position is filled. The second day's are lost for good, except one that may still be filled.
    stores.store_backfilled("BTCUSDT", MIDNIGHT - 9).await;
    let mut lost = gap(MIDNIGHT - 1, MIDNIGHT);
    lost.advance(GapState::Unrecoverable, "no longer served", today);
    let batch = Batch { gaps: vec![lost], token: "lost".to_owned(), ..Batch::default() };
    stores.history.insert(&batch).await.unwrap();
    let (state, days) = days_of().await;
    let mended = [CoverageState::Open, CoverageState::Backfilled, CoverageState::Open];
    assert_eq!([state, days[0].state, days[1].state], mended);
    stores.store("BTCUSDT", [MIDNIGHT + 5]).await;
    let (state, days) = days_of().await;
    assert_eq!((state, days[1].state), (CoverageState::Unrecoverable, CoverageState::Unrecoverable));
    // A gap after the last row counts with the last day.
    let batch = Batch { gaps: vec![gap(MIDNIGHT + 10, MIDNIGHT + 12)], token: "tail".to_owned(), ..Batch::default() };
    stores.history.insert(&batch).await.unwrap();
    let (state, days) = days_of().await;
    assert_eq!([state, days[0].state, days[1].state], mended);
}

#[tokio::test]
async fn trades_numbered_in_another_order_than_their_times_are_not_missing() {
    let stores = Stores::new();
    let late = |id| Trade { ts: Timestamp(OPEN + MIDNIGHT * 1_000 - 1), ..trade(id) };
    let rows = [trade(MIDNIGHT - 1), trade(MIDNIGHT), late(MIDNIGHT + 1), trade(MIDNIGHT + 2)];
    let trades_of = rows.into_iter().map(|trade| row("BTCUSDT", trade)).collect();
    stores.history.insert(&Batch { trades: trades_of, token: "late".to_owned(), ..Batch::default() }).await.unwrap();
    let found = coverage(&stores.history, &trades(), None).await.unwrap().remove(0);
    let days: Vec<_> = found.days.iter().map(|day| (day.first, day.last, day.expected, day.present)).collect();
    assert_eq!(days, [(MIDNIGHT - 1, MIDNIGHT + 1, 2, 2), (MIDNIGHT, MIDNIGHT + 2, 2, 2)]);
    assert_eq!((found.complete, found.state), (true, CoverageState::Complete));
}

#[path = "epoch_tests.rs"]
mod epoch_tests;
#[path = "sweep_tests.rs"]
mod sweep_tests;

#[path = "verify_tests.rs"]
mod verify_tests;
