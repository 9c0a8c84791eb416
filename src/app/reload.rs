//! A reload: reads, validates, compares and applies both files. A bad file changes nothing, and the error names the
//! reason.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tracing::info;

use crate::admin::ReloadReport;
use crate::config::{self, Config};
use crate::jobs::JobsHandle;
use crate::jobs::spec::Schedule;
use crate::market::Stream;
use crate::messages;

use super::Service;
use super::exchange_runtime::ExchangeRuntime;

/// The paths of configuration and schedule from the command line.
#[derive(Clone, Debug, Default)]
pub struct ConfigPaths {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--jobs`.
    pub jobs: Option<PathBuf>,
}

impl ConfigPaths {
    /// Reads both files.
    pub fn load(&self) -> Result<(Config, Schedule), String> {
        let environment = |name: &str| std::env::var(name).ok();
        let loaded = config::load_all(self.config.as_deref(), self.jobs.as_deref(), &environment);
        loaded.map(|loaded| (loaded.config, loaded.schedule)).map_err(|problems| problems.to_string())
    }
}

/// What a reload may change.
pub struct Reloadable {
    /// The running exchanges.
    pub runtimes: Vec<ExchangeRuntime>,
    /// Publishes the recorded streams.
    pub streams: watch::Sender<Vec<Stream>>,
    /// The schedule.
    pub jobs: JobsHandle,
}

/// Applies what may change live: the feeds and the schedule. Refuses any other change.
pub async fn apply(
    service: &Service,
    reloadable: &mut Reloadable,
    config: &Config,
    schedule: &Schedule,
    dry_run: bool,
) -> anyhow::Result<ReloadReport> {
    let fixed: Vec<String> = service.config.diff(config).into_iter().filter(|key| !key.starts_with("feed")).collect();
    if !fixed.is_empty() {
        return Err(anyhow!("{} cannot change while running: this needs a restart", fixed.join(", ")));
    }
    let before: Vec<Stream> = service.feeds.borrow().iter().flat_map(|feed| feed.streams()).collect();
    let after: Vec<Stream> = config.feeds.iter().flat_map(|feed| feed.streams()).collect();
    let added = after.iter().filter(|stream| !before.contains(stream)).count();
    let removed: Vec<&Stream> = before.iter().filter(|stream| !after.contains(stream)).collect();
    let mut summary = format!("{added} streams added, {} removed", removed.len());
    if let Some(exchange) = config
        .feeds
        .iter()
        .map(|feed| feed.exchange)
        .find(|exchange| !reloadable.runtimes.iter().any(|runtime| runtime.exchange == *exchange))
    {
        return Err(anyhow!("a first feed of {exchange} needs a restart"));
    }
    if !dry_run {
        // Before the subscriptions: ingest drops the frames of streams that are not in this list.
        reloadable.streams.send_replace(after.clone());
        for runtime in &mut reloadable.runtimes {
            runtime.sockets.assign(&config.feeds).await;
        }
        for stream in &removed {
            service.progress.forget(stream);
            service.saver.recording_starts.settle(stream);
        }
        service
            .backfill
            .supersede(|stream| after.contains(stream), "its feed was removed")
            .await
            .context("supersede the gaps of removed feeds")?;
        service.feeds.send_replace(config.feeds.clone());
    }
    let jobs = reloadable.jobs.replace(schedule.clone(), dry_run).await?;
    summary.push_str(&format!("; {jobs}"));
    if dry_run {
        info!("a reload would change: {summary}");
    } else {
        info!(MESSAGE_ID = messages::RELOADED, "reloaded: {summary}");
    }
    Ok(ReloadReport { summary, jobs })
}
