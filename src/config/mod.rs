//! `tapekeeper.toml` and `jobs.toml` -> typed options per room; every error with file:line:col, all in one pass.
//!
//! This room knows every room's options; no room knows this one.

mod passwords;
mod problem;
mod reader;
mod schedule;
mod service;
mod units;

use std::fs;
use std::path::{Path, PathBuf};

pub use problem::{Problem, Problems, Severity, Source};
pub use units::{format_duration, parse_duration, parse_size};

use crate::admin::AdminOptions;
use crate::exchange::Feed;
use crate::jobs::spec::Schedule;
use crate::{cache, history, log};
use reader::Notes;

/// The commented default configuration, as the package installs it.
pub const DEFAULT_CONFIG: &str = include_str!("../../packaging/tapekeeper.toml");
/// The shipped schedule.
pub const DEFAULT_JOBS: &str = include_str!("../../jobs.toml");
/// Where the package puts the configuration.
const SYSTEM_PATH: &str = "/etc/tapekeeper/tapekeeper.toml";

/// The environment, as a function so that tests need not change the process's own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `[backfill]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillOptions {
    /// Percent of the exchange's request weight that repairs and questions may use together.
    pub weight_share: u32,
}

impl Default for BackfillOptions {
    fn default() -> Self {
        Self { weight_share: 50 }
    }
}

/// Everything a user may set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where the embedded stores and the state live.
    pub data_dir: PathBuf,
    /// Names this recorder among several; empty for one.
    pub instance: String,
    /// What is recorded.
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
}

impl Config {
    /// The keys whose values differ; `feed` stands for all feeds.
    pub fn diff(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut differ = |key: &str, differs: bool| {
            if differs {
                keys.push(key.to_owned());
            }
        };
        differ("data_dir", self.data_dir != other.data_dir);
        differ("instance", self.instance != other.instance);
        let Self { log, history, cache, admin, backfill, .. } = self;
        differ("log.backend", log.backend != other.log.backend);
        differ("log.retention", log.retention != other.log.retention);
        differ("log.retention_bytes", log.retention_bytes != other.log.retention_bytes);
        differ("log.kafka", log.kafka != other.log.kafka);
        differ("history.backend", history.backend != other.history.backend);
        differ("history.clickhouse", history.clickhouse != other.history.clickhouse);
        differ("cache.backend", cache.backend != other.cache.backend);
        differ("cache.redis", cache.redis != other.cache.redis);
        differ("admin.listen", admin.listen != other.admin.listen);
        differ("admin.token", admin.token != other.admin.token);
        differ("admin.socket", admin.socket != other.admin.socket);
        differ("backfill.weight_share", backfill.weight_share != other.backfill.weight_share);
        differ("feed", self.feeds != other.feeds);
        let urls = |config: &Self| config.feeds.iter().find_map(|feed| feed.rest_url.clone());
        differ("rest_url", !self.feeds.is_empty() && urls(self) != urls(other));
        keys
    }
}

/// Both files, read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The service's configuration.
    pub config: Config,
    /// The schedule.
    pub schedule: Schedule,
    /// What somebody should look at.
    pub warnings: Problems,
    /// Names of the files read.
    pub files: Vec<String>,
}

/// Finds and reads configuration and schedule; all errors of both at once.
///
/// The configuration: `explicit`, `TAPEKEEPER_CONFIG`, `./tapekeeper.toml`, `/etc/tapekeeper/tapekeeper.toml`, else
/// the built-in one. The schedule: `jobs`, `TAPEKEEPER_JOBS`, `jobs.toml` beside the configuration, else the
/// built-in one; `jobs.d/*.toml` beside it is added.
pub fn load_all(
    explicit: Option<&Path>,
    jobs: Option<&Path>,
    environment: Environment<'_>,
) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    let (config_path, config_text) = match find_config(explicit, environment) {
        Ok(found) => found,
        Err(problem) => {
            problems.push(problem);
            (None, String::new())
        }
    };
    let mut config = Config::default();
    if problems.is_empty() {
        let name =
            config_path.as_deref().map_or("the built-in configuration".to_owned(), |path| path.display().to_string());
        let notes = Notes::new(&name, &config_text);
        files.push(name);
        config = service::read(&config_text, &notes, default_data_dir(environment));
        problems.append(&mut notes.into_problems());
        passwords::fill(&mut config, environment);
    }
    let mut schedule = Schedule::default();
    match find_jobs(jobs, config_path.as_deref(), environment) {
        Ok(texts) => {
            let notes: Vec<(Notes, &str)> =
                texts.iter().map(|(name, text)| (Notes::new(name, text), text.as_str())).collect();
            schedule = schedule::read(&notes);
            for (notes, _) in notes {
                files.push(notes.source.name.clone());
                problems.append(&mut notes.into_problems());
            }
        }
        Err(problem) => problems.push(problem),
    }
    let problems = Problems(problems).sorted();
    if problems.errors() > 0 {
        return Err(problems);
    }
    Ok(Loaded { config, schedule, warnings: problems, files })
}

/// What `tapekeeper check` prints, and whether all is well.
pub fn check(explicit: Option<&Path>, jobs: Option<&Path>, environment: Environment<'_>) -> Result<String, String> {
    match load_all(explicit, jobs, environment) {
        Ok(loaded) => {
            let streams: usize = loaded.config.feeds.iter().map(|feed| feed.streams().len()).sum();
            let mut text = String::new();
            for warning in loaded.warnings.warnings() {
                text.push_str(&format!("{warning}\n"));
            }
            text.push_str(&format!(
                "ok: {}: {streams} streams, {} jobs",
                loaded.files.join(", "),
                loaded.schedule.jobs.len()
            ));
            Ok(text)
        }
        Err(problems) => Err(problems.to_string()),
    }
}

fn default_data_dir(environment: Environment<'_>) -> PathBuf {
    // systemd may name several directories; the first one is ours.
    let state = environment("STATE_DIRECTORY").and_then(|list| list.split(':').next().map(PathBuf::from));
    state.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("data"))
}

fn find_config(explicit: Option<&Path>, environment: Environment<'_>) -> Result<(Option<PathBuf>, String), Problem> {
    let named = explicit.map(Path::to_owned).or_else(|| environment("TAPEKEEPER_CONFIG").map(PathBuf::from));
    if let Some(path) = named {
        return read_file(&path).map(|text| (Some(path), text));
    }
    for path in [Path::new("tapekeeper.toml"), Path::new(SYSTEM_PATH)] {
        if path.exists() {
            return read_file(path).map(|text| (Some(path.to_owned()), text));
        }
    }
    Ok((None, DEFAULT_CONFIG.to_owned()))
}

/// The schedule and its drop-ins, as (name, text).
fn find_jobs(
    explicit: Option<&Path>,
    config: Option<&Path>,
    environment: Environment<'_>,
) -> Result<Vec<(String, String)>, Problem> {
    let named = explicit.map(Path::to_owned).or_else(|| environment("TAPEKEEPER_JOBS").map(PathBuf::from));
    let beside = config.map(|config| config.with_file_name("jobs.toml")).filter(|path| path.exists());
    let mut texts = Vec::new();
    let directory = match named.or(beside) {
        Some(path) => {
            texts.push((path.display().to_string(), read_file(&path)?));
            Some(path.with_file_name("jobs.d"))
        }
        None => {
            texts.push(("the built-in schedule".to_owned(), DEFAULT_JOBS.to_owned()));
            config.map(|config| config.with_file_name("jobs.d"))
        }
    };
    let Some(Ok(entries)) = directory.map(fs::read_dir) else { return Ok(texts) };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    // By name, as systemd reads its drop-ins.
    paths.sort();
    for path in paths {
        texts.push((path.display().to_string(), read_file(&path)?));
    }
    Ok(texts)
}

fn read_file(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path).map_err(|error| Problem {
        severity: Severity::Error,
        message: format!("cannot read {}: {error}", path.display()),
        help: Some("name an existing file with --config or --jobs, or none for the built-in one".to_owned()),
        place: None,
    })
}
