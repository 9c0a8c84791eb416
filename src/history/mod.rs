//! The port of the history, everything that happened, and its contract.
//!
//! What the contract suite in `tests/it/contracts` holds every backend to:
//!
//! 1. **Insert is durable and whole for its caller.** When [`History::insert`] returns `Ok`, every row
//!    survives SIGKILL and a power cut. On an error none, some or all rows may be there; the caller
//!    inserts the same batch again.
//! 2. **One row per key.** A trade is (exchange, symbol, trade_id), a kline (exchange, symbol, interval,
//!    open_time), a gap its `gap_id`, a dead letter its place in the log. Of two copies the one with the
//!    higher `version` is read; of equal versions either (they are the same).
//! 3. **Gaps are written before or with the rows that revealed them**, so a crash between the two
//!    leaves a gap too many, which a recount closes, never a hole that nobody knows.
//! 4. **Reads see what was inserted before**, from any handle.
//! 5. **Identity.** [`History::identity`] is made once, with the store, and never changes; watermarks of
//!    another history do not count for this one.
//! 6. **A newer schema is refused** with [`HistoryError::Schema`] naming both versions.
//!
//! Decimals are exact, times are microseconds. This room knows rows; it does not know where they come from.

pub mod clickhouse;
pub mod embedded;
pub mod faulty;
mod options;
mod per_minute;
mod rows;

use std::time::Duration;

use async_trait::async_trait;

pub use options::{Backend, ClickhouseOptions, Options};

pub use per_minute::MinuteCount;
pub use rows::{Batch, Count, CoverageDay, DeadLetter, JobRun, KlineRow, TradeRow, VERSION_BACKFILLED, VERSION_LIVE};

use crate::gap::{Gap, Range};
use crate::market::{Exchange, Interval, Stream, Symbol, Timestamp};

/// How far positions may be out of the order of time where a read relies on that order. An exchange numbers its trades as
/// they happen, so an hour is more than there will be, and costs little beside the days that are read.
pub const DISORDER_MAX: Duration = Duration::from_secs(3_600);

/// Why history did not do what was asked; each variant is handled differently.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It may work later: busy, full, away. Retry for ever with back-off.
    #[error("history unavailable: {0}")]
    Unavailable(String),
    /// The rows of this call cannot be stored: bisect to the one that is to blame.
    #[error("history refused the rows: {0}")]
    Data(String),
    /// The store is not the one this program knows: stop and alarm.
    #[error("history has the wrong schema: {0}")]
    Schema(String),
}

/// The highest position of a stream that is durable in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Whose.
    pub stream: Stream,
    /// Trade id, or open time in microseconds.
    pub position: i64,
    /// The exchange's time of that row.
    pub ts: Timestamp,
}

/// Which gaps to list.
#[derive(Clone, Debug, Default)]
pub struct GapFilter {
    /// Only those not closed.
    pub open_only: bool,
    /// Only of this symbol.
    pub symbol: Option<Symbol>,
    /// At most so many, newest first; 0 means all.
    pub limit: usize,
}

/// What [`History::retain`] removes; nothing where nothing is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Dead letters received before this instant.
    pub dead_letters_before: Option<Timestamp>,
    /// Runs scheduled before this instant.
    pub runs_before: Option<Timestamp>,
    /// All runs of a job but so many, the first ones that [`History::runs`] lists.
    pub runs_per_job: Option<u32>,
    /// Trades and klines of the exchange's time before this instant.
    pub rows_before: Option<Timestamp>,
}

/// Everything that happened.
#[async_trait]
pub trait History: Send + Sync {
    /// The store's own UUID.
    async fn identity(&self) -> Result<String, HistoryError>;

    /// Stores a batch; durable when it returns.
    async fn insert(&self, batch: &Batch) -> Result<(), HistoryError>;

    /// The highest stored position of each stream that has rows; one query per kind.
    async fn watermarks(&self, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError>;

    /// The trade with the highest id of each symbol that has one; one query for all.
    async fn latest_trades(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<TradeRow>, HistoryError>;

    /// The latest closed kline of each symbol and interval that has one; one query for all.
    async fn latest_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        intervals: &[Interval],
    ) -> Result<Vec<KlineRow>, HistoryError>;

    /// The trades with exactly these ids that are stored; one query for all.
    async fn trades_by_id(&self, exchange: Exchange, keys: &[(Symbol, i64)]) -> Result<Vec<TradeRow>, HistoryError>;

    /// The klines with exactly these open times that are stored; one query for all.
    async fn klines_by_time(
        &self,
        exchange: Exchange,
        keys: &[(Symbol, Interval, Timestamp)],
    ) -> Result<Vec<KlineRow>, HistoryError>;

    /// Stored trades of a symbol with ids in `range`, ascending, at most `limit`.
    async fn trades(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<TradeRow>, HistoryError>;

    /// Stored klines of a stream with open times in `range`, ascending, at most `limit`.
    async fn klines(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<KlineRow>, HistoryError>;

    /// Stored one-minute klines of these symbols that opened at `since` or later, ascending within a symbol; one query
    /// for all.
    async fn minute_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        since: Timestamp,
    ) -> Result<Vec<KlineRow>, HistoryError>;

    /// How many positions of `range` are stored; a missing count is `range.len(step) - present`.
    async fn count(&self, stream: &Stream, range: Range) -> Result<Count, HistoryError>;

    /// The first and last stored position; `None` when there is no row.
    async fn extent(&self, stream: &Stream) -> Result<Option<Range>, HistoryError>;

    /// The ranges inside `range` that are not stored, ascending, at most `limit` of them.
    async fn missing(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<Range>, HistoryError>;

    /// Rows per stream and UTC day, counted in the store, ascending within a stream; one query per kind for all streams.
    /// With `first_day` ([`CoverageDay::day`]) only that day and later ones, and older rows are not read: for that a
    /// stream's positions grow with its time, out of order by [`DISORDER_MAX`] at most.
    async fn days(
        &self,
        streams: &[Stream],
        first_day: Option<i64>,
    ) -> Result<Vec<(Stream, CoverageDay)>, HistoryError>;

    /// Rows per stream and UTC minute of the exchange's time at `since` or later, counted in the store, ascending within a
    /// stream, streams in any order; one query per kind for all streams. For the last day or so: a stream's positions
    /// grow with its time, and what is out of order around `since` itself may be left out.
    async fn per_minute(
        &self,
        streams: &[Stream],
        since: Timestamp,
    ) -> Result<Vec<(Stream, MinuteCount)>, HistoryError>;

    /// Ledger rows.
    async fn gaps(&self, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError>;

    /// The newest dead letters, at most `limit`.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, HistoryError>;

    /// How many dead letters there are.
    async fn dead_letter_count(&self) -> Result<u64, HistoryError>;

    /// Writes a job's run; the same `run_id` again replaces it.
    async fn put_run(&self, run: &JobRun) -> Result<(), HistoryError>;

    /// The newest runs, of one job or of all, at most `limit`.
    async fn runs(&self, job: Option<&str>, limit: usize) -> Result<Vec<JobRun>, HistoryError>;

    /// Removes what `retention` names; returns how many rows went.
    async fn retain(&self, retention: &Retention) -> Result<u64, HistoryError>;

    /// Bytes on disk, when the backend knows.
    async fn bytes(&self) -> Result<Option<u64>, HistoryError>;

    /// Flushes and closes; later calls fail.
    async fn close(&self) -> Result<(), HistoryError>;
}
