//! The settings of librdkafka. A user's `[log.kafka.client]` overrides the defaults here, but not the settings that the
//! contract of the log depends on: those are refused by name.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::log::{KafkaOptions, LogError};

/// The largest frame of the topic. An exchange's frames are a hundredth of that.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;
/// The memory for frames that wait for a broker: minutes of a busy market. When it is full appends wait.
const PRODUCER_QUEUE_KBYTES: usize = 64 << 10;
/// See [`PRODUCER_QUEUE_KBYTES`].
const PRODUCER_QUEUE_FRAMES: usize = 1_000_000;
/// The memory for the prefetched records of a consumer.
const CONSUMER_QUEUE_KBYTES: usize = 32 << 10;

/// Settings that would break a promise, and what to set instead or why.
const REFUSED: [(&[&str], &str); 8] = [
    (&["bootstrap.servers", "metadata.broker.list"], "set [log.kafka] brokers"),
    (&["group.id"], "set [log.kafka] group_id"),
    (&["group.instance.id"], "set `instance`"),
    (&["session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"], "set [log.kafka] session_timeout"),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "enable.partition.eof",
            "group.protocol",
            "partition.assignment.strategy",
        ],
        "only the recorder commits an offset, when its frame is durable",
    ),
    (
        &["enable.idempotence", "acks", "request.required.acks", "retries", "message.send.max.retries"],
        "an append must be durable and sent once",
    ),
    (&["message.timeout.ms", "delivery.timeout.ms", "transactional.id"], "a frame waits without a time limit"),
    (&["partitioner", "queuing.strategy", "message.max.bytes"], "each stream must stay in order in one partition"),
];

/// The settings of the producer.
pub(super) fn producer(options: &KafkaOptions) -> Result<ClientConfig, LogError> {
    let mut config = base(options);
    config.set("compression.type", "lz4");
    // Ingest batches frames already.
    config.set("linger.ms", "1");
    config.set("queue.buffering.max.kbytes", PRODUCER_QUEUE_KBYTES.to_string());
    config.set("queue.buffering.max.messages", PRODUCER_QUEUE_FRAMES.to_string());
    user(&mut config, options)?;
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    // The partition is the CRC-32 of the key modulo the number of partitions, as in `KafkaLog::partition`.
    config.set("partitioner", "consistent");
    // The default is five minutes: frames would fail when a broker is down for longer.
    config.set("message.timeout.ms", "0");
    Ok(config)
}

/// The settings of a client that reads without being a member of the group: replay, positions.
pub(super) fn reader(options: &KafkaOptions) -> Result<ClientConfig, LogError> {
    let mut config = base(options);
    config.set("fetch.queue.backoff.ms", "10");
    config.set("queued.max.messages.kbytes", CONSUMER_QUEUE_KBYTES.to_string());
    user(&mut config, options)?;
    config.set("group.id", &options.group_id);
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "earliest");
    Ok(config)
}

/// The settings of the group member with the id `member`.
pub(super) fn member(options: &KafkaOptions, member: &str) -> Result<ClientConfig, LogError> {
    let mut config = reader(options)?;
    let session = options.session_timeout.as_millis();
    config.set("group.instance.id", member);
    config.set("partition.assignment.strategy", "cooperative-sticky");
    config.set("session.timeout.ms", session.to_string());
    // A member notices a rebalance by a heartbeat, and a cooperative rebalance takes two: so send them often.
    config.set("heartbeat.interval.ms", (session / 10).clamp(200, 1_000).to_string());
    config.set("max.poll.interval.ms", session.max(300_000).to_string());
    Ok(config)
}

/// How long a revocation waits for the caller.
pub(super) fn revoke_deadline(options: &KafkaOptions) -> Duration {
    options.session_timeout / 3
}

fn base(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("bootstrap.servers", &options.brokers);
    config.set("client.id", "tapekeeper");
    config.set("message.max.bytes", FRAME_BYTES_MAX.to_string());
    config.set("socket.keepalive.enable", "true");
    config.set("log.connection.close", "false");
    // The default is ten seconds, longer than a broker's restart.
    config.set("reconnect.backoff.max.ms", "1000");
    config
}

fn user(config: &mut ClientConfig, options: &KafkaOptions) -> Result<(), LogError> {
    for (name, value) in &options.client {
        if let Some((_, instead)) = REFUSED.iter().find(|(names, _)| names.contains(&name.as_str())) {
            let why = format!("[log.kafka.client] \"{name}\" cannot be set: {instead}");
            return Err(LogError::Fatal(why));
        }
        config.set(name, value);
    }
    if let Some(password) = &options.password {
        config.set("sasl.password", password);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> KafkaOptions {
        let mut options = KafkaOptions::default();
        options.client.insert(name.to_owned(), value.to_owned());
        options
    }

    #[test]
    fn a_users_setting_overrides_ours() {
        let config = producer(&with("compression.type", "zstd")).unwrap();
        assert_eq!(config.get("compression.type"), Some("zstd"));
    }

    #[test]
    fn a_setting_that_the_contract_depends_on_is_refused_by_name() {
        for (names, instead) in REFUSED {
            for name in names {
                let Err(LogError::Fatal(why)) = producer(&with(name, "1")) else { panic!("{name} was accepted") };
                assert!(why.contains(name) && why.contains(instead), "{why}");
            }
        }
    }

    #[test]
    fn librdkafka_accepts_every_default_setting() {
        let options = KafkaOptions { password: Some("secret".to_owned()), ..KafkaOptions::default() };
        for config in [producer(&options), reader(&options), member(&options, "here-0")] {
            config.unwrap().create_native_config().unwrap();
        }
    }

    #[test]
    fn the_password_becomes_the_sasl_password() {
        let options = KafkaOptions { password: Some("secret".to_owned()), ..KafkaOptions::default() };
        assert_eq!(producer(&options).unwrap().get("sasl.password"), Some("secret"));
        assert_eq!(producer(&KafkaOptions::default()).unwrap().get("sasl.password"), None);
    }
}
