//! The JSON documents of the API. `/api/v1/openapi.json` is generated from them.
//!
//! Names and shapes are a contract (DESIGN.md, section 5): add fields, never remove one.

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

/// A part's status, or the error when the part does not answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PartStatus<T> {
    /// The part answered.
    Available(T),
    /// The part did not answer.
    Unavailable {
        /// The reason.
        error: String,
    },
}

impl<T> PartStatus<T> {
    /// Converts a part's answer.
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
    /// True from READY until the stop.
    pub ready: bool,
    /// The service is stopping.
    pub stopping: bool,
    /// The loop that is stuck.
    pub wedged: Option<String>,
    /// The degraded parts and their faults.
    pub degraded: BTreeMap<String, String>,
    /// What is no fault and still worth knowing: symbols that are not listed (yet), paused,
    /// delisted or renamed, numberings that began again, and undecided conflicts.
    pub notices: Vec<Notice>,
    /// When the process started, RFC 3339.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_s: i64,
    /// The number of streams.
    pub streams: StreamCount,
    /// The log.
    pub log: PartStatus<LogStatus>,
    /// The history.
    pub history: PartStatus<HistoryStatus>,
    /// The cache.
    pub cache: CacheStatus,
    /// The disk.
    pub disk: DiskStatus,
    /// The number of gaps.
    pub gaps: GapCount,
    /// Frames since the process started.
    pub frames: FrameCount,
    /// Rows that the consumer made durable since the process started; backfilled rows are not part of it.
    pub rows: u64,
    /// Rows that backfill made durable since the process started.
    pub backfilled: u64,
    /// Dead letters of this recorder in history; null when history does not answer.
    pub dead_letters: Option<u64>,
    /// Positions with two contents, of which the exchange has not said yet which one is right, at most 1,000; null when
    /// history does not answer.
    pub conflicts_pending: Option<usize>,
    /// The last error of each part, also when the part works again.
    pub last_errors: Vec<PartError>,
    /// Every WebSocket connection.
    pub connections: Vec<ConnectionStatus>,
    /// Connections that ended since the process started.
    pub reconnects: u64,
    /// Every exchange's REST client.
    pub rest: BTreeMap<String, RestStatus>,
    /// The number of jobs.
    pub jobs: PartStatus<JobCount>,
    /// The loops that the watchdog watches.
    pub beats: Vec<LoopStatus>,
}

/// The number of streams.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamCount {
    /// Recorded streams.
    pub total: usize,
    /// Streams with a frame in the last minute.
    pub receiving: usize,
    /// Streams by their `state`; a state without streams is missing.
    #[schema(value_type = BTreeMap<String, usize>)]
    pub states: BTreeMap<&'static str, usize>,
}

/// A part that is no fault and still worth knowing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Notice {
    /// The part: `binance:NEWUSDT`.
    pub part: String,
    /// What is to know.
    pub why: String,
}

/// The state of the log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogStatus {
    /// Frames in the log that are not consumed yet.
    pub lag_frames: i64,
    /// Estimated seconds from a frame's arrival until it is a row; null when the log does not answer.
    #[schema(required = true)]
    pub lag_s: Option<f64>,
    /// Offsets and bytes.
    pub usage: LogUsage,
}

/// The state of history.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HistoryStatus {
    /// Bytes on disk; null when the store does not report them.
    #[schema(required = true)]
    pub bytes: Option<u64>,
}

/// The disk of the data directory, and the forecast from the last hour.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct DiskStatus {
    /// Free bytes for this user; null when the disk cannot be read.
    #[schema(required = true)]
    pub free_bytes: Option<u64>,
    /// Bytes of our own files.
    #[schema(required = true)]
    pub kept_bytes: Option<u64>,
    /// Growth of our own files, bytes per hour; null for the first half hour.
    #[schema(required = true)]
    pub growth_bytes_per_hour: Option<f64>,
    /// Seconds until our own growth fills the disk; null without growth, and for the first half hour.
    #[schema(required = true)]
    pub full_in_s: Option<f64>,
}

/// The state of the cache.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CacheStatus {
    /// Keys that wait to be written.
    pub waiting: usize,
}

/// The number of gaps.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GapCount {
    /// Gaps that are not closed, without those in doubt.
    pub open: usize,
    /// Missing positions in these.
    pub missing: i64,
    /// Gaps in doubt: the exchange does not serve their positions, and the recorder asks again for hours.
    pub unconfirmed: usize,
    /// Gaps found since the process started.
    pub found: u64,
    /// Gaps closed as filled since the process started.
    pub filled: u64,
    /// Gaps closed in another state since the process started.
    pub closed_otherwise: u64,
}

/// Frames since the process started.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FrameCount {
    /// Frames made durable in the log.
    pub received: u64,
    /// Frames consumed.
    pub consumed: u64,
    /// Frames of streams that this recorder did not subscribe to: dropped before the log.
    pub unrequested: u64,
    /// The exchange's name of the stream of the newest one; null when there was none.
    #[schema(required = true)]
    pub unrequested_newest: Option<String>,
}

/// The last error of a part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PartError {
    /// The part.
    pub part: String,
    /// The error.
    pub error: String,
}

/// The number of jobs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobCount {
    /// All jobs.
    pub total: usize,
    /// Jobs that are running.
    pub running: usize,
    /// Paused jobs.
    pub paused: usize,
    /// Names of the jobs whose last run failed, timed out or was cancelled.
    pub failing: Vec<String>,
    /// The job that runs next.
    #[schema(required = true)]
    pub next: Option<NextRun>,
}

/// One stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamView {
    /// The exchange.
    pub exchange: String,
    /// The symbol.
    pub symbol: String,
    /// `trade`, `kline_1m`...
    pub channel: String,
    /// `receiving`, `quiet`, `stalled`, `refused`, `not_trading` or `ended`.
    pub state: &'static str,
    /// Why it is in this state; null while it receives.
    pub state_reason: Option<String>,
    /// The last position that is durable in history or in the ledger.
    pub last: Option<i64>,
    /// The exchange's time of the newest row, RFC 3339.
    pub last_ts: Option<String>,
    /// When the newest frame arrived, RFC 3339.
    pub last_received: Option<String>,
    /// Seconds since then.
    pub age_s: Option<f64>,
    /// The connection of the newest frame.
    pub connection: Option<i64>,
    /// Frames since the process started.
    pub frames: u64,
    /// Frames behind the expected position: late ones and duplicates.
    pub behind: u64,
    /// The numbering of its positions: 0, or the number of the last one that began again.
    pub epoch: i64,
    /// The number of gaps that are not closed.
    pub open_gaps: usize,
    /// Whether a frame arrived in the last minute.
    pub receiving: bool,
}

/// A row of the ledger, with the column names of history.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GapView {
    /// A UUIDv7.
    pub gap_id: String,
    /// The exchange.
    pub exchange: &'static str,
    /// The symbol.
    pub symbol: String,
    /// `trade`, `kline_1m`...
    pub channel: &'static str,
    /// First missing trade id, or open time in microseconds.
    pub first_missing: i64,
    /// Last missing trade id or open time, inclusive.
    pub last_missing: i64,
    /// The number of positions in the range.
    pub missing: i64,
    /// The exchange's time of the row before the gap, RFC 3339.
    pub from_ts: Option<String>,
    /// The exchange's time of the row after the gap, RFC 3339.
    pub to_ts: Option<String>,
    /// `open`, `filling`, `unconfirmed`, `filled`, `never_existed`, `unrecoverable`, `refused` or `superseded`.
    pub state: &'static str,
    /// When the gap was found, RFC 3339.
    pub detected_at: String,
    /// When the gap was closed, RFC 3339; null while it is not closed.
    pub closed_at: Option<String>,
    /// Rows that came back.
    pub filled: i64,
    /// Their source: `rest`, `socket` or `cache`; empty before the first.
    pub filled_by: String,
    /// When the last of them was counted, RFC 3339.
    pub filled_at: Option<String>,
    /// Repairs started.
    pub attempts: i64,
    /// Why the gap is in its state.
    pub reason: String,
    /// How the gap was found.
    pub evidence: Evidence,
}

/// What history holds of a stream, and what the exchange still serves.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CoverageView {
    /// The count.
    #[serde(flatten)]
    pub counted: Coverage,
    /// What REST returns according to the exchange's documentation; null without a client for the exchange.
    pub recoverable: Option<RestRecovery>,
    /// The former name of the symbol, under which its older rows are stored; absent when the configuration names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub succeeds: Option<String>,
}

/// How backfill requests the missing rows of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RestRecovery {
    /// The key of a request: `trade_id` or `open_time`.
    pub by: &'static str,
    /// Most rows of one response.
    pub rows_per_request: i64,
    /// Request weight of one request.
    pub request_weight: u32,
    /// Age up to which the exchange serves old rows, seconds; null when it documents no limit.
    pub kept_s: Option<u64>,
    /// The oldest position that it still serves; null before an answer showed it.
    pub oldest_served: Option<OldestServed>,
}

/// The oldest position that the exchange still serves of a stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OldestServed {
    /// The trade id, or the open time in microseconds.
    pub position: i64,
    /// Its exchange time, RFC 3339.
    pub at: String,
}

/// A run of a job: the columns of history, its lateness, and its report as JSON.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunView {
    /// A UUIDv7.
    pub run_id: String,
    /// The job's name.
    pub job: String,
    /// `schedule`, `catch-up`, `manual`, `retry` or `event`.
    pub trigger: String,
    /// The scheduled instant, microseconds since 1970.
    pub scheduled_at: i64,
    /// The start, microseconds since 1970; null when the run never started.
    pub started_at: Option<i64>,
    /// The end, microseconds since 1970; null while the job runs.
    pub finished_at: Option<i64>,
    /// 1 for the first attempt.
    pub attempt: i64,
    /// `running`, `succeeded`, `failed`, `timed_out`, `cancelled`, `skipped` or `deferred`.
    pub outcome: String,
    /// Why the run did not succeed.
    pub reason: String,
    /// `[from, to)` in microseconds, when the job has a window.
    pub window: Option<(i64, i64)>,
    /// The `instance` of the recorder that ran it.
    pub recorder: String,
    /// How much later than scheduled the run started, milliseconds.
    pub lateness_ms: Option<i64>,
    /// The task's report; null without one.
    pub report: Value,
}

/// A requested run: its id, or, with `wait=true`, the finished run.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RunResponse {
    /// The run has finished.
    Finished(Box<RunView>),
    /// The run has started.
    Started(RunStarted),
}

/// A run that has started.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunStarted {
    /// The run's UUIDv7.
    pub run_id: String,
}

/// Whether a job is paused.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PauseState {
    /// The job's name.
    pub job: String,
    /// True after a pause, false after a resume.
    pub paused: bool,
    /// The reason of a pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a reload changed, or would change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReloadView {
    /// One sentence.
    pub changed: String,
    /// The changed jobs.
    pub jobs: JobChanges,
    /// Every job of the schedule after the reload.
    pub next_runs: Vec<NextRun>,
}

/// The names of the jobs that a reload changed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobChanges {
    /// New jobs.
    pub added: Vec<String>,
    /// Changed jobs.
    pub changed: Vec<String>,
    /// Removed jobs.
    pub removed: Vec<String>,
}

/// When a job runs next.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NextRun {
    /// The job's name.
    pub job: String,
    /// RFC 3339; null when the job does not run on schedule.
    pub next_run: Option<String>,
}

/// What a backfill will fetch.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackfillView {
    /// `trade` or `agg_trade`.
    pub channel: &'static str,
    /// First id of the range.
    pub first: i64,
    /// Last id of the range.
    pub last: i64,
    /// How many of these ids history lacks.
    pub missing: i64,
    /// Gaps that were opened for them.
    pub gaps_opened: usize,
    /// Open gaps in the range that are asked for at once.
    pub gaps_asked_again: usize,
    /// Whether more ranges are missing: send the request again later.
    pub more: bool,
    /// Estimated seconds by the exchange's request weight; null without a client for the exchange.
    pub estimate_s: Option<i64>,
}

/// Whether the recording loops make progress.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// `ok`, `degraded` or `wedged`.
    pub status: &'static str,
    /// The degraded parts and their faults.
    pub degraded: BTreeMap<String, String>,
    /// The loop that is stuck.
    pub wedged: Option<LoopStatus>,
}

/// Whether the service records.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReadyView {
    /// True after READY while the log accepts writes.
    pub ready: bool,
    /// Why the log does not accept writes.
    pub reason: Option<String>,
}
