//! What `jobs.toml` can say. Plain data: the configuration reads it, the planner plans it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::market::Stream;

pub use crate::backfill::RangeBound;

/// How long most things are kept that nobody said otherwise of.
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
    /// Runs at a time; more wait. What a person asks for does not count.
    pub max_concurrent: usize,
    /// Which runs are kept; the retention task drops the others unless its own arguments say otherwise.
    pub history: RunsKept,
    /// How long runs may take to end when the service stops, before they are aborted.
    pub stop_grace: Duration,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { max_concurrent: 8, history: RunsKept::default(), stop_grace: Duration::from_secs(2) }
    }
}

/// Which runs are kept: those within every bound that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunsKept {
    /// No older than this.
    pub age: Option<Duration>,
    /// Of each job the newest so many.
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
    /// What it does.
    pub task: TaskKind,
    /// Whether it runs by itself; it can be run by hand either way.
    pub enabled: bool,
    /// For people.
    pub description: String,
    /// When it runs.
    pub when: When,
    /// How much later than that, so that not everything starts at once.
    pub jitter: Jitter,
    /// What happens when it is due while it still runs.
    pub overlap: Overlap,
    /// What happens to instants that passed while nobody looked.
    pub missed: Missed,
    /// Whether each run gets the time from the last success to its own instant, without a hole or an overlap.
    pub window: bool,
    /// A run that takes longer is told to end, then aborted.
    pub timeout: Duration,
    /// A run that could not start within this time of its instant is skipped.
    pub deadline: Option<Duration>,
    /// How a run that failed is tried again.
    pub retry: Retry,
    /// What must be there, or its runs are deferred until it is.
    pub requires: Vec<Requirement>,
    /// It is critical: somebody must look when it has not succeeded for so long.
    pub max_silence: Option<Duration>,
    /// Somebody must look when a run has failed and is not tried again.
    pub alert: bool,
    /// So many failures in a row pause it; 0 never does.
    pub pause_after: u32,
    /// What happens to it when the service stops.
    pub on_stop: OnStop,
    /// READY waits for its first run (`on = ["startup"]` only).
    pub blocking: bool,
    /// For the task.
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
    /// Every so often by the monotonic clock.
    Every {
        /// The time between two runs' starts.
        period: Duration,
        /// Where it begins to count.
        align: Align,
    },
    /// So long after its last run ended, by the monotonic clock.
    Delay(Duration),
    /// By the calendar, in a timezone.
    Cron {
        /// Five or six fields.
        text: String,
        /// Whose wall clock the fields mean.
        timezone: chrono_tz::Tz,
    },
    /// When something happens.
    On(Vec<JobEvent>),
}

impl When {
    /// Every `period` from the start on.
    pub fn every(period: Duration) -> Self {
        Self::Every { period, align: Align::Start }
    }
}

/// Where a period begins to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// At the start of the service, or when the job was added.
    #[default]
    Start,
    /// At multiples of the period since 1970 UTC.
    Wall,
}

impl Align {
    /// Both, as written.
    pub const ALL: [(&'static str, Self); 2] = [("start", Self::Start), ("wall", Self::Wall)];
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The service starts.
    Startup,
    /// A connection to an exchange that was lost is there again.
    Reconnect,
    /// A gap was found.
    Gap,
    /// The service stops; the run gets the rest of `stop_grace`.
    Shutdown,
}

impl JobEvent {
    /// Every event, as written.
    pub const ALL: [(&'static str, Self); 4] =
        [("startup", Self::Startup), ("reconnect", Self::Reconnect), ("gap", Self::Gap), ("shutdown", Self::Shutdown)];
}

/// How much later than its instant a run starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter {
    /// At most this.
    pub max: Duration,
    /// Always the same on this machine, instead of another one each time.
    pub is_stable: bool,
}

/// What happens when a job is due while it still runs, or still waits.
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
    /// All, as written.
    pub const ALL: [(&'static str, Self); 3] =
        [("skip", Self::Skip), ("queue", Self::Queue), ("replace", Self::Replace)];
}

/// What happens to instants that passed while nobody looked: the service was down, the machine slept or stalled, the
/// clock was stepped. What is not run is recorded as skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Which of them are run.
    pub policy: MissedPolicy,
    /// Those longer ago are not run.
    pub window: Option<Duration>,
    /// At most so many are run.
    pub cap: usize,
}

impl Default for Missed {
    fn default() -> Self {
        Self { policy: MissedPolicy::RunOnce, window: None, cap: 100 }
    }
}

/// Which missed instants are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissedPolicy {
    /// None.
    Skip,
    /// The last.
    RunOnce,
    /// Each.
    RunAll,
}

impl MissedPolicy {
    /// All, as written.
    pub const ALL: [(&'static str, Self); 3] =
        [("skip", Self::Skip), ("run-once", Self::RunOnce), ("run-all", Self::RunAll)];
}

/// How a run that failed or timed out is tried again; a retry keeps its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first; 0 means none.
    pub max: u32,
    /// The wait before the first retry; it doubles each time, up to an hour.
    pub backoff: Duration,
    /// The wait is up to so much longer, so that what failed together is not tried again together; a quarter of the
    /// wait when nobody said.
    pub jitter: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max: 0, backoff: Duration::from_secs(10), jitter: None }
    }
}

/// What a run may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Every connection to an exchange is there.
    IngestConnected,
    /// The log takes and gives frames.
    LogConnected,
    /// The history takes rows.
    HistoryConnected,
    /// The cache takes updates.
    CacheConnected,
    /// So many bytes are free where the data is.
    DiskFree(u64),
}

impl Requirement {
    /// Those without a number, as written.
    pub const CONNECTED: [(&'static str, Self); 4] = [
        ("ingest.connected", Self::IngestConnected),
        ("log.connected", Self::LogConnected),
        ("history.connected", Self::HistoryConnected),
        ("cache.connected", Self::CacheConnected),
    ];
    /// What `disk.free` means without a size.
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
    /// A run is told to end at once, and has `stop_grace` to do so.
    Cancel,
    /// It runs once more, within `stop_grace`.
    Run,
}

impl OnStop {
    /// All, as written.
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
    /// Compares closed klines with the exchange's own and with their trades.
    KlineVerify,
    /// Fills the cache from history.
    CachePreload,
    /// Drops what is old.
    Retention,
    /// Has a range of a stream fetched over REST.
    Backfill,
    /// Runs a program.
    Command,
}

impl TaskKind {
    /// Every task, as written.
    pub const ALL: [(&'static str, Self); 8] = [
        ("state-snapshot", Self::StateSnapshot),
        ("consistency-audit", Self::ConsistencyAudit),
        ("gap-sweep", Self::GapSweep),
        ("kline-verify", Self::KlineVerify),
        ("cache-preload", Self::CachePreload),
        ("retention", Self::Retention),
        ("backfill", Self::Backfill),
        ("command", Self::Command),
    ];

    /// As written.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }
}

/// A task's arguments; each task reads its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskArgs {
    /// consistency-audit: whether it repairs what it finds.
    pub repair: bool,
    /// kline-verify: klines that closed in this time, up to a minute ago, are verified.
    pub last: Duration,
    /// retention: dead letters older than this go.
    pub dead_letters: Duration,
    /// retention: all other runs go.
    pub runs: RunsKept,
    /// retention: trades and klines older than this go; by default they stay.
    pub rows: Option<Duration>,
    /// backfill: what is fetched.
    pub backfill: Option<BackfillArgs>,
    /// command: what is run.
    pub command: Option<CommandArgs>,
}

/// What the backfill task fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillArgs {
    /// Whose rows.
    pub stream: Stream,
    /// Where it begins; the run's window when nobody said.
    pub from: Option<RangeBound>,
    /// Where it ends: a trade id or kline that is the last one, or the time before which rows are wanted; the newest
    /// row when nobody said.
    pub to: Option<RangeBound>,
}

/// What the command task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandArgs {
    /// The program and its arguments; no shell reads them.
    pub argv: Vec<String>,
    /// Its environment beside what every program needs.
    pub environment: Vec<(String, String)>,
    /// Where it runs; the service's own directory when nobody said.
    pub working_directory: Option<PathBuf>,
}

impl Default for TaskArgs {
    fn default() -> Self {
        let (last, runs) = (Duration::from_secs(3_600), RunsKept::default());
        Self { repair: false, last, dead_letters: MONTH, runs, rows: None, backfill: None, command: None }
    }
}
