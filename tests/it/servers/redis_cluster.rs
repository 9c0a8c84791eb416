//! A Redis Cluster on loopback: three primaries, each with a replica that takes over within seconds.

use std::path::Path;
use std::time::{Duration, Instant};

use redis::{ConnectionLike, FromRedisValue};
use tapekeeper::cache::RedisOptions;

use super::redis::{program, settings};
use super::{POLL_EVERY, READY_MAX, Server, free_port, listens};

/// The number of primaries.
const PRIMARIES: usize = 3;
/// The number of slots of every cluster.
const SLOTS: usize = 16_384;

/// Six servers: the primaries, then their replicas in the same order.
pub struct RedisCluster {
    pub nodes: Vec<Server>,
}

impl RedisCluster {
    /// Starts a cluster for the caller alone; `None` when Redis is not available here.
    pub fn start() -> Option<Self> {
        let program = program()?;
        // The bus gets a port of its own: the default, 10,000 higher, may be above 65,535 or in use.
        let buses: Vec<u16> = (0..2 * PRIMARIES).map(|_| free_port()).collect();
        let start = |bus: &u16| {
            let more = format!("--cluster-enabled yes --cluster-node-timeout 1000 --cluster-port {bus}");
            let arguments = |port: u16, directory: &Path| settings(port, directory, &more);
            Server::start("redis", program.clone(), arguments, listens)
        };
        let cluster = Self { nodes: buses.iter().map(start).collect() };
        let port = cluster.nodes[0].port;
        for (at, (node, bus)) in cluster.nodes.iter().zip(&buses).enumerate() {
            if at < PRIMARIES {
                let (first, last) = (at * SLOTS / PRIMARIES, (at + 1) * SLOTS / PRIMARIES - 1);
                run_command::<String>(node.port, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
            run_command::<String>(node.port, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
            if at > 0 {
                run_command::<String>(
                    port,
                    &["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus.to_string()],
                );
            }
        }
        cluster.wait_for("all know each other", || cluster.all_report("cluster_known_nodes:6"));
        for at in PRIMARIES..2 * PRIMARIES {
            let primary: String = run_command(cluster.nodes[at - PRIMARIES].port, &["CLUSTER", "MYID"]);
            cluster.wait_for("a replica knows its primary", || {
                try_command::<String>(cluster.nodes[at].port, &["CLUSTER", "REPLICATE", &primary]).is_ok()
            });
        }
        cluster.wait_until_ready();
        Some(cluster)
    }

    /// Waits until all slots are served and every replica follows.
    pub fn wait_until_ready(&self) {
        self.wait_for("the cluster is whole", || self.all_report("cluster_state:ok"));
        self.wait_for("the replicas follow", || {
            self.nodes.iter().all(|node| {
                let info = try_command::<String>(node.port, &["INFO", "replication"]).unwrap_or_default();
                info.contains("role:master") || info.contains("master_link_status:up")
            })
        });
    }

    /// The options that name all nodes.
    pub fn options(&self) -> RedisOptions {
        let nodes = self.nodes.iter().map(|node| format!("redis://127.0.0.1:{}", node.port));
        RedisOptions { nodes: nodes.collect(), ..RedisOptions::default() }
    }

    /// The primary that serves a key.
    pub fn primary_of(&self, key: &str) -> &Server {
        let serves = |node: &&Server| {
            let answer = try_command::<Vec<String>>(node.port, &["HKEYS", key]);
            let role = try_command::<String>(node.port, &["INFO", "replication"]).unwrap_or_default();
            answer.is_ok() && role.contains("role:master")
        };
        self.nodes.iter().find(serves).expect("a served key has a primary")
    }

    /// Deletes every key.
    pub fn clear(&self) {
        for node in &self.nodes {
            // A replica refuses the command and follows its primary.
            if let Err(error) = try_command::<String>(node.port, &["FLUSHALL"]) {
                assert!(error.to_string().contains("read only"), "{error}");
            }
        }
    }

    fn all_report(&self, word: &str) -> bool {
        let info = |node: &Server| try_command::<String>(node.port, &["CLUSTER", "INFO"]).unwrap_or_default();
        self.nodes.iter().all(|node| info(node).contains(word))
    }

    /// Waits for a condition.
    pub fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + READY_MAX;
        while !condition() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::park_timeout(POLL_EVERY);
        }
    }
}

/// The answer of one node to one command; follows no redirection.
pub fn try_command<T: FromRedisValue>(port: u16, command: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = redis::cmd(command[0]);
    request.arg(&command[1..]);
    let value = connection.req_command(&request)?.extract_error()?;
    Ok(redis::from_redis_value(value)?)
}

/// The same for a node that must answer.
pub fn run_command<T: FromRedisValue>(port: u16, command: &[&str]) -> T {
    try_command(port, command).unwrap_or_else(|error| panic!("{command:?} at {port}: {error}"))
}
