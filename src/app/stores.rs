//! Opens the backends that the configuration names. No other code knows which backend a store has.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::atomic_file;
use crate::cache::embedded::EmbeddedCache;
use crate::cache::redis::RedisCache;
use crate::cache::{self, Cache};
use crate::config::Config;
use crate::consume;
use crate::exit::{CANNOT_CREATE, CONFIGURATION, DATA, Failure, IO, TEMPORARY, UNAVAILABLE, USAGE};
use crate::history::clickhouse::ClickhouseHistory;
use crate::history::embedded::EmbeddedHistory;
use crate::history::{self, History, HistoryError};
use crate::log::embedded::{self, EmbeddedLog};
use crate::log::kafka::KafkaLog;
use crate::log::{self, Log, LogError};
use crate::retry::Backoff;
use crate::seal::{self, Place};

/// Longest wait for the lock: a predecessor that was just killed may still hold it.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait at start for a store that is down.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// Longest delay between two attempts to reach it; jitter halves it at most.
const OPEN_RETRY: Duration = Duration::from_millis(500);

/// Creates the state directory if it is missing, and locks it against a second recorder while the returned file is
/// open.
pub async fn lock_data_dir(data_dir: &Path) -> Result<File, Failure> {
    fs::create_dir_all(data_dir)
        .with_context(|| format!("create the state directory {}", data_dir.display()))
        .map_err(|error| Failure::new(CANNOT_CREATE, error))?;
    let path = data_dir.join("lock");
    // Not truncated, and not followed: the file is empty, and a link here is not ours.
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("open flags are small");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(no_follow)
        .open(&path)
        .with_context(|| format!("create {}", path.display()))
        .map_err(|error| Failure::new(CANNOT_CREATE, error))?;
    let until = tokio::time::Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let directory = data_dir.display();
                let why = anyhow!("another recorder runs on {directory}: stop it, or set another data_dir");
                return Err(Failure::new(TEMPORARY, why));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Failure::new(IO, anyhow!(error).context(format!("lock {}", path.display()))));
            }
        }
    }
}

/// Opens the log.
pub async fn log(config: &Config) -> Result<Arc<dyn Log>, Failure> {
    match config.log.backend {
        log::Backend::Embedded => {
            let path = config.data_dir.join("log.db");
            let opened =
                tokio::task::spawn_blocking(move || EmbeddedLog::open(&path, embedded::Options::default())).await;
            Ok(Arc::new(opened.context("open the log")?.map_err(log_failure)?))
        }
        log::Backend::Kafka => {
            let name = recorder_id(&config.data_dir, &config.instance)?;
            Ok(Arc::new(KafkaLog::open(&config.log, &name).await.map_err(log_failure)?))
        }
    }
}

/// The exit code for a command that failed because of a store; `None` for another reason.
pub fn exit_code(error: &anyhow::Error) -> Option<u8> {
    error.chain().find_map(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(HistoryError::Damaged(_)), _) | (_, Some(LogError::Damaged(_))) => Some(DATA),
        (Some(HistoryError::Unavailable(_)), _) | (_, Some(LogError::Unavailable(_))) => Some(UNAVAILABLE),
        (Some(HistoryError::Schema(_)), _) => Some(CONFIGURATION),
        _ => None,
    })
}

/// A name that tells this log from any other log that the configuration may name later.
pub fn log_name(config: &Config) -> String {
    let kafka = &config.log.kafka;
    match config.log.backend {
        log::Backend::Embedded => "embedded".to_owned(),
        log::Backend::Kafka => format!("kafka {} {} {}", kafka.brokers, kafka.topic, kafka.group_id),
    }
}

fn log_failure(error: LogError) -> Failure {
    match error {
        LogError::Damaged(why) => Failure::new(DATA, anyhow!("open the log: {why}")),
        LogError::Fatal(why) => Failure::new(CONFIGURATION, anyhow!("open the log: {why}")),
        LogError::Unavailable(why) => Failure::new(IO, anyhow!("open the log: {why}")),
    }
}

/// This recorder's member name in a consumer group, the same after every restart: `instance`, else a name that is
/// stored in the state directory.
fn recorder_id(data_dir: &Path, instance: &str) -> Result<String, Failure> {
    if !instance.is_empty() {
        return Ok(instance.to_owned());
    }
    let path = data_dir.join("recorder_id");
    let cannot =
        |doing: &str, error: io::Error| Failure::new(IO, anyhow!(error).context(format!("{doing} {}", path.display())));
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_torn) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot("read", error)),
    }
    let name = format!("tapekeeper-{}", uuid::Uuid::new_v4().simple());
    atomic_file::write(&path, format!("{name}\n").as_bytes()).map_err(|error| Failure::new(IO, error))?;
    Ok(name)
}

/// Opens the history for a command; a history that is down is an error.
pub async fn history(config: &Config) -> Result<Arc<dyn History>, Failure> {
    let (history, answer) = history_even_if_down(config).await?;
    answer.map_err(|why| Failure::new(UNAVAILABLE, anyhow!("history is down: {why}")))?;
    Ok(history)
}

/// Opens the history for a command that only reads: a history that does not exist is an error and is not created.
pub async fn history_to_read(config: &Config) -> Result<Arc<dyn History>, Failure> {
    let (exists, place, key) = match config.history.backend {
        history::Backend::Embedded => {
            let path = config.data_dir.join("history.db");
            (path.exists(), path.display().to_string(), "data_dir")
        }
        history::Backend::Clickhouse => {
            let options = &config.history.clickhouse;
            // `history` below waits for a server that does not answer, and reports it.
            let exists = with_timeout(ClickhouseHistory::exists(options)).await.unwrap_or(true);
            (exists, format!("database {} of {}", options.database, options.url), "[history.clickhouse]")
        }
    };
    if !exists {
        let why = anyhow!("there is no history at {place}: nothing was recorded there yet, or {key} is wrong");
        return Err(Failure::new(UNAVAILABLE, why));
    }
    history(config).await
}

/// Opens the log for a command that only reads: an embedded log that does not exist is an error and is not created.
pub async fn log_to_read(config: &Config) -> Result<Arc<dyn Log>, Failure> {
    let path = config.data_dir.join("log.db");
    if config.log.backend == log::Backend::Embedded && !path.exists() {
        let place = path.display();
        let why = anyhow!("there is no log at {place}: nothing was recorded there yet, or data_dir is wrong");
        return Err(Failure::new(UNAVAILABLE, why));
    }
    log(config).await
}

/// Opens the history and returns whether it answers. Waits at most 10 s for a server that is down; then its calls fail
/// with [`HistoryError::Unavailable`] until it is back. Refuses a server that is too old and a schema that is newer.
pub async fn history_even_if_down(config: &Config) -> Result<(Arc<dyn History>, Result<(), String>), Failure> {
    match config.history.backend {
        history::Backend::Embedded => {
            let path = config.data_dir.join("history.db");
            let opened = tokio::task::spawn_blocking(move || EmbeddedHistory::open(&path)).await;
            match opened.context("open the history")? {
                Ok(history) => Ok((Arc::new(history), Ok(()))),
                Err(HistoryError::Unavailable(why)) => Err(Failure::new(IO, anyhow!("open the history: {why}"))),
                Err(HistoryError::Damaged(why)) => Err(Failure::new(DATA, anyhow!("open the history: {why}"))),
                Err(HistoryError::Schema(why) | HistoryError::Data(why)) => {
                    Err(Failure::new(CONFIGURATION, anyhow!("open the history: {why}")))
                }
            }
        }
        history::Backend::Clickhouse => {
            let history = ClickhouseHistory::new(&config.history.clickhouse);
            let until = tokio::time::Instant::now() + OPEN_MAX;
            let mut backoff = Backoff::new(OPEN_RETRY, OPEN_RETRY);
            let answer = loop {
                match tokio::time::timeout_at(until, history.prepare()).await {
                    Ok(Ok(_identity)) => break Ok(()),
                    Ok(Err(HistoryError::Schema(why))) => {
                        return Err(Failure::new(CONFIGURATION, anyhow!("open the history: {why}")));
                    }
                    Ok(Err(error)) if tokio::time::Instant::now() >= until => break Err(error.to_string()),
                    Ok(Err(why)) => {
                        tracing::debug!("history does not answer yet: {why}");
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                    Err(_elapsed) => break Err(format!("no answer within {} s", OPEN_MAX.as_secs())),
                }
            };
            Ok((Arc::new(history), answer))
        }
    }
}

/// The place of sealed days: `output` if it is given, else `[seal] to`.
pub fn sealed_days(config: &Config, output: Option<&Path>) -> Result<Arc<dyn Place>, Failure> {
    let to = output.or(config.seal.to.as_deref()).ok_or_else(|| {
        let why = "nothing says where sealed days go: name a directory with --output, or set `to` under [seal]";
        Failure::new(CONFIGURATION, anyhow!(why))
    })?;
    if to.to_string_lossy().contains("://") {
        let why = anyhow!("{}: sealed days go to a directory: copy it to an object store", to.display());
        return Err(Failure::new(USAGE, why));
    }
    Ok(Arc::new(seal::Directory::new(to)))
}

/// One store's answer to a ping.
#[derive(Debug, serde::Serialize)]
pub struct StorePing {
    /// `log`, `history` or `cache`.
    pub store: &'static str,
    /// Where the store is.
    pub place: String,
    /// Its name and version; absent when it does not answer.
    pub version: Option<String>,
    /// Topics, tables or functions that it lacks and that the service creates at start.
    pub missing: Vec<String>,
    /// Why the service cannot use it.
    pub error: Option<String>,
}

/// Reads the name and version of every configured store; changes nothing there.
pub async fn ping(config: &Config) -> Vec<StorePing> {
    let answer = |store, place, answer: Result<(String, Vec<String>), String>| match answer {
        Ok((version, missing)) => StorePing { store, place, version: Some(version), missing, error: None },
        Err(error) => StorePing { store, place, version: None, missing: Vec::new(), error: Some(error) },
    };
    let file = |name: &str| (format!("{}", config.data_dir.join(name).display()), Ok(("embedded".to_owned(), vec![])));
    let (place, log) = match config.log.backend {
        log::Backend::Embedded => file("log.db"),
        log::Backend::Kafka => (config.log.kafka.brokers.clone(), with_timeout(KafkaLog::inspect(&config.log)).await),
    };
    let log = answer("log", place, log);
    let (place, history) = match config.history.backend {
        history::Backend::Embedded => file("history.db"),
        history::Backend::Clickhouse => {
            let options = &config.history.clickhouse;
            (options.url.clone(), with_timeout(ClickhouseHistory::inspect(options)).await)
        }
    };
    let history = answer("history", place, history);
    let (place, cache) = match config.cache.backend {
        cache::Backend::Embedded => ("memory".to_owned(), Ok(("embedded".to_owned(), vec![]))),
        cache::Backend::Redis => {
            let options = &config.cache.redis;
            let place = match &options.nodes[..] {
                [] => without_password(&options.url),
                nodes => nodes.iter().map(|url| without_password(url)).collect::<Vec<_>>().join(", "),
            };
            (place, with_timeout(RedisCache::inspect(options)).await)
        }
    };
    vec![log, history, answer("cache", place, cache)]
}

async fn with_timeout<T, E: std::fmt::Display>(asked: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(OPEN_MAX, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {} s", OPEN_MAX.as_secs())),
    }
}

/// A URL without its user and password.
pub fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

/// The size and time at which consume seals a batch, for the configured history.
pub fn batch_options(config: &Config) -> consume::Options {
    match config.history.backend {
        history::Backend::Embedded => consume::Options::default(),
        history::Backend::Clickhouse => {
            let history::ClickhouseOptions { batch_rows, batch_bytes, batch_time, .. } = config.history.clickhouse;
            consume::Options { batch_rows, batch_bytes, batch_time }
        }
    }
}

/// Opens the cache. When the server is down, its calls fail, not this function.
pub fn cache(config: &Config) -> Result<Arc<dyn Cache>, Failure> {
    match config.cache.backend {
        cache::Backend::Embedded => Ok(Arc::new(EmbeddedCache::new())),
        cache::Backend::Redis => match RedisCache::connect(&config.cache.redis) {
            Ok(cache) => Ok(Arc::new(cache)),
            Err(error) => Err(Failure::new(CONFIGURATION, anyhow!("open the cache: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_failed_store_says_what_to_do() {
        let code = |error: anyhow::Error| exit_code(&error.context("read trades"));
        assert_eq!(code(HistoryError::Damaged(String::new()).into()), Some(DATA));
        assert_eq!(code(LogError::Damaged(String::new()).into()), Some(DATA));
        assert_eq!(code(HistoryError::Unavailable(String::new()).into()), Some(UNAVAILABLE));
        assert_eq!(code(LogError::Fatal(String::new()).into()), None);
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(without_password("redis://user:p@ss@host:6379/1"), "redis://host:6379/1");
        assert_eq!(without_password("redis://host:6379"), "redis://host:6379");
    }

    #[test]
    fn a_recorder_keeps_its_name() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(recorder_id(directory.path(), "east").unwrap(), "east");
        let name = recorder_id(directory.path(), "").unwrap();
        assert!(name.starts_with("tapekeeper-"), "{name}");
        assert_eq!(recorder_id(directory.path(), "").unwrap(), name);
        fs::write(directory.path().join("recorder_id"), "").unwrap();
        assert_ne!(recorder_id(directory.path(), "").unwrap(), "");
    }
}
