//! Passwords: from systemd's credentials, then the environment, then the file.

use std::fs;
use std::path::Path;

use super::{Config, Environment};

/// Puts in every password that a credential or the environment has.
pub fn fill(config: &mut Config, environment: Environment<'_>) {
    let find = |credential: &str, variable: &str| {
        let directory = environment("CREDENTIALS_DIRECTORY");
        let file = directory.and_then(|directory| fs::read_to_string(Path::new(&directory).join(credential)).ok());
        // Files written by hand end with a newline that is not part of the password.
        file.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .or_else(|| environment(variable))
            .filter(|password| !password.is_empty())
    };
    let clickhouse = find("clickhouse-password", "TAPEKEEPER_CLICKHOUSE_PASSWORD");
    config.history.clickhouse.password = clickhouse.or(config.history.clickhouse.password.take());
    let redis = find("redis-password", "TAPEKEEPER_REDIS_PASSWORD");
    config.cache.redis.password = redis.or(config.cache.redis.password.take());
    let kafka = find("kafka-password", "TAPEKEEPER_KAFKA_PASSWORD");
    config.log.kafka.password = kafka.or(config.log.kafka.password.take());
    let token = find("admin-token", "TAPEKEEPER_ADMIN_TOKEN");
    config.admin.token = token.or(config.admin.token.take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_wins_over_the_environment_and_that_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("redis-password"), "from the credential\n").unwrap();
        let path = directory.path().display().to_string();
        let environment = move |name: &str| match name {
            "CREDENTIALS_DIRECTORY" => Some(path.clone()),
            "TAPEKEEPER_REDIS_PASSWORD" | "TAPEKEEPER_KAFKA_PASSWORD" => Some("from the environment".to_owned()),
            _ => None,
        };
        let mut config = Config::default();
        config.log.kafka.password = Some("from the file".to_owned());
        config.history.clickhouse.password = Some("from the file".to_owned());
        fill(&mut config, &environment);
        assert_eq!(config.cache.redis.password.as_deref(), Some("from the credential"));
        assert_eq!(config.log.kafka.password.as_deref(), Some("from the environment"));
        assert_eq!(config.history.clickhouse.password.as_deref(), Some("from the file"));
    }
}
