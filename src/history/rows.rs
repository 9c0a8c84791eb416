//! The rows of history, and the batch that stores them together.

use std::sync::Arc;

use bytes::Bytes;

use crate::gap::Gap;
use crate::log::Partition;
use crate::market::{Exchange, Kline, Symbol, Timestamp, Trade};

/// The revision of the decoders. Raise it when a decoder returns another result for the same bytes: the rows of a
/// replay then win over those of an older decoder.
const DECODER_REVISION: i64 = 1;
/// The `version` of a row that came over REST.
pub const VERSION_BACKFILLED: i64 = DECODER_REVISION * 2;
/// The `version` of a row that came over the socket. It wins over a backfilled copy.
pub const VERSION_LIVE: i64 = DECODER_REVISION * 2 + 1;

/// A stored trade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeRow {
    /// The exchange.
    pub exchange: Exchange,
    /// The symbol.
    pub symbol: Symbol,
    /// The trade itself.
    pub trade: Trade,
    /// The receive time of its bytes.
    pub received_at: Timestamp,
    /// Whether backfill fetched it over REST.
    pub is_backfilled: bool,
}

impl TradeRow {
    /// The copy with the highest version wins: decoder revision x 2 + (1 if live, 0 if backfilled).
    pub fn version(&self) -> i64 {
        if self.is_backfilled { VERSION_BACKFILLED } else { VERSION_LIVE }
    }
}

/// A stored kline; it is always closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KlineRow {
    /// The exchange.
    pub exchange: Exchange,
    /// The symbol.
    pub symbol: Symbol,
    /// The kline itself.
    pub kline: Kline,
    /// Whether backfill fetched it over REST.
    pub is_backfilled: bool,
}

impl KlineRow {
    /// The copy with the highest version wins: decoder revision x 2 + (1 if live, 0 if backfilled).
    pub fn version(&self) -> i64 {
        if self.is_backfilled { VERSION_BACKFILLED } else { VERSION_LIVE }
    }
}

/// A frame that could not be decoded or stored, with its bytes and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its partition in the log.
    pub partition: Partition,
    /// Its offset in that partition.
    pub offset: i64,
    /// The receive time of its bytes.
    pub received_at: Timestamp,
    /// The stream if it is known, else the key of the frame.
    pub stream: Arc<str>,
    /// Why the frame could not be decoded or stored.
    pub reason: String,
    /// The bytes as received.
    pub payload: Bytes,
}

/// A run of a job, as `jobs history` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JobRun {
    /// A UUIDv7.
    pub run_id: String,
    /// The name of the job in `jobs.toml`.
    pub job: String,
    /// `schedule`, `catch-up`, `manual`, `retry` or `event`.
    pub trigger: String,
    /// The scheduled start, in microseconds since 1970 UTC.
    pub scheduled_at: i64,
    /// The start, in microseconds since 1970 UTC; null if it did not start.
    pub started_at: Option<i64>,
    /// The end, in microseconds since 1970 UTC; null while it runs.
    pub finished_at: Option<i64>,
    /// The number of the attempt, from 1.
    pub attempt: i64,
    /// `running`, `succeeded`, `failed`, `timed_out`, `cancelled`, `skipped` or `deferred`.
    pub outcome: String,
    /// The reason if it did not succeed, else empty.
    pub reason: String,
    /// The time window `[from, to)` of the run in microseconds since 1970 UTC, if the job has one.
    pub window: Option<(i64, i64)>,
    /// The report of the task, as JSON.
    pub report: String,
}

impl JobRun {
    /// The delay of the start after the scheduled time, in microseconds; `None` if it did not start.
    pub fn lateness_us(&self) -> Option<i64> {
        Some((self.started_at? - self.scheduled_at).max(0))
    }
}

/// Rows that one insert stores.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// New or changed gaps; they are stored first (promise 3).
    pub gaps: Vec<Gap>,
    /// Trades.
    pub trades: Vec<TradeRow>,
    /// Closed klines.
    pub klines: Vec<KlineRow>,
    /// Frames that could not be decoded or stored.
    pub dead_letters: Vec<DeadLetter>,
    /// Identifies the batch for stores that deduplicate repeated inserts: batches with one token have the same rows.
    pub token: String,
}

impl Batch {
    /// Whether it contains no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// The number of rows of all kinds.
    pub fn rows(&self) -> usize {
        self.gaps.len() + self.trades.len() + self.klines.len() + self.dead_letters.len()
    }
}

/// The number of stored positions of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of stored positions.
    pub present: i64,
    /// The number of those that came over REST.
    pub backfilled: i64,
}

/// The stored rows of one stream and UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoverageDay {
    /// The day, in days since 1970 UTC.
    pub day: i64,
    /// First stored position of the day.
    pub first: i64,
    /// Last stored position of the day.
    pub last: i64,
    /// The number of stored positions.
    pub present: i64,
    /// The number of those that came over REST.
    pub backfilled: i64,
}
