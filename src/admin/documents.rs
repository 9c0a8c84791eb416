//! The API's documents, as they are served and as `/api/v1/openapi.json` describes them.
//!
//! Names and shapes are a contract (DESIGN.md, section 5): fields may be added, none may go.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::audit::Coverage;
use crate::exchange::rest::RestStatus;
use crate::exchange::socket::ConnectionStatus;
use crate::gap::Evidence;
use crate::heartbeat::LoopStatus;
use crate::log::LogUsage;

/// What a part says, or why it says nothing.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PartStatus<T> {
    /// It answered.
    Available(T),
    /// It did not.
    Unavailable {
        /// Why.
        error: String,
    },
}

impl<T> PartStatus<T> {
    /// An answer as it is, made of what a part said.
    pub fn from_result<S>(result: Result<S, String>, available: impl FnOnce(S) -> T) -> Self {
        match result {
            Ok(value) => Self::Available(available(value)),
            Err(error) => Self::Unavailable { error },
        }
    }
}

/// The whole service in one document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Status {
    /// The program's version.
    pub version: &'static str,
    /// The recorder's name among several; empty for one.
    pub instance: String,
    /// After READY until the stop.
    pub ready: bool,
    /// The stop has begun.
    pub stopping: bool,
    /// The loop that makes no progress.
    pub wedged: Option<String>,
    /// Parts that cope with a fault, and with which.
    pub degraded: BTreeMap<String, String>,
    /// RFC 3339.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_s: i64,
    /// How many streams there are.
    pub streams: StreamCount,
    /// The log.
    pub log: PartStatus<LogStatus>,
    /// The history.
    pub history: PartStatus<HistoryStatus>,
    /// The cache.
    pub cache: CacheStatus,
    /// The disk.
    pub disk: DiskStatus,
    /// The ledger in numbers.
    pub gaps: GapCount,
    /// Frames since the start.
    pub frames: FrameCount,
    /// Rows made durable since the start.
    pub rows: u64,
    /// Of these, how many came over REST.
    pub backfilled: u64,
    /// Frames that could not be used, in history; null when it does not answer.
    pub dead_letters: Option<u64>,
    /// What went wrong last, part by part, whether or not it works again.
    pub last_errors: Vec<PartError>,
    /// Every socket.
    pub connections: Vec<ConnectionStatus>,
    /// Connections that ended since the start.
    pub reconnects: u64,
    /// Every exchange's REST client.
    pub rest: BTreeMap<String, RestStatus>,
    /// The schedule in numbers.
    pub jobs: PartStatus<JobCount>,
    /// The loops that the watchdog watches.
    pub beats: Vec<LoopStatus>,
}

/// How many streams there are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamCount {
    /// Recorded.
    pub total: usize,
    /// With a frame in the last minute.
    pub receiving: usize,
}

/// Where the log stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogStatus {
    /// Frames written and not consumed.
    pub lag_frames: i64,
    /// How long a frame waits before it is a row, seconds, by what comes in; null when the log cannot tell.
    #[schema(required = true)]
    pub lag_s: Option<f64>,
    /// What it holds.
    pub usage: LogUsage,
}

/// Where history stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HistoryStatus {
    /// Bytes on disk; null when the store does not know.
    #[schema(required = true)]
    pub bytes: Option<u64>,
}

/// The disk of the data directory, and when it is full if everything goes on as in the last hour.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct DiskStatus {
    /// Bytes that are free to us; null when it cannot be asked.
    #[schema(required = true)]
    pub free_bytes: Option<u64>,
    /// Bytes of our own files.
    #[schema(required = true)]
    pub kept_bytes: Option<u64>,
    /// Bytes by which these grow an hour; null for the first half hour.
    #[schema(required = true)]
    pub growth_bytes_per_hour: Option<f64>,
    /// Seconds until our own growth has filled the disk; null when it does not grow, or for the first half hour.
    #[schema(required = true)]
    pub full_in_s: Option<f64>,
}

/// Where the cache stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CacheStatus {
    /// Keys that wait to be written.
    pub waiting: usize,
}

/// The ledger in numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GapCount {
    /// Not closed.
    pub open: usize,
    /// Positions that these miss.
    pub missing: i64,
    /// Found since the start.
    pub found: u64,
    /// Closed as filled since the start.
    pub filled: u64,
    /// Closed in another way since the start.
    pub closed_otherwise: u64,
}

/// Frames since the start.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FrameCount {
    /// Made durable in the log.
    pub received: u64,
    /// Consumed.
    pub consumed: u64,
}

/// What went wrong somewhere.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PartError {
    /// Where.
    pub part: String,
    /// What.
    pub error: String,
}

/// The schedule in numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobCount {
    /// Jobs.
    pub total: usize,
    /// Of these, running now.
    pub running: usize,
    /// Of these, paused.
    pub paused: usize,
    /// Names of those whose last run ended and not well.
    pub failing: Vec<String>,
    /// The one that runs next.
    #[schema(required = true)]
    pub next: Option<NextRun>,
}

/// One stream as shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamView {
    /// Whose.
    pub exchange: String,
    /// Which symbol.
    pub symbol: String,
    /// `trade`, `kline_1m`...
    pub channel: String,
    /// The last position that is durable or in the ledger.
    pub last: Option<i64>,
    /// The exchange's time of the newest row, RFC 3339.
    pub last_ts: Option<String>,
    /// When its newest frame arrived, RFC 3339.
    pub last_received: Option<String>,
    /// Seconds since then.
    pub age_s: Option<f64>,
    /// The connection it came over.
    pub connection: Option<i64>,
    /// Frames since the start.
    pub frames: u64,
    /// Frames behind the one that is awaited.
    pub behind: u64,
    /// Gaps that are not closed.
    pub open_gaps: usize,
    /// A frame came in the last minute.
    pub receiving: bool,
}

/// A row of the ledger; the names are history's.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GapView {
    /// A UUIDv7.
    pub gap_id: String,
    /// Whose.
    pub exchange: &'static str,
    /// Which symbol.
    pub symbol: String,
    /// `trade`, `kline_1m`...
    pub channel: &'static str,
    /// First missing trade id, or open time in microseconds.
    pub first_missing: i64,
    /// The last one, inclusive.
    pub last_missing: i64,
    /// How many positions that is.
    pub missing: i64,
    /// The exchange's time of the row before it, RFC 3339.
    pub from_ts: Option<String>,
    /// The exchange's time of the row after it, RFC 3339.
    pub to_ts: Option<String>,
    /// `open`, `filling`, `filled`, `never_existed`, `unrecoverable` or `superseded`.
    pub state: &'static str,
    /// RFC 3339.
    pub detected_at: String,
    /// RFC 3339; null while it is not closed.
    pub closed_at: Option<String>,
    /// Rows that came back.
    pub filled: i64,
    /// Where they came from: `rest`, `socket`, `cache`; empty before the first.
    pub filled_by: String,
    /// When the latest of them was counted, RFC 3339.
    pub filled_at: Option<String>,
    /// Repairs begun.
    pub attempts: i64,
    /// Why it stands where it stands.
    pub reason: String,
    /// How we know.
    pub evidence: Evidence,
}

/// What history holds of a stream, and what its exchange gives back.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CoverageView {
    /// As it was counted.
    #[serde(flatten)]
    pub counted: Coverage,
    /// What comes back over REST, by the exchange's documents; null when nobody speaks to the exchange.
    pub recoverable: Option<RestRecovery>,
}

/// How what is missing of a stream comes back.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RestRecovery {
    /// How it is asked for, exactly: `trade_id` or `open_time`.
    pub by: &'static str,
    /// Most rows one request gives.
    pub rows_per_request: i64,
    /// What one request costs of the exchange's weight.
    pub request_weight: u32,
    /// Seconds for which the exchange serves what is old; null is without limit.
    pub kept_s: Option<u64>,
}

/// A run of a job: history's columns, how late it started, and its report as the document that it is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunView {
    /// A UUIDv7.
    pub run_id: String,
    /// The job.
    pub job: String,
    /// `schedule`, `catch-up`, `manual`, `retry` or `event`.
    pub trigger: String,
    /// Microseconds since 1970.
    pub scheduled_at: i64,
    /// Microseconds since 1970; null when it never started.
    pub started_at: Option<i64>,
    /// Microseconds since 1970; null while it runs.
    pub finished_at: Option<i64>,
    /// 1 for the first try.
    pub attempt: i64,
    /// `running`, `succeeded`, `failed`, `timed_out`, `cancelled`, `skipped` or `deferred`.
    pub outcome: String,
    /// Why, when it did not succeed.
    pub reason: String,
    /// `[from, to)` in microseconds, when the job has a window.
    pub window: Option<(i64, i64)>,
    /// How much later than scheduled it started.
    pub lateness_ms: Option<i64>,
    /// The task's own report; null when there is none.
    pub report: Value,
}

/// A run that was asked for: that it has begun, or, with `wait=true`, how it ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RunResponse {
    /// How it ended.
    Finished(Box<RunView>),
    /// It has begun.
    Started(RunStarted),
}

/// A run that has begun.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunStarted {
    /// The run's UUIDv7.
    pub run_id: String,
}

/// Whether a job runs by itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PauseState {
    /// Its name.
    pub job: String,
    /// It does not.
    pub paused: bool,
    /// Why, when it was paused just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a reload changed, or would change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReloadView {
    /// In words.
    pub changed: String,
    /// The schedule's part of it.
    pub jobs: JobChanges,
    /// Every job of the schedule as it is afterwards.
    pub next_runs: Vec<NextRun>,
}

/// Jobs by what became of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobChanges {
    /// New.
    pub added: Vec<String>,
    /// Changed.
    pub changed: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
}

/// When a job runs next.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NextRun {
    /// Its name.
    pub job: String,
    /// RFC 3339; null when it does not run by itself.
    pub next_run: Option<String>,
}

/// What a backfill will fetch.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackfillView {
    /// First id that was meant.
    pub first: i64,
    /// Last id that was meant.
    pub last: i64,
    /// How many of these history lacks.
    pub missing: i64,
    /// Rows of the ledger that were opened for them.
    pub gaps_opened: usize,
    /// There are more ranges: ask again afterwards.
    pub more: bool,
    /// Seconds that the exchange's weight allows for them; null when nobody speaks to the exchange.
    pub estimate_s: Option<i64>,
}

/// Whether the loops come round.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// `ok`, `degraded` or `wedged`.
    pub status: &'static str,
    /// Parts that cope with a fault, and with which.
    pub degraded: BTreeMap<String, String>,
    /// The loop that makes no progress.
    pub wedged: Option<LoopStatus>,
}

/// Whether it records.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReadyView {
    /// After READY while the log accepts writes.
    pub ready: bool,
    /// Why the log does not.
    pub reason: Option<String>,
}
