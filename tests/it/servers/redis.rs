//! Redis without persistence: a restart loses everything, the function too.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tapekeeper::cache::RedisOptions;

use super::{Server, listens, prepare};

static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| prepare("redis"));
static SHARED: LazyLock<Option<Redis>> = LazyLock::new(Redis::start);

/// The arguments of a server without persistence.
pub(super) fn settings(port: u16, directory: &Path, more: &str) -> Vec<String> {
    let settings = format!(
        "--port {port} --bind 127.0.0.1 --save - --appendonly no --logfile {} --dir {} {more}",
        directory.join("redis.log").display(),
        directory.display()
    );
    settings.split(' ').map(|word| if word == "-" { String::new() } else { word.to_owned() }).collect()
}

/// The program; `None` when it is not available here.
pub(super) fn program() -> Option<PathBuf> {
    PROGRAM.clone()
}

/// A Redis server.
pub struct Redis {
    pub server: Server,
    databases: AtomicU32,
}

impl Redis {
    /// Starts a server that the caller may kill and restart; `None` when none is available here.
    pub fn start() -> Option<Self> {
        let arguments = |port: u16, directory: &Path| settings(port, directory, "--databases 10000");
        let server = Server::start("redis", program()?, arguments, listens);
        Some(Self { server, databases: AtomicU32::new(0) })
    }

    /// The server that all tests share; it ends with the process.
    pub fn shared() -> Option<&'static Self> {
        SHARED.as_ref()
    }

    /// The options of an empty database.
    pub fn database(&self) -> RedisOptions {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let url = format!("redis://127.0.0.1:{}/{number}", self.server.port);
        RedisOptions { url, ..RedisOptions::default() }
    }
}
