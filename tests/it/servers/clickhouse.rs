//! The ClickHouse engine behind `tests/servers/clickhouse/front.py`, on disk; it can be killed and restarted.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tapekeeper::history::ClickhouseOptions;

use super::{Server, listens, prepare, scripts};

static PYTHON: LazyLock<Option<PathBuf>> = LazyLock::new(|| prepare("clickhouse"));
static SHARED: LazyLock<Option<Clickhouse>> = LazyLock::new(Clickhouse::start);

/// A ClickHouse server.
pub struct Clickhouse {
    pub server: Server,
    databases: AtomicU32,
}

impl Clickhouse {
    /// Starts a server that the caller may kill and restart; `None` when none is available here.
    pub fn start() -> Option<Self> {
        let arguments = |port: u16, directory: &std::path::Path| {
            let front = scripts().join("clickhouse/front.py");
            [front.display().to_string(), port.to_string(), directory.display().to_string()].into()
        };
        let server = Server::start("clickhouse", PYTHON.clone()?, arguments, listens);
        Some(Self { server, databases: AtomicU32::new(0) })
    }

    /// The server that all tests share; it ends with the process.
    pub fn shared() -> Option<&'static Self> {
        SHARED.as_ref()
    }

    /// The options of a database that does not exist yet.
    pub fn database(&self) -> ClickhouseOptions {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        ClickhouseOptions {
            url: format!("http://127.0.0.1:{}", self.server.port),
            database: format!("keeper-{number}"),
            ..ClickhouseOptions::default()
        }
    }
}
