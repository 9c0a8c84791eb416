//! The contract of history: `src/history/mod.rs`, promises 1 to 8.

mod agg_trades;
mod clickhouse;
mod days;
mod embedded;
mod epochs;
mod gaps;
mod migrations;
mod per_minute;
mod recorders;
mod retention;
mod rows;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tapekeeper::gap::Range;
use tapekeeper::history::{Batch, Count, CoverageDay, GapFilter, History, TradeRow, Watermark, row_version};
use tapekeeper::market::{Channel, DAY_US, Exchange, Interval, Stream, Symbol, Timestamp};

use super::{BINANCE, NOON, run, runtime, symbol};
use rows::{everything, job_run, kline, klines, stream, trade, trades};

/// A history that can be opened repeatedly. The caller drops the previous handle before it opens another.
pub trait HistoryStore: Send + Sync {
    fn open(&self) -> Arc<dyn History>;
}

/// Checks every promise on a backend; each check gets a fresh store.
pub fn keeps_every_promise(new_store: &dyn Fn() -> Box<dyn HistoryStore>) {
    run("1: an insert is durable", new_store, |s| Box::pin(an_insert_is_durable(s)));
    run("1: inserting again", new_store, |s| Box::pin(inserting_again_changes_nothing(s)));
    run("2: the higher version is read", new_store, |s| Box::pin(the_higher_version_is_read(s)));
    run("2: gaps", new_store, |s| Box::pin(gaps::the_highest_version_of_a_gap_is_read(s)));
    run("pages of gaps", new_store, |s| Box::pin(gaps::gaps_are_read_in_pages(s)));
    run("2: dead letters", new_store, |s| Box::pin(recorders::a_dead_letter_is_identified_by_its_offset_in_the_log(s)));
    run("2: recorders", new_store, |s| Box::pin(recorders::dead_letters_and_runs_of_several_recorders_stay_apart(s)));
    run("2: conflicts", new_store, |s| Box::pin(epochs::a_conflict_is_pending_until_it_is_decided(s)));
    run("2: winners", new_store, |s| Box::pin(epochs::the_winner_of_a_conflict_stays(s)));
    run("2: epochs", new_store, |s| Box::pin(epochs::the_earliest_beginning_of_a_numbering_counts(s)));
    run("7: numberings", new_store, |s| Box::pin(epochs::reads_return_the_newest_numbering(s)));
    run("aggregates apart", new_store, |s| Box::pin(agg_trades::no_read_mixes_them_with_trades(s)));
    run("aggregates by time", new_store, |s| Box::pin(agg_trades::they_are_counted_by_time(s)));
    run("7: channels", new_store, |s| Box::pin(agg_trades::a_numbering_that_begins_again_is_of_one_channel(s)));
    run("2: aggregates", new_store, |s| Box::pin(agg_trades::the_higher_version_is_read_and_old_ones_are_removed(s)));
    run("2: concurrent inserts", new_store, |s| Box::pin(concurrent_inserts_leave_one_row_per_key(s)));
    run("4: reads from any handle", new_store, |s| Box::pin(any_handle_reads_what_was_inserted(s)));
    run("5: identity", new_store, |s| Box::pin(the_identity_never_changes(s)));
    run("exact decimals", new_store, |s| Box::pin(decimals_are_read_exactly(s)));
    run("watermarks and latest rows", new_store, |s| Box::pin(the_latest_rows_of_every_symbol_are_found(s)));
    run("rows by key", new_store, |s| Box::pin(rows_are_found_by_key(s)));
    run("rows by range", new_store, |s| Box::pin(rows_are_listed_by_range(s)));
    run("huge ids", new_store, |s| Box::pin(huge_ids_are_counted(s)));
    run("days", new_store, |s| Box::pin(days_are_utc_days(s)));
    run("days from a first day", new_store, |s| Box::pin(days::rows_per_day_start_at_the_first_day(s)));
    run("minutes", new_store, |s| Box::pin(per_minute::rows_per_minute_start_at_an_instant(s)));
    run("windows", new_store, |s| Box::pin(windows::rows_of_a_window_are_counted(s)));
    run("missing ranges of streams", new_store, |s| Box::pin(windows::missing_ranges_of_many_streams_are_found(s)));
    run("klines are counted by open time", new_store, |s| Box::pin(klines_are_counted_by_open_time(s)));
    run("runs", new_store, |s| Box::pin(runs_are_replaced_and_listed(s)));
    run("retention of runs", new_store, |s| Box::pin(retention::the_newest_runs_of_each_job_are_kept(s)));
    run("retention", new_store, |s| Box::pin(retention::old_rows_are_removed_and_no_others(s)));
    behaves_like_a_map(new_store);
}

fn filter(open_only: bool, symbol: Option<Symbol>, limit: usize) -> GapFilter {
    GapFilter { open_only, symbol, limit, ..GapFilter::default() }
}

async fn all_trades(history: &dyn History, name: &str) -> Vec<TradeRow> {
    let whole = Range { first: 0, last: i64::MAX };
    history.trades(&stream(name, "trade"), whole, usize::MAX).await.unwrap()
}

/// Asserts that history contains exactly [`everything`].
async fn assert_holds_everything(history: &dyn History) {
    let batch = everything();
    assert_eq!(all_trades(history, "BTCUSDT").await, batch.trades);
    let whole = Range { first: 0, last: i64::MAX };
    let stored = history.klines(&stream("BTCUSDT", "kline_1m"), whole, usize::MAX).await.unwrap();
    assert_eq!(stored, batch.klines);
    assert_eq!(history.gaps(&GapFilter::default()).await.unwrap(), batch.gaps);
    assert_eq!(history.dead_letters(None, 10).await.unwrap(), batch.dead_letters);
    assert_eq!(history.dead_letter_count(None).await.unwrap(), 1);
}

async fn an_insert_is_durable(store: &dyn HistoryStore) {
    let history = store.open();
    history.insert(&everything()).await.unwrap();
    history.insert(&Batch::default()).await.unwrap();
    drop(history);
    let history = store.open();
    assert_holds_everything(&*history).await;
    history.close().await.unwrap();
    history.close().await.unwrap();
    assert!(history.insert(&everything()).await.is_err(), "closed");
    drop(history);
    assert_holds_everything(&*store.open()).await;
}

async fn inserting_again_changes_nothing(store: &dyn HistoryStore) {
    let history = store.open();
    for _ in 0..3 {
        history.insert(&everything()).await.unwrap();
    }
    assert_holds_everything(&*history).await;
}

async fn the_higher_version_is_read(store: &dyn HistoryStore) {
    let history = store.open();
    let backfilled = |mut row: TradeRow| {
        (row.is_backfilled, row.version) = (true, row_version(true));
        row.received_at = row.received_at.plus_micros(1_000);
        row
    };
    let (one, two) = (trade("BTCUSDT", 1), trade("BTCUSDT", 2));
    // Trade 1 arrives live first, trade 2 backfilled first: the live copy wins both times.
    history.insert(&trades(vec![one.clone(), backfilled(two.clone())])).await.unwrap();
    assert_eq!(all_trades(&*history, "BTCUSDT").await, [one.clone(), backfilled(two.clone())]);
    history.insert(&trades(vec![backfilled(one.clone()), two.clone()])).await.unwrap();
    assert_eq!(all_trades(&*history, "BTCUSDT").await, [one, two]);
    // Both copies in one batch, in either order.
    let (three, four) = (trade("BTCUSDT", 3), trade("BTCUSDT", 4));
    let both = vec![backfilled(three.clone()), three.clone(), four.clone(), backfilled(four.clone())];
    history.insert(&trades(both)).await.unwrap();
    assert_eq!(all_trades(&*history, "BTCUSDT").await[2..], [three, four]);

    let live = kline("BTCUSDT", 1);
    let mut filled = kline("BTCUSDT", 1);
    (filled.is_backfilled, filled.version) = (true, row_version(true));
    filled.kline.first_trade_id = -1;
    let of_kline = stream("BTCUSDT", "kline_1m");
    let whole = Range { first: 0, last: i64::MAX };
    for row in [&filled, &live, &filled] {
        history.insert(&klines(vec![row.clone()])).await.unwrap();
    }
    assert_eq!(history.klines(&of_kline, whole, 9).await.unwrap(), [live]);
    let count = history.count(&of_kline, whole).await.unwrap();
    assert_eq!(count, Count { present: 1, backfilled: 0 });
}

async fn concurrent_inserts_leave_one_row_per_key(store: &dyn HistoryStore) {
    let history = store.open();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let history = Arc::clone(&history);
            tokio::spawn(async move {
                // Consecutive writers overlap by half.
                for start in (writer * 50..writer * 50 + 100).step_by(10) {
                    let rows = (start..start + 10).map(|id| trade("BTCUSDT", id)).collect();
                    history.insert(&trades(rows)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(all_trades(&*history, "BTCUSDT").await, (0..350).map(|id| trade("BTCUSDT", id)).collect::<Vec<_>>());
}

async fn any_handle_reads_what_was_inserted(store: &dyn HistoryStore) {
    let (writer, reader) = (store.open(), store.open());
    for id in 0..20 {
        writer.insert(&trades(vec![trade("BTCUSDT", id)])).await.unwrap();
        assert_eq!(all_trades(&*reader, "BTCUSDT").await.len() as i64, id + 1);
    }
}

async fn the_identity_never_changes(store: &dyn HistoryStore) {
    let history = store.open();
    let identity = history.identity().await.unwrap();
    assert!(uuid::Uuid::parse_str(&identity).is_ok(), "{identity} is not a UUID");
    drop(history);
    for _ in 0..3 {
        assert_eq!(store.open().identity().await.unwrap(), identity);
    }
}

async fn decimals_are_read_exactly(store: &dyn HistoryStore) {
    let history = store.open();
    // What every backend can store: 20 digits before the point and 18 after it, 28 in total.
    let texts =
        ["61234.56", "0.000000000000000001", "12345678901234567890", "9999999999.123456789012345678", "0", "1200"];
    let mut rows = Vec::new();
    for (id, text) in (0..).zip(texts) {
        let mut row = trade("PEPEUSDT", id);
        row.trade.price = text.parse().unwrap();
        row.trade.quantity = row.trade.price;
        rows.push(row);
    }
    history.insert(&trades(rows.clone())).await.unwrap();
    let stored = all_trades(&*history, "PEPEUSDT").await;
    assert_eq!(stored, rows);
    for (row, text) in stored.iter().zip(texts) {
        assert_eq!(row.trade.price.normalize().to_string(), text);
    }
}

async fn the_latest_rows_of_every_symbol_are_found(store: &dyn HistoryStore) {
    let history = store.open();
    let names: Vec<String> = (0..40).map(|number| format!("S{number}USDT")).collect();
    let mut batch = Batch::default();
    for (number, name) in (1..).zip(&names) {
        batch.trades.extend((1..=number).map(|id| trade(name, id)));
        batch.klines.extend((1..=number).map(|minute| kline(name, minute)));
    }
    history.insert(&batch).await.unwrap();
    let symbols: Vec<Symbol> = names.iter().map(|name| symbol(name)).chain([symbol("NONE")]).collect();

    let mut latest = history.latest_trades(BINANCE, Channel::Trade, &symbols).await.unwrap();
    latest.sort_by_key(|row| row.trade.id);
    let expected: Vec<TradeRow> = (1..).zip(&names).map(|(id, name)| trade(name, id)).collect();
    assert_eq!(latest, expected);
    let intervals = [Interval::H1, Interval::M1];
    let mut latest = history.latest_klines(BINANCE, &symbols, &intervals).await.unwrap();
    latest.sort_by_key(|row| row.kline.open_time);
    assert_eq!(latest, (1..).zip(&names).map(|(minute, name)| kline(name, minute)).collect::<Vec<_>>());

    let streams: Vec<Stream> = symbols
        .iter()
        .flat_map(|symbol| ["trade", "kline_1m", "kline_1h", "book_ticker"].map(|c| stream(symbol.as_str(), c)))
        .collect();
    let watermarks = history.watermarks(&streams).await.unwrap();
    assert_eq!(watermarks.len(), 80);
    for (number, name) in (1..).zip(&names) {
        let (trade, kline) = (trade(name, number), kline(name, number).kline);
        let of_trades = Watermark { stream: stream(name, "trade"), position: number, ts: trade.trade.ts };
        assert!(watermarks.contains(&of_trades), "{of_trades:?}");
        let position = kline.open_time.micros();
        let of_klines = Watermark { stream: stream(name, "kline_1m"), position, ts: kline.open_time };
        assert!(watermarks.contains(&of_klines), "{of_klines:?}");
    }
    assert!(history.watermarks(&[]).await.unwrap().is_empty());
}

async fn rows_are_found_by_key(store: &dyn HistoryStore) {
    let history = store.open();
    let mut batch = Batch::default();
    for name in ["BTCUSDT", "ETHUSDT"] {
        batch.trades.extend((1..=9).map(|id| trade(name, id)));
        batch.klines.extend((1..=9).map(|minute| kline(name, minute)));
    }
    history.insert(&batch).await.unwrap();
    let keys = [(symbol("BTCUSDT"), 4), (symbol("ETHUSDT"), 9), (symbol("ETHUSDT"), 10), (symbol("NONE"), 1)];
    let mut found = history.trades_by_id(BINANCE, Channel::Trade, &keys).await.unwrap();
    found.sort_by_key(|row| row.trade.id);
    assert_eq!(found, [trade("BTCUSDT", 4), trade("ETHUSDT", 9)]);
    let (third, tenth) = (kline("BTCUSDT", 3), kline("BTCUSDT", 10));
    let keys = [
        (symbol("BTCUSDT"), Interval::M1, third.kline.open_time),
        (symbol("BTCUSDT"), Interval::M5, third.kline.open_time),
        (symbol("BTCUSDT"), Interval::M1, tenth.kline.open_time),
    ];
    assert_eq!(history.klines_by_time(BINANCE, &keys).await.unwrap(), [third]);
    assert!(history.trades_by_id(BINANCE, Channel::Trade, &[]).await.unwrap().is_empty());
}

async fn rows_are_listed_by_range(store: &dyn HistoryStore) {
    let history = store.open();
    // Not in order, as a backfill writes older rows later.
    let ids = [30, 10, 11, 50, 12, 31];
    history.insert(&trades(ids.iter().map(|id| trade("BTCUSDT", *id)).collect())).await.unwrap();
    let of = stream("BTCUSDT", "trade");
    let listed = async |first, last, limit| -> Vec<i64> {
        let rows = history.trades(&of, Range { first, last }, limit).await.unwrap();
        rows.iter().map(|row| row.trade.id).collect()
    };
    assert_eq!(listed(11, 31, 99).await, [11, 12, 30, 31]);
    assert_eq!(listed(11, 31, 2).await, [11, 12]);
    assert_eq!(listed(13, 29, 9).await, [] as [i64; 0]);
    assert_eq!(history.extent(&of).await.unwrap(), Some(Range { first: 10, last: 50 }));
    assert_eq!(history.extent(&stream("ETHUSDT", "trade")).await.unwrap(), None);
    let missing = |first, last, limit| history.missing(&of, Range { first, last }, limit);
    let range = |first, last| Range { first, last };
    assert_eq!(missing(5, 55, 9).await.unwrap(), [range(5, 9), range(13, 29), range(32, 49), range(51, 55)]);
    assert_eq!(missing(5, 55, 2).await.unwrap(), [range(5, 9), range(13, 29)]);
    assert_eq!(missing(10, 12, 9).await.unwrap(), []);
    assert_eq!(missing(10, 12, 0).await.unwrap(), []);
    assert_eq!(missing(20, 25, 9).await.unwrap(), [range(20, 25)]);
}

async fn huge_ids_are_counted(store: &dyn HistoryStore) {
    let history = store.open();
    let top = i64::MAX;
    let ids = [1, 2, top - 3, top - 2, top];
    history.insert(&trades(ids.iter().map(|id| trade("BTCUSDT", *id)).collect())).await.unwrap();
    let of = stream("BTCUSDT", "trade");
    let whole = Range { first: 1, last: top };
    assert_eq!(history.extent(&of).await.unwrap(), Some(whole));
    assert_eq!(history.count(&of, whole).await.unwrap(), Count { present: 5, backfilled: 0 });
    let ranges = [Range { first: 3, last: top - 4 }, Range { first: top - 1, last: top - 1 }];
    assert_eq!(history.missing(&of, whole, 9).await.unwrap(), ranges);
    let nothing = history.missing(&stream("ETHUSDT", "trade"), whole, 9).await.unwrap();
    assert_eq!(nothing, [whole]);
}

async fn days_are_utc_days(store: &dyn HistoryStore) {
    let history = store.open();
    let mut rows = Vec::new();
    let midnight = NOON.day() * DAY_US;
    for (id, ts) in [(1, midnight - 1), (2, midnight), (3, midnight + 1), (4, midnight + 3 * DAY_US)] {
        let mut row = trade("BTCUSDT", id);
        row.trade.ts = Timestamp(ts);
        row.is_backfilled = id == 3;
        rows.push(row);
    }
    history.insert(&trades(rows)).await.unwrap();
    history.insert(&trades(vec![trade("XRPUSDT", 9)])).await.unwrap();
    history.insert(&klines(vec![kline("XRPUSDT", 1)])).await.unwrap();
    let day = |of: &Stream, day, first, last, present, backfilled| {
        (of.clone(), CoverageDay { day, first, last, present, backfilled })
    };
    let today = NOON.day();
    let [btc, eth, xrp] = ["BTCUSDT", "ETHUSDT", "XRPUSDT"].map(|symbol| stream(symbol, "trade"));
    let found = history.days(std::slice::from_ref(&btc), None).await.unwrap();
    let expected = [day(&btc, today - 1, 1, 1, 1, 0), day(&btc, today, 2, 3, 2, 1), day(&btc, today + 3, 4, 4, 1, 0)];
    assert_eq!(found, expected);
    assert_eq!(history.days(std::slice::from_ref(&eth), None).await.unwrap(), []);
    let minutes = stream("XRPUSDT", "kline_1m");
    let all = history.days(&[btc, eth, xrp.clone(), minutes.clone()], None).await.unwrap();
    assert_eq!(all.len(), 5, "one result for all streams: {all:?}");
    assert_eq!(all[..3], expected);
    assert_eq!((&all[3].0, all[3].1.present, &all[4].0, all[4].1.present), (&xrp, 1, &minutes, 1));
    let at = kline("XRPUSDT", 1).kline.open_time;
    let symbols = [Symbol::new("BTCUSDT"), Symbol::new("XRPUSDT")];
    let since = |at| history.minute_klines(Exchange::named("binance"), &symbols, at);
    assert_eq!(since(at).await.unwrap(), [kline("XRPUSDT", 1)]);
    assert_eq!(since(at.plus_micros(1)).await.unwrap(), []);
}

async fn klines_are_counted_by_open_time(store: &dyn HistoryStore) {
    let history = store.open();
    let minutes = [1, 2, 5, 6];
    history.insert(&klines(minutes.iter().map(|minute| kline("BTCUSDT", *minute)).collect())).await.unwrap();
    let of = stream("BTCUSDT", "kline_1m");
    let at = |minute| kline("BTCUSDT", minute).kline.open_time.micros();
    let range = |first, last| Range { first: at(first), last: at(last) };
    assert_eq!(history.extent(&of).await.unwrap(), Some(range(1, 6)));
    assert_eq!(history.count(&of, range(0, 9)).await.unwrap(), Count { present: 4, backfilled: 0 });
    assert_eq!(history.missing(&of, range(0, 9), 9).await.unwrap(), [range(0, 0), range(3, 4), range(7, 9)]);
    let listed = history.klines(&of, range(2, 5), 9).await.unwrap();
    assert_eq!(listed, [kline("BTCUSDT", 2), kline("BTCUSDT", 5)]);
    let days: Vec<CoverageDay> =
        history.days(std::slice::from_ref(&of), None).await.unwrap().into_iter().map(|(_, day)| day).collect();
    assert_eq!(days, [CoverageDay { day: NOON.day(), first: at(1), last: at(6), present: 4, backfilled: 0 }]);
    assert_eq!(history.count(&stream("BTCUSDT", "kline_5m"), range(0, 9)).await.unwrap(), Count::default());
}

async fn runs_are_replaced_and_listed(store: &dyn HistoryStore) {
    let history = store.open();
    for number in 0..6 {
        history.put_run(&job_run(number)).await.unwrap();
    }
    let mut third = job_run(3);
    third.outcome = "succeeded".to_owned();
    third.finished_at = Some(NOON.micros());
    third.window = Some((1, 2));
    history.put_run(&third).await.unwrap();
    assert_eq!(history.runs(None, None, 3).await.unwrap(), [job_run(5), job_run(4), third.clone()]);
    // `job_run` gives odd numbers to one job and even ones to another.
    assert_eq!(history.runs(Some("odd"), None, 99).await.unwrap(), [job_run(5), third, job_run(1)]);
    assert_eq!(history.runs(Some("none"), None, 99).await.unwrap(), []);
}

/// After inserts in any order, history reads like a map from id to the highest version.
fn behaves_like_a_map(new_store: &dyn Fn() -> Box<dyn HistoryStore>) {
    eprintln!("promise: 2, against a naive model");
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let batches = prop::collection::vec(prop::collection::vec((0_i64..60, any::<bool>()), 0..30), 1..8);
    let outcome = proptest::test_runner::TestRunner::new(config).run(&batches, |batches| {
        let store = new_store();
        runtime().block_on(async {
            let history = store.open();
            let of = stream("BTCUSDT", "trade");
            let mut model: BTreeMap<i64, bool> = BTreeMap::new();
            for rows in batches {
                let mut batch = Batch::default();
                for (id, is_backfilled) in rows {
                    batch.trades.push(TradeRow {
                        is_backfilled,
                        version: row_version(is_backfilled),
                        ..trade("BTCUSDT", id)
                    });
                    model.entry(id).and_modify(|stored| *stored &= is_backfilled).or_insert(is_backfilled);
                }
                history.insert(&batch).await.unwrap();
            }
            let stored = all_trades(&*history, "BTCUSDT").await;
            assert!(stored.iter().map(|row| (row.trade.id, row.is_backfilled)).eq(model.clone()));
            let requested = Range { first: 10, last: 49 };
            let in_range: BTreeMap<_, _> = model.range(10..=49).collect();
            let backfilled = in_range.values().filter(|is_backfilled| ***is_backfilled).count() as i64;
            let count = Count { present: in_range.len() as i64, backfilled };
            assert_eq!(history.count(&of, requested).await.unwrap(), count);
            let ranges = history.missing(&of, requested, usize::MAX).await.unwrap();
            let missing: BTreeSet<i64> = ranges.iter().flat_map(|range| range.first..=range.last).collect();
            assert_eq!(missing, (10..=49).filter(|id| !model.contains_key(id)).collect());
            assert!(ranges.windows(2).all(|pair| pair[0].last + 1 < pair[1].first), "{ranges:?}");
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
