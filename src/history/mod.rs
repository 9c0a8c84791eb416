//! The port of history, which holds all recorded rows, and its contract.
//!
//! The contract suite in `tests/it/contracts` checks these promises on every backend:
//!
//! 1. **Insert is durable, and may be repeated.** When [`RowStore::insert`] returns `Ok`, every row of the batch
//!    survives SIGKILL and a power cut. On an error, none, some or all of the rows may be stored: the caller inserts
//!    the same batch again.
//! 2. **One row per key.** The key of a trade is (exchange, symbol, epoch, trade_id), of an
//!    aggregate trade (exchange, symbol, epoch, agg_id), of a kline (exchange, symbol,
//!    interval, open_time), of a gap `gap_id`, of a run `run_id`, of an epoch (exchange, symbol, channel, epoch), of a conflict
//!    (exchange, symbol, channel, epoch, position, arrived), of a dead letter its recorder and its offset in the log or
//!    its content. Reads return the copy with the highest `version`, of equal versions either one. Epochs, conflicts, dead
//!    letters and runs have no version: of these the last write wins.
//! 3. **Gaps are stored before or with the rows that revealed them.** A crash between the two leaves a gap row too
//!    many, which a recount closes, but never a missing range without a gap row.
//! 4. **Reads see earlier inserts**, from every handle.
//! 5. **Identity.** The store gets its [`History::identity`] when it is created, and keeps it. Watermarks that were
//!    written against another history do not count for this one.
//! 6. **A newer schema is refused** with [`HistoryError::Schema`], which names both versions. A table or column that
//!    somebody changes while the recorder runs is an outage: the calls fail with [`HistoryError::Unavailable`], which
//!    names it, until it is back.
//! 7. **Numberings never mix.** Reads return the trades of each stream's newest epoch, unless [`History::at_epoch`] asks
//!    for another one.
//! 8. **A success is proven.** A call returns `Ok` only when the answer is the store's own and whole. A store whose file
//!    was removed or replaced refuses writes.
//!
//! Decimals are exact. Times are microseconds since 1970 UTC. A position is a trade id, or the open time of a kline in
//! microseconds. This module knows rows; it must not know where they come from.
//!
//! The port has three parts, one file each: [`RowStore`] (trades and klines), [`LedgerStore`] (gaps, epochs, conflicts)
//! and [`RunStore`] (runs of jobs, dead letters). [`History`] is their sum; a caller takes the part that it needs. The
//! types of the rows are in `rows.rs`, and each backend has a file for each part.

pub mod clickhouse;
pub mod embedded;
pub mod faulty;
mod gap_filter;
mod ledger_store;
mod options;
mod per_minute;
mod row_store;
mod rows;
mod run_store;
mod trade_table;
mod window;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use gap_filter::{GapFilter, GapPages, each_gap};
pub use ledger_store::LedgerStore;
pub use options::{Backend, ClickhouseOptions, Options};

pub use per_minute::MinuteCount;
pub use row_store::RowStore;
pub use rows::{
    Batch, ConflictRow, Count, CoverageDay, DeadLetter, EpochRow, JobRun, KlineRow, LetterSource, TradeRow,
    VERSION_LATE, Verdict, kline_content, row_version, same_kline, trade_content,
};
pub use run_store::RunStore;
pub use window::WindowCount;

use crate::market::{Stream, Timestamp};

/// The largest difference in time between a trade and one with a higher id that is earlier. Reads that rely on the
/// order of time tolerate this much. An exchange numbers its trades as they happen, so an hour is more than enough, and
/// it costs little compared with the days that such a read covers.
pub const DISORDER_MAX: Duration = Duration::from_secs(3_600);

/// Why a call failed. Callers handle each variant differently.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A later call may succeed: the store is busy, full, down or closed. Retry with back-off, without a limit.
    #[error("history unavailable: {0}")]
    Unavailable(String),
    /// The store refuses the rows of this call, or a stored row is invalid. After an insert, bisect to find the bad
    /// row.
    #[error("history refused the rows: {0}")]
    Data(String),
    /// The schema or the server is not supported: stop and alert.
    #[error("history has the wrong schema: {0}")]
    Schema(String),
    /// The store's file does not contain what was written to it: a person must restore it. Frames wait in the log
    /// meanwhile, so a recorder that runs retries as for [`HistoryError::Unavailable`].
    #[error("{0}")]
    Damaged(String),
}

/// The highest stored position of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The stream.
    pub stream: Stream,
    /// The trade id, or the open time in microseconds.
    pub position: i64,
    /// The exchange's time of the row.
    pub ts: Timestamp,
}

impl HistoryError {
    /// Whether a recorder that runs waits for a repair and retries: neither the rows nor the program are wrong.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Damaged(_))
    }

    /// The text without the kind, for health.
    pub fn into_reason(self) -> String {
        match self {
            Self::Unavailable(why) | Self::Data(why) | Self::Schema(why) | Self::Damaged(why) => why,
        }
    }
}

/// What [`History::retain`] removes. A field that is `None` removes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Removes dead letters that were received before this time.
    pub dead_letters_before: Option<Timestamp>,
    /// Removes runs that were scheduled before this time.
    pub runs_before: Option<Timestamp>,
    /// Keeps this many runs of each job of each recorder, the first ones that [`RunStore::runs`] lists, and removes the others.
    pub runs_per_job: Option<u32>,
    /// Removes trades and klines whose exchange time (of a kline its open time) is before this time.
    pub rows_before: Option<Timestamp>,
}

/// All that is recorded: the three parts, and the store as a whole.
#[async_trait]
pub trait History: RowStore + LedgerStore + RunStore {
    /// The UUID of the store (promise 5).
    async fn identity(&self) -> Result<String, HistoryError>;

    /// The epoch of trades that reads return; `None` is the newest of each symbol.
    fn epoch(&self) -> Option<i64> {
        None
    }

    /// The same store, of whose trades reads return this epoch in place of the newest.
    fn at_epoch(&self, epoch: i64) -> Arc<dyn History>;

    /// Removes the rows that `retention` selects; returns their number.
    async fn retain(&self, retention: &Retention) -> Result<u64, HistoryError>;

    /// Bytes on disk; `None` if the backend cannot tell.
    async fn bytes(&self) -> Result<Option<u64>, HistoryError>;

    /// What is wrong with the store's own file now, although no call has failed yet: somebody removed it, or a read has
    /// found damage. Cheap enough for once a second.
    fn trouble(&self) -> Option<HistoryError> {
        None
    }

    /// Reads the store's own file and looks for damage. It may take as long as reading all of it; dropping the future
    /// ends it.
    async fn find_damage(&self) -> Result<(), HistoryError> {
        Ok(())
    }

    /// Flushes and closes the store. Later calls fail with [`HistoryError::Unavailable`]; another `close` succeeds.
    async fn close(&self) -> Result<(), HistoryError>;
}
