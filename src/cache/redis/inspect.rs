//! Inspects a Redis server or cluster: its version, and what the recorder needs there. It changes nothing.

use redis::{Cmd, RedisResult, Value, from_redis_value};

use super::connection::Connection;
use super::redis_error;
use crate::cache::CacheError;

/// The library's name, as in its first line.
const LIBRARY_NAME: &str = "tapekeeper_1";
/// The number of hash slots of a cluster.
const SLOTS: &str = "16384";

/// Returns a line that describes the server or cluster, and a line for each missing item.
pub(super) async fn inspect(connection: &Connection) -> Result<(String, Vec<String>), CacheError> {
    let infos = infos(connection).await?;
    let version = version_of(&infos);
    let is_cluster = infos.first().is_some_and(|(_, info)| field(info, "redis_mode") == Some("cluster"));
    let (line, mut missing) = match connection {
        Connection::Server(_) if is_cluster => {
            let why = "this server is part of a cluster: write `nodes = [...]` under [cache.redis] in place of `url`";
            return Err(CacheError(format!("{version}: {why}")));
        }
        Connection::Server(_) => (version.clone(), Vec::new()),
        Connection::Cluster(_) => {
            cluster(connection, &version, infos.iter().map(|(node, _)| node.as_str()).collect()).await?
        }
    };
    let mut command = redis::cmd("FUNCTION");
    command.arg("LIST").arg("LIBRARYNAME").arg(LIBRARY_NAME);
    let libraries = match connection.send_to_all(&command).await {
        Ok(libraries) => libraries,
        Err(error) if error.to_string().contains("unknown command") => {
            return Err(CacheError(format!("{version} has no functions: Redis 7.0 or newer is needed")));
        }
        Err(error) => return Err(redis_error("look up the function", &error)),
    };
    for (node, found) in libraries {
        if !matches!(found, Value::Array(found) if !found.is_empty()) {
            let at = if node.is_empty() { String::new() } else { format!(" at {node}") };
            missing.push(format!("our function{at}: the first write loads it"));
        }
    }
    Ok((line, missing))
}

/// The version, as `redis 7.0.15`; in a cluster that of one node.
pub(super) async fn version(connection: &Connection) -> Result<String, CacheError> {
    Ok(version_of(&infos(connection).await?))
}

fn version_of(infos: &[(String, String)]) -> String {
    let version = infos.first().and_then(|(_, info)| field(info, "redis_version"));
    format!("redis {}", version.unwrap_or("of unknown version"))
}

async fn infos(connection: &Connection) -> Result<Vec<(String, String)>, CacheError> {
    texts(connection, "read the version", super::with_arg("INFO", "server")).await
}

/// The line that describes a cluster. Fails if a node reports that the cluster is down.
async fn cluster(
    connection: &Connection,
    version: &str,
    mut primaries: Vec<&str>,
) -> Result<(String, Vec<String>), CacheError> {
    primaries.sort_unstable();
    let line = format!("{version}, a cluster of {} primaries: {}", primaries.len(), primaries.join(", "));
    let mut command = redis::cmd("CLUSTER");
    command.arg("INFO");
    let states = texts(connection, "read the cluster's state", command).await?;
    for (node, info) in &states {
        if field(info, "cluster_state") != Some("ok") {
            let slots = field(info, "cluster_slots_ok").unwrap_or("0");
            return Err(CacheError(format!(
                "{line}: {node} reports that the cluster is down: {slots} of {SLOTS} slots are served"
            )));
        }
    }
    Ok((line, Vec::new()))
}

async fn texts(connection: &Connection, what: &str, command: Cmd) -> Result<Vec<(String, String)>, CacheError> {
    let answers = connection.send_to_all(&command).await.map_err(|error| redis_error(what, &error))?;
    let text = |(node, answer)| Ok((node, from_redis_value(answer)?));
    let texts: RedisResult<Vec<(String, String)>> = answers.into_iter().map(text).collect();
    texts.map_err(|error| redis_error(what, &error))
}

/// A field of the response to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
