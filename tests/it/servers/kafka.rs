//! One node of Apache Kafka; see `tests/servers/kafka`.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tapekeeper::log::{KafkaOptions, Options};

use super::{Server, free_port, listens, prepare};

static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| prepare("kafka"));
static SHARED: LazyLock<Option<Kafka>> = LazyLock::new(Kafka::start);

/// A Kafka server.
pub struct Kafka {
    pub server: Server,
    /// The listener that requires a user and a password: `keeper` and `geheim`.
    pub sasl_port: u16,
    /// The listener that requires them by SCRAM-SHA-256 behind TLS; only with [`Kafka::start_with_tls`].
    #[cfg_attr(not(feature = "kafka-tls"), expect(dead_code, reason = "a build without TLS cannot speak to it"))]
    pub tls_port: u16,
    topics: AtomicU32,
}

impl Kafka {
    /// Starts a server that the caller may kill and restart; `None` when none is available here.
    pub fn start() -> Option<Self> {
        Self::start_at(None)
    }

    /// The same with a listener behind TLS, which costs seconds. `ca.pem` in its directory is the signing authority.
    #[cfg_attr(not(feature = "kafka-tls"), expect(dead_code, reason = "a build without TLS cannot speak to it"))]
    pub fn start_with_tls() -> Option<Self> {
        Self::start_at(Some(free_port()))
    }

    fn start_at(tls_port: Option<u16>) -> Option<Self> {
        let sasl_port = free_port();
        let arguments = |port: u16, directory: &std::path::Path| {
            let (controller, directory) = (free_port(), directory.display().to_string());
            let mut arguments = vec![port.to_string(), controller.to_string(), sasl_port.to_string(), directory];
            arguments.extend(tls_port.map(|port| port.to_string()));
            arguments
        };
        let server = Server::start("kafka", PROGRAM.clone()?, arguments, listens);
        Some(Self { server, sasl_port, tls_port: tls_port.unwrap_or_default(), topics: AtomicU32::new(0) })
    }

    /// The server that all tests share; it ends with the process.
    pub fn shared() -> Option<&'static Self> {
        SHARED.as_ref()
    }

    /// The options of a new topic, which does not exist yet, and of a new group.
    pub fn topic(&self, partitions: i32) -> Options {
        let number = self.topics.fetch_add(1, Ordering::Relaxed);
        let kafka = KafkaOptions {
            brokers: format!("127.0.0.1:{}", self.server.port),
            topic: format!("frames-{number}"),
            partitions,
            group_id: format!("recorders-{number}"),
            session_timeout: Duration::from_secs(6),
            ..KafkaOptions::default()
        };
        Options { kafka, ..Options::default() }
    }
}
