//! Sealing and verifying together, on the embedded history.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;

use super::fixture_tests::{
    Fixture, MINUTE, SECOND, assert_verified, check, day, fields, kline_of, runtime, stream, time_of, trade_row, trades,
};
use super::*;
use crate::gap::{Evidence, Gap, GapState, Range};
use crate::history::{Batch, ConflictRow, EpochRow, KlineRow, Retention, TradeRow, Verdict};
use crate::market::{Channel, Exchange, Interval, Kline, Symbol, Timestamp};

#[tokio::test]
async fn a_whole_day_is_sealed_complete_and_its_file_has_its_rows() {
    let fixture = Fixture::with_trades(&[]).await;
    let sealed = fixture.seal_day().await;
    let manifest = &sealed.manifest;
    assert_eq!((sealed.outcome, manifest.revision, manifest.rows), (Outcome::Sealed, 1, 80));
    assert_eq!((manifest.first, manifest.last, manifest.expected, manifest.present), (Some(10), Some(89), 80, 80));
    assert_eq!((manifest.live, manifest.backfilled, manifest.filled_by.rest), (64, 16, 16));
    assert!(manifest.complete && manifest.missing.is_empty() && manifest.previous.is_none());
    assert_verified(&fixture.root(), 1);
    for below in ["", "trades.r1.parquet", "manifest.r1.json"] {
        assert_verified(&fixture.day_directory().join(below), 1);
    }
    assert_eq!(fs::read_to_string(fixture.day_directory().join("current.json")).unwrap(), "{\"revision\": 1}\n");
    let names = fs::read_dir(fixture.day_directory()).unwrap().count();
    assert_eq!(names, 3, "no temporary file is left");
    let again = fixture.seal_day().await;
    assert_eq!((again.outcome, again.manifest.clone()), (Outcome::Unchanged, manifest.clone()));
    assert!(fixture.seal(Channel::Trade, Selection::All).await.iter().all(|done| done.day != day()));
}

#[tokio::test]
async fn what_a_day_lacks_is_divided_among_the_lists() {
    let fixture = Fixture::with_trades(&[20, 21, 30, 40, 41, 50, 9, 10, 89, 90]).await;
    let gap = |first, last, state: GapState, reason: &str| {
        let mut gap = Gap::open(stream(Channel::Trade), Range { first, last }, Evidence::default(), day().end());
        if state != GapState::Open {
            gap.advance(state, reason, day().end());
        }
        gap
    };
    let gaps = vec![
        gap(20, 20, GapState::NeverExisted, ""),
        gap(30, 30, GapState::Unrecoverable, "too old"),
        gap(40, 41, GapState::Unconfirmed, ""),
        gap(50, 50, GapState::Open, ""),
        gap(9, 10, GapState::Unrecoverable, "down"),
    ];
    fixture.insert(Batch { gaps, ..Batch::default() }).await;
    let manifest = fixture.seal_day().await.manifest;
    assert_eq!(manifest.never_existed, [(20, 20)]);
    assert_eq!(manifest.unconfirmed, [(40, 41)]);
    assert_eq!(manifest.unrecoverable, [(9, 10, "down".to_owned()), (30, 30, "too old".to_owned())]);
    assert_eq!(manifest.missing, [(21, 21), (50, 50), (89, 90)]);
    assert!(!manifest.complete && (manifest.first, manifest.last) == (Some(11), Some(88)));
    assert_eq!((manifest.expected, manifest.present), (78, 72));
    assert_verified(&fixture.root(), 1);
}

#[tokio::test]
async fn a_late_fill_makes_the_next_revision_and_the_chain_holds() {
    let mut fixture = Fixture::with_trades(&[20, 21]).await;
    let mut gap = Gap::open(stream(Channel::Trade), Range { first: 20, last: 21 }, Evidence::default(), day().end());
    fixture.insert(Batch { gaps: vec![gap.clone()], ..Batch::default() }).await;
    let sealed = fixture.seal(Channel::Trade, Selection::All).await;
    // Nothing before the first row is known to be missing, and today is not over.
    assert_eq!(sealed.iter().map(|done| done.day).collect::<Vec<_>>(), [day().previous(), day()]);
    assert!(!sealed[1].manifest.complete && sealed[1].manifest.previous.is_some());
    assert!(fixture.seal(Channel::Trade, Selection::All).await.is_empty());

    fixture.now = day().next().end().plus_micros(20 * MINUTE);
    let rows = [20, 21].map(|id| trade_row(id, time_of(id))).to_vec();
    gap.advance(GapState::Filled, "", day().end().plus_micros(60 * MINUTE));
    fixture.insert(Batch { gaps: vec![gap], trades: rows, ..Batch::default() }).await;
    let window = Selection::Window(day().next().start(), day().next().end());
    let sealed = fixture.seal(Channel::Trade, window).await;
    let revisions: Vec<(Day, u32)> = sealed.iter().map(|done| (done.day, done.manifest.revision)).collect();
    assert_eq!(revisions, [(day(), 2), (day().next(), 1)]);
    assert!(sealed[0].manifest.complete);
    assert_verified(&fixture.root(), 4);

    // The chain still holds when the day before gets a revision after it.
    let before = fixture.day_directory().with_file_name("date=2026-11-26");
    let text = fs::read_to_string(before.join("manifest.r1.json")).unwrap();
    fs::write(before.join("manifest.r1.json"), text.replace("\"north\"", "\"south\"")).unwrap();
    let verified = check(&fixture.root());
    let named = |path: &str, field: &str| {
        verified.differences.iter().any(|known| known.file.ends_with(path) && known.field == field)
    };
    assert!(named("date=2026-11-26/manifest.r1.json", "recorder"), "{:?}", verified.differences);
    assert!(named("date=2026-11-27/manifest.r1.json", "previous"), "{:?}", verified.differences);
}

#[tokio::test]
async fn a_row_that_lost_a_conflict_is_sealed_again() {
    let fixture = Fixture::with_trades(&[]).await;
    fixture.seal(Channel::Trade, Selection::All).await;
    let mut right = trade_row(33, time_of(33));
    right.trade.price += Decimal::ONE;
    right.version += 10;
    let conflict = ConflictRow {
        stream: stream(Channel::Trade),
        epoch: 0,
        position: 33,
        stored: "{}".to_owned(),
        arrived: "{}".to_owned(),
        at: day().end(),
        verdict: Verdict::Arrived,
    };
    fixture.insert(Batch { conflicts: vec![conflict], trades: vec![right], ..Batch::default() }).await;
    let sealed = fixture.seal(Channel::Trade, Selection::All).await;
    let revisions: Vec<(Day, u32)> = sealed.iter().map(|done| (done.day, done.manifest.revision)).collect();
    assert_eq!(revisions, [(day(), 2)]);
    assert_verified(&fixture.root(), 3);
}

#[tokio::test]
async fn a_day_that_cannot_be_sealed_does_not_keep_the_others_from_being_sealed() {
    let fixture = Fixture::with_trades(&[]).await;
    fixture.seal_day().await;
    let path = fixture.day_directory().join("manifest.r1.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"BTCUSDT\"", "\"BTC/USDT\"")).unwrap();
    let sealer = fixture.sealer(Arc::new(Directory::new(&fixture.root())));
    let days = Selection::Days(day().previous(), day());
    let summary = sealer.run(&[stream(Channel::Trade)], days, &CancellationToken::new(), &|_| {}).await.unwrap();
    assert_eq!((summary.sealed, summary.failed.len()), (1, 1));
    assert!(summary.failed[0].contains("holds BTC/USDT: two symbols have one name"), "{:?}", summary.failed);
}

#[tokio::test]
async fn two_recorders_with_the_same_rows_get_the_same_hash_and_seal_once() {
    let (north, south) = (Fixture::with_trades(&[]).await, Fixture::new());
    let mut rows = trades(&[]);
    rows.reverse();
    for mut row in rows {
        row.is_backfilled = true;
        row.received_at = row.received_at.plus_micros(7);
        south.insert(Batch { trades: vec![row], ..Batch::default() }).await;
    }
    let (one, other) = (north.seal_day().await.manifest, south.seal_day().await.manifest);
    assert_eq!(one.logical_hash, other.logical_hash);
    assert_ne!((one.backfilled, one.sha256), (other.backfilled, other.sha256));
    let place = Arc::new(Directory::new(&north.root()));
    let second = south.seal_in(place, Channel::Trade, Selection::Days(day(), day())).await.unwrap();
    assert_eq!((second[0].outcome, second[0].manifest.revision), (Outcome::Unchanged, 1));
}

#[tokio::test]
async fn a_day_that_is_not_settled_waits_until_its_grace_is_over() {
    let mut fixture = Fixture::with_trades(&(90..100).collect::<Vec<_>>()).await;
    let waiting = async |fixture: &Fixture| {
        let (cancel, reasons) = (CancellationToken::new(), std::sync::Mutex::new(Vec::new()));
        let on = |event: Event<'_>| {
            if let Event::Waiting(_, _, why) = event {
                reasons.lock().unwrap().push(why.to_owned());
                cancel.cancel();
            }
        };
        let sealer = fixture.sealer(Arc::new(Directory::new(&fixture.root())));
        let ended = sealer.run(&[stream(Channel::Trade)], Selection::Days(day(), day()), &cancel, &on).await;
        (ended.is_err(), reasons.into_inner().unwrap())
    };
    fixture.now = day().end().plus_micros(MINUTE);
    assert_eq!(waiting(&fixture).await, (true, vec!["nothing after the day is recorded yet".to_owned()]));
    let gap = Gap::open(stream(Channel::Trade), Range { first: 89, last: 89 }, Evidence::default(), day().end());
    let later = trade_row(95, time_of(95));
    fixture.insert(Batch { gaps: vec![gap], trades: vec![later], ..Batch::default() }).await;
    assert_eq!(waiting(&fixture).await, (true, vec!["gap 89..89 is open".to_owned()]));
    fixture.now = day().end().plus_micros(10 * MINUTE);
    let manifest = fixture.seal_day().await.manifest;
    assert!(!manifest.complete && !manifest.open_end && manifest.missing == [(90, 94)], "{manifest:?}");
}

#[tokio::test]
async fn a_day_whose_end_nothing_proves_is_not_complete_until_a_later_row_arrives() {
    let mut fixture = Fixture::with_trades(&(90..100).collect::<Vec<_>>()).await;
    let first = fixture.seal_day().await.manifest;
    assert!(first.open_end && !first.complete && first.missing.is_empty());
    fixture.now = day().next().end().plus_micros(20 * MINUTE);
    fixture.insert(Batch { trades: vec![trade_row(90, time_of(90))], ..Batch::default() }).await;
    let sealed = fixture.seal(Channel::Trade, Selection::Window(day().next().start(), day().next().end())).await;
    let again = sealed.iter().find(|done| done.day == day()).unwrap();
    assert!(again.manifest.revision == 2 && again.manifest.complete, "{:?}", again.manifest);
    assert_verified(&fixture.root(), 3);
}

#[tokio::test]
async fn rows_that_retention_dropped_stay_sealed() {
    let fixture = Fixture::with_trades(&[]).await;
    let sealed = fixture.seal_day().await.manifest;
    let retention = Retention { rows_before: Some(time_of(50)), ..Retention::default() };
    fixture.history.retain(&retention).await.unwrap();
    let again = fixture.seal_day().await;
    assert_eq!((again.outcome, again.manifest), (Outcome::Kept(40), sealed));
    assert_verified(&fixture.root(), 1);
}

#[tokio::test]
async fn every_numbering_of_a_day_is_in_one_file() {
    let fixture = Fixture::new();
    let began = day().start().plus_micros(1_000 * SECOND);
    let epoch = EpochRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        channel: Channel::Trade,
        epoch: 1,
        first_id: 1,
        began_at: began,
        reason: "renumbered".to_owned(),
    };
    let old = (500..510).map(|id| trade_row(id, day().start().plus_micros(id)));
    let new = (1..=6).filter(|id| *id != 3).map(|id| TradeRow { epoch: 1, ..trade_row(id, began.plus_micros(id)) });
    let after = TradeRow { epoch: 1, ..trade_row(7, day().end()) };
    let trades = old.chain(new).chain([after]).collect();
    fixture.insert(Batch { epochs: vec![epoch], trades, ..Batch::default() }).await;
    let manifest = fixture.seal_day().await.manifest;
    assert_eq!((manifest.epoch, manifest.rows, manifest.present, manifest.expected), (1, 15, 5, 6));
    assert_eq!(manifest.older_epochs, [OlderEpoch { epoch: 0, first: 500, last: 509, rows: 10 }]);
    assert_eq!(manifest.missing, [(3, 3)]);
    assert_verified(&fixture.root(), 1);
}

fn kline_row(minute: i64, like: Kline) -> KlineRow {
    let open_time = day().start().plus_micros(minute * MINUTE);
    let kline = Kline { open_time, close_time: open_time.plus_micros(MINUTE - 1_000), ..like };
    KlineRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        kline,
        is_backfilled: minute % 2 == 0,
        version: crate::history::row_version(minute % 2 == 0),
    }
}

#[tokio::test]
async fn klines_are_sealed_by_the_minute_and_trades_are_compared_with_them() {
    let fixture = Fixture::with_trades(&[]).await;
    let klines = (-1..1_441).filter(|minute| *minute != 7).map(|minute| match minute {
        10 => kline_row(minute, kline_of(10, 12)),
        11 => kline_row(minute, Kline { high: Decimal::MAX, ..kline_of(13, 20) }),
        _ => kline_row(minute, Kline { first_trade_id: -1, last_trade_id: -1, ..kline_of(1, 1) }),
    });
    fixture.insert(Batch { klines: klines.collect(), ..Batch::default() }).await;
    let channel = Channel::Kline(Interval::M1);
    let sealed = fixture.seal(channel, Selection::Days(day(), day())).await.remove(0).manifest;
    assert_eq!((sealed.channel.as_str(), sealed.rows, sealed.expected), ("klines_1m", 1_439, 1_440));
    let at = day().start().plus_micros(7 * MINUTE).micros();
    assert_eq!((sealed.missing, sealed.complete), (vec![(at, at)], false));
    let trades = fixture.seal_day().await.manifest;
    assert_eq!(trades.klines, KlineCheck { checked: 2, different: 1 });
    assert_verified(&fixture.root(), 2);
}

/// A place that fails from a step on, as if the process had been killed there.
struct Failing {
    place: Directory,
    steps: AtomicUsize,
}

impl Failing {
    fn step(&self) -> std::io::Result<()> {
        let left = self.steps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
        match left {
            Ok(0) => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Place for Failing {
    fn name(&self) -> String {
        self.place.name()
    }

    async fn read(&self, path: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.place.read(path).await
    }

    async fn size(&self, path: &str) -> std::io::Result<Option<u64>> {
        self.place.size(path).await
    }

    async fn names(&self, directory: &str) -> std::io::Result<Vec<String>> {
        self.place.names(directory).await
    }

    async fn lock(&self, directory: &str, is_unfinished: IsUnfinished<'_>) -> std::io::Result<Lock> {
        self.step()?;
        let lock = self.place.lock(directory, is_unfinished).await?;
        self.step()?;
        Ok(lock)
    }

    fn spool(&self, path: &str) -> std::io::Result<(SpoolWriter, Spool)> {
        self.step()?;
        self.place.spool(path)
    }

    async fn create(&self, path: &str, content: fs::File, spool: Spool) -> std::io::Result<Created> {
        if let Err(error) = self.step() {
            // A killed process leaves what it wrote.
            std::mem::forget(spool);
            return Err(error);
        }
        let created = self.place.create(path, content, spool).await?;
        self.step()?;
        Ok(created)
    }

    async fn replace(&self, path: &str, content: &[u8]) -> std::io::Result<()> {
        self.step()?;
        self.place.replace(path, content).await
    }
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_no_revision_that_is_half_written_and_the_next_run_seals() {
    let fixture = Fixture::with_trades(&[]).await;
    let days = Selection::Days(day(), day());
    for steps in 0.. {
        let place = Arc::new(Failing { place: Directory::new(&fixture.root()), steps: steps.into() });
        let ended = fixture.seal_in(place, Channel::Trade, days).await;
        let verified = if fixture.root().exists() { check(&fixture.root()) } else { Verified::default() };
        if ended.is_ok() {
            assert!(steps > 8, "every step was tried");
            break;
        }
        let is_half = |verified: &Verified| !fields(verified).is_empty() || !verified.notes.is_empty();
        assert!(verified.revisions == 0 || is_half(&verified), "after {steps} steps: {verified:?}");
        assert_eq!(fixture.seal_day().await.manifest.revision, 1, "after {steps} steps");
        assert_verified(&fixture.root(), 1);
        fs::remove_dir_all(fixture.root()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_rows_a_day_has_it_verifies_and_two_orders_have_one_hash(
        rows in prop::collection::btree_map(0_i64..400, (0_i64..172_800, -(1_i128 << 60)..1_i128 << 60, 0_u32..10, 0_i64..2), 1..60),
        is_aggregate in any::<bool>(),
    ) {
        let channel = if is_aggregate { Channel::AggTrade } else { Channel::Trade };
        let row = |(id, (second, mantissa, scale, _)): (&i64, &(i64, i128, u32, i64))| {
            let mut row = trade_row(*id, day().previous().start().plus_micros(43_200 * SECOND + *second * SECOND));
            row.trade.price = Decimal::from_i128_with_scale(*mantissa, *scale);
            row.trade.trade_ids = is_aggregate.then_some((id * 2, id * 2 + 1));
            row
        };
        // Ids and times in one order, but for an hour.
        let mut written: Vec<TradeRow> = rows.iter().map(row).collect();
        let mut times: Vec<Timestamp> = written.iter().map(|row| row.trade.ts).collect();
        times.sort();
        written.iter_mut().zip(times).for_each(|(row, ts)| {
            row.trade.ts = ts.plus_micros(row.trade.id % 3 * 900 * SECOND);
        });
        runtime().block_on(async {
            let (fixture, reversed) = (Fixture::new(), Fixture::new());
            fixture.insert(Batch { trades: written.clone(), ..Batch::default() }).await;
            written.reverse();
            reversed.insert(Batch { trades: written.clone(), ..Batch::default() }).await;
            let all = Selection::Days(day().previous(), day().next());
            let (sealed, again) = (fixture.seal(channel, all).await, reversed.seal(channel, all).await);
            let finished = written.iter().filter(|row| row.trade.ts < day().end()).count();
            prop_assert_eq!(sealed.iter().map(|done| done.manifest.rows).sum::<u64>(), finished as u64);
            for (one, other) in sealed.iter().zip(&again) {
                prop_assert_eq!(&one.manifest.logical_hash, &other.manifest.logical_hash);
            }
            if fixture.root().exists() {
                let verified = check(&fixture.root());
                prop_assert_eq!(&verified.differences, &Vec::new());
                prop_assert_eq!(verified.revisions, sealed.len());
            }
            Ok(())
        })?;
    }
}
