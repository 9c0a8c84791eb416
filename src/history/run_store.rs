//! The part of history that says what the recorder did: runs of jobs, and dead letters.

use async_trait::async_trait;

use super::{DeadLetter, HistoryError, JobRun};

/// Runs of jobs, and dead letters.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// The newest dead letters of one recorder or of all, by receive time, newest first, at most `limit`.
    async fn dead_letters(&self, recorder: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HistoryError>;

    /// The number of dead letters of one recorder or of all.
    async fn dead_letter_count(&self, recorder: Option<&str>) -> Result<u64, HistoryError>;

    /// Stores a run of a job; replaces the run with the same `run_id`.
    async fn put_run(&self, run: &JobRun) -> Result<(), HistoryError>;

    /// The newest runs of one job or of all, of one recorder or of all, by scheduled time and then `run_id`, newest first,
    /// at most `limit`.
    async fn runs(&self, job: Option<&str>, recorder: Option<&str>, limit: usize) -> Result<Vec<JobRun>, HistoryError>;
}
