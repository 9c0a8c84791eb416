//! One run from its start to its end: its limits, and what became of it.

use std::time::Duration;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::planner::Firing;
use super::spec::JobSpec;
use super::tasks::{self, Context, Identity, Report, Services};
use crate::clock::Clock;
use crate::history::JobRun;
use crate::market::Timestamp;

/// How long a task that was told to end may take, before it is aborted.
const ABORT_GRACE: Duration = Duration::from_secs(2);
/// How long an aborted task may take to come to its next await.
const ABORTED_MAX: Duration = Duration::from_secs(1);

/// How a run is ended from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    /// The task is told to end.
    pub(super) cancel: CancellationToken,
    /// The task is aborted.
    pub(super) abort: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    TimedOut,
    Cancelled,
}

/// The row of a run that begins, or that does not.
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
    }
}

/// Runs a task with its limits; a panic is a failed run.
pub(super) async fn execute(
    spec: JobSpec,
    mut run: JobRun,
    services: Services,
    clock: Clock,
    stops: Stops,
) -> (JobRun, Option<String>) {
    let context = Context {
        services,
        args: spec.args,
        run: Identity {
            job: run.job.clone(),
            run_id: run.run_id.clone(),
            window: run.window.map(|(from, to)| (Timestamp(from), Timestamp(to))),
        },
        cancel: stops.cancel.clone(),
    };
    let mut work = tokio::spawn(async move { tasks::run(spec.task, &context).await });
    let (mut ended, cut) = tokio::select! {
        ended = &mut work => (Some(ended), None),
        () = tokio::time::sleep(spec.timeout) => (None, Some(Cut::TimedOut)),
        () = stops.cancel.cancelled() => (None, Some(Cut::Cancelled)),
        () = stops.abort.cancelled() => (None, Some(Cut::Cancelled)),
    };
    if ended.is_none() {
        stops.cancel.cancel();
        ended = tokio::select! {
            ended = &mut work => Some(ended),
            () = tokio::time::sleep(ABORT_GRACE) => None,
            () = stops.abort.cancelled() => None,
        };
    }
    if ended.is_none() {
        work.abort();
        // Until it is gone its successor must not start; one that blocks its thread is not waited for.
        let _aborted = tokio::time::timeout(ABORTED_MAX, &mut work).await;
    }
    let (outcome, reason, report) = judge(ended, cut, spec.timeout);
    run.outcome = outcome.to_owned();
    run.reason = reason;
    run.finished_at = Some(clock.now().micros());
    let summary = report.as_ref().map(|report| report.summary.clone());
    run.report = report.map_or(String::new(), |report| report.data.to_string());
    (run, summary)
}

type Work = Result<anyhow::Result<Report>, JoinError>;

fn judge(ended: Option<Work>, cut: Option<Cut>, timeout: Duration) -> (&'static str, String, Option<Report>) {
    let late = || format!("not done within {} s", timeout.as_secs_f64());
    match (ended, cut) {
        (Some(Err(error)), _) => ("failed", panic_words(error), None),
        (Some(Ok(Ok(report))), cut) if report.failure.is_some() => {
            let why = report.failure.clone().unwrap_or_default();
            match cut {
                None => ("failed", why, Some(report)),
                Some(Cut::TimedOut) => ("timed_out", format!("{}: {why}", late()), Some(report)),
                Some(Cut::Cancelled) => ("cancelled", why, Some(report)),
            }
        }
        (Some(Ok(Ok(report))), Some(Cut::TimedOut)) => ("timed_out", late(), Some(report)),
        // It was done before it noticed.
        (Some(Ok(Ok(report))), _) => ("succeeded", String::new(), Some(report)),
        (Some(Ok(Err(error))), None) => ("failed", format!("{error:#}"), None),
        (_, Some(Cut::TimedOut)) => ("timed_out", late(), None),
        (_, _) => ("cancelled", "it was told to end before it was done".to_owned(), None),
    }
}

fn panic_words(error: JoinError) -> String {
    let payload = match error.try_into_panic() {
        Ok(payload) => payload,
        Err(error) => return error.to_string(),
    };
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    format!("panic: {}", text.as_deref().unwrap_or("without a message"))
}
