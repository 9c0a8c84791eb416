//! Describes the stores for the status page: where each one is, and the version of its server.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::{cache, history, log};

use super::Groups;
use super::stores::{ping, without_password};

/// Time between two requests for the versions; the page shows an upgrade after at most this.
const VERSION_POLL_INTERVAL: Duration = Duration::from_secs(600);

/// Descriptions of log, history and cache, updated while the service runs.
pub fn descriptions(config: &Config, groups: &mut Groups) -> watch::Receiver<[String; 3]> {
    let (sender, receiver) = watch::channel(describe(config, [None, None, None]));
    let is_embedded = config.log.backend == log::Backend::Embedded
        && config.history.backend == history::Backend::Embedded
        && config.cache.backend == cache::Backend::Embedded;
    if !is_embedded {
        groups.admin.spawn("versions", poll_versions(config.clone(), sender, groups.admin.stop.clone()));
    }
    receiver
}

async fn poll_versions(
    config: Config,
    sender: watch::Sender<[String; 3]>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let polling = async {
        let mut versions = [None, None, None];
        loop {
            // A server that does not answer keeps its last known version.
            for (known, ping) in versions.iter_mut().zip(ping(&config).await) {
                *known = ping.version.or(known.take());
            }
            sender.send_replace(describe(&config, versions.clone()));
            tokio::time::sleep(VERSION_POLL_INTERVAL).await;
        }
    };
    stop.run_until_cancelled(polling).await;
    Ok(())
}

fn describe(config: &Config, versions: [Option<String>; 3]) -> [String; 3] {
    let sqlite = |name: &str| format!("SQLite {}, {}", rusqlite::version(), config.data_dir.join(name).display());
    let [log_version, history_version, cache_version] = versions;
    let log = match config.log.backend {
        log::Backend::Embedded => sqlite("log.db"),
        log::Backend::Kafka => {
            let version = log_version.unwrap_or_else(|| "Kafka".to_owned());
            format!("{version}, {} at {}", config.log.kafka.topic, config.log.kafka.brokers)
        }
    };
    let history = match config.history.backend {
        history::Backend::Embedded => sqlite("history.db"),
        history::Backend::Clickhouse => {
            let version = history_version.unwrap_or_else(|| "ClickHouse".to_owned());
            let clickhouse = &config.history.clickhouse;
            format!("{version}, {} at {}", clickhouse.database, without_password(&clickhouse.url))
        }
    };
    let cache = match config.cache.backend {
        cache::Backend::Embedded => "memory".to_owned(),
        cache::Backend::Redis => {
            let version = cache_version.unwrap_or_else(|| "Redis".to_owned());
            format!("{version} at {}", without_password(&config.cache.redis.url))
        }
    };
    [log, history, cache]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_their_versions_and_without_their_passwords() {
        let mut config = Config::default();
        config.log.backend = log::Backend::Kafka;
        config.history.backend = history::Backend::Clickhouse;
        config.cache.backend = cache::Backend::Redis;
        config.cache.redis.url = "redis://user:secret@host:6379".to_owned();
        let versions = [None, Some("ClickHouse 26.9.2.1".to_owned()), Some("Redis 7.0.15".to_owned())];
        let expected = [
            "Kafka, tapekeeper.frames at 127.0.0.1:9092",
            "ClickHouse 26.9.2.1, tapekeeper at http://127.0.0.1:8123",
            "Redis 7.0.15 at redis://host:6379",
        ];
        assert_eq!(describe(&config, versions), expected);
    }
}
