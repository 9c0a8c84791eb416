//! The HTTP client of one ClickHouse server: every request has a time limit, and every error is classified.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::{Client, RowOwned, RowRead};

use super::failure::classify;
use crate::history::{ClickhouseOptions, HistoryError};

/// The longest query: one that counts years of a stream.
const QUERY_MAX: Duration = Duration::from_secs(60);
/// The longest insert: a busy disk syncs late, and an early retry would only double its work.
const INSERT_MAX: Duration = Duration::from_secs(60);
/// The longest change of a table or removal of rows.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// Bytes that are compressed and sent together.
const CHUNK_BYTES: usize = 1 << 20;
/// The largest query text. It contains keys, and the default of 256 KiB would limit them to 8,000.
const QUERY_BYTES_MAX: &str = "67108864";

/// A server and its database.
pub(super) struct Server {
    client: Client,
    /// The quoted name of the database.
    pub(super) database: String,
    plain_database: String,
    url: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).field("database", &self.database).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(options: &ClickhouseOptions) -> Self {
        let mut client = Client::default()
            .with_url(&options.url)
            .with_user(&options.user)
            .with_product_info("tapekeeper", env!("CARGO_PKG_VERSION"));
        if let Some(password) = &options.password {
            client = client.with_password(password);
        }
        let database = format!("`{}`", options.database.replace('\\', "\\\\").replace('`', "\\`"));
        Self { client, database, plain_database: options.database.clone(), url: options.url.clone() }
    }

    /// The name of the database without quotes.
    pub(super) fn plain_database(&self) -> &str {
        &self.plain_database
    }

    /// The database and the URL, for messages.
    pub(super) fn name(&self) -> String {
        format!("database {} at {}", self.database, self.url)
    }

    /// Runs a query and returns its rows.
    pub(super) async fn rows<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>, HistoryError> {
        // Raw, because a question mark in a symbol is not a placeholder.
        let query = self.client.query_raw(sql).with_setting("max_query_size", QUERY_BYTES_MAX);
        with_timeout(QUERY_MAX, query.fetch_all::<T>()).await
    }

    /// Runs a query and returns its only row.
    pub(super) async fn one<T: RowOwned + RowRead>(&self, sql: &str) -> Result<T, HistoryError> {
        with_timeout(QUERY_MAX, self.client.query_raw(sql).fetch_one::<T>()).await
    }

    /// Runs a statement without a result.
    pub(super) async fn command(&self, sql: &str) -> Result<(), HistoryError> {
        with_timeout(COMMAND_MAX, self.client.query_raw(sql).execute()).await
    }

    /// Inserts rows in RowBinaryWithNamesAndTypes; they are on disk when it returns (by a setting of the tables). The
    /// server stores the same rows with the same token once; without a token it stores them again.
    pub(super) async fn insert(
        &self,
        table: &str,
        columns: &str,
        token: &str,
        rows: Vec<u8>,
    ) -> Result<(), HistoryError> {
        let sql = format!("INSERT INTO {}.{table} ({columns}) FORMAT RowBinaryWithNamesAndTypes", self.database);
        let mut insert = self
            .client
            .insert_formatted_with(sql)
            // On by default since 26.2: the response would only mean that the rows are in a buffer.
            .with_setting("async_insert", "0")
            // A backfill of daily klines inserts rows of thousands of days, each a partition.
            .with_setting("max_partitions_per_insert_block", "0");
        insert = if token.is_empty() {
            insert.with_setting("insert_deduplicate", "0")
        } else {
            // A recreated log repeats its offsets, and so its tokens, with other rows: the hash distinguishes them.
            let mut hasher = DefaultHasher::new();
            hasher.write(&rows);
            insert
                .with_setting("insert_deduplicate", "1")
                .with_setting("insert_deduplication_token", format!("{table} {token} {:016x}", hasher.finish()))
        };
        with_timeout(INSERT_MAX, async move {
            let mut rest = Bytes::from(rows);
            while !rest.is_empty() {
                insert.send(rest.split_to(rest.len().min(CHUNK_BYTES))).await?;
            }
            insert.end().await
        })
        .await
    }
}

async fn with_timeout<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, clickhouse::error::Error>>,
) -> Result<T, HistoryError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(classify),
        Err(_elapsed) => Err(HistoryError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// A text as an SQL literal.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Texts as SQL literals, separated by commas.
pub(super) fn quote_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(quote).collect::<Vec<_>>().join(",")
}

/// A time as an SQL literal of the columns' type.
pub(super) fn time(at: crate::market::Timestamp) -> String {
    format!("fromUnixTimestamp64Micro({}, 'UTC')", at.micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_escaped() {
        assert_eq!(quote("BTC'; DROP TABLE x --\\"), "'BTC\\'; DROP TABLE x --\\\\'");
        assert_eq!(quote_all(["A", "B"]), "'A','B'");
    }
}
