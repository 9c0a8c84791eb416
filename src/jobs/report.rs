//! Journal messages about runs: their outcome, and what follows for the job.

use tracing::{error, info, warn};

use super::planner::FollowUp;
use crate::history::JobRun;
use crate::messages;

/// Logs the outcome of a run; `summary` is the line of a task that succeeded.
pub fn ended(run: &JobRun, summary: Option<&str>) {
    let JobRun { job, run_id, outcome, reason, .. } = run;
    match outcome.as_str() {
        "succeeded" => {
            info!(JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome, "{job}: {}", summary.unwrap_or_default());
        }
        "skipped" => warn!(
            MESSAGE_ID = messages::JOB_SKIPPED, JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome,
            "{job} {outcome}: {reason}"
        ),
        "deferred" => warn!(
            MESSAGE_ID = messages::JOB_DEFERRED, JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome,
            "{job} {outcome}: {reason}"
        ),
        "cancelled" => warn!(JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome, "{job} {outcome}: {reason}"),
        _ => error!(
            MESSAGE_ID = messages::JOB_FAILED, JOB = %job, RUN_ID = %run_id, OUTCOME = %outcome,
            "{job} {outcome}: {reason}"
        ),
    }
}

/// Logs what follows for the job.
pub fn follow_up(job: &str, follow_up: &FollowUp) {
    match follow_up {
        FollowUp::Nothing => {}
        FollowUp::Retry(wait) => info!(JOB = %job, "{job} runs again in {:.1} s", wait.as_secs_f64()),
        FollowUp::Paused(failures) => error!(
            MESSAGE_ID = messages::JOB_PAUSED, JOB = %job,
            "{job} is paused: it failed {failures} times in a row; repair the cause, then resume it"
        ),
    }
}
