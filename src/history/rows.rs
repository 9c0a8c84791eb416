//! The rows history holds, and the batch they travel in.

use std::sync::Arc;

use bytes::Bytes;

use crate::gap::Gap;
use crate::log::Partition;
use crate::market::{Exchange, Kline, Symbol, Timestamp, Trade};

/// Raised when a decoder changes what it makes of the same bytes: a replay then wins over what an
/// older decoder wrote.
const DECODER_REVISION: i64 = 1;
/// `version` of a row that came back over REST.
pub const VERSION_BACKFILLED: i64 = DECODER_REVISION * 2;
/// `version` of a row that came over the socket: it wins over a backfilled copy.
pub const VERSION_LIVE: i64 = DECODER_REVISION * 2 + 1;

/// A trade as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeRow {
    /// Where it was traded.
    pub exchange: Exchange,
    /// What was traded.
    pub symbol: Symbol,
    /// The trade itself.
    pub trade: Trade,
    /// When its bytes reached us.
    pub received_at: Timestamp,
    /// Whether it came over REST after being missed.
    pub is_backfilled: bool,
}

impl TradeRow {
    /// Which copy wins: decoder revision x 2 + (1 live, 0 backfilled).
    pub fn version(&self) -> i64 {
        if self.is_backfilled { VERSION_BACKFILLED } else { VERSION_LIVE }
    }
}

/// A closed kline as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KlineRow {
    /// Where it was traded.
    pub exchange: Exchange,
    /// What was traded.
    pub symbol: Symbol,
    /// The kline itself.
    pub kline: Kline,
    /// Whether it came over REST after being missed.
    pub is_backfilled: bool,
}

impl KlineRow {
    /// Which copy wins: decoder revision x 2 + (1 live, 0 backfilled).
    pub fn version(&self) -> i64 {
        if self.is_backfilled { VERSION_BACKFILLED } else { VERSION_LIVE }
    }
}

/// A frame that could not be decoded or stored, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it is in the log.
    pub partition: Partition,
    /// Where it is in the log.
    pub offset: i64,
    /// When its bytes reached us.
    pub received_at: Timestamp,
    /// The log's key, or the stream when it is known.
    pub stream: Arc<str>,
    /// Why it is here.
    pub reason: String,
    /// The bytes as received.
    pub payload: Bytes,
}

/// A run of a job, as `jobs history` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JobRun {
    /// A UUIDv7.
    pub run_id: String,
    /// The job's name in `jobs.toml`.
    pub job: String,
    /// `schedule`, `catch-up`, `manual`, `retry` or `event`.
    pub trigger: String,
    /// When it should have started, microseconds since 1970.
    pub scheduled_at: i64,
    /// When it started, microseconds since 1970; null when it never did.
    pub started_at: Option<i64>,
    /// When it ended, microseconds since 1970; null while it runs.
    pub finished_at: Option<i64>,
    /// 1 for the first try.
    pub attempt: i64,
    /// `running`, `succeeded`, `failed`, `timed_out`, `cancelled`, `skipped` or `deferred`.
    pub outcome: String,
    /// Why, when it did not succeed.
    pub reason: String,
    /// `[from, to)` of the run's window in microseconds, when the job has one.
    pub window: Option<(i64, i64)>,
    /// The task's own report, JSON.
    pub report: String,
}

impl JobRun {
    /// How much later than scheduled it started, microseconds.
    pub fn lateness_us(&self) -> Option<i64> {
        Some((self.started_at? - self.scheduled_at).max(0))
    }
}

/// Rows that belong together: one insert, one durability.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// New or changed ledger rows; they go first.
    pub gaps: Vec<Gap>,
    /// Trades.
    pub trades: Vec<TradeRow>,
    /// Closed klines.
    pub klines: Vec<KlineRow>,
    /// Frames that could not be decoded.
    pub dead_letters: Vec<DeadLetter>,
    /// Names the batch for stores that deduplicate retried inserts: the same token, the same rows.
    pub token: String,
}

impl Batch {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.gaps.len() + self.trades.len() + self.klines.len() + self.dead_letters.len()
    }
}

/// How much of a range is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Positions that are stored.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
}

/// What is stored of one UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoverageDay {
    /// Days since 1970.
    pub day: i64,
    /// First stored position of the day.
    pub first: i64,
    /// Last stored position of the day.
    pub last: i64,
    /// Stored positions.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
}
