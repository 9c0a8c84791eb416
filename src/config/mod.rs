//! Reads `tapekeeper.toml` and `jobs.toml` into typed options for each module, and reports every error of both files in
//! one pass, with file:line:col.
//!
//! This module knows every module's options; only `app` and `cli` may import it.

mod changes;
mod cron_mistakes;
pub mod environment;
mod feed_symbols;
mod feeds;
mod lookup;
mod passwords;
mod problem;
mod reader;
mod schedule;
mod service;
mod spelling;
mod task_args;
mod units;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use problem::{Problem, Problems, Severity, Source, did_you_mean};
pub use units::{format_duration, format_size, parse_duration, parse_size};

use crate::admin::AdminOptions;
use crate::exchange::Feed;
use crate::jobs::spec::{Schedule, TaskKind};
use crate::{cache, history, log};
use reader::Diagnostics;

/// The commented default configuration, as the package installs it.
pub const DEFAULT_CONFIG: &str = include_str!("../../packaging/tapekeeper.toml");
/// The shipped schedule.
pub const DEFAULT_JOBS: &str = include_str!("../../jobs.toml");

/// Looks up an environment variable; a function, so that tests need not change the process's environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `[backfill]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillOptions {
    /// Percent of the exchange's request weight that repairs and probes may use together.
    pub weight_share: u32,
    /// How long the exchange is asked for positions that it does not serve, before a gap closes without them.
    pub confirm_after: Duration,
}

impl Default for BackfillOptions {
    fn default() -> Self {
        Self { weight_share: 50, confirm_after: Duration::from_secs(6 * 3_600) }
    }
}

/// `[seal]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealOptions {
    /// The directory of sealed days; without one the jobs that seal are off.
    pub to: Option<PathBuf>,
}

/// Everything that the user can configure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The directory of the embedded stores and the state.
    pub data_dir: PathBuf,
    /// Identifies this recorder among several; empty when there is only one.
    pub instance: String,
    /// The feeds to record.
    pub feeds: Vec<Feed>,
    /// `[log]`.
    pub log: log::Options,
    /// `[history]`.
    pub history: history::Options,
    /// `[cache]`.
    pub cache: cache::Options,
    /// `[admin]`.
    pub admin: AdminOptions,
    /// `[backfill]`.
    pub backfill: BackfillOptions,
    /// `[seal]`.
    pub seal: SealOptions,
}

impl Config {
    /// The full names of the keys whose values differ; `feed` means any feed, `rest_url` the base of the REST client.
    /// Values are left out: some are passwords.
    pub fn diff(&self, other: &Self) -> Vec<String> {
        changes::between(self, other)
    }
}

/// The contents of both files.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The service's configuration.
    pub config: Config,
    /// The schedule.
    pub schedule: Schedule,
    /// Problems that do not prevent the use of the files.
    pub warnings: Problems,
    /// What `check` says about files that have no fault.
    pub notes: Vec<String>,
    /// The names of the files that were read.
    pub files: Vec<String>,
}

/// Finds and reads configuration and schedule; the error lists all errors of both.
///
/// The configuration: `explicit`, `TAPEKEEPER_CONFIG`, `./tapekeeper.toml`, `/etc/tapekeeper/tapekeeper.toml`, else the
/// built-in one. The schedule: `jobs`, `TAPEKEEPER_JOBS`, `jobs.toml` beside the configuration, else the built-in one;
/// in addition `jobs.d/*.toml` beside it.
pub fn load_all(
    explicit: Option<&Path>,
    jobs: Option<&Path>,
    environment: Environment<'_>,
) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut names = Vec::new();
    let found = lookup::find_config(explicit, environment, &mut problems);
    names.extend(found.iter().map(|file| file.name.clone()));
    let config = read_config(found.as_ref(), environment, &mut problems);
    // Read the schedule beside the configuration even when the configuration could not be read.
    let beside = found.as_ref().and_then(|file| file.path.as_deref()).or(explicit);
    let files = lookup::find_jobs(jobs, beside, environment, &mut problems);
    names.extend(files.iter().map(|file| file.name.clone()));
    let mut schedule = read_schedule(&files, &mut problems);
    let problems = Problems(problems).sorted();
    if problems.errors() > 0 {
        return Err(problems);
    }
    let notes = switch_off_seal(&config, &mut schedule);
    Ok(Loaded { config, schedule, warnings: problems, notes, files: names })
}

/// Without a place for sealed days the jobs that seal are off; returns what to say about it.
fn switch_off_seal(config: &Config, schedule: &mut Schedule) -> Vec<String> {
    let mut notes = Vec::new();
    for job in &mut schedule.jobs {
        if job.task == TaskKind::Seal && job.enabled && config.seal.to.is_none() {
            job.enabled = false;
            notes.push(format!("job `{}` is off: `[seal] to` names no place for sealed days", job.name));
        }
    }
    notes
}

/// Finds and reads the configuration alone: commands to the running service must work while an operator edits the
/// schedule.
pub fn load_config(explicit: Option<&Path>, environment: Environment<'_>) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let found = lookup::find_config(explicit, environment, &mut problems);
    let config = read_config(found.as_ref(), environment, &mut problems);
    let problems = Problems(problems).sorted();
    if problems.errors() > 0 { Err(problems) } else { Ok(config) }
}

fn read_config(
    found: Option<&lookup::ConfigFile>,
    environment: Environment<'_>,
    problems: &mut Vec<Problem>,
) -> Config {
    let Some(file) = found else { return Config::default() };
    let diagnostics = Diagnostics::new(&file.name, &file.text);
    let mut config =
        service::read(&file.text, &diagnostics, lookup::default_data_dir(environment, file.path.as_deref()));
    let socket = config.admin.socket.take();
    config.admin.socket = socket.or_else(|| lookup::default_socket(environment, file.path.as_deref()));
    problems.append(&mut diagnostics.into_problems());
    problems.append(&mut passwords::fill(&mut config, environment));
    config
}

/// Reads one schedule and the drop-ins beside it, without any configuration.
pub fn load_schedule(path: &Path) -> Result<Schedule, Problems> {
    let mut problems = Vec::new();
    let files = lookup::find_jobs(Some(path), None, &|_| None, &mut problems);
    let schedule = read_schedule(&files, &mut problems);
    let problems = Problems(problems).sorted();
    if problems.errors() > 0 { Err(problems) } else { Ok(schedule) }
}

fn read_schedule(files: &[lookup::ConfigFile], problems: &mut Vec<Problem>) -> Schedule {
    let diagnostics: Vec<(Diagnostics, &str)> =
        files.iter().map(|file| (Diagnostics::new(&file.name, &file.text), file.text.as_str())).collect();
    let schedule = schedule::read(&diagnostics);
    for (diagnostics, _) in diagnostics {
        problems.append(&mut diagnostics.into_problems());
    }
    schedule
}

/// The output of `tapekeeper check`; the error lists all problems.
pub fn check(explicit: Option<&Path>, jobs: Option<&Path>, environment: Environment<'_>) -> Result<String, String> {
    match load_all(explicit, jobs, environment) {
        Ok(loaded) => {
            let streams: usize = loaded.config.feeds.iter().map(|feed| feed.streams().len()).sum();
            let mut text = String::new();
            for warning in loaded.warnings.warnings() {
                text.push_str(&format!("{warning}\n"));
            }
            for note in &loaded.notes {
                text.push_str(&format!("note: {note}\n"));
            }
            let jobs = loaded.schedule.jobs.len();
            let patterns: usize = loaded.config.feeds.iter().map(|feed| feed.patterns.len()).sum();
            let matched = match patterns {
                0 => String::new(),
                1 => " and those of 1 pattern".to_owned(),
                _ => format!(" and those of {patterns} patterns"),
            };
            text.push_str(&format!("ok: {}: {streams} streams{matched}, {jobs} jobs", loaded.files.join(", ")));
            Ok(text)
        }
        Err(problems) => Err(problems.to_string()),
    }
}

#[cfg(test)]
#[path = "golden_tests.rs"]
mod golden_tests;
#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
