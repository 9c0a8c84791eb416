//! Executes one run with its limits, and decides its outcome.

use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::planner::Firing;
use super::spec::JobSpec;
use super::tasks::{self, Context, Identity, Report, Services};
use crate::clock::Clock;
use crate::history::JobRun;
use crate::market::Timestamp;
use crate::supervisor;

/// How long a cancelled task may take to end before it is aborted.
const ABORT_GRACE: Duration = Duration::from_secs(2);
/// How long an aborted task may take to reach its next await.
const ABORTED_MAX: Duration = Duration::from_secs(1);

/// The tokens that end a run from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct StopTokens {
    /// Asks the task to end.
    pub(super) cancel: CancellationToken,
    /// Aborts the task.
    pub(super) abort: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StopReason {
    TimedOut,
    Cancelled,
}

/// A new row of the run history.
pub(super) fn new_run(firing: &Firing) -> JobRun {
    JobRun {
        run_id: uuid::Uuid::now_v7().to_string(),
        job: firing.job.clone(),
        trigger: firing.trigger.as_str().to_owned(),
        scheduled_at: firing.scheduled_at.micros(),
        started_at: None,
        finished_at: None,
        attempt: i64::from(firing.attempt),
        outcome: "running".to_owned(),
        reason: String::new(),
        window: firing.window.map(|(from, to)| (from.micros(), to.micros())),
        report: String::new(),
        // The task that writes the row sets it.
        recorder: String::new(),
    }
}

/// Runs a task within its limits; a panic is a failed run. Returns the row and the task's summary.
pub(super) async fn execute(
    spec: JobSpec,
    mut run: JobRun,
    services: Services,
    clock: Clock,
    stop_tokens: StopTokens,
) -> (JobRun, Option<String>) {
    let context = Context {
        services,
        args: spec.args,
        run: Identity {
            job: run.job.clone(),
            run_id: run.run_id.clone(),
            window: run.window.map(|(from, to)| (Timestamp(from), Timestamp(to))),
        },
        cancel: stop_tokens.cancel.clone(),
    };
    // A task of its own: its panic is a failed run, and its abort must not end this function.
    let mut task = tokio::spawn(async move { tasks::run(spec.task, &context).await });
    let (mut result, stop_reason) = tokio::select! {
        result = &mut task => (Some(result), None),
        () = tokio::time::sleep(spec.timeout) => (None, Some(StopReason::TimedOut)),
        () = stop_tokens.cancel.cancelled() => (None, Some(StopReason::Cancelled)),
        () = stop_tokens.abort.cancelled() => (None, Some(StopReason::Cancelled)),
    };
    if result.is_none() {
        stop_tokens.cancel.cancel();
        result = tokio::select! {
            result = &mut task => Some(result),
            () = tokio::time::sleep(ABORT_GRACE) => None,
            () = stop_tokens.abort.cancelled() => None,
        };
    }
    if result.is_none() {
        task.abort();
        // Its successor must not start before it is gone; the limit is for a task that blocks its thread.
        let _aborted = tokio::time::timeout(ABORTED_MAX, &mut task).await;
    }
    let (outcome, reason, report) = classify(result, stop_reason, spec.timeout);
    run.outcome = outcome.to_owned();
    run.reason = reason;
    run.finished_at = Some(clock.now().micros());
    let summary = report.as_ref().map(|report| report.summary.clone());
    run.report = report.map_or(String::new(), |report| report.data.to_string());
    (run, summary)
}

type TaskResult = Result<anyhow::Result<Report>, JoinError>;

fn classify(
    result: Option<TaskResult>,
    stop_reason: Option<StopReason>,
    timeout: Duration,
) -> (&'static str, String, Option<Report>) {
    let timed_out = || format!("not done within {} s", timeout.as_secs_f64());
    match (result, stop_reason) {
        (Some(Err(error)), _) => ("failed", panic_message(error), None),
        (Some(Ok(Ok(report))), stop_reason) if report.failure.is_some() => {
            let why = report.failure.clone().unwrap_or_default();
            match stop_reason {
                None => ("failed", why, Some(report)),
                Some(StopReason::TimedOut) => ("timed_out", format!("{}: {why}", timed_out()), Some(report)),
                Some(StopReason::Cancelled) => ("cancelled", why, Some(report)),
            }
        }
        (Some(Ok(Ok(report))), Some(StopReason::TimedOut)) => ("timed_out", timed_out(), Some(report)),
        // It was done before it saw the cancellation.
        (Some(Ok(Ok(report))), _) => ("succeeded", String::new(), Some(report)),
        (Some(Ok(Err(error))), None) => ("failed", format!("{error:#}"), None),
        (_, Some(StopReason::TimedOut)) => ("timed_out", timed_out(), None),
        (_, _) => ("cancelled", "it was cancelled before it was done".to_owned(), None),
    }
}

fn panic_message(error: JoinError) -> String {
    let payload = match error.try_into_panic() {
        Ok(payload) => payload,
        Err(error) => return error.to_string(),
    };
    format!("panic: {}", supervisor::panic_message(&*payload))
}
