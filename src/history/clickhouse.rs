//! History in ClickHouse 24.8 or newer, over HTTP.
//!
//! Every table is a ReplacingMergeTree on its key: merges collapse the copies of a row, and reads use FINAL, so they
//! never see copies. An insert is durable when the server itself has answered: with a status of 2xx, its header
//! `X-ClickHouse-Query-Id`, no exception and an empty body. Where a proxy removes that header, the recorder reads the
//! rows back. A failed insert may be stored in part: the caller inserts the same batch again, and the server keeps one
//! copy of each block.
//!
//! Reads go through the `clickhouse` crate, which compares the columns of an answer with the struct of the rows; `tunnel`
//! says why its connections end inside this process. Inserts and changes of tables are our own requests, because the
//! crate does not show the headers that prove them.
//!
//! The server may be down at construction: the first call that reaches it creates the missing tables.

mod compress;
mod coverage;
mod encode;
mod failure;
mod http;
mod ledger;
mod lookup;
mod per_minute;
mod proof;
mod retention;
mod runs;
mod schema;
mod server;
mod tunnel;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::trade_table::TradeTable;
use super::{
    Batch, ClickhouseOptions, ConflictRow, Count, CoverageDay, DeadLetter, EpochRow, GapFilter, History, HistoryError,
    JobRun, KlineRow, LedgerStore, MinuteCount, Retention, RowStore, RunStore, TradeRow, Watermark, WindowCount,
};
use crate::gap::{Gap, Range};
use crate::market::{Channel, Exchange, Interval, Stream, Symbol, Timestamp};
use encode::{Columns, Encoded};
use proof::Written;
use server::{Proof, Server};

/// History in a ClickHouse database.
#[derive(Debug)]
pub struct ClickhouseHistory {
    server: Server,
    options: ClickhouseOptions,
    /// Set when the server is new enough and its schema is up to date.
    identity: OnceCell<String>,
    closed: AtomicBool,
}

impl ClickhouseHistory {
    /// History at `options.url`, which may be down. Each call prepares the store unless an earlier one has done it.
    pub fn new(options: &ClickhouseOptions) -> Self {
        Self {
            server: Server::new(options),
            options: options.clone(),
            identity: OnceCell::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Inspects the server without changing it. Returns a line that describes it, and a line for each missing item.
    pub async fn inspect(options: &ClickhouseOptions) -> Result<(String, Vec<String>), HistoryError> {
        schema::inspect(&Server::new(options)).await
    }

    /// Whether the database contains a history. Creates nothing.
    pub async fn exists(options: &ClickhouseOptions) -> Result<bool, HistoryError> {
        schema::exists(&Server::new(options)).await
    }

    /// Checks the version of the server, creates the database, migrates its tables and reads the identity. Fails with
    /// [`HistoryError::Schema`] if the server is too old or the schema is newer than this program.
    pub async fn prepare(&self) -> Result<&str, HistoryError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(HistoryError::Unavailable("history is closed".to_owned()));
        }
        Ok(self.identity.get_or_try_init(|| schema::prepare(&self.server)).await?)
    }

    /// Prepares the store; returns its server.
    async fn server(&self) -> Result<&Server, HistoryError> {
        self.prepare().await?;
        Ok(&self.server)
    }

    /// Inserts rows; `written` reads them back when the answer proves nothing.
    async fn put(
        &self,
        table: &str,
        columns: Columns,
        token: &str,
        rows: Encoded,
        written: impl FnOnce() -> Written,
    ) -> Result<(), HistoryError> {
        match self.server.insert(table, &encode::names(columns), token, &rows.into_bytes()).await? {
            Proof::Answered => Ok(()),
            Proof::Missing => written().prove(&self.server).await,
        }
    }
}

/// A limit as the number that SQL's LIMIT accepts.
fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[async_trait]
impl RowStore for ClickhouseHistory {
    async fn insert(&self, batch: &Batch) -> Result<(), HistoryError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.prepare().await?;
        let token = batch.token.as_str();
        if !batch.epochs.is_empty() {
            let rows = encode::epochs(&batch.epochs)?;
            self.put("epochs", encode::EPOCHS, token, rows, || proof::epochs(&batch.epochs)).await?;
        }
        // Gaps first: a crash after them leaves a gap row too many, but never a missing range without one.
        if !batch.gaps.is_empty() {
            let rows = encode::gaps(&batch.gaps)?;
            self.put("gaps", encode::GAPS, token, rows, || proof::gaps(&batch.gaps)).await?;
        }
        for table in TradeTable::ALL {
            let trades = batch.trades.iter().filter(|row| row.trade.channel() == table.channel);
            if trades.clone().next().is_some() {
                let rows = encode::trades(table, trades.clone())?;
                let columns = encode::trade_columns(table);
                self.put(table.name, columns, token, rows, || proof::trades(table, trades)).await?;
            }
        }
        if !batch.klines.is_empty() {
            let rows = encode::klines(&batch.klines)?;
            self.put("klines", encode::KLINES, token, rows, || proof::klines(&batch.klines)).await?;
        }
        if !batch.conflicts.is_empty() {
            let rows = encode::conflicts(&batch.conflicts)?;
            self.put("conflicts", encode::CONFLICTS, token, rows, || proof::conflicts(&batch.conflicts)).await?;
        }
        if !batch.dead_letters.is_empty() {
            let rows = encode::dead_letters(&batch.dead_letters);
            let written = || proof::dead_letters(&batch.dead_letters);
            self.put("dead_letters", encode::DEAD_LETTERS, token, rows, written).await?;
        }
        Ok(())
    }

    async fn watermarks(&self, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError> {
        lookup::watermarks(self.server().await?, streams).await
    }

    async fn latest_trades(
        &self,
        exchange: Exchange,
        channel: Channel,
        symbols: &[Symbol],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        lookup::latest_trades(self.server().await?, exchange, channel, symbols).await
    }

    async fn latest_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        intervals: &[Interval],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        lookup::latest_klines(self.server().await?, exchange, symbols, intervals).await
    }

    async fn trades_by_id(
        &self,
        exchange: Exchange,
        channel: Channel,
        keys: &[(Symbol, i64)],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        lookup::trades_by_id(self.server().await?, exchange, channel, keys).await
    }

    async fn klines_by_time(
        &self,
        exchange: Exchange,
        keys: &[(Symbol, Interval, Timestamp)],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        lookup::klines_by_time(self.server().await?, exchange, keys).await
    }

    async fn trades(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<TradeRow>, HistoryError> {
        lookup::trades(self.server().await?, stream, range, limit).await
    }

    async fn klines(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<KlineRow>, HistoryError> {
        let Channel::Kline(interval) = stream.channel else { return Ok(Vec::new()) };
        lookup::klines(self.server().await?, stream, interval, range, limit).await
    }

    async fn count(&self, stream: &Stream, range: Range) -> Result<Count, HistoryError> {
        coverage::count(self.server().await?, stream, range).await
    }

    async fn extent(&self, stream: &Stream) -> Result<Option<Range>, HistoryError> {
        coverage::extent(self.server().await?, stream).await
    }

    async fn missing(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<Range>, HistoryError> {
        coverage::missing(self.server().await?, stream, range, limit).await
    }

    async fn minute_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        since: Timestamp,
    ) -> Result<Vec<KlineRow>, HistoryError> {
        lookup::minute_klines(self.server().await?, exchange, symbols, since).await
    }

    async fn windows(
        &self,
        streams: &[Stream],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Stream, WindowCount)>, HistoryError> {
        window::windows(self.server().await?, streams, from, to).await
    }

    async fn missing_each(
        &self,
        ranges: &[(Stream, Range)],
        limit: usize,
    ) -> Result<Vec<(Stream, Range)>, HistoryError> {
        window::missing_each(self.server().await?, ranges, limit).await
    }

    async fn days(
        &self,
        streams: &[Stream],
        first_day: Option<i64>,
    ) -> Result<Vec<(Stream, CoverageDay)>, HistoryError> {
        coverage::days(self.server().await?, streams, first_day).await
    }

    async fn per_minute(
        &self,
        streams: &[Stream],
        since: Timestamp,
    ) -> Result<Vec<(Stream, MinuteCount)>, HistoryError> {
        per_minute::per_minute(self.server().await?, streams, since).await
    }
}

#[async_trait]
impl LedgerStore for ClickhouseHistory {
    async fn insert_gaps(&self, gaps: &[Gap], token: &str) -> Result<(), HistoryError> {
        self.insert(&Batch::of_gaps(gaps, token)).await
    }

    async fn gaps(&self, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError> {
        ledger::gaps(self.server().await?, filter).await
    }

    async fn epochs(&self) -> Result<Vec<EpochRow>, HistoryError> {
        ledger::epochs(self.server().await?).await
    }

    async fn conflicts(&self, pending_only: bool, limit: usize) -> Result<Vec<ConflictRow>, HistoryError> {
        ledger::conflicts(self.server().await?, pending_only, limit).await
    }
}

#[async_trait]
impl RunStore for ClickhouseHistory {
    async fn dead_letters(&self, recorder: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HistoryError> {
        runs::dead_letters(self.server().await?, recorder, limit).await
    }

    async fn dead_letter_count(&self, recorder: Option<&str>) -> Result<u64, HistoryError> {
        runs::dead_letter_count(self.server().await?, recorder).await
    }

    async fn put_run(&self, run: &JobRun) -> Result<(), HistoryError> {
        self.prepare().await?;
        // No token: the server would drop a run that returns to an earlier state as a duplicate.
        self.put("job_runs", encode::JOB_RUNS, "", encode::job_run(run), || proof::job_run(run)).await
    }

    async fn runs(&self, job: Option<&str>, recorder: Option<&str>, limit: usize) -> Result<Vec<JobRun>, HistoryError> {
        runs::runs(self.server().await?, job, recorder, limit).await
    }
}

#[async_trait]
impl History for ClickhouseHistory {
    async fn identity(&self) -> Result<String, HistoryError> {
        self.prepare().await.map(str::to_owned)
    }

    fn epoch(&self) -> Option<i64> {
        self.server.epoch
    }

    fn at_epoch(&self, epoch: i64) -> Arc<dyn History> {
        let mut history = Self::new(&self.options);
        history.server.epoch = Some(epoch);
        Arc::new(history)
    }

    async fn retain(&self, retention: &Retention) -> Result<u64, HistoryError> {
        let server = self.server().await?;
        let mut removed = 0;
        if let Some(before) = retention.dead_letters_before {
            removed += retention::remove(server, "dead_letters", "received_at", before).await?;
        }
        if let Some(before) = retention.runs_before {
            removed += retention::remove(server, "job_runs", "scheduled_at", before).await?;
        }
        if let Some(kept) = retention.runs_per_job {
            removed += retention::remove_runs(server, kept).await?;
        }
        if let Some(before) = retention.rows_before {
            for table in TradeTable::ALL {
                removed += retention::remove_days(server, &self.options, table.name, "ts", before).await?;
            }
            removed += retention::remove_days(server, &self.options, "klines", "open_time", before).await?;
        }
        Ok(removed)
    }

    async fn bytes(&self) -> Result<Option<u64>, HistoryError> {
        let database = server::quote(&self.options.database);
        let sql = format!("SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = {database}");
        self.server().await?.one(&sql).await.map(Some)
    }

    async fn close(&self) -> Result<(), HistoryError> {
        // There is nothing to flush: every successful insert is on the server's disk.
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
