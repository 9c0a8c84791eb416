//! A reload: decides what changes, then applies it. Everything that may fail or wait is part of the decision: it reads,
//! validates and compares both files. So a bad file changes nothing, the error names the reason, and a decision is
//! applied whole.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tracing::{error, info};

use crate::admin::ReloadReport;
use crate::config::{self, Config};
use crate::jobs::JobsHandle;
use crate::jobs::spec::Schedule;
use crate::market::Exchange;
use crate::messages;
use crate::systemd;

use super::Service;
use super::recorded::Plan;
use super::status::status_line;

/// Longest time to read both files: a network file system may hang, and the next reload must not wait for it.
const LOAD_MAX: Duration = Duration::from_secs(20);

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
        let environment = config::environment::variable;
        let loaded = config::load_all(self.config.as_deref(), self.jobs.as_deref(), &environment);
        loaded.map(|loaded| (loaded.config, loaded.schedule)).map_err(|problems| problems.to_string())
    }
}

/// Reloads the service; cheap to clone.
#[derive(Clone)]
pub struct Reloader {
    /// What it changes.
    pub service: Service,
    /// The schedule.
    pub jobs: JobsHandle,
    /// The exchanges that run.
    pub exchanges: BTreeSet<Exchange>,
    /// The files to read.
    pub paths: ConfigPaths,
}

/// What a reload changes.
struct Decision {
    recorded: Plan,
    token: Option<String>,
    schedule: Schedule,
    report: ReloadReport,
}

impl Reloader {
    /// Reads both files and applies them; with `dry_run` it only reports what would change.
    ///
    /// # Errors
    /// Why nothing changed.
    pub async fn reload(self, dry_run: bool) -> Result<ReloadReport, String> {
        if dry_run {
            let decision = self.decide().await.map_err(|error| format!("{error:#}"))?;
            info!("a reload would change: {}", decision.report.summary);
            return Ok(decision.report);
        }
        // Sent before the files are read: `Type=notify-reload` waits for it, also when the files are bad.
        systemd::reloading();
        let outcome = match self.decide().await {
            Ok(decision) => self.apply(decision).await,
            Err(error) => Err(error),
        };
        self.service.reloaded.count(outcome.is_ok());
        match &outcome {
            Ok(report) => {
                info!(MESSAGE_ID = messages::RELOADED, "reloaded: {}", report.summary);
                systemd::ready(&status_line(&self.service, &self.jobs).await);
            }
            Err(error) => {
                error!(MESSAGE_ID = messages::RELOAD_REFUSED, "the reload changed nothing:\n{error:#}");
                systemd::ready(&format!("the last reload changed nothing: {error:#}"));
            }
        }
        outcome.map_err(|error| format!("{error:#}"))
    }

    /// Decides what changes: the feeds, the schedule and the admin token. Refuses any other change.
    async fn decide(&self) -> anyhow::Result<Decision> {
        let (config, schedule) = self.load().await?;
        let live = |key: &String| key.starts_with("feed") || key == "admin.token";
        let fixed: Vec<String> = self.service.config.diff(&config).into_iter().filter(|key| !live(key)).collect();
        if !fixed.is_empty() {
            bail!("{} cannot change while running: this needs a restart", fixed.join(", "));
        }
        let mut exchanges = config.feeds.iter().map(|feed| feed.exchange);
        if let Some(exchange) = exchanges.find(|exchange| !self.exchanges.contains(exchange)) {
            bail!("a first feed of {exchange} needs a restart");
        }
        let recorded = self.service.recorded.plan(&config.feeds);
        let jobs = self.jobs.replace(schedule.clone(), true).await.context("compare the schedule")?;
        let mut summary = format!("{} streams added, {} removed; {jobs}", recorded.added, recorded.removed.len());
        if config.feeds.iter().any(|feed| !feed.patterns.is_empty()) {
            summary.push_str("; the exchanges are asked what the patterns match");
        }
        if *self.service.token.borrow() != config.admin.token {
            summary.push_str("; the admin token changes");
        }
        let report = ReloadReport { summary, jobs };
        Ok(Decision { recorded, token: config.admin.token, schedule, report })
    }

    /// Reads both files on a thread of their own: a file may be on a file system that hangs.
    async fn load(&self) -> anyhow::Result<(Config, Schedule)> {
        let paths = self.paths.clone();
        let loading = tokio::task::spawn_blocking(move || paths.load());
        let loaded = tokio::time::timeout(LOAD_MAX, loading).await.map_err(|_elapsed| {
            anyhow!("the files could not be read within {} s: is their file system available?", LOAD_MAX.as_secs())
        })?;
        loaded.context("read the configuration")?.map_err(|why| anyhow!(why))
    }

    /// Applies a decision. The scheduler comes first, because it is the one step that may not answer; the rest neither
    /// fails nor waits.
    async fn apply(&self, decision: Decision) -> anyhow::Result<ReloadReport> {
        let Decision { recorded, token, schedule, report } = decision;
        self.jobs.replace(schedule, false).await.context("replace the schedule")?;
        let service = &self.service;
        for stream in &recorded.removed {
            service.progress.forget(stream);
            service.saver.recording_starts.settle(stream);
        }
        service.token.send_replace(token);
        service.recorded.configure(recorded);
        Ok(report)
    }
}
