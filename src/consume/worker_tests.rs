//! A consumer whose partitions are assigned and revoked, on a scripted log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::cache::PendingUpdates;
use crate::exchange::binance::Binance;
use crate::faults::Faults;
use crate::gap::Range;
use crate::heartbeat::Heartbeats;
use crate::history::embedded::EmbeddedHistory;
use crate::history::faulty::FaultyHistory;
use crate::history::{Batch, GapFilter, History, TradeRow};
use crate::log::{Delivery, LogUsage, Offsets, Partition, Record};
use crate::market::{Frame, Origin, Side, Symbol, Timestamp, Trade};

const SYMBOLS: [&str; 2] = ["AAA", "BBB"];

/// The deliveries that a group member gets, in order, and the offsets it commits.
#[derive(Clone, Default)]
struct Script {
    deliveries: Arc<Mutex<VecDeque<Delivery>>>,
    committed: Arc<Mutex<Offsets>>,
    /// How long it takes to answer a question about offsets, and to open a consumer.
    delay: Duration,
}

#[async_trait::async_trait]
impl Consumer for Script {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        if let Some(delivery) = self.deliveries.lock().unwrap().pop_front() {
            return Ok(delivery);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(Delivery::Records { records: Vec::new(), more: false })
    }

    async fn commit(&mut self, positions: &Offsets) -> Result<(), LogError> {
        self.committed.lock().unwrap().extend(positions.clone());
        Ok(())
    }

    fn pause(&mut self, _paused: bool) {}
}

#[async_trait::async_trait]
impl Log for Script {
    async fn append(&self, _frames: Vec<Frame>) -> Result<(), LogError> {
        Err(LogError::Unavailable("nothing is appended here".to_owned()))
    }
    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError> {
        tokio::time::sleep(self.delay).await;
        Ok(Box::new(self.clone()))
    }
    async fn read(&self, _partition: Partition, _offset: i64, _limit: usize) -> Result<Vec<Record>, LogError> {
        Ok(Vec::new())
    }
    fn partition(&self, key: &str) -> Option<Partition> {
        SYMBOLS.iter().position(|symbol| key.ends_with(symbol)).map(|index| index as Partition)
    }
    async fn usage(&self) -> Result<LogUsage, LogError> {
        tokio::time::sleep(self.delay).await;
        Ok(LogUsage::default())
    }
    async fn retain(&self, _older_than: Timestamp, _bytes: u64) -> Result<u64, LogError> {
        Ok(0)
    }
    async fn close(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// A running member of the group.
struct Harness {
    script: Script,
    history: Arc<dyn History>,
    faults: Faults,
    ledger: SharedLedger,
    assigned: watch::Receiver<Vec<Stream>>,
    drain: CancellationToken,
    consume: JoinHandle<Result<(), ConsumeError>>,
    _directory: TempDir,
    _streams: watch::Sender<Vec<Stream>>,
}

fn stream(symbol: &str) -> Stream {
    format!("binance:{symbol}:trade").parse().unwrap()
}

impl Harness {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("h.db")).unwrap());
        let faults = Faults::none();
        let faulty = Arc::new(FaultyHistory::new(history.clone(), faults.clone()));
        let (script, ledger, health) = (Script::default(), SharedLedger::default(), Health::default());
        let (streams_sender, streams) = watch::channel(SYMBOLS.map(stream).to_vec());
        let (assigned_sender, assigned) = watch::channel(Vec::new());
        let deps = Deps {
            log: Arc::new(script.clone()),
            writer: Writer::new(faulty, Arc::new(PendingUpdates::default()), health.clone()),
            ledger: ledger.clone(),
            progress: Arc::default(),
            health,
            clock: Clock::system(),
            rest: HashMap::new(),
            doubts: Doubts::default(),
            streams,
            assigned: assigned_sender,
        };
        let options = Options { batch_time: Duration::from_millis(5), ..Options::default() };
        let drain = CancellationToken::new();
        let (_probes, received_probes) = mpsc::channel(1);
        let heartbeat = Heartbeats::default().watch("consume");
        let buffer = ReorderBuffer::new([Arc::new(Binance) as Arc<dyn crate::exchange::Dialect>]);
        let consume = tokio::spawn(run(
            deps,
            buffer,
            received_probes,
            options,
            heartbeat,
            drain.clone(),
            CancellationToken::new(),
        ));
        let (_directory, _streams) = (directory, streams_sender);
        Self { script, history, faults, ledger, assigned, drain, consume, _directory, _streams }
    }

    fn deliver(&self, delivery: Delivery) {
        self.script.deliveries.lock().unwrap().push_back(delivery);
    }

    /// Trades of a symbol; a trade's offset in the log is its id.
    fn trades(&self, symbol: &str, ids: std::ops::RangeInclusive<i64>) {
        let partition = SYMBOLS.iter().position(|known| *known == symbol).unwrap() as Partition;
        let record = |id: i64| {
            let payload = format!(
                r#"{{"stream":"{}@trade","data":{{"e":"trade","E":{id},"s":"{symbol}","t":{id},"p":"1.5","q":"2","T":{id},"m":true,"M":true}}}}"#,
                symbol.to_lowercase()
            );
            let key = stream(symbol).log_key().into();
            let payload = Bytes::from(payload);
            let frame = Frame { key, received_at: Timestamp(id), connection: 1, origin: Origin::Socket, payload };
            Record { partition, offset: id, frame }
        };
        self.deliver(Delivery::Records { records: ids.map(record).collect(), more: false });
    }

    fn revoke(&self, partition: Partition, deadline: Duration) -> oneshot::Receiver<Offsets> {
        let (done, answer) = oneshot::channel();
        self.deliver(Delivery::Revoked { partitions: vec![partition], deadline, done });
        answer
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}: timed out");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_committed(&self, partition: Partition, next: i64) {
        let what = format!("partition {partition} is committed up to {next}");
        self.until(&what, || self.script.committed.lock().unwrap().get(&partition) == Some(&next)).await;
    }

    async fn stored(&self, symbol: &str) -> Vec<i64> {
        let all = Range { first: 0, last: i64::MAX - 1 };
        let rows = self.history.trades(&stream(symbol), all, 10_000).await.unwrap();
        rows.iter().map(|row| row.trade.id).collect()
    }

    async fn end(self) {
        self.drain.cancel();
        self.consume.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_rebalance_that_does_not_wait_for_history_loses_no_row_of_kept_partitions() {
    let harness = Harness::new();
    harness.deliver(Delivery::Assigned(vec![0, 1]));
    harness.trades("AAA", 1..=3);
    harness.trades("BBB", 1..=3);
    harness.until_committed(1, 4).await;
    harness.faults.set_outage(true);
    harness.trades("AAA", 4..=6);
    harness.trades("BBB", 4..=6);
    let answer = harness.revoke(0, Duration::from_millis(100));
    assert_eq!(answer.await.unwrap_or_default(), Offsets::new(), "no row is durable, so no offset is committed");
    harness.trades("BBB", 7..=9);
    harness.faults.set_outage(false);
    harness.until_committed(1, 10).await;
    assert_eq!(harness.stored("BBB").await, (1..=9).collect::<Vec<_>>());
    assert_eq!(*harness.script.committed.lock().unwrap(), BTreeMap::from([(0, 4), (1, 10)]));
    harness.end().await;
}

#[tokio::test]
async fn a_partition_that_is_assigned_again_continues_after_another_recorders_rows() {
    let harness = Harness::new();
    harness.deliver(Delivery::Assigned(vec![0, 1]));
    harness.trades("AAA", 1..=3);
    harness.until_committed(0, 4).await;
    assert_eq!(*harness.assigned.borrow(), SYMBOLS.map(stream).to_vec());
    let answer = harness.revoke(0, Duration::from_secs(10));
    assert_eq!(answer.await.unwrap(), Offsets::from([(0, 4)]));
    harness.until("its stream is no longer assigned", || *harness.assigned.borrow() == [stream("BBB")]).await;
    let row = |id: i64| TradeRow {
        exchange: crate::market::Exchange::named("binance"),
        symbol: Symbol::new("AAA"),
        trade: Trade { id, ts: Timestamp(id), price: 1.into(), quantity: 1.into(), side: Side::Buy, trade_ids: None },
        received_at: Timestamp(id),
        is_backfilled: false,
        epoch: 0,
        version: crate::history::row_version(false),
    };
    // The other recorder lost two trades, and its gap is still open.
    let lost = Range { first: 6, last: 7 };
    let gap = crate::gap::Gap::open(stream("AAA"), lost, Default::default(), Timestamp(1));
    let trades = [4, 5, 8, 9].map(row).to_vec();
    harness.history.insert(&Batch { trades, gaps: vec![gap], ..Batch::default() }).await.unwrap();
    harness.deliver(Delivery::Assigned(vec![0]));
    harness.trades("AAA", 10..=12);
    harness.until_committed(0, 13).await;
    let gaps = harness.history.gaps(&GapFilter::default()).await.unwrap();
    assert_eq!(gaps.iter().map(|gap| gap.range).collect::<Vec<_>>(), [lost]);
    assert_eq!(harness.ledger.with(|ledger| ledger.open_count()), (1, 2), "this recorder takes over the gap");
    harness.end().await;
}

#[tokio::test]
async fn an_assignment_waits_for_a_history_that_is_down() {
    let harness = Harness::new();
    harness.deliver(Delivery::Assigned(vec![0]));
    harness.trades("AAA", 1..=3);
    harness.until_committed(0, 4).await;
    let answer = harness.revoke(0, Duration::from_secs(10));
    answer.await.unwrap();
    harness.faults.set_outage(true);
    let before = harness.faults.injected();
    harness.deliver(Delivery::Assigned(vec![0]));
    harness.trades("AAA", 4..=6);
    harness.until("history is queried", || harness.faults.injected() > before).await;
    harness.faults.set_outage(false);
    harness.until_committed(0, 7).await;
    assert_eq!(harness.stored("AAA").await, (1..=6).collect::<Vec<_>>());
    assert!(harness.history.gaps(&GapFilter::default()).await.unwrap().is_empty());
    harness.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_twenty_seconds_for_an_answer_is_no_stuck_loop() {
    let directory = TempDir::new().unwrap();
    let history: Arc<dyn History> = Arc::new(EmbeddedHistory::open(&directory.path().join("h.db")).unwrap());
    let script = Script { delay: Duration::from_secs(20), ..Script::default() };
    let deps = Deps {
        log: Arc::new(script),
        writer: Writer::new(history, Arc::new(PendingUpdates::default()), Health::default()),
        ledger: SharedLedger::default(),
        progress: Arc::default(),
        health: Health::default(),
        clock: Clock::system(),
        rest: HashMap::new(),
        doubts: Doubts::default(),
        streams: watch::channel(Vec::new()).1,
        assigned: watch::channel(Vec::new()).0,
    };
    let (heartbeats, stop) = (Heartbeats::default(), CancellationToken::new());
    let heartbeat = heartbeats.watch("consume");
    let beats = || heartbeats.statuses()[0].count;
    let consumer = subscribe(&deps, &heartbeat, &stop).await.unwrap().unwrap();
    assert!(beats() >= 20, "{} beats while it opens a consumer", beats());
    let before = beats();
    let mut worker = Worker::new(deps, consumer, heartbeat, stop);
    assert!(worker.is_at_end(&ReorderBuffer::new([])).await);
    assert!(beats() >= before + 20, "{} beats while it asks for the log's end", beats() - before);
}
