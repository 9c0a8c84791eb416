//! Passwords: from systemd's credentials, then the environment, then the file.
//!
//! systemd 252 sets the credentials' directory for `ExecReload=` as well, but does not let that process read it: it is
//! then ignored. The service itself can read it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::problem::Problem;
use super::{Config, Environment};

/// Fills in every password that a credential or the environment sets. A credential that exists but cannot be read is a
/// problem: another password in its place would only fail later.
pub fn fill(config: &mut Config, environment: Environment<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let directory = environment("CREDENTIALS_DIRECTORY").filter(|directory| is_readable(Path::new(directory)));
    let mut find = |credential: &str, variable: &str| {
        let from_file = directory.as_deref().and_then(|directory| {
            let path = Path::new(directory).join(credential);
            match fs::read_to_string(&path) {
                // A file from an editor ends with a newline that is not part of the password.
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => {
                    let message = format!("cannot read the credential {}: {error}", path.display());
                    let help = "it must be text that this user can read; remove it to use no password";
                    problems.push(Problem::without_location(message, help));
                    None
                }
            }
        });
        from_file.or_else(|| environment(variable)).filter(|password| !password.is_empty())
    };
    let clickhouse = find("clickhouse-password", "TAPEKEEPER_CLICKHOUSE_PASSWORD");
    config.history.clickhouse.password = clickhouse.or(config.history.clickhouse.password.take());
    let redis = find("redis-password", "TAPEKEEPER_REDIS_PASSWORD");
    config.cache.redis.password = redis.or(config.cache.redis.password.take());
    let kafka = find("kafka-password", "TAPEKEEPER_KAFKA_PASSWORD");
    config.log.kafka.password = kafka.or(config.log.kafka.password.take());
    let token = find("admin-token", "TAPEKEEPER_ADMIN_TOKEN");
    config.admin.token = token.or(config.admin.token.take());
    problems
}

fn is_readable(directory: &Path) -> bool {
    !fs::read_dir(directory).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_overrides_the_environment_and_that_overrides_the_file() {
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
        assert!(fill(&mut config, &environment).is_empty());
        assert_eq!(config.cache.redis.password.as_deref(), Some("from the credential"));
        assert_eq!(config.log.kafka.password.as_deref(), Some("from the environment"));
        assert_eq!(config.history.clickhouse.password.as_deref(), Some("from the file"));
    }

    #[test]
    fn a_credential_that_cannot_be_read_is_a_problem() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("admin-token"), [0xff, 0xfe]).unwrap();
        let path = directory.path().display().to_string();
        let environment = move |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| path.clone());
        let problems = fill(&mut Config::default(), &environment);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("admin-token"), "{}", problems[0]);
    }
}
