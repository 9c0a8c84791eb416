//! The contents of `jobs.toml` as plain data: the configuration fills it, the planner reads it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::market::{Channel, Exchange, Stream, Symbol};

pub use crate::backfill::RangeBound;

/// The default time that runs and dead letters are kept.
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A whole schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// `[scheduler]`.
    pub scheduler: SchedulerOptions,
    /// In the order of the file.
    pub jobs: Vec<JobSpec>,
}

/// `[scheduler]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// The number of scheduled runs at a time; more wait. Manual runs do not wait for a slot.
    pub max_concurrent: usize,
    /// Which runs are kept; the retention task drops the others, unless its arguments say otherwise.
    pub history: RunsKept,
    /// How long runs may take to end when the service stops, before the runner aborts them.
    pub stop_grace: Duration,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { max_concurrent: 8, history: RunsKept::default(), stop_grace: Duration::from_secs(2) }
    }
}

/// Which runs are kept: those within every limit that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunsKept {
    /// No older than this.
    pub age: Option<Duration>,
    /// The number of newest runs of each job.
    pub per_job: Option<u32>,
}

impl Default for RunsKept {
    fn default() -> Self {
        Self { age: Some(MONTH), per_job: None }
    }
}

/// One `[job.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// Its name in the file.
    pub name: String,
    /// The task it runs.
    pub task: TaskKind,
    /// Whether the schedule starts it; it can be started by hand either way.
    pub enabled: bool,
    /// A description for operators.
    pub description: String,
    /// When it runs.
    pub when: When,
    /// The delay of each start, so that jobs do not all start at once.
    pub jitter: Jitter,
    /// What happens when it is due while it still runs.
    pub overlap: Overlap,
    /// What happens to instants that were missed.
    pub missed: Missed,
    /// Whether each run covers the time from the last success to its own instant, without a gap or an overlap.
    pub window: bool,
    /// A run that takes longer is cancelled, then aborted.
    pub timeout: Duration,
    /// A run that cannot start within this time of its instant is skipped.
    pub deadline: Option<Duration>,
    /// How a failed run is retried.
    pub retry: Retry,
    /// Its runs are deferred until all of these are met.
    pub requires: Vec<Requirement>,
    /// It is critical: after this time without a success the runner raises an alarm.
    pub max_silence: Option<Duration>,
    /// Whether a failed run that is not retried raises an alarm.
    pub alert: bool,
    /// This number of consecutive failures pauses it; 0 means never.
    pub pause_after: u32,
    /// What happens to it when the service stops.
    pub on_stop: OnStop,
    /// READY waits for its first run (`on = ["startup"]` only).
    pub blocking: bool,
    /// The arguments of the task.
    pub args: TaskArgs,
}

impl JobSpec {
    /// A job with the defaults of the file.
    pub fn new(name: &str, task: TaskKind, when: When) -> Self {
        Self {
            name: name.to_owned(),
            task,
            enabled: true,
            description: String::new(),
            when,
            jitter: Jitter::default(),
            overlap: Overlap::Skip,
            missed: Missed::default(),
            window: false,
            timeout: Duration::from_secs(300),
            deadline: None,
            retry: Retry::default(),
            requires: Vec::new(),
            max_silence: None,
            alert: false,
            pause_after: 0,
            on_stop: OnStop::Cancel,
            blocking: false,
            args: TaskArgs::default(),
        }
    }
}

/// When a job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Periodically, by the monotonic clock.
    Every {
        /// The time between the starts of two runs.
        period: Duration,
        /// Where the periods begin.
        align: Align,
    },
    /// This time after its last run ended, by the monotonic clock.
    Delay(Duration),
    /// By the calendar, in a timezone.
    Cron {
        /// Five or six fields.
        text: String,
        /// The timezone of the fields.
        timezone: chrono_tz::Tz,
    },
    /// When one of these events occurs.
    On(Vec<JobEvent>),
}

impl When {
    /// Every `period`, from the start of the service on.
    pub fn every(period: Duration) -> Self {
        Self::Every { period, align: Align::Start }
    }
}

/// Where the periods begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// At the start of the service, or when the job was added.
    #[default]
    Start,
    /// At multiples of the period since 1970 UTC.
    Wall,
}

impl Align {
    /// Both, with their names in the file.
    pub const ALL: [(&'static str, Self); 2] = [("start", Self::Start), ("wall", Self::Wall)];
}

/// An event that starts jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The service starts.
    Startup,
    /// A lost connection to an exchange is open again.
    Reconnect,
    /// A gap was found.
    Gap,
    /// The service stops; the run gets the rest of `stop_grace`.
    Shutdown,
}

impl JobEvent {
    /// Every event, with its name in the file.
    pub const ALL: [(&'static str, Self); 4] =
        [("startup", Self::Startup), ("reconnect", Self::Reconnect), ("gap", Self::Gap), ("shutdown", Self::Shutdown)];
}

/// The delay between an instant and the start of its run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter {
    /// The maximum.
    pub max: Duration,
    /// Whether it is always the same on this machine, instead of different each time.
    pub is_stable: bool,
}

/// What happens when a job is due while its last run is in progress or waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// The new run is skipped.
    #[default]
    Skip,
    /// One run waits for the end of the other; further ones are skipped.
    Queue,
    /// The old run is cancelled.
    Replace,
}

impl Overlap {
    /// All of them, with their names in the file.
    pub const ALL: [(&'static str, Self); 3] =
        [("skip", Self::Skip), ("queue", Self::Queue), ("replace", Self::Replace)];
}

/// What happens to instants that were missed: the service was down, the machine was suspended or stalled, or the clock
/// was stepped. Instants that do not run are recorded as skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which of them run.
    pub policy: MissedPolicy,
    /// Older ones do not run.
    pub window: Option<Duration>,
    /// At most this number of them run.
    pub cap: usize,
}

impl Default for Missed {
    fn default() -> Self {
        Self { policy: MissedPolicy::RunOnce, window: None, cap: 100 }
    }
}

/// Which missed instants run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissedPolicy {
    /// None of them.
    Skip,
    /// The last one.
    RunOnce,
    /// Each of them.
    RunAll,
}

impl MissedPolicy {
    /// All of them, with their names in the file.
    pub const ALL: [(&'static str, Self); 3] =
        [("skip", Self::Skip), ("run-once", Self::RunOnce), ("run-all", Self::RunAll)];
}

/// How a run that failed or timed out is retried; a retry keeps its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first; 0 means none.
    pub max: u32,
    /// The wait before the first retry; it doubles each time, up to an hour.
    pub backoff: Duration,
    /// The most that is added to each wait, so that jobs that failed together are not retried together; a quarter of
    /// the wait by default.
    pub jitter: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max: 0, backoff: Duration::from_secs(10), jitter: None }
    }
}

/// A requirement of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Every connection to an exchange is open.
    IngestConnected,
    /// The log accepts and returns frames.
    LogConnected,
    /// History accepts rows.
    HistoryConnected,
    /// The cache accepts updates.
    CacheConnected,
    /// This number of bytes is free on the data directory's filesystem.
    DiskFree(u64),
}

impl Requirement {
    /// Those without a size, with their names in the file.
    pub const CONNECTED: [(&'static str, Self); 4] = [
        ("ingest.connected", Self::IngestConnected),
        ("log.connected", Self::LogConnected),
        ("history.connected", Self::HistoryConnected),
        ("cache.connected", Self::CacheConnected),
    ];
    /// The meaning of `disk.free` without a size: 1 GiB.
    pub const DISK_FREE: Self = Self::DiskFree(1 << 30);
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::CONNECTED.iter().find(|(_, known)| known == self) {
            Some((name, _)) => f.write_str(name),
            None => f.write_str("disk.free"),
        }
    }
}

/// What happens to a job when the service stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// A run gets `stop_grace` to end by itself.
    Wait,
    /// A run is cancelled at once and gets `stop_grace` to end.
    Cancel,
    /// It runs once more, within `stop_grace`.
    Run,
}

impl OnStop {
    /// All of them, with their names in the file.
    pub const ALL: [(&'static str, Self); 3] = [("wait", Self::Wait), ("cancel", Self::Cancel), ("run", Self::Run)];
}

/// A built-in task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskKind {
    /// Saves the service's state.
    StateSnapshot,
    /// Compares cache and history.
    ConsistencyAudit,
    /// Recounts history against the exchange's numbering.
    GapSweep,
    /// Compares closed klines with the exchange's and with their trades.
    KlineVerify,
    /// Fills the cache from history.
    CachePreload,
    /// Deletes old data.
    Retention,
    /// Opens gaps for a range of a stream, which backfill then fetches over REST.
    Backfill,
    /// Writes finished days as files with manifests.
    Seal,
    /// Runs a program.
    Command,
}

impl TaskKind {
    /// Every task, with its name in the file.
    pub const ALL: [(&'static str, Self); 9] = [
        ("state-snapshot", Self::StateSnapshot),
        ("consistency-audit", Self::ConsistencyAudit),
        ("gap-sweep", Self::GapSweep),
        ("kline-verify", Self::KlineVerify),
        ("cache-preload", Self::CachePreload),
        ("retention", Self::Retention),
        ("backfill", Self::Backfill),
        ("seal", Self::Seal),
        ("command", Self::Command),
    ];

    /// Its name in the file.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }
}

/// A task's arguments; each task reads its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskArgs {
    /// consistency-audit: whether it repairs the differences it finds.
    pub repair: bool,
    /// kline-verify: verifies the klines that closed within this time, up to a minute ago.
    pub last: Duration,
    /// retention: deletes dead letters older than this.
    pub dead_letters: Duration,
    /// retention: the runs to keep; deletes all others.
    pub runs: RunsKept,
    /// retention: deletes trades and klines older than this; `None` keeps all.
    pub rows: Option<Duration>,
    /// gap-sweep: each run recounts one of this many equal parts of history; `None` means all of it, or the window.
    pub share: Option<i64>,
    /// gap-sweep: asks again for positions that closed without their rows, and recounts nothing.
    pub appeal: bool,
    /// backfill: the range to fetch.
    pub backfill: Option<BackfillArgs>,
    /// seal: which streams, and when.
    pub seal: SealArgs,
    /// command: the program to run.
    pub command: Option<CommandArgs>,
}

/// What the seal task seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealArgs {
    /// Only this exchange.
    pub exchange: Option<Exchange>,
    /// Only this symbol.
    pub symbol: Option<Symbol>,
    /// Only this channel.
    pub channel: Option<Channel>,
    /// How long after its end a day may stay unsettled; then it is sealed as it is.
    pub grace: Duration,
}

impl Default for SealArgs {
    fn default() -> Self {
        Self { exchange: None, symbol: None, channel: None, grace: Duration::from_secs(30 * 60) }
    }
}

/// The range that the backfill task fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillArgs {
    /// The stream.
    pub stream: Stream,
    /// Where it begins; `None` means the run's window.
    pub from: Option<RangeBound>,
    /// Where it ends: the last trade id, or the time before which rows are wanted; `None` means the newest row.
    pub to: Option<RangeBound>,
}

/// The program that the command task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandArgs {
    /// The program and its arguments, passed without a shell.
    pub argv: Vec<String>,
    /// Variables in addition to the inherited ones.
    pub environment: Vec<(String, String)>,
    /// Its working directory; `None` means the service's.
    pub working_directory: Option<PathBuf>,
}

impl Default for TaskArgs {
    fn default() -> Self {
        let (last, runs) = (Duration::from_secs(3_600), RunsKept::default());
        Self {
            repair: false,
            last,
            dead_letters: MONTH,
            runs,
            rows: None,
            share: None,
            appeal: false,
            backfill: None,
            seal: SealArgs::default(),
            command: None,
        }
    }
}
