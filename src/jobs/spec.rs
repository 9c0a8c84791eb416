//! What `jobs.toml` can say. Plain data: the configuration reads it, the planner plans it.

use std::time::Duration;

/// A whole schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// By name.
    pub jobs: Vec<JobSpec>,
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
    /// A run that takes longer is told to end, then aborted.
    pub timeout: Duration,
    /// READY waits for its first run (`on = ["startup"]` only).
    pub blocking: bool,
    /// For the task.
    pub args: TaskArgs,
}

/// When a job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Every so often by the monotonic clock, from the start on.
    Every(Duration),
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

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The service starts.
    Startup,
}

impl JobEvent {
    /// Every event, as written.
    pub const ALL: [(&'static str, Self); 1] = [("startup", Self::Startup)];
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
    /// Fills the cache from history.
    CachePreload,
    /// Drops what is old.
    Retention,
}

impl TaskKind {
    /// Every task, as written.
    pub const ALL: [(&'static str, Self); 5] = [
        ("state-snapshot", Self::StateSnapshot),
        ("consistency-audit", Self::ConsistencyAudit),
        ("gap-sweep", Self::GapSweep),
        ("cache-preload", Self::CachePreload),
        ("retention", Self::Retention),
    ];

    /// As written.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }
}

/// A task's arguments; each task reads its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskArgs {
    /// consistency-audit: whether it repairs what it finds.
    pub repair: bool,
    /// retention: dead letters older than this go.
    pub dead_letters: Duration,
    /// retention: runs older than this go.
    pub runs: Duration,
    /// retention: trades and klines older than this go; by default they stay.
    pub rows: Option<Duration>,
}

impl Default for TaskArgs {
    fn default() -> Self {
        let month = Duration::from_secs(30 * 86_400);
        Self { repair: false, dead_letters: month, runs: month, rows: None }
    }
}
