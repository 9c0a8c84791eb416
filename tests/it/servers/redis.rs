//! Redis without persistence: a restart has lost everything, the function too.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tapekeeper::cache::RedisOptions;

use super::{Server, listens, prepare};

static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| prepare("redis"));
static SHARED: LazyLock<Option<Redis>> = LazyLock::new(Redis::start);

/// A Redis server.
pub struct Redis {
    pub server: Server,
    databases: AtomicU32,
}

impl Redis {
    /// One for the caller alone, to kill and restart; `None` when there is none here.
    pub fn start() -> Option<Self> {
        let arguments = |port: u16, directory: &std::path::Path| {
            let settings = format!(
                "--port {port} --bind 127.0.0.1 --save - --appendonly no --databases 10000 --logfile {} --dir {}",
                directory.join("redis.log").display(),
                directory.display()
            );
            settings.split(' ').map(|word| if word == "-" { String::new() } else { word.to_owned() }).collect()
        };
        let server = Server::start("redis", PROGRAM.clone()?, arguments, listens);
        Some(Self { server, databases: AtomicU32::new(0) })
    }

    /// The one that all tests share; ends with the process.
    pub fn shared() -> Option<&'static Self> {
        SHARED.as_ref()
    }

    /// An empty database of it.
    pub fn database(&self) -> RedisOptions {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        RedisOptions { url: format!("redis://127.0.0.1:{}/{number}", self.server.port), password: None }
    }
}
