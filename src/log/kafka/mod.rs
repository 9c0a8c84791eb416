//! The log as a topic of Apache Kafka.
//!
//! Where Kafka's ways differ from the embedded log's, within the contract:
//!
//! * **Durable** (promise 1) is acknowledged by every replica in sync. A topic that we make on a cluster of one broker
//!   is flushed to the disk before it acknowledges, as nobody else has the frame; on a larger one give it
//!   `min.insync.replicas=2` or more.
//! * **Retention** (promise 6) is the broker's: [`Log::retain`] drops nothing and returns 0. The broker drops by age and
//!   size whether a frame was consumed or not, so `retention` must be longer than the longest outage of
//!   history; what is dropped unconsumed is a gap, found by its ids and repaired over REST.
//! * **A full disk** (promise 7) stops a broker: appends then wait, and say so.
//! * **Append** returns [`LogError::Unavailable`] when the broker takes longer than some seconds; the frames are on their
//!   way all the same, and the same append again waits for them instead of sending them twice.

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

use consumer::{KafkaConsumer, MemberIds};
use error_tracker::ErrorTracker;
use producer::Producer;
use reader::Reader;

use super::{Consumer, KafkaOptions, Log, LogError, LogUsage, Options, Partition, Record};
use crate::market::{Frame, Timestamp};

/// How long [`Log::close`] waits for what was given to be acknowledged.
const CLOSE_WAIT: Duration = Duration::from_secs(4);

/// How long after a failed question its reason may come.
const REASON_WAIT: Duration = Duration::from_secs(1);

/// A topic of Apache Kafka as the log.
pub struct KafkaLog {
    shared: Arc<Shared>,
    producer: Producer,
    member_ids: MemberIds,
    instance_id: String,
}

/// What the blocking calls need.
struct Shared {
    options: Options,
    errors: ErrorTracker,
    /// Asks for positions; never a member of the group.
    metadata_client: Arc<BaseConsumer<ErrorTracker>>,
    reader_config: ClientConfig,
    reader: Mutex<Option<Reader>>,
    /// Whether the topic was seen with all its partitions.
    is_ready: AtomicBool,
    /// How many partitions it has; 0 until it was seen.
    partitions: AtomicU32,
    closed: Arc<AtomicBool>,
}

impl KafkaLog {
    /// Who answers, and what it lacks, without making anything: a line, and further ones of what is missing.
    pub async fn inspect(options: &Options) -> Result<(String, Vec<String>), LogError> {
        let options = options.clone();
        let inspected = tokio::task::spawn_blocking(move || inspect(&options)).await;
        inspected.map_err(|error| LogError::Fatal(format!("ask Kafka: {error}")))?
    }

    /// Connects and makes the topic when it is missing. `instance_id` must be the same after a restart and
    /// no other recorder's: with it the group knows who comes back.
    ///
    /// A broker that is away is no error: the topic is looked for again with the first use. A setting that is unknown
    /// or refused is, and so is a cluster that does not let us in.
    pub async fn open(options: &Options, instance_id: &str) -> Result<Self, LogError> {
        let kafka = &options.kafka;
        let errors = ErrorTracker::default();
        let reader_config = settings::reader(kafka)?;
        let metadata_client = BaseConsumer::from_config_and_context(&reader_config, errors.clone());
        let metadata_client = Arc::new(metadata_client.map_err(|error| errors.classify("make a client", &error))?);
        let polled_client = metadata_client.clone();
        // Nothing is consumed through it, but what it has to say would pile up.
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
            // Only now: a recorder at work outlives a broker that forgets passwords for a moment.
            Err(LogError::Unavailable(why)) => match log.refusal().await {
                Some(refusal) => return Err(LogError::Fatal(format!("Kafka does not let us in: {refusal}"))),
                None => warn!("Kafka is not there yet: {why}"),
            },
            Err(fatal) => return Err(fatal),
        }
        Ok(log)
    }

    /// Why we are not let in, when that is so: waited for where a broker may refuse us, because reasons come late.
    async fn refusal(&self) -> Option<String> {
        if self.shared.options.kafka.client.contains_key("security.protocol") {
            let until = tokio::time::Instant::now() + REASON_WAIT;
            while self.shared.errors.refusal().is_none() && tokio::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.shared.errors.refusal()
    }

    /// Runs what waits for the broker off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(LogError::Fatal("the log is closed".to_owned()));
        }
        let shared = self.shared.clone();
        let answer = tokio::task::spawn_blocking(move || work(&shared)).await;
        answer.map_err(|error| LogError::Fatal(format!("ask Kafka: {error}")))?
    }
}

fn inspect(options: &Options) -> Result<(String, Vec<String>), LogError> {
    let kafka = &options.kafka;
    let errors = ErrorTracker::default();
    let client: BaseConsumer<ErrorTracker> =
        BaseConsumer::from_config_and_context(&settings::reader(kafka)?, errors.clone())
            .map_err(|error| errors.classify("make a client", &error))?;
    let topic = topic::describe(&client, &kafka.topic).map_err(|error| {
        // Its reasons come with polls, one at a time.
        let until = std::time::Instant::now() + REASON_WAIT;
        while errors.refusal().is_none() && std::time::Instant::now() < until {
            client.poll(Duration::from_millis(20));
        }
        match (errors.refusal(), error) {
            (Some(refusal), _) => LogError::Fatal(format!("Kafka does not let us in: {refusal}")),
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
    let release = release.map_or_else(|| "of a release that it does not name".to_owned(), |text| format!("{text}.x"));
    let line = format!("Kafka {release}, {} brokers", topic.brokers);
    let missing = match topic.partitions.len() {
        0 => vec![format!("the topic {}: made at the first start, with {} partitions", kafka.topic, kafka.partitions)],
        found if found as i32 != kafka.partitions => {
            vec![format!("the topic {} has {found} partitions, not {}: used as it is", kafka.topic, kafka.partitions)]
        }
        _ => Vec::new(),
    };
    Ok((line, missing))
}

/// Why a broker does not answer, as far as is known. Of one that hangs up on us, because we speak plainly to TLS or the
/// other way round, librdkafka says no more than of one that is away.
fn unanswered_reason(errors: &ErrorTracker, kafka: &KafkaOptions) -> String {
    match kafka.brokers.split(',').map(str::trim).find(|broker| version::listens(broker)) {
        None => errors.reason(),
        Some(broker) => format!(
            "{broker} takes connections and gives no answer: it starts, or \"security.protocol\" under \
             [log.kafka.client] is not that of its listener"
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

    fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = match reader.take() {
            Some(open) => open,
            None => Reader::new(&self.reader_config, &self.errors)?,
        };
        let records = open.read(&self.options.kafka.topic, partition, offset, limit)?;
        // At the end it would only read ahead what nobody asks for.
        if records.len() == limit {
            *reader = Some(open);
        }
        Ok(records)
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError> {
        // librdkafka fails what is sent to a topic that does not exist.
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
            KafkaConsumer::join(&shared.options.kafka, &instance_id, &shared.errors, &member_ids, &shared.closed)
        };
        Ok(Box::new(self.blocking(join).await?))
    }

    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        self.blocking(move |shared| shared.read(partition, offset, limit)).await
    }

    /// The partitioner `consistent`: it must say where a frame will go before there is one.
    fn partition(&self, key: &str) -> Option<Partition> {
        let partitions = self.shared.partitions.load(Ordering::Acquire);
        (partitions > 0).then(|| (crc32fast::hash(key.as_bytes()) % partitions) as Partition)
    }

    async fn usage(&self) -> Result<LogUsage, LogError> {
        self.blocking(|shared| topic::usage(&shared.metadata_client, &shared.options.kafka.topic)).await
    }

    /// The broker drops frames, by `retention.ms` and `retention.bytes` of the topic.
    async fn retain(&self, _older_than: Timestamp, _bytes: u64) -> Result<u64, LogError> {
        self.blocking(|_| Ok(0)).await
    }

    async fn close(&self) -> Result<(), LogError> {
        self.shared.closed.store(true, Ordering::Release);
        self.producer.flush(CLOSE_WAIT).await
    }
}
