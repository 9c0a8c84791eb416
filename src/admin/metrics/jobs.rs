//! The schedule's numbers.

use super::exposition::MetricsText;
use crate::admin::{AppState, status_model};
use crate::jobs::JobStatus;
use crate::market::Timestamp;

/// Every job of the schedule.
pub async fn jobs(text: &mut MetricsText, state: &AppState) {
    let Ok(jobs) = status_model::within_timeout(state.jobs.list()).await else { return };
    let counters: [(&str, &str, Counter); 3] = [
        ("tapekeeper_job_runs_total", "Runs of a job.", |job| job.runs),
        ("tapekeeper_job_failures_total", "Runs that failed or took too long.", |job| job.failures),
        ("tapekeeper_job_missed_total", "Instants that passed without a run.", |job| job.missed),
    ];
    for (name, help, value) in counters {
        text.head(name, "counter", help);
        for job in &jobs {
            text.sample(name, &[("job", &job.name)], value(job) as f64);
        }
    }
    let name = "tapekeeper_job_outcomes_total";
    text.head(name, "counter", "Rows of the run history, by how the run ended or why there was none.");
    for job in &jobs {
        for (outcome, count) in &job.outcomes {
            text.sample(name, &[("job", &job.name), ("outcome", outcome)], *count as f64);
        }
    }
    let gauges: [(&str, &str, Gauge); 6] = [
        ("tapekeeper_job_lateness_seconds", "How late its last run started.", |job| {
            Some(job.last_lateness_ms? as f64 / 1e3)
        }),
        ("tapekeeper_job_last_success_timestamp_seconds", "When a run last succeeded.", |job| {
            seconds(&job.last_success)
        }),
        ("tapekeeper_job_next_run_timestamp_seconds", "When it runs next.", |job| seconds(&job.next_run)),
        ("tapekeeper_job_running", "1 while it runs.", |job| Some(f64::from(u8::from(job.running)))),
        ("tapekeeper_job_paused", "1 while it is paused.", |job| Some(f64::from(u8::from(job.paused)))),
        ("tapekeeper_job_silent", "1 while a critical job has not succeeded for too long.", |job| {
            job.max_silence_s.map(|_| f64::from(u8::from(job.silent)))
        }),
    ];
    for (name, help, value) in gauges {
        text.head(name, "gauge", help);
        for (job, value) in jobs.iter().filter_map(|job| Some((job, value(job)?))) {
            text.sample(name, &[("job", &job.name)], value);
        }
    }
}

/// Reads a count off a job.
type Counter = fn(&JobStatus) -> u64;

/// Reads one number off a job, when there is one.
type Gauge = fn(&JobStatus) -> Option<f64>;

fn seconds(at: &Option<String>) -> Option<f64> {
    Some(Timestamp::parse(at.as_deref()?)?.micros() as f64 / 1e6)
}
