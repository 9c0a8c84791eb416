//! The planner's state across restarts: pauses, the last calendar instant of each job, and the end of its last window.
//! It is a small file and not rows of history: pauses must hold and windows must stay contiguous while history is down
//! or replaced.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::task::{JoinError, JoinHandle};
use tracing::warn;

use crate::atomic_file;
use crate::market::Timestamp;

/// The file's name in the state directory.
pub const FILE: &str = "jobs_state.json";
/// How long a tick waits for the write; the next tick waits for a slower disk.
const SAVE_MAX: Duration = Duration::from_secs(1);
/// The version of the file's layout.
const SCHEMA: u32 = 1;

/// The saved state of every job.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchedulerState {
    schema: u32,
    /// By the job's name.
    pub jobs: BTreeMap<String, JobState>,
}

/// The saved state of one job. Times are microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct JobState {
    /// Why it is paused; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// The last instant of its calendar that ran or was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<i64>,
    /// Where its next window begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_to: Option<i64>,
    /// When it last succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<i64>,
}

impl Default for SchedulerState {
    fn default() -> Self {
        Self { schema: SCHEMA, jobs: BTreeMap::new() }
    }
}

impl SchedulerState {
    /// Reads the file; without one the state is empty.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let state: Self = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        ensure!(state.schema == SCHEMA, "{} has layout {}, expected {SCHEMA}", path.display(), state.schema);
        Ok(state)
    }

    /// Replaces the whole file: after a crash at any moment it is the old one or the new one.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("serialize the jobs' state")?;
        atomic_file::write(path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }
}

impl JobState {
    /// Whether nothing is saved for the job.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `last` as an instant.
    pub fn last(&self) -> Option<Timestamp> {
        self.last.map(Timestamp)
    }
}

/// The file and the task that writes it; a tick never waits for it longer than [`SAVE_MAX`].
pub struct StateFile {
    path: Option<PathBuf>,
    unsaved: Option<SchedulerState>,
    saving: Option<JoinHandle<anyhow::Result<()>>>,
}

impl StateFile {
    /// Without a path nothing is saved.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, unsaved: None, saving: None }
    }

    /// Writes the changed state, or the one that an earlier call could not write.
    pub async fn save(&mut self, changed: Option<SchedulerState>) {
        if changed.is_some() {
            self.unsaved = changed;
        }
        let Some(path) = &self.path else { return };
        // One write at a time: two at once would corrupt the new file.
        if let Some(saving) = &mut self.saving {
            match tokio::time::timeout(SAVE_MAX, saving).await {
                Ok(saved) => self.saving = report(saved),
                Err(_elapsed) => return,
            }
        }
        let Some(state) = self.unsaved.take() else { return };
        let path = path.clone();
        let mut saving = tokio::task::spawn_blocking(move || state.save(&path));
        self.saving = match tokio::time::timeout(SAVE_MAX, &mut saving).await {
            Ok(saved) => report(saved),
            Err(_elapsed) => Some(saving),
        };
    }
}

fn report(saved: Result<anyhow::Result<()>, JoinError>) -> Option<JoinHandle<anyhow::Result<()>>> {
    match saved {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("cannot save the jobs' state, a restart would lose pauses and windows: {error:#}"),
        Err(error) => warn!("cannot save the jobs' state, a restart would lose pauses and windows: {error}"),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_state_is_loaded_and_a_missing_file_is_an_empty_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(SchedulerState::load(&path).unwrap(), SchedulerState::default());
        let mut state = SchedulerState::default();
        let job_state = JobState { paused: Some("a move".to_owned()), last: Some(7), ..JobState::default() };
        state.jobs.insert("gap-sweep".to_owned(), job_state);
        state.save(&path).unwrap();
        assert_eq!(SchedulerState::load(&path).unwrap(), state);
    }

    #[test]
    fn a_torn_or_newer_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for text in ["{\"schema\": 1, \"jo", "{\"schema\": 2, \"jobs\": {}}", ""] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", SchedulerState::load(&path).unwrap_err());
            assert!(error.contains(FILE), "{error}");
        }
    }
}
