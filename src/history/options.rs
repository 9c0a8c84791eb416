//! What a user may set about history.

use std::time::Duration;

/// Which history.
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
    /// Which history.
    pub backend: Backend,
    /// `[history.clickhouse]`.
    pub clickhouse: ClickhouseOptions,
}

/// `[history.clickhouse]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickhouseOptions {
    /// Its HTTP interface.
    pub url: String,
    /// Created when missing.
    pub database: String,
    /// Who we are there.
    pub user: String,
    /// And how it knows.
    pub password: Option<String>,
    /// A batch is inserted at so many rows,
    pub batch_rows: usize,
    /// or so many bytes,
    pub batch_bytes: usize,
    /// or at this age.
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
