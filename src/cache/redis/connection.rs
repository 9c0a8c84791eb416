//! The connection to Redis: one server or a cluster.
//!
//! In a cluster each command names one key and is sent separately, concurrently with the others: the client sends it to
//! the primary of the key's slot and follows MOVED and ASK. A pipeline cannot do that: it stays on one node, and a slot
//! that is being moved would accept only its first command.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{Cmd, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult, Value};
use tokio::sync::Mutex;

use crate::cache::RedisOptions;

/// The longest connection attempt.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// The longest wait for a response. It is below the limit of the write-behind loop, so that the loop gets the reason.
const RESPONSE_MAX: Duration = Duration::from_secs(4);
/// The retries of a command by the cluster client: enough to follow a slot that moves twice. When a node is down the
/// caller retries later, after its replica may have taken over.
const REDIRECTS_MAX: u32 = 4;

/// A connection that reconnects by itself.
#[derive(Clone)]
pub(super) enum Connection {
    /// To one server.
    Server(ConnectionManager),
    /// To every primary of a cluster.
    Cluster(Cluster),
}

/// A cluster, connected at first use.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Arc<ClusterClient>,
    /// Dropped when it may have lost all nodes; the next call connects to the nodes of the configuration again.
    connection: Arc<Mutex<Option<ClusterConnection>>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Server(_)) { "Server" } else { "Cluster" })
    }
}

impl Connection {
    /// Does not connect yet. Fails on an invalid URL.
    pub(super) fn new(options: &RedisOptions) -> RedisResult<Self> {
        if options.nodes.is_empty() {
            let config = ConnectionManagerConfig::new()
                // The callers retry, so each attempt must end soon.
                .set_number_of_retries(0)
                .set_connection_timeout(Some(CONNECT_MAX))
                .set_response_timeout(Some(RESPONSE_MAX));
            let client = redis::Client::open(connection_info(&options.url, options)?)?;
            return Ok(Self::Server(ConnectionManager::new_lazy_with_config(client, config)?));
        }
        let nodes: RedisResult<Vec<ConnectionInfo>> =
            options.nodes.iter().map(|url| connection_info(url, options)).collect();
        let client = ClusterClient::builder(nodes?)
            .retries(REDIRECTS_MAX)
            .connection_timeout(CONNECT_MAX)
            .response_timeout(RESPONSE_MAX)
            .overall_response_timeout(Some(RESPONSE_MAX))
            .build()?;
        Ok(Self::Cluster(Cluster { client: Arc::new(client), connection: Arc::default() }))
    }

    /// Sends commands; returns their responses in the same order. After an outer error it is unknown which of them ran.
    pub(super) async fn send<T: FromRedisValue>(&self, commands: &[Cmd]) -> RedisResult<Vec<RedisResult<T>>> {
        match self {
            Self::Server(connection) => {
                let mut pipeline = redis::pipe();
                pipeline.ignore_errors();
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let first = pipeline.query_async(&mut connection.clone()).await;
                match first {
                    // The connection may have been lost before this call, and only a call notices that.
                    Err(error) if error.is_io_error() && !error.is_timeout() => {
                        pipeline.query_async(&mut connection.clone()).await
                    }
                    answer => answer,
                }
            }
            Self::Cluster(cluster) => {
                let connection = cluster.connection().await?;
                let futures = commands.iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { command.query_async(&mut connection).await }
                });
                let answers: Vec<RedisResult<T>> = join_all(futures).await;
                if answers.iter().any(|answer| answer.as_ref().is_err_and(is_connection_lost)) {
                    cluster.disconnect().await;
                }
                Ok(answers)
            }
        }
    }

    /// Sends a command to every primary; returns the responses with the addresses (empty for a single server).
    pub(super) async fn send_to_all(&self, command: &Cmd) -> RedisResult<Vec<(String, Value)>> {
        match self {
            Self::Server(_) => {
                let answer = self.send(std::slice::from_ref(command)).await?.pop();
                let answer = answer.unwrap_or_else(|| Ok(Value::Nil))?;
                Ok(vec![(String::new(), answer)])
            }
            Self::Cluster(cluster) => {
                let mut connection = cluster.connection().await?;
                let routing = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let answer = connection.route_command(command.clone(), routing).await;
                if answer.as_ref().is_err_and(is_connection_lost) {
                    cluster.disconnect().await;
                }
                let Value::Map(answers) = answer? else {
                    return Err((ErrorKind::UnexpectedReturnType, "the response is not a map of nodes").into());
                };
                let named = |(node, answer)| Ok((String::from_redis_value(node)?, answer));
                answers.into_iter().map(named).collect()
            }
        }
    }
}

impl Cluster {
    async fn connection(&self) -> RedisResult<ClusterConnection> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let connecting = tokio::time::timeout(RESPONSE_MAX, self.client.get_async_connection());
        let late = |_elapsed| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let connection = connecting.await.map_err(late)??;
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn disconnect(&self) {
        self.connection.lock().await.take();
    }
}

/// Whether the client may have lost its connections to the cluster.
fn is_connection_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.kind() == ErrorKind::ClusterConnectionNotFound
}

fn connection_info(url: &str, options: &RedisOptions) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    let Some(password) = &options.password else { return Ok(info) };
    let settings = info.redis_settings().clone().set_password(password);
    Ok(info.set_redis_settings(settings))
}
