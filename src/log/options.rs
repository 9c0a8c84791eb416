//! What a user may set about the log.

use std::collections::BTreeMap;
use std::time::Duration;

/// Which log.
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
    /// Which log.
    pub backend: Backend,
    /// Consumed frames older than this go.
    pub retention: Duration,
    /// Consumed frames beyond so many bytes go.
    pub retention_bytes: u64,
    /// `[log.kafka]`.
    pub kafka: KafkaOptions,
}

/// `[log.kafka]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Created with `partitions` when missing.
    pub topic: String,
    /// See `topic`.
    pub partitions: i32,
    /// Recorders with the same group share the partitions.
    pub group_id: String,
    /// How long a dead consumer keeps its partitions.
    pub session_timeout: Duration,
    /// Most records one poll hands to the decoder.
    pub batch_records: usize,
    /// Further settings of librdkafka, by its names: TLS, SASL.
    pub client: BTreeMap<String, String>,
    /// For SASL.
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
