//! The user's settings of the log.

use std::collections::BTreeMap;
use std::time::Duration;

/// The backend of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// One file, `{data_dir}/log.db`.
    #[default]
    Embedded,
    /// Apache Kafka.
    Kafka,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The backend.
    pub backend: Backend,
    /// Retention removes consumed frames that are older than this.
    pub retention: Duration,
    /// Retention removes the oldest consumed frames while the log is larger than this, in bytes.
    pub retention_bytes: u64,
    /// `[log.kafka]`.
    pub kafka: KafkaOptions,
}

/// `[log.kafka]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOptions {
    /// Addresses `host:port`, separated by commas.
    pub brokers: String,
    /// The topic; created with `partitions` partitions if it does not exist.
    pub topic: String,
    /// The number of partitions of a topic that the recorder creates.
    pub partitions: i32,
    /// The consumer group. Recorders of one group share the partitions.
    pub group_id: String,
    /// The time after which the group assigns the partitions of a dead consumer to others.
    pub session_timeout: Duration,
    /// The largest number of records of one delivery.
    pub batch_records: usize,
    /// Further settings by librdkafka's own names, such as TLS and SASL.
    pub client: BTreeMap<String, String>,
    /// The SASL password.
    pub password: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: Backend::Embedded,
            retention: Duration::from_secs(7 * 86_400),
            retention_bytes: 10 << 30,
            kafka: KafkaOptions::default(),
        }
    }
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".to_owned(),
            topic: "tapekeeper.frames".to_owned(),
            partitions: 6,
            group_id: "tapekeeper".to_owned(),
            session_timeout: Duration::from_secs(30),
            batch_records: 1_000,
            client: BTreeMap::new(),
            password: None,
        }
    }
}
