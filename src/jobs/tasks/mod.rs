//! The built-in tasks, one file each. A task is idempotent and bounded, can be cancelled, and returns a report. Tasks
//! must not know the planner or the runner.

mod backfill;
mod cache_preload;
mod command;
mod consistency_audit;
mod gap_sweep;
mod kline_verify;
mod process_tree;
mod retention;
mod seal;
mod state_snapshot;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backfill::Deps;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::history::History;
use crate::log::Log;
use crate::market::{Stream, Timestamp};
use crate::seal::Place;

use super::spec::{TaskArgs, TaskKind};

/// Saves the service's state and returns a line about it.
pub type Save = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<String>> + Send + Sync>;

/// How long the log keeps consumed frames.
#[derive(Clone, Copy, Debug)]
pub struct LogRetention {
    /// The task deletes older frames.
    pub age: std::time::Duration,
    /// The task deletes the oldest frames beyond this size.
    pub bytes: u64,
}

/// The services that tasks use.
#[derive(Clone)]
pub struct Services {
    /// The log.
    pub log: Arc<dyn Log>,
    /// How long it keeps consumed frames.
    pub log_retention: LogRetention,
    /// The history.
    pub history: Arc<dyn History>,
    /// The cache.
    pub cache: Arc<dyn Cache>,
    /// Opens gaps.
    pub backfill: Deps,
    /// The streams recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Saves the service's state.
    pub save: Save,
    /// Where sealed days go; `None` without a place for them.
    pub sealed_days: Option<Arc<dyn Place>>,
    /// The wall clock.
    pub clock: Clock,
}

/// The result of a run: one line for operators, and all of it as data.
#[derive(Clone, Debug)]
pub struct Report {
    /// One line.
    pub summary: String,
    /// The task's own report.
    pub data: serde_json::Value,
    /// Why the run failed, when a failed run has a report.
    pub failure: Option<String>,
}

impl Report {
    fn new(summary: String, data: &impl serde::Serialize) -> anyhow::Result<Self> {
        Ok(Self { summary, data: serde_json::to_value(data)?, failure: None })
    }
}

/// Identifies a run.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The job's name.
    pub job: String,
    /// The run's UUID.
    pub run_id: String,
    /// The time it covers, `[from, to)`, when the job has windows.
    pub window: Option<(Timestamp, Timestamp)>,
}

/// The input of one run of a task.
pub struct Context {
    /// The services it uses.
    pub services: Services,
    /// Its arguments.
    pub args: TaskArgs,
    /// Identifies the run.
    pub run: Identity,
    /// Cancels the run: a task that loops checks it, any other task is soon aborted at an await.
    pub cancel: CancellationToken,
}

/// Runs a task to its end.
pub async fn run(task: TaskKind, context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, cancel, .. } = context;
    match task {
        TaskKind::StateSnapshot => state_snapshot::run(services).await,
        TaskKind::ConsistencyAudit => consistency_audit::run(services, args).await,
        TaskKind::GapSweep => gap_sweep::run(context).await,
        TaskKind::KlineVerify => kline_verify::run(context).await,
        TaskKind::CachePreload => cache_preload::run(services).await,
        TaskKind::Retention => retention::run(services, args).await,
        TaskKind::Backfill => backfill::run(context).await,
        TaskKind::Seal => seal::run(context).await,
        TaskKind::Command => command::run(args, &context.run, cancel).await,
    }
}
