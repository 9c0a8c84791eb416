//! The log as a topic of Apache Kafka.
//!
//! Within the contract, Kafka differs from the embedded log in these points:
//!
//! * **Durable** (promise 1): every in-sync replica acknowledges an append. On a cluster of one broker the recorder
//!   creates the topic with a flush to disk before each acknowledgement, because no other broker has the frame. On a
//!   larger cluster set `min.insync.replicas=2` or more.
//! * **Retention** (promise 6): the broker drops records, [`Log::retain`] drops nothing and returns 0. The broker drops
//!   by age and size, consumed or not, so `retention` must be longer than the longest outage of history. A record that
//!   is dropped unconsumed becomes a gap: the tracker finds it by its ids, and backfill repairs it over REST.
//! * **A full disk** (promise 7) stops a broker: appends then wait, and their error contains the reason.
//! * **Partitions that are added** to the topic while the recorder runs are used once librdkafka has noticed them, within
//!   five minutes. The keys then hash to other partitions, so promise 2 is broken once: the frames of a symbol lie in
//!   two partitions, which may be read in either order. The consumer declares a gap for what it has not read yet, and
//!   the gap is filled when it is read, or over REST.
//! * **Append** returns [`LogError::Unavailable`] when the broker takes longer than some seconds. The frames are still
//!   in flight; a second append of the same frames waits for them and sends nothing twice.

mod consumer;
mod delivery_queue;
mod error_tracker;
mod poller;
mod producer;
mod reader;
mod record;
mod settings;
mod topic;
mod version;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::BaseConsumer;
use tracing::warn;

use consumer::{Identity, KafkaConsumer, MemberIds};
use error_tracker::ErrorTracker;
use producer::Producer;
use reader::Reader;

use super::{Consumer, KafkaOptions, Log, LogError, LogUsage, Options, Partition, Record};
use crate::market::{Frame, Timestamp};

/// How long [`Log::close`] waits for the acknowledgement of all frames.
const CLOSE_WAIT: Duration = Duration::from_secs(4);

/// How long librdkafka may take after a failed request to report the reason.
const REASON_WAIT: Duration = Duration::from_secs(1);

/// A topic of Apache Kafka as the log.
pub struct KafkaLog {
    shared: Arc<Shared>,
    producer: Producer,
    member_ids: MemberIds,
    instance_id: String,
}

/// The state that the blocking calls use.
struct Shared {
    options: Options,
    errors: ErrorTracker,
    /// Reads metadata and offsets; never joins the group.
    metadata_client: Arc<BaseConsumer<ErrorTracker>>,
    reader_config: ClientConfig,
    reader: Mutex<Option<Reader>>,
    /// Whether the topic exists and every partition has a leader.
    is_ready: AtomicBool,
    /// The number of partitions; 0 until `is_ready`. [`Log::usage`] notices a change.
    partitions: AtomicU32,
    closed: Arc<AtomicBool>,
}

impl KafkaLog {
    /// Inspects the cluster without changing it. Returns a line that describes it, and a line for each missing item.
    pub async fn inspect(options: &Options) -> Result<(String, Vec<String>), LogError> {
        let options = options.clone();
        let inspected = tokio::task::spawn_blocking(move || inspect(&options)).await;
        inspected.map_err(|error| LogError::Fatal(format!("query Kafka: {error}")))?
    }

    /// Connects, and creates the topic if it does not exist. `instance_id` must be unique among the recorders and the
    /// same after a restart, so that the group recognises the returning member.
    ///
    /// A broker that is down is not an error: the first use checks the topic again. Fails with [`LogError::Fatal`] on
    /// an unknown or refused setting, and on a cluster that refuses access.
    pub async fn open(options: &Options, instance_id: &str) -> Result<Self, LogError> {
        let kafka = &options.kafka;
        let errors = ErrorTracker::default();
        let reader_config = settings::reader(kafka)?;
        let metadata_client = BaseConsumer::from_config_and_context(&reader_config, errors.clone());
        let metadata_client = Arc::new(metadata_client.map_err(|error| errors.classify("create a client", &error))?);
        let polled_client = metadata_client.clone();
        // This client consumes nothing, but its events would pile up without a poll.
        let poll_client = move || while polled_client.poll(Duration::ZERO).is_some() {};
        let producer = Producer::start(&settings::producer(kafka)?, &kafka.topic, errors.clone(), poll_client)?;
        let shared = Shared {
            options: options.clone(),
            errors,
            metadata_client,
            reader_config,
            reader: Mutex::default(),
            is_ready: AtomicBool::new(false),
            partitions: AtomicU32::new(0),
            closed: Arc::default(),
        };
        let log = Self {
            shared: Arc::new(shared),
            producer,
            member_ids: MemberIds::default(),
            instance_id: instance_id.to_owned(),
        };
        match log.blocking(|shared| shared.ensure_topic()).await {
            Ok(()) => {}
            // A refusal is fatal only here: a running recorder survives a broker that refuses a password for a moment.
            Err(LogError::Unavailable(why)) => match log.refusal().await {
                Some(refusal) => return Err(LogError::Fatal(format!("Kafka refuses access: {refusal}"))),
                None => warn!("Kafka is not reachable yet: {why}"),
            },
            Err(fatal) => return Err(fatal),
        }
        Ok(log)
    }

    /// The reason why the broker refused access, if it did. With a security protocol it waits for it, because
    /// librdkafka reports it late.
    async fn refusal(&self) -> Option<String> {
        if self.shared.options.kafka.client.contains_key("security.protocol") {
            let until = tokio::time::Instant::now() + REASON_WAIT;
            while self.shared.errors.refusal().is_none() && tokio::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.shared.errors.refusal()
    }

    /// Runs a blocking call on a thread for blocking work.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(LogError::Fatal("the log is closed".to_owned()));
        }
        let shared = self.shared.clone();
        let answer = tokio::task::spawn_blocking(move || work(&shared)).await;
        answer.map_err(|error| LogError::Fatal(format!("query Kafka: {error}")))?
    }
}

fn inspect(options: &Options) -> Result<(String, Vec<String>), LogError> {
    let kafka = &options.kafka;
    let errors = ErrorTracker::default();
    let client: BaseConsumer<ErrorTracker> =
        BaseConsumer::from_config_and_context(&settings::reader(kafka)?, errors.clone())
            .map_err(|error| errors.classify("create a client", &error))?;
    let topic = topic::describe(&client, &kafka.topic).map_err(|error| {
        // Each poll delivers one error event.
        let until = std::time::Instant::now() + REASON_WAIT;
        while errors.refusal().is_none() && std::time::Instant::now() < until {
            client.poll(Duration::from_millis(20));
        }
        match (errors.refusal(), error) {
            (Some(refusal), _) => LogError::Fatal(format!("Kafka refuses access: {refusal}")),
            (None, LogError::Unavailable(why)) => {
                LogError::Unavailable(format!("{why}: {}", unanswered_reason(&errors, kafka)))
            }
            (None, error) => error,
        }
    })?;
    let is_plain =
        kafka.client.get("security.protocol").is_none_or(|protocol| !protocol.to_lowercase().contains("ssl"));
    let brokers = kafka.brokers.split(',').filter(|_| is_plain);
    let release = brokers.map(str::trim).find_map(version::release);
    let release = release.map_or_else(|| "of unknown release".to_owned(), |text| format!("{text}.x"));
    let line = format!("Kafka {release}, {} brokers", topic.brokers);
    let missing = match topic.partitions.len() {
        0 => {
            vec![format!("the topic {}: the first start creates it with {} partitions", kafka.topic, kafka.partitions)]
        }
        found if found as i32 != kafka.partitions => {
            vec![format!(
                "the topic {} has {found} partitions, not {}: the recorder uses it unchanged",
                kafka.topic, kafka.partitions
            )]
        }
        _ => Vec::new(),
    };
    Ok((line, missing))
}

/// The reason why no broker responds. librdkafka reports the same error for a broker that is down and for one that
/// closes the connection because one side expects TLS, so this checks for an open port.
fn unanswered_reason(errors: &ErrorTracker, kafka: &KafkaOptions) -> String {
    match kafka.brokers.split(',').map(str::trim).find(|broker| version::listens(broker)) {
        None => errors.reason(),
        Some(broker) => format!(
            "{broker} accepts connections but does not respond: it is starting, or \"security.protocol\" under \
             [log.kafka.client] is not the protocol of its listener"
        ),
    }
}

impl Shared {
    fn ensure_topic(&self) -> Result<(), LogError> {
        if !self.is_ready.load(Ordering::Acquire) {
            let partitions = topic::ensure(&self.metadata_client, &self.reader_config, &self.options)?;
            self.partitions.store(partitions as u32, Ordering::Release);
            self.is_ready.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Takes over a number of partitions that has changed since the topic was checked: somebody has added some.
    fn learn_partitions(&self, found: usize) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        let known = self.partitions.load(Ordering::Acquire);
        if known > 0 && found > 0 && found != known {
            warn!(
                "the topic {} has {found} partitions now, not {known}: its symbols move to other partitions, and frames \
                 of a symbol that lie in two of them may look like a gap until both are read",
                self.options.kafka.topic
            );
            self.partitions.store(found, Ordering::Release);
        }
    }

    fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = match reader.take() {
            Some(open) => open,
            None => Reader::new(&self.reader_config, &self.errors)?,
        };
        let records = open.read(&self.options.kafka.topic, partition, offset, limit)?;
        // At the end of the partition the open reader would prefetch records that no caller wants.
        if records.len() == limit {
            *reader = Some(open);
        }
        Ok(records)
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError> {
        // librdkafka fails records for a topic that does not exist.
        if !self.shared.is_ready.load(Ordering::Acquire) || self.shared.closed.load(Ordering::Acquire) {
            self.blocking(|shared| shared.ensure_topic()).await?;
        }
        if frames.is_empty() {
            return Ok(());
        }
        self.producer.append(frames).await
    }

    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError> {
        let (instance_id, member_ids) = (self.instance_id.clone(), self.member_ids.clone());
        let join = move |shared: &Shared| {
            shared.ensure_topic()?;
            let identity =
                Identity { options: shared.options.kafka.clone(), instance_id, errors: shared.errors.clone() };
            KafkaConsumer::join(identity, &member_ids, &shared.closed)
        };
        Ok(Box::new(self.blocking(join).await?))
    }

    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        self.blocking(move |shared| shared.read(partition, offset, limit)).await
    }

    /// Computes the partition as librdkafka's partitioner `consistent` does, because a caller asks before it sends a
    /// frame.
    fn partition(&self, key: &str) -> Option<Partition> {
        let partitions = self.shared.partitions.load(Ordering::Acquire);
        (partitions > 0).then(|| (crc32fast::hash(key.as_bytes()) % partitions) as Partition)
    }

    async fn usage(&self) -> Result<LogUsage, LogError> {
        self.blocking(|shared| {
            let usage = topic::usage(&shared.metadata_client, &shared.options.kafka.topic)?;
            shared.learn_partitions(usage.end.len());
            Ok(usage)
        })
        .await
    }

    /// Drops nothing: the broker drops records by `retention.ms` and `retention.bytes` of the topic.
    async fn retain(&self, _older_than: Timestamp, _bytes: u64) -> Result<u64, LogError> {
        self.blocking(|_| Ok(0)).await
    }

    async fn close(&self) -> Result<(), LogError> {
        self.shared.closed.store(true, Ordering::Release);
        self.producer.flush(CLOSE_WAIT).await
    }
}
