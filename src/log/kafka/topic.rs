//! Creates the topic if it does not exist, and reads its offsets.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::error_tracker::ErrorTracker;
use super::settings::FRAME_BYTES_MAX;
use crate::log::{LogError, LogUsage, Offsets, Options, Partition};

/// The longest request to the broker.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How long a new topic may take until every partition has a leader.
const NEW_TOPIC_MAX: Duration = Duration::from_secs(15);
/// The interval of checks of a new topic.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The metadata of a topic.
pub(super) struct TopicDescription {
    /// Its partitions; empty if it does not exist.
    pub(super) partitions: Vec<Partition>,
    /// Whether it exists and every partition has a leader.
    pub(super) is_ready: bool,
    /// The number of brokers.
    pub(super) brokers: usize,
}

/// Reads the metadata of a topic. Blocks.
pub(super) fn describe(client: &BaseConsumer<ErrorTracker>, topic: &str) -> Result<TopicDescription, LogError> {
    let errors = client.context();
    let metadata = client
        .fetch_metadata(Some(topic), REQUEST_MAX)
        .map_err(|error| errors.classify("describe the topic", &error))?;
    errors.clear();
    let brokers = metadata.brokers().len();
    let Some(found) = metadata.topics().first() else {
        return Ok(TopicDescription { partitions: Vec::new(), is_ready: false, brokers });
    };
    match found.error().map(Code::from) {
        None | Some(Code::LeaderNotAvailable | Code::UnknownTopicOrPartition | Code::UnknownTopic) => {}
        Some(code) => return Err(errors.classify("describe the topic", &KafkaError::MetadataFetch(code))),
    }
    let partitions: Vec<Partition> = found.partitions().iter().map(|partition| partition.id()).collect();
    let is_ready = !partitions.is_empty()
        && found.partitions().iter().all(|partition| partition.error().is_none() && partition.leader() >= 0);
    Ok(TopicDescription { partitions, is_ready, brokers })
}

/// Creates the topic. Blocks; must run inside a tokio runtime.
pub(super) fn create(
    config: &ClientConfig,
    errors: &ErrorTracker,
    options: &Options,
    brokers: usize,
) -> Result<(), LogError> {
    let kafka = &options.kafka;
    let client = AdminClient::from_config_and_context(config, errors.clone());
    let client = client.map_err(|error| errors.classify("create the topic", &error))?;
    let retention_ms = options.retention.as_millis().to_string();
    // Kafka limits the bytes of a partition, the user those of the log.
    let retention_bytes = (options.retention_bytes / kafka.partitions.max(1) as u64).to_string();
    let frame_bytes = FRAME_BYTES_MAX.to_string();
    let mut topic = NewTopic::new(&kafka.topic, kafka.partitions, TopicReplication::Fixed(-1))
        .set("retention.ms", &retention_ms)
        .set("retention.bytes", &retention_bytes)
        .set("max.message.bytes", &frame_bytes);
    if brokers == 1 {
        // Kafka relies on replicas for records that are not on disk yet; a single broker has none.
        topic = topic.set("flush.messages", "1");
    }
    let request = AdminOptions::new().request_timeout(Some(REQUEST_MAX)).operation_timeout(Some(REQUEST_MAX));
    let made = tokio::runtime::Handle::current().block_on(client.create_topics([&topic], &request));
    for result in made.map_err(|error| errors.classify("create the topic", &error))? {
        match result {
            Ok(name) => info!("created the topic {name} with {} partitions", kafka.partitions),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                let doing = format!("create the topic {name}");
                return Err(errors.classify(&doing, &KafkaError::Global(code)));
            }
        }
    }
    Ok(())
}

/// Creates the topic if it does not exist, and waits until it is ready; returns the number of partitions. Blocks; must
/// run inside a tokio runtime.
pub(super) fn ensure(
    client: &BaseConsumer<ErrorTracker>,
    config: &ClientConfig,
    options: &Options,
) -> Result<usize, LogError> {
    let kafka = &options.kafka;
    let mut topic = describe(client, &kafka.topic)?;
    if topic.partitions.is_empty() {
        create(config, client.context(), options, topic.brokers)?;
    }
    let began = std::time::Instant::now();
    while !topic.is_ready {
        if began.elapsed() > NEW_TOPIC_MAX {
            return Err(LogError::Unavailable(format!("the topic {} has partitions without a leader", kafka.topic)));
        }
        std::thread::park_timeout(CHECK_INTERVAL);
        topic = describe(client, &kafka.topic)?;
    }
    if topic.partitions.len() as i32 != kafka.partitions {
        warn!(
            "the topic {} has {} partitions, not the {} of [log.kafka] partitions: the recorder uses it unchanged",
            kafka.topic,
            topic.partitions.len(),
            kafka.partitions
        );
    }
    Ok(topic.partitions.len())
}

/// The first, end and committed offsets of the topic. Blocks.
pub(super) fn usage(client: &BaseConsumer<ErrorTracker>, topic: &str) -> Result<LogUsage, LogError> {
    let errors = client.context();
    let partitions = describe(client, topic)?.partitions;
    let committed =
        client.committed_offsets(list(topic, partitions.iter().map(|id| (*id, Offset::Invalid))), REQUEST_MAX);
    let committed = committed.map_err(|error| errors.classify("read the committed offsets", &error))?;
    let mut usage = LogUsage { committed: offsets(&committed), ..LogUsage::default() };
    for (at, into) in [(Offset::Beginning, &mut usage.first), (Offset::End, &mut usage.end)] {
        // This sends one request per broker; `fetch_watermarks` would send one per partition.
        let request = list(topic, partitions.iter().map(|id| (*id, at)));
        let found = client
            .offsets_for_times(request, REQUEST_MAX)
            .map_err(|error| errors.classify("read the offsets", &error))?;
        for element in found.elements() {
            element.error().map_err(|error| errors.classify("read the offsets", &error))?;
        }
        *into = offsets(&found);
        if into.len() != partitions.len() {
            return Err(LogError::Unavailable("the broker did not return the offsets of every partition".to_owned()));
        }
    }
    Ok(usage)
}

/// A list of partitions with offsets.
pub(super) fn list(topic: &str, offsets: impl Iterator<Item = (Partition, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, offset).expect("every offset here is a valid number");
    }
    list
}

/// The partitions of the list that have an offset.
pub(super) fn offsets(list: &TopicPartitionList) -> Offsets {
    let elements = list.elements();
    let elements = elements.iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    elements.collect()
}
