//! The recording path from socket frames to history, on stores that fail, delay and tear batches, with processes that
//! crash.
//!
//! Two things must hold: every committed frame is durable, and at every restart and at the end the ledger lists
//! exactly the trades that the exchange published and history does not have. With an exchange that serves lost trades
//! over REST, and fails too, no gap stays open and history is complete.

mod exchange;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tapekeeper::backfill;
use tapekeeper::cache::PendingUpdates;
use tapekeeper::clock::Clock;
use tapekeeper::consume::{self, ReorderBuffer};
use tapekeeper::exchange::Dialect;
use tapekeeper::exchange::binance::Binance;
use tapekeeper::exchange::socket::SocketEvent;
use tapekeeper::faults::{Faults, Odds};
use tapekeeper::gap::Range;
use tapekeeper::health::Health;
use tapekeeper::heartbeat::Heartbeats;
use tapekeeper::history::embedded::EmbeddedHistory;
use tapekeeper::history::faulty::FaultyHistory;
use tapekeeper::history::{GapFilter, History, LedgerStore, RowStore, RunStore};
use tapekeeper::ingest::{self, Counters};
use tapekeeper::ledger::{Ledger, SharedLedger};
use tapekeeper::log::Log;
use tapekeeper::log::embedded::{EmbeddedLog, Options};
use tapekeeper::log::faulty::FaultyLog;
use tapekeeper::market::{Stream, Symbol, Timestamp};
use tapekeeper::progress::Progress;
use tapekeeper::writer::Writer;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use exchange::Exchange;

/// Ids of one symbol in one campaign.
const IDS: i64 = 2_000;
/// How much faster than the wall clock time runs, so that grace periods pass quickly.
const TIME_SCALE: i64 = 40;
const DEADLINE: Duration = Duration::from_secs(60);

fn stream() -> Stream {
    "binance:BTCUSDT:trade".parse().unwrap()
}

fn frame(id: i64) -> Bytes {
    Bytes::from(format!(
        r#"{{"stream":"btcusdt@trade","data":{{"e":"trade","E":{id},"s":"BTCUSDT","t":{id},"p":"1.50000000","q":"2.00000000","T":{id},"m":true,"M":true}}}}"#
    ))
}

fn fast_clock() -> Clock {
    let began = Instant::now();
    Clock::from_fn(move || Timestamp(1_700_000_000_000_000 + began.elapsed().as_micros() as i64 * TIME_SCALE))
}

/// The running recording path: what a process has between two crashes.
struct Flow {
    events: mpsc::Sender<SocketEvent>,
    ingest: JoinHandle<Result<(), tapekeeper::log::LogError>>,
    consume: JoinHandle<Result<(), consume::ConsumeError>>,
    backfill: Option<JoinHandle<()>>,
    stop: CancellationToken,
    ledger: SharedLedger,
    drain: CancellationToken,
    progress: Arc<Progress>,
    health: Health,
    log: Arc<dyn Log>,
    history: Arc<FaultyHistory>,
}

impl Flow {
    /// Opens the stores in `directory` and resumes; backfill requests what is missing from `exchange`.
    async fn start(directory: &Path, faults: &Faults, clock: &Clock, exchange: Option<&Exchange>) -> Self {
        let log = EmbeddedLog::open(&directory.join("log.db"), Options { batch_records: 64, ..Options::default() });
        let log: Arc<dyn Log> = Arc::new(FaultyLog::new(Arc::new(log.unwrap()), faults.clone()));
        let inner: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.join("history.db")).unwrap());
        let rows = inner.gaps(&GapFilter::default()).await.unwrap();
        let watermarks = inner.watermarks(&[stream()]).await.unwrap();
        let history = Arc::new(FaultyHistory::new(inner, faults.clone()));
        let dialect: Arc<dyn Dialect> = Arc::new(Binance);
        let (health, heartbeats) = (Health::default(), Heartbeats::default());
        let (events, received) = mpsc::channel(4);
        let (connection_events, _received) = mpsc::channel(16);
        let (_streams, streams) = watch::channel(vec![stream()]);
        let deps = ingest::Deps {
            log: log.clone(),
            dialect: dialect.clone(),
            health: health.clone(),
            clock: clock.clone(),
            counters: Arc::new(Counters::default()),
            streams: streams.clone(),
            connection_events,
        };
        let never = CancellationToken::new();
        let ingest = tokio::spawn(ingest::run(deps, received, heartbeats.watch("ingest"), never.clone()));
        let progress = Arc::new(Progress::default());
        let store: Arc<dyn History> = history.clone();
        let writer = Writer::new(store, Arc::new(PendingUpdates::default()), health.clone());
        let ledger = SharedLedger::new(Ledger::restore(rows));
        let backfill = exchange.map(|exchange| {
            let deps = exchange.backfill_deps(writer.clone(), ledger.clone(), clock);
            tokio::spawn(backfill::run(deps, heartbeats.watch("backfill"), never.clone()))
        });
        let deps = consume::Deps {
            log: log.clone(),
            writer,
            ledger: ledger.clone(),
            progress: progress.clone(),
            health: health.clone(),
            clock: clock.clone(),
            rest: HashMap::new(),
            doubts: consume::Doubts::default(),
            streams,
            assigned: watch::channel(Vec::new()).0,
        };
        let mut buffer = ReorderBuffer::new([dialect]);
        buffer.seed(
            watermarks
                .into_iter()
                .map(|row| (row.stream, consume::Watermark { position: row.position, ts: Some(row.ts) })),
        );
        let (_probes, received_probes) = mpsc::channel(1);
        let drain = CancellationToken::new();
        let options = consume::Options { batch_time: Duration::from_millis(5), ..consume::Options::default() };
        let heartbeat = heartbeats.watch("consume");
        let consume =
            tokio::spawn(consume::run(deps, buffer, received_probes, options, heartbeat, drain.clone(), never.clone()));
        Self { events, ingest, consume, backfill, stop: never, ledger, drain, progress, health, log, history }
    }

    async fn send(&self, ids: &[i64], clock: &Clock) {
        let frames = ids.iter().map(|id| (clock.now(), frame(*id))).collect();
        self.events.send(SocketEvent::Frames { connection: 1, frames }).await.unwrap();
    }

    /// Waits until every frame is consumed and every gap is closed.
    async fn wait_until_complete(&self, seed: u64) {
        let until = Instant::now() + DEADLINE;
        loop {
            let progress = self.progress.stream(&stream());
            let consumed = progress.next == Some(IDS + 6);
            let open = self.ledger.with(|ledger| ledger.rows().count());
            if consumed && open == 0 {
                return;
            }
            assert!(Instant::now() < until, "seed {seed}: {open} gaps are open, {progress:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends at once, like SIGKILL: the contents of memory are lost.
    async fn crash(self) {
        self.ingest.abort();
        self.consume.abort();
        if let Some(backfill) = self.backfill {
            backfill.abort();
            assert!(backfill.await.is_err_and(|error| error.is_cancelled()), "backfill had ended by itself");
        }
        assert!(self.ingest.await.is_err_and(|error| error.is_cancelled()), "ingest had ended by itself");
        assert!(self.consume.await.is_err_and(|error| error.is_cancelled()), "consume had ended by itself");
    }

    /// Stops in order.
    async fn stop(self) {
        drop(self.events);
        tokio::time::timeout(DEADLINE, self.ingest).await.unwrap().unwrap().unwrap();
        self.drain.cancel();
        tokio::time::timeout(DEADLINE, self.consume).await.unwrap().unwrap().unwrap();
        if let Some(backfill) = self.backfill {
            self.stop.cancel();
            tokio::time::timeout(DEADLINE, backfill).await.unwrap().unwrap();
        }
    }
}

/// The contents of the stores, read without the faults.
struct StoredState {
    stored: BTreeSet<i64>,
    missing: BTreeSet<i64>,
}

impl StoredState {
    /// Checks from the first stored id on: a process that died before its first row knows of no earlier one.
    fn assert_the_ledger_has_every_missing_id(&self, seed: u64, last: Option<i64>) {
        let (Some(first), Some(last)) = (self.stored.first().copied(), last) else { return };
        for id in first..=last {
            let (stored, missing) = (self.stored.contains(&id), self.missing.contains(&id));
            assert!(stored || missing, "seed {seed}: {id} is neither stored nor in the ledger");
        }
        let beyond: Vec<_> = self.missing.iter().filter(|id| !(first..=last).contains(id)).take(5).collect();
        assert!(beyond.is_empty(), "seed {seed}: {beyond:?} are in the ledger and were never published");
    }
}

async fn read_stores(directory: &Path) -> StoredState {
    let history = EmbeddedHistory::open(&directory.join("history.db")).unwrap();
    let log = EmbeddedLog::open(&directory.join("log.db"), Options::default()).unwrap();
    let rows = history.trades(&stream(), Range { first: 0, last: i64::MAX }, usize::MAX >> 1).await.unwrap();
    let stored: BTreeSet<i64> = rows.iter().map(|row| row.trade.id).collect();
    assert_eq!(rows.len(), stored.len(), "an id is stored twice");
    let gaps = history.gaps(&GapFilter { open_only: true, ..GapFilter::default() }).await.unwrap();
    let missing = gaps.iter().flat_map(|gap| gap.range.first..=gap.range.last).collect();
    let usage = log.usage().await.unwrap();
    let committed = usage.committed.get(&0).copied().unwrap_or(0);
    let mut offset = 0;
    while offset < committed {
        let records = log.read(0, offset, 1_000).await.unwrap();
        let Some(last) = records.last() else { break };
        offset = last.offset + 1;
        for record in records.iter().filter(|record| record.offset < committed) {
            let text = String::from_utf8_lossy(&record.frame.payload).into_owned();
            let id: i64 = text.split("\"t\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
            assert!(stored.contains(&id), "offset {} is committed, and its trade {id} is not stored", record.offset);
        }
    }
    history.close().await.unwrap();
    log.close().await.unwrap();
    StoredState { stored, missing }
}

/// Runs one campaign; everything random comes from the seed. Returns the number of injected faults.
async fn campaign(seed: u64, exchange: Option<&Exchange>) -> u64 {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let odds = Odds { fail: 100, lose_answer: 80, tear: 80, delay: 100, delay_max: Duration::from_millis(4) };
    let faults = Faults::seeded(seed, odds);
    let clock = fast_clock();
    let mut sent: Vec<i64> = (1..=IDS).filter(|id| *id < 20 || !random.random_bool(0.02)).collect();
    for at in 1..sent.len() - 1 {
        if random.random_bool(0.01) {
            sent.swap(at, at + 1);
        }
        if random.random_bool(0.01) {
            sent[at] = sent[at - 1];
        }
    }
    let mut flow = Flow::start(directory.path(), &faults, &clock, exchange).await;
    let mut rest = sent.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.random_range(1..30).min(rest.len()));
        flow.send(now, &clock).await;
        rest = later;
        if random.random_bool(0.04) {
            flow.crash().await;
            let found = read_stores(directory.path()).await;
            found.assert_the_ledger_has_every_missing_id(seed, found.stored.last().copied());
            flow = Flow::start(directory.path(), &faults, &clock, exchange).await;
        }
    }
    // The last frames certainly arrive and reveal every gap before them.
    let last: Vec<i64> = (IDS + 1..=IDS + 5).collect();
    flow.send(&last, &clock).await;
    if exchange.is_some() {
        flow.wait_until_complete(seed).await;
    }
    flow.stop().await;
    let found = read_stores(directory.path()).await;
    found.assert_the_ledger_has_every_missing_id(seed, Some(IDS + 5));
    if exchange.is_some() {
        assert_eq!(found.missing, BTreeSet::new(), "seed {seed}: the exchange serves every trade");
        let (first, last) = (found.stored.first(), found.stored.last());
        assert_eq!((found.stored.len() as i64, last), (IDS + 6 - first.unwrap(), Some(&(IDS + 5))), "seed {seed}");
    }
    faults.injected()
}

async fn campaigns(exchange: Option<&Exchange>) {
    let soak = std::env::var_os("TAPEKEEPER_SOAK").is_some();
    let first = std::env::var("TAPEKEEPER_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut injected = 0;
    for seed in first.map_or(1..if soak { 200 } else { 9 }, |seed| seed..seed + 1) {
        injected += campaign(seed, exchange).await;
    }
    assert!(injected > 0, "no fault was injected, so the campaigns show nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_stores_that_fail_and_processes_that_crash() {
    campaigns(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_trades_are_backfilled_from_an_exchange_that_fails_too_and_no_gap_stays_open() {
    let exchange = Exchange::start(IDS + 5).await;
    campaigns(Some(&exchange)).await;
    assert!(exchange.refused() > 0, "the exchange never failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_history_refuses_becomes_a_dead_letter_alone_and_blocks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let clock = fast_clock();
    let flow = Flow::start(directory.path(), &Faults::none(), &clock, None).await;
    let mut refused: Vec<i64> = (1..=200).collect();
    refused.shuffle(&mut StdRng::seed_from_u64(7));
    refused.truncate(3);
    for id in &refused {
        flow.history.refuse_trade(Symbol::new("BTCUSDT"), *id);
    }
    flow.send(&(1..=200).collect::<Vec<_>>(), &clock).await;
    flow.stop().await;
    let history = EmbeddedHistory::open(&directory.path().join("history.db")).unwrap();
    let letters = history.dead_letters(None, 10).await.unwrap();
    let mut dead_letters: Vec<Bytes> = letters.into_iter().map(|letter| letter.payload).collect();
    dead_letters.sort();
    let mut expected: Vec<Bytes> = refused.iter().map(|id| frame(*id)).collect();
    expected.sort();
    assert_eq!(dead_letters, expected);
    assert_eq!(history.count(&stream(), Range { first: 1, last: 200 }).await.unwrap().present, 197);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_history_is_down_no_offset_is_committed_and_health_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, faults) = (fast_clock(), Faults::none());
    let flow = Flow::start(directory.path(), &Faults::none(), &clock, None).await;
    flow.stop().await;
    let flow = Flow::start(directory.path(), &faults, &clock, None).await;
    faults.set_outage(true);
    let until = Instant::now() + DEADLINE;
    // The log is in the same outage: frames wait in memory until it takes them.
    flow.send(&[1, 2, 3], &clock).await;
    while !flow.health.degraded_parts().contains_key("ingest") {
        assert!(Instant::now() < until, "the outage is not shown");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(flow.progress.rows.load(Ordering::Relaxed), 0);
    faults.set_outage(false);
    while flow.log.usage().await.unwrap().committed.get(&0) != Some(&3) {
        assert!(Instant::now() < until, "what waited is not committed after the outage");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(flow.health.degraded_parts().is_empty(), "what was degraded stays so: {:?}", flow.health.degraded_parts());
    flow.stop().await;
}
