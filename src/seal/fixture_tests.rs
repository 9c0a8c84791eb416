//! What the tests of this module share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::history::embedded::EmbeddedHistory;
use crate::history::{Batch, History, TradeRow};
use crate::market::{Channel, Exchange, Interval, Kline, Side, Stream, Symbol, Timestamp, Trade};

/// A trade of BTCUSDT; everything follows from its id.
pub fn trade_row(id: i64, ts: Timestamp) -> TradeRow {
    TradeRow {
        exchange: Exchange::named("binance"),
        symbol: Symbol::new("BTCUSDT"),
        trade: Trade {
            id,
            ts,
            price: price_of(id),
            quantity: Decimal::new(1 + id % 7, 3),
            side: if id % 3 == 0 { Side::Buy } else { Side::Sell },
            trade_ids: None,
        },
        received_at: ts.plus_micros(1_234),
        is_backfilled: id % 5 == 0,
        epoch: 0,
        version: crate::history::row_version(id % 5 == 0),
    }
}

fn price_of(id: i64) -> Decimal {
    Decimal::new(6_123_400 + id % 11, 2)
}

/// The kline that these trades make.
pub fn kline_of(first: i64, last: i64) -> Kline {
    let trades: Vec<Trade> = (first..=last).map(|id| trade_row(id, Timestamp(0)).trade).collect();
    let prices = || trades.iter().map(|trade| trade.price);
    Kline {
        interval: Interval::M1,
        open_time: Timestamp(60_000_000),
        close_time: Timestamp(119_999_000),
        open: trades[0].price,
        high: prices().max().unwrap(),
        low: prices().min().unwrap(),
        close: trades[trades.len() - 1].price,
        volume: trades.iter().map(|trade| trade.quantity).sum(),
        quote_volume: Decimal::ZERO,
        trade_count: last - first + 1,
        first_trade_id: first,
        last_trade_id: last,
        closed: true,
    }
}

/// A manifest with something in every field.
pub fn manifest() -> Manifest {
    Manifest {
        exchange: "binance".to_owned(),
        symbol: "BTCUSDT".to_owned(),
        channel: "trades".to_owned(),
        date: "2026-11-27".to_owned(),
        epoch: 1,
        revision: 1,
        file: "trades.r1.parquet".to_owned(),
        bytes: 7,
        sha256: "ab".to_owned(),
        rows: 9,
        first: Some(1),
        last: Some(22),
        expected: 22,
        present: 6,
        live: 4,
        backfilled: 2,
        filled_by: FilledBy { rest: 2, archive: 0 },
        never_existed: vec![(4, 6)],
        unconfirmed: Vec::new(),
        unrecoverable: vec![(20, 21, "gone".to_owned())],
        missing: vec![(7, 9), (12, 12)],
        other_day: vec![(14, 14)],
        older_epochs: vec![OlderEpoch { epoch: 0, first: 5, last: 7, rows: 3 }],
        open_end: true,
        unproven: false,
        complete: false,
        logical_hash: "cd".to_owned(),
        klines: KlineCheck { checked: 3, different: 1 },
        previous: None,
        sealed_at: "2026-11-28T00:20:00.000001Z".to_owned(),
        recorder: "north".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;

pub fn day() -> Day {
    Day::parse("2026-11-27").unwrap()
}

pub fn stream(channel: Channel) -> Stream {
    Stream::new(Exchange::named("binance"), Symbol::new("BTCUSDT"), channel)
}

/// A history, a directory of sealed days, and the time.
pub struct Fixture {
    pub directory: tempfile::TempDir,
    pub history: Arc<dyn History>,
    pub now: Timestamp,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let history = Arc::new(EmbeddedHistory::open(&directory.path().join("history.db")).unwrap());
        Self { directory, history, now: day().end().plus_micros(20 * MINUTE) }
    }

    /// The trades 0 to 99, ten of them before the day, eighty of it and ten after it; without some of them.
    pub async fn with_trades(without: &[i64]) -> Self {
        let fixture = Self::new();
        fixture.insert(Batch { trades: trades(without), ..Batch::default() }).await;
        fixture
    }

    pub async fn insert(&self, batch: Batch) {
        self.history.insert(&batch).await.unwrap();
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("sealed")
    }

    pub fn day_directory(&self) -> PathBuf {
        self.root().join("trades/exchange=binance/symbol=BTCUSDT/date=2026-11-27")
    }

    pub fn sealer(&self, place: Arc<dyn Place>) -> Sealer {
        let now = self.now;
        let reader = DayReader {
            history: self.history.clone(),
            clock: Clock::from_fn(move || now),
            recorder: "north".to_owned(),
        };
        Sealer { reader, place, grace: Duration::from_secs(600) }
    }

    pub async fn seal(&self, channel: Channel, selection: Selection) -> Vec<SealedDay> {
        self.seal_in(Arc::new(Directory::new(&self.root())), channel, selection).await.unwrap()
    }

    pub async fn seal_in(
        &self,
        place: Arc<dyn Place>,
        channel: Channel,
        selection: Selection,
    ) -> Result<Vec<SealedDay>, crate::exit::Failure> {
        let done = std::sync::Mutex::new(Vec::new());
        let on = |event: Event<'_>| {
            if let Event::Done(day) = event {
                done.lock().unwrap().push(day.clone());
            }
        };
        self.sealer(place).run(&[stream(channel)], selection, &CancellationToken::new(), &on).await?;
        Ok(done.into_inner().unwrap())
    }

    pub async fn seal_day(&self) -> SealedDay {
        self.seal(Channel::Trade, Selection::Days(day(), day())).await.remove(0)
    }
}

/// When trade `id` happened: the first ten before the day, the last ten after it.
pub fn time_of(id: i64) -> Timestamp {
    match id {
        ..10 => day().start().plus_micros((id - 10) * SECOND),
        10..90 => day().start().plus_micros((id - 10) * 900 * SECOND),
        90.. => day().end().plus_micros((id - 90) * SECOND),
    }
}

pub fn trades(without: &[i64]) -> Vec<TradeRow> {
    (0..100).filter(|id| !without.contains(id)).map(|id| trade_row(id, time_of(id))).collect()
}

pub struct Quiet;

impl Watch for Quiet {
    fn rows(&self, _rows: u64) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

pub fn check(path: &Path) -> Verified {
    verify(path, &Quiet).unwrap()
}

#[track_caller]
pub fn assert_verified(path: &Path, revisions: usize) {
    let verified = check(path);
    assert_eq!((verified.differences, verified.revisions), (Vec::new(), revisions), "{:?}", verified.notes);
}

pub fn fields(verified: &Verified) -> Vec<&str> {
    verified.differences.iter().map(|difference| difference.field.as_str()).collect()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
