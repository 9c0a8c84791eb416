//! The contract of the log: `src/log/mod.rs`, promises 1 to 7.

mod kafka;
#[cfg(feature = "kafka-tls")]
mod kafka_tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tapekeeper::faults::{Faults, Odds};
use tapekeeper::log::embedded::{EmbeddedLog, Options};
use tapekeeper::log::faulty::FaultyLog;
use tapekeeper::log::{Consumer, Delivery, Log, LogError, Offsets, Partition, Record};
use tapekeeper::market::{Frame, Origin, Timestamp};

use super::retry::Retrying;
use super::{NOON, run, runtime};

/// The longest wait of a test.
const DEADLINE: Duration = Duration::from_secs(30);
/// A retention limit that makes every frame old.
const ANY_AGE: Timestamp = Timestamp(i64::MAX);
/// A retention limit that makes no frame old.
const NO_AGE: Timestamp = Timestamp(i64::MIN);

/// A log that can be opened repeatedly. The caller drops the previous handle before it opens another.
pub trait LogStore: Send + Sync {
    fn open(&self) -> Arc<dyn Log>;

    /// Whether [`Log::retain`] drops frames. If not, the server of the backend drops them.
    fn retains(&self) -> bool {
        true
    }
}

/// Checks every promise on a backend. Each check gets a fresh store, and so does each of the `cases` of random calls.
pub fn keeps_every_promise(cases: u32, new_store: &dyn Fn() -> Box<dyn LogStore>) {
    run("1: an append is durable", new_store, |s| Box::pin(an_append_is_durable(s)));
    run("1: any bytes", new_store, |s| Box::pin(any_bytes_are_read_exactly(s)));
    run("2: order, concurrent appends", new_store, |s| Box::pin(concurrent_appends_keep_the_order_of_each_key(s)));
    run("3: offsets are dense", new_store, |s| Box::pin(offsets_are_dense_and_never_used_again(s)));
    run("4: start at the committed offset", new_store, |s| Box::pin(a_consumer_starts_at_the_committed_offset(s)));
    run("4: a cancelled wait", new_store, |s| Box::pin(a_cancelled_wait_loses_nothing(s)));
    run("4: a backlog", new_store, |s| Box::pin(a_backlog_is_delivered_completely(s)));
    run("5: a commit never moves back", new_store, |s| Box::pin(a_commit_never_moves_back(s)));
    run("next returns within a second", new_store, |s| Box::pin(an_idle_or_paused_consumer_returns(s)));
    run("read", new_store, |s| Box::pin(a_replay_reads_from_any_offset(s)));
    run("close", new_store, |s| Box::pin(a_closed_log_refuses_appends(s)));
    if new_store().retains() {
        run("6: retention", new_store, |s| Box::pin(retention_never_drops_unconsumed_frames(s)));
        run("6: retention by size", new_store, |s| Box::pin(retention_by_size_keeps_the_newest(s)));
    }
    behaves_like_a_vector(new_store, cases);
}

fn frame(key: &str, number: i64) -> Frame {
    Frame {
        key: key.into(),
        received_at: NOON.plus_micros(number),
        connection: number / 100,
        origin: Origin::Socket,
        payload: format!("{{\"key\":\"{key}\",\"n\":{number}}}").into(),
    }
}

fn frames(numbers: std::ops::Range<i64>) -> Vec<Frame> {
    numbers.map(|number| frame("binance:BTCUSDT", number)).collect()
}

/// Takes deliveries until `count` records have arrived; checks that offsets increase.
async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Record> {
    let started = Instant::now();
    let mut taken: Vec<Record> = Vec::new();
    let mut last: BTreeMap<Partition, i64> = BTreeMap::new();
    while taken.len() < count {
        assert!(started.elapsed() < DEADLINE, "{} of {count} records arrived", taken.len());
        if let Delivery::Records { records, .. } = consumer.next().await.unwrap() {
            for record in records {
                let before = last.insert(record.partition, record.offset);
                assert!(before.is_none_or(|before| before < record.offset), "offsets increase");
                taken.push(record);
            }
        }
    }
    assert_eq!(taken.len(), count, "more records than were appended");
    taken
}

fn after(records: &[Record]) -> Offsets {
    records.iter().map(|record| (record.partition, record.offset + 1)).collect()
}

fn frames_of(records: Vec<Record>) -> Vec<Frame> {
    records.into_iter().map(|record| record.frame).collect()
}

async fn an_append_is_durable(store: &dyn LogStore) {
    let log = store.open();
    log.append(frames(0..3)).await.unwrap();
    log.append(Vec::new()).await.unwrap();
    log.append(frames(3..2_000)).await.unwrap();
    drop(log);
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 2_000).await), frames(0..2_000));
}

async fn any_bytes_are_read_exactly(store: &dyn LogStore) {
    let odd = [
        Frame { payload: Vec::new().into(), origin: Origin::Connected, ..frame("binance", 1) },
        Frame { payload: vec![0, 255, 0, 128].into(), origin: Origin::Disconnected, ..frame("binance", 2) },
        Frame { payload: vec![b'x'; 5 << 20].into(), ..frame("binance:ÜSDT", 3) },
        Frame { connection: i64::MAX, received_at: Timestamp(-1), ..frame("binance", 4) },
    ];
    let log = store.open();
    log.append(odd.to_vec()).await.unwrap();
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, odd.len()).await), odd);
    drop((consumer, log));
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, odd.len()).await), odd);
}

async fn concurrent_appends_keep_the_order_of_each_key(store: &dyn LogStore) {
    const KEYS: i64 = 8;
    const EACH: i64 = 600;
    let log = store.open();
    let writers: Vec<_> = (0..KEYS)
        .map(|key| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for start in (0..EACH).step_by(20) {
                    let name = format!("binance:S{key}");
                    log.append((start..start + 20).map(|number| frame(&name, number)).collect()).await.unwrap();
                }
            })
        })
        .collect();
    let mut consumer = log.consumer().await.unwrap();
    let records = take(&mut *consumer, (KEYS * EACH) as usize).await;
    for writer in writers {
        writer.await.unwrap();
    }
    for key in 0..KEYS {
        let name = format!("binance:S{key}");
        let of_key: Vec<&Record> = records.iter().filter(|record| *record.frame.key == *name).collect();
        assert!(of_key.iter().all(|record| record.partition == of_key[0].partition), "one partition per key");
        let numbers: Vec<Frame> = of_key.iter().map(|record| record.frame.clone()).collect();
        assert_eq!(numbers, (0..EACH).map(|number| frame(&name, number)).collect::<Vec<_>>());
    }
}

async fn offsets_are_dense_and_never_used_again(store: &dyn LogStore) {
    let log = store.open();
    let mut offsets = Vec::new();
    let mut consumer = log.consumer().await.unwrap();
    for round in 0..3 {
        log.append(frames(round * 10..round * 10 + 10)).await.unwrap();
        let records = take(&mut *consumer, 10).await;
        offsets.extend(records.iter().map(|record| record.offset));
        consumer.commit(&after(&records)).await.unwrap();
        // All frames are consumed, so retention may empty the log.
        log.retain(ANY_AGE, 0).await.unwrap();
    }
    drop((consumer, log));
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    log.append(frames(30..40)).await.unwrap();
    offsets.extend(take(&mut *consumer, 10).await.iter().map(|record| record.offset));
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{offsets:?}");
}

async fn a_consumer_starts_at_the_committed_offset(store: &dyn LogStore) {
    let log = store.open();
    log.append(frames(0..100)).await.unwrap();
    let mut consumer = log.consumer().await.unwrap();
    let first = loop {
        match consumer.next().await.unwrap() {
            Delivery::Records { records, .. } if records.is_empty() => {}
            delivery => break delivery,
        }
    };
    assert!(matches!(first, Delivery::Assigned(_)), "partitions are named before their records: {first:?}");
    let records = take(&mut *consumer, 100).await;
    // Without a commit all records are delivered again.
    drop((consumer, log));
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 100).await), frames(0..100));
    consumer.commit(&after(&records[..60])).await.unwrap();
    drop((consumer, log));
    let log = store.open();
    assert_eq!(log.usage().await.unwrap().lag(), 40);
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 40).await), frames(60..100));
}

async fn a_cancelled_wait_loses_nothing(store: &dyn LogStore) {
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    let writer = {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for number in 0..200 {
                log.append(frames(number..number + 1)).await.unwrap();
            }
        })
    };
    let started = Instant::now();
    let mut taken = Vec::new();
    let mut round = 0;
    while taken.len() < 200 {
        assert!(started.elapsed() < DEADLINE, "{} of 200 records arrived", taken.len());
        round += 1;
        let limit = Duration::from_micros(round % 7 * 50);
        if let Ok(delivery) = tokio::time::timeout(limit, consumer.next()).await
            && let Delivery::Records { records, .. } = delivery.unwrap()
        {
            taken.extend(records);
        }
    }
    writer.await.unwrap();
    assert_eq!(frames_of(taken), frames(0..200));
}

async fn a_backlog_is_delivered_completely(store: &dyn LogStore) {
    let log = store.open();
    for start in (0..20_000).step_by(5_000) {
        log.append(frames(start..start + 5_000)).await.unwrap();
    }
    drop(log);
    // A backend may deliver a part from the file and a part from memory, with appends in between.
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    log.append(frames(20_000..22_000)).await.unwrap();
    let mut taken = Vec::new();
    let mut announced = false;
    while taken.len() < 22_000 {
        if let Delivery::Records { records, more } = consumer.next().await.unwrap() {
            announced |= more;
            taken.extend(records);
        }
    }
    assert!(announced, "a delivery reports that there are more");
    assert_eq!(frames_of(taken), frames(0..22_000));
}

async fn a_commit_never_moves_back(store: &dyn LogStore) {
    let log = store.open();
    log.append(frames(0..50)).await.unwrap();
    let mut consumer = log.consumer().await.unwrap();
    let records = take(&mut *consumer, 50).await;
    assert!(log.usage().await.unwrap().committed.is_empty(), "only commit commits");
    consumer.commit(&Offsets::new()).await.unwrap();
    assert!(log.usage().await.unwrap().committed.is_empty());
    consumer.commit(&after(&records[..30])).await.unwrap();
    consumer.commit(&after(&records[..10])).await.unwrap();
    assert_eq!(log.usage().await.unwrap().committed, after(&records[..30]));
    drop((consumer, log));
    let log = store.open();
    assert_eq!(log.usage().await.unwrap().committed, after(&records[..30]));
}

async fn an_idle_or_paused_consumer_returns(store: &dyn LogStore) {
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    log.append(frames(0..5)).await.unwrap();
    take(&mut *consumer, 5).await;
    let limit = Duration::from_secs(10);
    let idle = tokio::time::timeout(limit, consumer.next()).await.expect("an idle wait ends").unwrap();
    assert!(matches!(idle, Delivery::Records { records, more: false } if records.is_empty()));
    consumer.pause(true);
    log.append(frames(5..10)).await.unwrap();
    let paused = tokio::time::timeout(limit, consumer.next()).await.expect("a paused wait ends").unwrap();
    assert!(matches!(paused, Delivery::Records { records, .. } if records.is_empty()));
    consumer.pause(false);
    assert_eq!(frames_of(take(&mut *consumer, 5).await), frames(5..10));
}

async fn retention_never_drops_unconsumed_frames(store: &dyn LogStore) {
    let log = store.open();
    log.append(frames(0..1_000)).await.unwrap();
    assert_eq!(log.retain(ANY_AGE, 0).await.unwrap(), 0, "nothing is committed");
    let mut consumer = log.consumer().await.unwrap();
    let records = take(&mut *consumer, 1_000).await;
    consumer.commit(&after(&records[..600])).await.unwrap();
    // The frames before the 250th are old, and all of them are consumed.
    assert_eq!(log.retain(NOON.plus_micros(250), u64::MAX).await.unwrap(), 250);
    assert_eq!(log.retain(NO_AGE, u64::MAX).await.unwrap(), 0);
    assert_eq!(log.retain(ANY_AGE, u64::MAX).await.unwrap(), 350);
    assert_eq!(log.retain(ANY_AGE, 0).await.unwrap(), 0);
    drop((consumer, log));
    let log = store.open();
    assert_eq!(log.usage().await.unwrap().first, after(&records[..600]));
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 400).await), frames(600..1_000));
}

async fn retention_by_size_keeps_the_newest(store: &dyn LogStore) {
    const COUNT: i64 = 30_000;
    let log = store.open();
    for start in (0..COUNT).step_by(5_000) {
        log.append(frames(start..start + 5_000)).await.unwrap();
    }
    let mut consumer = log.consumer().await.unwrap();
    let records = take(&mut *consumer, COUNT as usize).await;
    consumer.commit(&after(&records)).await.unwrap();
    let limit = 1 << 20;
    let removed = log.retain(NO_AGE, limit).await.unwrap() as i64;
    // A frame takes about 100 bytes, so about 10,000 fit into a MiB.
    assert!((10_000..COUNT - 2_000).contains(&removed), "{removed} frames were removed");
    let kept = log.read(records[0].partition, 0, usize::MAX).await.unwrap();
    assert_eq!(frames_of(kept), frames(removed..COUNT));
    assert_eq!(log.retain(NO_AGE, limit).await.unwrap(), 0, "it fits now");
}

async fn a_replay_reads_from_any_offset(store: &dyn LogStore) {
    let log = store.open();
    log.append(frames(0..100)).await.unwrap();
    let mut consumer = log.consumer().await.unwrap();
    let records = take(&mut *consumer, 100).await;
    let (partition, first) = (records[0].partition, records[0].offset);
    let replay = log.read(partition, first + 10, 25).await.unwrap();
    assert_eq!(replay[0].offset, first + 10);
    assert_eq!(frames_of(replay), frames(10..35));
    assert_eq!(frames_of(log.read(partition, first + 90, 25).await.unwrap()), frames(90..100));
    assert!(log.read(partition, first + 100, 25).await.unwrap().is_empty());
    assert!(log.read(partition, first, 0).await.unwrap().is_empty());
    assert!(log.usage().await.unwrap().committed.is_empty(), "a replay commits nothing");
}

async fn a_closed_log_refuses_appends(store: &dyn LogStore) {
    let log = store.open();
    log.append(frames(0..10)).await.unwrap();
    log.close().await.unwrap();
    log.close().await.unwrap();
    assert!(matches!(log.append(frames(10..11)).await, Err(LogError::Fatal(_))));
    drop(log);
    let log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 10).await), frames(0..10));
}

/// One call of a random sequence.
#[derive(Clone, Debug)]
enum Step {
    Append(i64),
    Take,
    /// Commits this percentage of the delivered records.
    Commit(usize),
    RetainOlderThan(i64),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_i64..40).prop_map(Step::Append),
        3 => Just(Step::Take),
        2 => (0_usize..=100).prop_map(Step::Commit),
        1 => (0_i64..300).prop_map(Step::RetainOlderThan),
        1 => Just(Step::Reopen),
    ]
}

/// After any sequence of calls the log equals a vector with two offsets.
fn behaves_like_a_vector(new_store: &dyn Fn() -> Box<dyn LogStore>, cases: u32) {
    eprintln!("promise: all, against a naive model");
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome =
        proptest::test_runner::TestRunner::new(config).run(&prop::collection::vec(any_step(), 1..30), |steps| {
            let store = new_store();
            runtime().block_on(run_steps(&*store, &steps));
            Ok(())
        });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

async fn run_steps(store: &dyn LogStore, steps: &[Step]) {
    let mut log = store.open();
    let mut consumer = log.consumer().await.unwrap();
    // The model: the next offset to append, the first stored one, the next to deliver, the committed one.
    let (mut end, mut first, mut next, mut committed) = (0_i64, 0_i64, 0_i64, 0_i64);
    for step in steps {
        match step {
            Step::Append(count) => {
                log.append(frames(end..end + count)).await.unwrap();
                end += count;
            }
            Step::Take => {
                let records = take(&mut *consumer, (end - next) as usize).await;
                assert_eq!(frames_of(records), frames(next..end));
                next = end;
            }
            Step::Commit(percent) => {
                let offset = first + (next - first).max(0) * *percent as i64 / 100;
                consumer.commit(&Offsets::from([(0, offset)])).await.unwrap();
                committed = committed.max(offset);
            }
            Step::RetainOlderThan(number) => {
                let keep_from = if store.retains() { committed.min(*number).max(first) } else { first };
                let removed = log.retain(NOON.plus_micros(*number), u64::MAX).await.unwrap();
                assert_eq!(removed as i64, keep_from - first);
                first = keep_from;
            }
            Step::Reopen => {
                drop(consumer);
                drop(log);
                log = store.open();
                consumer = log.consumer().await.unwrap();
                next = committed;
            }
        }
        let usage = log.usage().await.unwrap();
        assert_eq!((usage.first[&0], usage.end[&0]), (first, end), "after {step:?}");
        assert_eq!(frames_of(log.read(0, first, usize::MAX).await.unwrap()), frames(first..end));
    }
}

struct Embedded {
    directory: tempfile::TempDir,
    options: Options,
    faults: Option<Faults>,
}

fn embedded(options: Options, faults: Option<Faults>) -> Box<dyn LogStore> {
    Box::new(Embedded { directory: tempfile::tempdir().unwrap(), options, faults })
}

impl LogStore for Embedded {
    fn open(&self) -> Arc<dyn Log> {
        let log: Arc<dyn Log> =
            Arc::new(EmbeddedLog::open(&self.directory.path().join("log.db"), self.options).unwrap());
        match &self.faults {
            None => log,
            Some(faults) => Arc::new(Retrying::<dyn Log>(Arc::new(FaultyLog::new(log, faults.clone())))),
        }
    }
}

#[test]
fn the_embedded_log_keeps_every_promise() {
    keeps_every_promise(24, &|| embedded(Options::default(), None));
}

#[test]
fn the_embedded_log_keeps_every_promise_with_little_memory_and_small_deliveries() {
    let options = Options { batch_records: 7, batch_bytes: 300, recent_bytes: 1_000 };
    keeps_every_promise(24, &|| embedded(options, None));
}

#[test]
fn a_log_behind_faults_keeps_every_promise_to_a_caller_that_retries() {
    // No torn appends and no lost responses here: the duplicates would break the exact comparisons.
    let odds = Odds { fail: 200, delay: 100, delay_max: Duration::from_millis(2), ..Odds::default() };
    let seed = rand::random();
    eprintln!("seed {seed}");
    let faults = Faults::seeded(seed, odds);
    keeps_every_promise(24, &|| embedded(Options::default(), Some(faults.clone())));
    assert!(faults.injected() > 0);
}

#[tokio::test]
async fn torn_appends_and_lost_responses_cause_duplicates_and_lose_no_frame() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let odds = Odds { fail: 100, lose_answer: 200, tear: 200, ..Odds::default() };
    let store = embedded(Options::default(), Some(Faults::seeded(seed, odds)));
    let log = store.open();
    for start in (0..500).step_by(10) {
        log.append(frames(start..start + 10)).await.unwrap();
    }
    let usage = log.usage().await.unwrap();
    let kept = frames_of(log.read(0, 0, usize::MAX).await.unwrap());
    assert_eq!(kept.len() as i64, usage.end[&0]);
    assert!(kept.len() > 500, "some appends were repeated");
    let mut once = Vec::new();
    for frame in kept {
        if !once.contains(&frame) {
            once.push(frame);
        }
    }
    assert_eq!(once, frames(0..500), "the first copies are in order");
}
