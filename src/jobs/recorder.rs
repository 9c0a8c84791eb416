//! Writes runs to history in its own task: a history that is slow or down delays no run and no heartbeat.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::history::{HistoryError, JobRun, RunStore};
use crate::market::Timestamp;
use crate::retry::Backoff;

/// Runs that may wait for history; any more are only in the journal.
pub(super) const RECORDS_MAX: usize = 1_024;
/// Longest write before the recorder retries it.
const PUT_MAX: Duration = Duration::from_secs(5);
/// Longest delay between two attempts; jitter halves it at most.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Newest runs searched for those that an earlier process did not end.
const RUNS_SCANNED_MAX: usize = 1_000;

/// A run to write, and the caller that waits for its end.
pub(super) struct Record {
    pub(super) run: JobRun,
    pub(super) done: Option<oneshot::Sender<JobRun>>,
}

pub(super) struct Recorder {
    history: Arc<dyn RunStore>,
    clock: Clock,
    /// The name of this recorder among several that share the history.
    instance: String,
    records: mpsc::Receiver<Record>,
    /// Runs that started before it belong to an earlier process.
    started: Timestamp,
}

impl Recorder {
    pub(super) fn new(
        history: Arc<dyn RunStore>,
        clock: Clock,
        instance: String,
        records: mpsc::Receiver<Record>,
    ) -> Self {
        let started = clock.now();
        Self { history, clock, instance, records, started }
    }

    /// Writes until the runner stops; sends the newest run of each job from before this process to `previous_runs`.
    pub(super) async fn run(mut self, previous_runs: oneshot::Sender<Vec<JobRun>>) {
        let mut previous_runs = Some(previous_runs);
        loop {
            if let Some(waiting) = previous_runs.take() {
                match tokio::time::timeout(PUT_MAX, self.close_interrupted()).await {
                    // When the runner has stopped already, nobody needs these.
                    Ok(Ok(runs)) => drop(waiting.send(runs)),
                    Ok(Err(_)) | Err(_) => previous_runs = Some(waiting),
                }
            }
            let record = if previous_runs.is_some() {
                match tokio::time::timeout(RETRY_DELAY, self.records.recv()).await {
                    Ok(record) => record,
                    Err(_elapsed) => continue,
                }
            } else {
                self.records.recv().await
            };
            let Some(mut record) = record else { return };
            record.run.recorder.clone_from(&self.instance);
            self.write(record).await;
        }
    }

    /// Writes a run, however long history is down; during the stop it tries once.
    async fn write(&self, mut record: Record) {
        let mut failed = false;
        let mut backoff = Backoff::new(RETRY_DELAY, RETRY_DELAY);
        loop {
            let why = match tokio::time::timeout(PUT_MAX, self.history.put_run(&record.run)).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => format!("no answer within {} s", PUT_MAX.as_secs()),
            };
            let run = &record.run;
            if !failed {
                warn!(JOB = %run.job, RUN_ID = %run.run_id, error = %why, "cannot record a run of {} yet: {why}", run.job);
            }
            failed = true;
            notify_waiter(&mut record);
            if self.records.is_closed() {
                return;
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        notify_waiter(&mut record);
        if failed {
            info!(JOB = %record.run.job, RUN_ID = %record.run.run_id, "history records runs again");
        }
    }

    /// Marks the runs that an earlier process of this recorder did not end as failed. Returns the newest run of each job.
    async fn close_interrupted(&self) -> Result<Vec<JobRun>, HistoryError> {
        let mut newest: Vec<JobRun> = Vec::new();
        for mut run in self.history.runs(None, Some(&self.instance), RUNS_SCANNED_MAX).await? {
            let of_another_process = run.started_at.is_none_or(|at| at < self.started.micros());
            if run.outcome == "running" && of_another_process {
                run.outcome = "failed".to_owned();
                run.reason = "the process ended during the run".to_owned();
                run.finished_at = Some(self.clock.now().micros());
                self.history.put_run(&run).await?;
            }
            if of_another_process && !newest.iter().any(|other| other.job == run.job) {
                newest.push(run);
            }
        }
        Ok(newest)
    }
}

/// The waiting caller may have gone; the run is recorded either way.
fn notify_waiter(record: &mut Record) {
    if let Some(done) = record.done.take() {
        done.send(record.run.clone()).ok();
    }
}
