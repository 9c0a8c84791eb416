//! Runs the suite on the log in a real Kafka, and tests what only a broker and a consumer group can do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapekeeper::log::kafka::KafkaLog;
use tapekeeper::log::{Consumer, Delivery, Log, LogError, Options, Partition, Record};
use tapekeeper::market::Frame;

use super::{DEADLINE, LogStore, after, frame, frames, frames_of, keeps_every_promise, take};
use crate::servers::kafka::Kafka;

/// A topic of a broker, with or without TLS.
pub(super) struct KafkaStore {
    pub(super) options: Options,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl LogStore for KafkaStore {
    fn open(&self) -> Arc<dyn Log> {
        // The caller runs on another runtime, and this is its only blocking call.
        let (sender, receiver) = std::sync::mpsc::channel();
        let options = self.options.clone();
        self.runtime.spawn(async move { sender.send(KafkaLog::open(&options, "tests").await.unwrap()) });
        Arc::new(receiver.recv().unwrap())
    }

    fn retains(&self) -> bool {
        false
    }
}

async fn open(options: &Options, instance: &str) -> KafkaLog {
    KafkaLog::open(options, instance).await.unwrap()
}

/// Frames of several streams, so that they spread over the partitions. Numbers increase within a stream.
fn spread(numbers: std::ops::Range<i64>) -> Vec<Frame> {
    numbers.map(|number| frame(&format!("binance:S{}", number % 7), number)).collect()
}

/// Appends as ingest does: retries while the log is unavailable; returns the number of failures.
async fn append_with_retry(log: &dyn Log, frames: &[Frame]) -> usize {
    let mut failures = 0;
    loop {
        match log.append(frames.to_vec()).await {
            Ok(()) => return failures,
            Err(LogError::Unavailable(why)) => eprintln!("refused: {why}"),
            Err(LogError::Fatal(why) | LogError::Damaged(why)) => panic!("{why}"),
        }
        failures += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All records of all partitions.
async fn all_records(log: &dyn Log) -> Vec<Record> {
    let mut records = Vec::new();
    for partition in log.usage().await.unwrap().end.into_keys() {
        records.extend(log.read(partition, 0, usize::MAX).await.unwrap());
    }
    records
}

/// Asserts that the frames of each stream are stored once, in order, in one partition.
fn assert_complete(records: &[Record], all: &[Frame]) {
    let mut streams: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        streams.entry(&record.frame.key).or_default().push(record);
    }
    for (key, records) in &streams {
        assert!(records.iter().all(|record| record.partition == records[0].partition), "{key} is in one partition");
        let expected: Vec<&Frame> = all.iter().filter(|frame| *frame.key == **key).collect();
        let arrived: Vec<&Frame> = records.iter().map(|record| &record.frame).collect();
        assert!(arrived == expected, "{key}: {} of {} frames", arrived.len(), expected.len());
    }
    assert_eq!(records.len(), all.len());
}

/// A group member that makes every record durable at once, in a vector.
struct Worker {
    consumer: Box<dyn Consumer>,
    assigned: BTreeSet<Partition>,
    taken: Vec<Record>,
}

impl Worker {
    async fn new(log: &dyn Log) -> Self {
        Self { consumer: log.consumer().await.unwrap(), assigned: BTreeSet::new(), taken: Vec::new() }
    }

    /// Takes one delivery and commits its records.
    async fn poll(&mut self) {
        self.try_poll().await.unwrap();
    }

    /// The same; returns the failure of the commit.
    async fn try_poll(&mut self) -> Result<(), LogError> {
        match self.consumer.next().await {
            Ok(Delivery::Records { records, .. }) if records.is_empty() => {}
            Ok(Delivery::Records { records, .. }) => {
                let foreign = records.iter().find(|record| !self.assigned.contains(&record.partition));
                assert!(foreign.is_none(), "a record of a partition that is not assigned: {foreign:?}");
                let offsets = after(&records);
                self.taken.extend(records);
                return self.consumer.commit(&offsets).await;
            }
            Ok(Delivery::Assigned(partitions)) => self.assigned.extend(partitions),
            Ok(Delivery::Revoked { partitions, done, .. }) => {
                self.assigned.retain(|partition| !partitions.contains(partition));
                let mut offsets = after(&self.taken);
                offsets.retain(|partition, _| partitions.contains(partition));
                // The receiver is dropped if the worker was busy for longer than the deadline.
                done.send(offsets).ok();
            }
            Err(LogError::Unavailable(why)) => eprintln!("not consumed: {why}"),
            Err(LogError::Fatal(why) | LogError::Damaged(why)) => panic!("{why}"),
        }
        Ok(())
    }
}

/// Runs all workers until a condition holds.
async fn poll_until(workers: &mut [&mut Worker], what: &str, condition: impl Fn(&[&mut Worker]) -> bool) {
    let began = Instant::now();
    while !condition(workers) {
        assert!(began.elapsed() < DEADLINE, "{what}: not in time");
        let steps = workers.iter_mut().map(|worker| worker.poll());
        futures_util::future::join_all(steps).await;
    }
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn kafka_keeps_every_promise() {
    let Some(kafka) = Kafka::shared() else { return };
    keeps_every_promise(8, &|| Box::new(KafkaStore { options: kafka.topic(1), runtime: super::runtime() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_spread_over_the_partitions_and_each_stays_in_one() {
    let Some(kafka) = Kafka::shared() else { return };
    let log = open(&kafka.topic(3), "one").await;
    for start in (0..3_000).step_by(500) {
        log.append(spread(start..start + 500)).await.unwrap();
    }
    let usage = log.usage().await.unwrap();
    assert_eq!(usage.end.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(usage.end.values().sum::<i64>(), 3_000);
    assert_eq!(usage.lag(), 3_000);
    for record in all_records(&log).await {
        assert_eq!(log.partition(&record.frame.key), Some(record.partition), "{}", record.frame.key);
    }
    assert_complete(&all_records(&log).await, &spread(0..3_000));
    let mut consumer = log.consumer().await.unwrap();
    let records = take(&mut *consumer, 3_000).await;
    assert_complete(&records, &spread(0..3_000));
    consumer.commit(&after(&records)).await.unwrap();
    assert_eq!(log.usage().await.unwrap().lag(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_during_appends_loses_no_frame_and_repeats_none() {
    let Some(kafka) = Kafka::start() else { return };
    let kafka = Arc::new(kafka);
    let log = open(&kafka.topic(3), "one").await;
    let mut reader = Worker::new(&log).await;
    let killer = {
        let kafka = kafka.clone();
        tokio::task::spawn_blocking(move || {
            for pause in [300, 700, 150] {
                std::thread::park_timeout(Duration::from_millis(pause));
                kafka.server.restart();
            }
        })
    };
    let mut end = 0;
    while !killer.is_finished() || end < 20_000 {
        append_with_retry(&log, &spread(end..end + 100)).await;
        end += 100;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    killer.await.unwrap();
    eprintln!("{end} frames");
    let began = Instant::now();
    assert_complete(&all_records(&log).await, &spread(0..end));
    poll_until(&mut [&mut reader], "all are consumed", |w| w[0].taken.len() >= end as usize).await;
    eprintln!("consumed {:?} after the last restart", began.elapsed());
    let once: BTreeMap<(Partition, i64), Record> =
        reader.taken.drain(..).map(|record| ((record.partition, record.offset), record)).collect();
    assert_complete(&once.into_values().collect::<Vec<_>>(), &spread(0..end));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_is_repeated_while_the_broker_is_down_is_stored_once() {
    let Some(kafka) = Kafka::start() else { return };
    let log = open(&kafka.topic(1), "one").await;
    log.append(frames(0..10)).await.unwrap();
    kafka.server.kill();
    for _ in 0..2 {
        let refused = log.append(frames(10..2_000)).await;
        assert!(matches!(&refused, Err(LogError::Unavailable(_))), "{refused:?}");
    }
    tokio::task::block_in_place(|| kafka.server.restart());
    append_with_retry(&log, &frames(10..2_000)).await;
    assert_eq!(frames_of(log.read(0, 0, usize::MAX).await.unwrap()), frames(0..2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_recorders_share_the_partitions_and_one_takes_over() {
    let Some(kafka) = Kafka::shared() else { return };
    let options = kafka.topic(3);
    let log = open(&options, "one").await;
    log.append(spread(0..1_000)).await.unwrap();
    let mut one = Worker::new(&log).await;
    poll_until(&mut [&mut one], "one has everything", |w| w[0].taken.len() == 1_000).await;
    assert_eq!(one.assigned.len(), 3);
    let other = open(&options, "two").await;
    let mut two = Worker::new(&other).await;
    let began = Instant::now();
    poll_until(&mut [&mut one, &mut two], "they share", |w| {
        w.iter().all(|worker| !worker.assigned.is_empty()) && w[0].assigned.len() + w[1].assigned.len() == 3
    })
    .await;
    eprintln!("shared after {:?}", began.elapsed());
    log.append(spread(1_000..3_000)).await.unwrap();
    poll_until(&mut [&mut one, &mut two], "both consume", |w| w[0].taken.len() + w[1].taken.len() == 3_000).await;
    assert!(one.taken.len() > 1_000 && !two.taken.is_empty());
    // A static member that disappears keeps its partitions until its session expires.
    let mut taken = std::mem::take(&mut two.taken);
    drop((two, other));
    log.append(spread(3_000..4_000)).await.unwrap();
    let began = Instant::now();
    poll_until(&mut [&mut one], "one takes over", |w| w[0].taken.len() + taken.len() == 4_000).await;
    eprintln!("taken over after {:?}", began.elapsed());
    taken.append(&mut one.taken);
    taken.sort_by_key(|record| (record.partition, record.offset));
    assert_complete(&taken, &spread(0..4_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_revoked_while_paused_and_comes_back_is_consumed() {
    let Some(kafka) = Kafka::shared() else { return };
    let options = kafka.topic(3);
    let log = open(&options, "one").await;
    for start in (0..40_000).step_by(1_000) {
        log.append(spread(start..start + 1_000)).await.unwrap();
    }
    let mut one = Worker::new(&log).await;
    poll_until(&mut [&mut one], "one begins", |w| !w[0].taken.is_empty()).await;
    // The first worker is busy: its queue fills up, and its partitions are paused.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let other = open(&options, "two").await;
    let mut two = Worker::new(&other).await;
    poll_until(&mut [&mut two], "two gets a share", |w| !w[0].assigned.is_empty()).await;
    let mut taken = std::mem::take(&mut two.taken);
    drop((two, other));
    let id = |record: &Record| (record.partition, record.offset);
    let mut arrived: BTreeSet<(Partition, i64)> = taken.iter().map(id).collect();
    let began = Instant::now();
    while arrived.len() < 40_000 {
        assert!(began.elapsed() < DEADLINE, "{} of 40000 records arrived", arrived.len());
        one.poll().await;
        arrived.extend(one.taken.iter().map(id));
        taken.append(&mut one.taken);
    }
    let once: BTreeMap<_, Record> = taken.into_iter().map(|record| (id(&record), record)).collect();
    assert_complete(&once.into_values().collect::<Vec<_>>(), &spread(0..40_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_recorder_consumes_at_once() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut options = kafka.topic(3);
    options.kafka.session_timeout = Duration::from_secs(30);
    let log = open(&options, "one").await;
    log.append(spread(0..100)).await.unwrap();
    let mut worker = Worker::new(&log).await;
    poll_until(&mut [&mut worker], "all are consumed", |w| w[0].taken.len() == 100).await;
    drop((worker, log));
    let log = open(&options, "one").await;
    log.append(spread(100..200)).await.unwrap();
    let began = Instant::now();
    let mut worker = Worker::new(&log).await;
    poll_until(&mut [&mut worker], "the rest is consumed", |w| w[0].taken.len() == 100).await;
    eprintln!("consumed again after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for its own session to expire");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_group_fenced_once_joins_again_and_consumes_on() {
    let Some(kafka) = Kafka::shared() else { return };
    let options = kafka.topic(3);
    let log = open(&options, "one").await;
    log.append(spread(0..100)).await.unwrap();
    let mut worker = Worker::new(&log).await;
    poll_until(&mut [&mut worker], "all are consumed", |w| w[0].taken.len() == 100).await;
    // What a broker has in memory after a kill: the member of a process that does not run any more.
    let dead = open(&options, "one").await;
    let mut member = Worker::new(&dead).await;
    poll_until(&mut [&mut member], "it takes the name", |w| !w[0].assigned.is_empty()).await;
    let taken = std::mem::take(&mut member.taken);
    drop((member, dead));
    log.append(spread(100..400)).await.unwrap();
    worker.taken.extend(taken);
    let began = Instant::now();
    while log.usage().await.unwrap().lag() > 0 {
        assert!(began.elapsed() < DEADLINE, "it does not consume on");
        // A commit of the fenced member fails; the records come again.
        if let Err(error) = worker.try_poll().await {
            assert!(matches!(&error, LogError::Unavailable(_)), "{error}");
        }
    }
    assert_eq!(worker.assigned.len(), 3);
    let once: BTreeMap<(Partition, i64), Record> =
        worker.taken.drain(..).map(|record| ((record.partition, record.offset), record)).collect();
    assert_complete(&once.into_values().collect::<Vec<_>>(), &spread(0..400));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_recorders_with_one_name_one_ends_and_says_why() {
    let Some(kafka) = Kafka::shared() else { return };
    let options = kafka.topic(3);
    let (log, other) = (open(&options, "one").await, open(&options, "one").await);
    let mut consumers = [log.consumer().await.unwrap(), other.consumer().await.unwrap()];
    let began = Instant::now();
    let why = loop {
        assert!(began.elapsed() < DEADLINE * 2, "neither noticed");
        let [one, two] = &mut consumers;
        let (one, two) = tokio::join!(one.next(), two.next());
        match (one, two) {
            (Err(LogError::Fatal(why)), _) | (_, Err(LogError::Fatal(why))) => break why,
            _ => {}
        }
    };
    eprintln!("noticed after {:?}: {why}", began.elapsed());
    assert!(why.contains("another recorder uses the name one-0") && why.contains("`instance`"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_caller_does_not_take_stay_in_the_broker() {
    const FRAME: usize = 64 << 10;
    const COUNT: i64 = 3_000;
    let Some(kafka) = Kafka::shared() else { return };
    let mut options = kafka.topic(3);
    // The group removes a member that does not poll for longer; the recorder polls even when the caller is busy.
    options.kafka.session_timeout = Duration::from_secs(6);
    let log = open(&options, "one").await;
    // Random payloads, which do not compress.
    let noise: bytes::Bytes = (0..FRAME * 20).map(|_| rand::random::<u8>()).collect();
    for start in (0..COUNT).step_by(100) {
        let noise = |number: i64| {
            let from = number as usize * 977 % (noise.len() - FRAME);
            Frame { payload: noise.slice(from..from + FRAME), ..spread(number..number + 1).remove(0) }
        };
        log.append((start..start + 100).map(noise).collect()).await.unwrap();
    }
    let before = resident_bytes();
    let mut worker = Worker::new(&log).await;
    poll_until(&mut [&mut worker], "it begins", |w| !w[0].taken.is_empty()).await;
    // The stimulus: a caller that is busy for longer than the session.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MB of {} were prefetched", grown >> 20, (COUNT as usize * FRAME) >> 20);
    eprintln!("prefetched: {} MB", grown >> 20);
    let mut count = worker.taken.len();
    worker.taken.clear();
    let began = Instant::now();
    while count < COUNT as usize {
        assert!(began.elapsed() < DEADLINE, "{count} of {COUNT} records arrived");
        worker.poll().await;
        count += worker.taken.drain(..).count();
    }
    assert_eq!(count, COUNT as usize, "no record twice: the member stayed in the group");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_setting_is_fatal_and_named() {
    let with = |name: &str, value: &str| {
        let mut options = Options::default();
        options.kafka.client.insert(name.to_owned(), value.to_owned());
        options
    };
    for (name, value) in [("enable.auto.commit", "true"), ("no.such.setting", "1"), ("socket.timeout.ms", "soon")] {
        let Err(LogError::Fatal(why)) = KafkaLog::open(&with(name, value), "one").await.map(|_| ()) else {
            panic!("{name} was accepted")
        };
        assert!(why.contains(name), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_the_broker_and_a_wrong_one_is_fatal() {
    let Some(kafka) = Kafka::shared() else { return };
    let mut options = kafka.topic(1);
    options.kafka.brokers = format!("127.0.0.1:{}", kafka.sasl_port);
    for (name, value) in
        [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN"), ("sasl.username", "keeper")]
    {
        options.kafka.client.insert(name.to_owned(), value.to_owned());
    }
    options.kafka.password = Some("guessed".to_owned());
    let Err(LogError::Fatal(why)) = KafkaLog::open(&options, "one").await.map(|_| ()) else {
        panic!("a wrong password was not fatal")
    };
    assert!(why.contains("uthentication"), "{why}");
    options.kafka.password = Some("geheim".to_owned());
    let log = open(&options, "one").await;
    log.append(frames(0..10)).await.unwrap();
    assert_eq!(frames_of(log.read(0, 0, usize::MAX).await.unwrap()), frames(0..10));
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 10).await), frames(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_at_the_start_makes_calls_unavailable() {
    let mut options = Options::default();
    options.kafka.brokers = format!("127.0.0.1:{}", crate::servers::free_port());
    let log = open(&options, "one").await;
    assert!(matches!(log.append(frames(0..1)).await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.usage().await, Err(LogError::Unavailable(_))));
    assert!(matches!(log.consumer().await.map(|_| ()), Err(LogError::Unavailable(_))));
    assert_eq!(log.retain(super::ANY_AGE, 0).await.unwrap(), 0);
}
