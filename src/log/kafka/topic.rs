//! The topic: made when it is missing, and where its records begin and end.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::settings::FRAME_BYTES_MAX;
use super::watch::Watch;
use crate::log::{LogError, LogUsage, Options, Partition, Positions};

/// How long one question to the broker may take.
const ASK: Duration = Duration::from_secs(5);
/// How long a new topic may take until it has a leader for every partition.
const NEW_TOPIC: Duration = Duration::from_secs(15);
/// How often a new topic is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the cluster says of a topic.
pub(super) struct Seen {
    /// Its partitions; none when it does not exist.
    pub(super) partitions: Vec<Partition>,
    /// Whether each has a leader.
    pub(super) is_ready: bool,
    /// How many brokers there are.
    pub(super) brokers: usize,
}

/// Asks the cluster about a topic. Blocks.
pub(super) fn look(client: &BaseConsumer<Watch>, topic: &str) -> Result<Seen, LogError> {
    let watch = client.context();
    let metadata = client.fetch_metadata(Some(topic), ASK).map_err(|error| watch.sort("look at the topic", &error))?;
    watch.clear();
    let brokers = metadata.brokers().len();
    let Some(found) = metadata.topics().first() else {
        return Ok(Seen { partitions: Vec::new(), is_ready: false, brokers });
    };
    match found.error().map(Code::from) {
        None | Some(Code::LeaderNotAvailable | Code::UnknownTopicOrPartition | Code::UnknownTopic) => {}
        Some(code) => return Err(watch.sort("look at the topic", &KafkaError::MetadataFetch(code))),
    }
    let partitions: Vec<Partition> = found.partitions().iter().map(|partition| partition.id()).collect();
    let is_ready = !partitions.is_empty()
        && found.partitions().iter().all(|partition| partition.error().is_none() && partition.leader() >= 0);
    Ok(Seen { partitions, is_ready, brokers })
}

/// Makes the topic. Blocks, with the runtime at hand.
pub(super) fn create(config: &ClientConfig, watch: &Watch, options: &Options, brokers: usize) -> Result<(), LogError> {
    let kafka = &options.kafka;
    let client = AdminClient::from_config_and_context(config, watch.clone());
    let client = client.map_err(|error| watch.sort("make the topic", &error))?;
    let retention_ms = options.retention.as_millis().to_string();
    // Kafka counts a partition's bytes; the user means the log's.
    let retention_bytes = (options.retention_bytes / kafka.partitions.max(1) as u64).to_string();
    let frame_bytes = FRAME_BYTES_MAX.to_string();
    let mut topic = NewTopic::new(&kafka.topic, kafka.partitions, TopicReplication::Fixed(-1))
        .set("retention.ms", &retention_ms)
        .set("retention.bytes", &retention_bytes)
        .set("max.message.bytes", &frame_bytes);
    if brokers == 1 {
        // Kafka relies on its replicas for what is not on the disk yet; here there are none.
        topic = topic.set("flush.messages", "1");
    }
    let asked = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    let made = tokio::runtime::Handle::current().block_on(client.create_topics([&topic], &asked));
    for result in made.map_err(|error| watch.sort("make the topic", &error))? {
        match result {
            Ok(name) => info!("made the topic {name} with {} partitions", kafka.partitions),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                let doing = format!("make the topic {name}");
                return Err(watch.sort(&doing, &KafkaError::Global(code)));
            }
        }
    }
    Ok(())
}

/// Makes the topic when it is missing and waits until it can be used; returns how many partitions it has. Blocks, with
/// the runtime at hand.
pub(super) fn ensure(
    client: &BaseConsumer<Watch>,
    config: &ClientConfig,
    options: &Options,
) -> Result<usize, LogError> {
    let kafka = &options.kafka;
    let mut seen = look(client, &kafka.topic)?;
    if seen.partitions.is_empty() {
        create(config, client.context(), options, seen.brokers)?;
    }
    let began = std::time::Instant::now();
    while !seen.is_ready {
        if began.elapsed() > NEW_TOPIC {
            return Err(LogError::Unavailable(format!("the topic {} has partitions without a leader", kafka.topic)));
        }
        std::thread::park_timeout(LOOK_EVERY);
        seen = look(client, &kafka.topic)?;
    }
    if seen.partitions.len() as i32 != kafka.partitions {
        warn!(
            "the topic {} has {} partitions, not the {} that [log.kafka] partitions says: it is used as it is",
            kafka.topic,
            seen.partitions.len(),
            kafka.partitions
        );
    }
    Ok(seen.partitions.len())
}

/// Where the topic begins and ends, and what the group has committed. Blocks.
pub(super) fn usage(client: &BaseConsumer<Watch>, topic: &str) -> Result<LogUsage, LogError> {
    let watch = client.context();
    let partitions = look(client, topic)?.partitions;
    let committed = client.committed_offsets(list(topic, partitions.iter().map(|id| (*id, Offset::Invalid))), ASK);
    let committed = committed.map_err(|error| watch.sort("read the committed positions", &error))?;
    let mut usage = LogUsage { committed: positions(&committed), ..LogUsage::default() };
    for (at, into) in [(Offset::Beginning, &mut usage.first), (Offset::End, &mut usage.end)] {
        // One request for all partitions of a broker; the watermarks' own call asks for one partition at a time.
        let asked = list(topic, partitions.iter().map(|id| (*id, at)));
        let found = client.offsets_for_times(asked, ASK).map_err(|error| watch.sort("read the positions", &error))?;
        for element in found.elements() {
            element.error().map_err(|error| watch.sort("read the positions", &error))?;
        }
        *into = positions(&found);
        if into.len() != partitions.len() {
            return Err(LogError::Unavailable("a partition does not say where it begins and ends".to_owned()));
        }
    }
    Ok(usage)
}

/// Some partitions of the topic with positions.
pub(super) fn list(topic: &str, positions: impl Iterator<Item = (Partition, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in positions {
        list.add_partition_offset(topic, partition, offset).expect("every offset here can be written as a number");
    }
    list
}

/// The partitions that have a position.
pub(super) fn positions(list: &TopicPartitionList) -> Positions {
    let known = list.elements();
    let known = known.iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    known.collect()
}
