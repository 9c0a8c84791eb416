//! The user's settings of history.

use std::time::Duration;

/// The backend of history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// One file, `{data_dir}/history.db`.
    #[default]
    Embedded,
    /// ClickHouse.
    Clickhouse,
}

/// `[history]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The backend.
    pub backend: Backend,
    /// `[history.clickhouse]`.
    pub clickhouse: ClickhouseOptions,
}

/// `[history.clickhouse]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickhouseOptions {
    /// The URL of the HTTP interface.
    pub url: String,
    /// The database; created if it does not exist.
    pub database: String,
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Option<String>,
    /// The recorder inserts a batch when it has this many rows,
    pub batch_rows: usize,
    /// or this many bytes,
    pub batch_bytes: usize,
    /// or is this old.
    pub batch_time: Duration,
}

impl Default for ClickhouseOptions {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".to_owned(),
            database: "tapekeeper".to_owned(),
            user: "default".to_owned(),
            password: None,
            batch_rows: 50_000,
            batch_bytes: 8 << 20,
            batch_time: Duration::from_millis(500),
        }
    }
}
