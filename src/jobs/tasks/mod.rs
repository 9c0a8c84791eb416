//! The built-in tasks, one file each. A task is idempotent, bounded, can be cancelled, and says what it did.

mod backfill;
mod cache_preload;
mod command;
mod consistency_audit;
mod gap_sweep;
mod kline_verify;
mod retention;
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

use super::spec::{TaskArgs, TaskKind};

/// Saves the service's state and says what was saved.
pub type Save = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<String>> + Send + Sync>;

/// How long the log keeps what was consumed.
#[derive(Clone, Copy, Debug)]
pub struct LogRetention {
    /// Frames older than this go.
    pub age: std::time::Duration,
    /// Frames beyond so many bytes go.
    pub bytes: u64,
}

/// What tasks act on.
#[derive(Clone)]
pub struct Services {
    /// The log.
    pub log: Arc<dyn Log>,
    /// How long it keeps what was consumed.
    pub log_retention: LogRetention,
    /// The history.
    pub history: Arc<dyn History>,
    /// The cache.
    pub cache: Arc<dyn Cache>,
    /// How gaps are opened.
    pub backfill: Deps,
    /// What is recorded now.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Saves the service's state.
    pub save: Save,
    /// The time.
    pub clock: Clock,
}

/// What a run did: one line for people, and the whole of it as data.
#[derive(Clone, Debug)]
pub struct Report {
    /// One line.
    pub summary: String,
    /// The task's own report.
    pub data: serde_json::Value,
    /// Why the run is a failure although it has something to report.
    pub failure: Option<String>,
}

impl Report {
    fn new(summary: String, data: &impl serde::Serialize) -> anyhow::Result<Self> {
        Ok(Self { summary, data: serde_json::to_value(data)?, failure: None })
    }
}

/// Which run it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The job.
    pub job: String,
    /// The run.
    pub run_id: String,
    /// `[from, to)`, when the job has windows.
    pub window: Option<(Timestamp, Timestamp)>,
}

/// What one run of a task gets.
pub struct Context {
    /// What it acts on.
    pub services: Services,
    /// Its arguments.
    pub args: TaskArgs,
    /// Which run it is.
    pub run: Identity,
    /// It is told to end: a task that loops looks at it, any other ends at its next await soon after.
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
        TaskKind::Command => command::run(args, &context.run, cancel).await,
    }
}
