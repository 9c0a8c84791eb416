//! One ClickHouse server: every request has a time limit, and every answer is doubted.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::{Client, RowOwned, RowRead};

use super::http::Http;
use super::{compress, tunnel};
use crate::history::{ClickhouseOptions, HistoryError};

/// The longest query: one that counts years of a stream.
const QUERY_MAX: Duration = Duration::from_secs(60);
/// The same limit for the server, which then ends the query itself.
const EXECUTION_SECONDS_MAX: &str = "60";
/// How much longer the recorder waits for that answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The longest insert: a busy disk syncs late, and an early retry would only double its work.
const INSERT_MAX: Duration = Duration::from_secs(60);
/// The longest change of a table or removal of rows.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// The longest statement of a migration: it copies years of trades at a million rows a second or more.
const MIGRATION_MAX: Duration = Duration::from_secs(86_400);
/// The largest query text. It contains keys, and the default of 256 KiB would limit them to 8,000.
const QUERY_BYTES_MAX: &str = "67108864";

/// A server and its database.
pub(super) struct Server {
    http: Arc<Http>,
    /// Reads, through the tunnel.
    reader: Client,
    /// The quoted name of the database.
    pub(super) database: String,
    plain_database: String,
    /// The epoch of trades to read; `None` is the newest of each symbol.
    pub(super) epoch: Option<i64>,
    url: String,
}

/// Whether an answer to an insert proves that the rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The answer is ClickHouse's own.
    Answered,
    /// It may be a proxy's: it lacks the header that ClickHouse adds.
    Missing,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).field("database", &self.database).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(options: &ClickhouseOptions) -> Self {
        let database = format!("`{}`", options.database.replace('\\', "\\\\").replace('`', "\\`"));
        let http = Arc::new(Http::new(options));
        let reader = tunnel::client(&http)
            .with_setting("max_query_size", QUERY_BYTES_MAX)
            .with_setting("max_execution_time", EXECUTION_SECONDS_MAX)
            .with_setting("cancel_http_readonly_queries_on_client_close", "1");
        let (plain_database, url) = (options.database.clone(), options.url.clone());
        Self { http, reader, database, plain_database, epoch: None, url }
    }

    /// The name of the database without quotes.
    pub(super) fn plain_database(&self) -> &str {
        &self.plain_database
    }

    /// The database and the URL, for messages.
    pub(super) fn name(&self) -> String {
        format!("database {} at {}", self.database, self.url)
    }

    /// Runs a query and returns its rows. Dropping the future ends the query on the server.
    pub(super) async fn rows<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>, HistoryError> {
        // Raw, because a question mark in a symbol is not a placeholder.
        let rows = self.reader.query_raw(sql).fetch_all();
        with_timeout(QUERY_MAX + ANSWER_MAX, async { rows.await.map_err(|error| self.unreadable(error)) }).await
    }

    /// Always an outage: a read says nothing about the rows of a batch.
    fn unreadable(&self, error: Error) -> HistoryError {
        HistoryError::Unavailable(match error {
            // What the tunnel has refused.
            Error::BadResponse(why) => why,
            // Somebody has changed a column, and may change it back.
            error => format!("the answer of {} is not the expected one: {error}", self.name()),
        })
    }

    /// Runs a query and returns its only row.
    pub(super) async fn one<T: RowOwned + RowRead>(&self, sql: &str) -> Result<T, HistoryError> {
        let mut rows = self.rows(sql).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            (None, _) => Err(HistoryError::Unavailable("the answer has no row in place of one".to_owned())),
            (Some(_), false) => {
                Err(HistoryError::Unavailable(format!("the answer has {} rows in place of one", rows.len() + 1)))
            }
        }
    }

    /// Runs a statement without a result.
    pub(super) async fn command(&self, sql: &str) -> Result<(), HistoryError> {
        with_timeout(COMMAND_MAX, self.http.post(&[], sql.as_bytes().to_vec())).await?.refuse_body()
    }

    /// Runs a statement of a migration, which may copy a whole table.
    pub(super) async fn migrate(&self, sql: &str) -> Result<(), HistoryError> {
        with_timeout(MIGRATION_MAX, self.http.post(&[], sql.as_bytes().to_vec())).await?.refuse_body()
    }

    /// Inserts rows in RowBinaryWithNamesAndTypes; they are on disk when it returns [`Proof::Answered`] (by a setting of
    /// the tables). The server stores the same rows with the same token once; without a token it stores them again.
    pub(super) async fn insert(
        &self,
        table: &str,
        columns: &str,
        token: &str,
        rows: &[u8],
    ) -> Result<Proof, HistoryError> {
        let sql = format!("INSERT INTO {}.{table} ({columns}) FORMAT RowBinaryWithNamesAndTypes", self.database);
        // A recreated log repeats its offsets, and so its tokens, with other rows: the hash distinguishes them.
        let mut hasher = DefaultHasher::new();
        hasher.write(rows);
        let token = (!token.is_empty()).then(|| format!("{table} {token} {:016x}", hasher.finish()));
        let mut parameters = vec![
            ("query", sql.as_str()),
            ("decompress", "1"),
            // On by default since 26.2: the response would only mean that the rows are in a buffer.
            ("async_insert", "0"),
            // A backfill of daily klines inserts rows of thousands of days, each a partition.
            ("max_partitions_per_insert_block", "0"),
            ("insert_deduplicate", if token.is_some() { "1" } else { "0" }),
        ];
        if let Some(token) = &token {
            parameters.push(("insert_deduplication_token", token));
        }
        let answer = with_timeout(INSERT_MAX, self.http.post(&parameters, compress::compress(rows))).await?;
        answer.refuse_body()?;
        Ok(if answer.has_query_id { Proof::Answered } else { Proof::Missing })
    }
}

async fn with_timeout<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, HistoryError>>,
) -> Result<T, HistoryError> {
    let late = |_elapsed| HistoryError::Unavailable(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, request).await.map_err(late)?
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
