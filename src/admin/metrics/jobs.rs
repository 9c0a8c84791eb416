//! Metrics of the jobs.

use super::exposition::Metrics;
use crate::admin::{AppState, status_model};
use crate::jobs::JobStatus;
use crate::market::Timestamp;

/// Adds the metrics of every job.
pub async fn jobs(metrics: &mut Metrics, state: &AppState) {
    let Ok(jobs) = status_model::within_timeout(state.jobs.list()).await else { return };
    let counters: [(&'static str, &'static str, Counter); 3] = [
        ("tapekeeper_job_runs_total", "Runs of a job.", |job| job.runs),
        ("tapekeeper_job_failures_total", "Runs that failed or took too long.", |job| job.failures),
        ("tapekeeper_job_missed_total", "Scheduled instants without a run.", |job| job.missed),
    ];
    for (name, help, value) in counters {
        let values = jobs.iter().map(|job| (job.name.as_str(), value(job) as f64));
        metrics.counter(name, help).add_each("job", values);
    }
    let help = "Rows of the run history, by outcome.";
    let family = metrics.counter("tapekeeper_job_outcomes_total", help);
    for job in &jobs {
        for (outcome, count) in &job.outcomes {
            family.add(&[("job", &job.name), ("outcome", outcome)], *count as f64);
        }
    }
    let gauges: [(&'static str, &'static str, Gauge); 6] = [
        ("tapekeeper_job_lateness_seconds", "How late the last run started.", |job| {
            Some(job.last_lateness_ms? as f64 / 1e3)
        }),
        ("tapekeeper_job_last_success_timestamp_seconds", "When a run last succeeded.", |job| {
            seconds(&job.last_success)
        }),
        ("tapekeeper_job_next_run_timestamp_seconds", "When the next run is due.", |job| seconds(&job.next_run)),
        ("tapekeeper_job_running", "1 while the job runs.", |job| Some(f64::from(u8::from(job.running)))),
        ("tapekeeper_job_paused", "1 while the job is paused.", |job| Some(f64::from(u8::from(job.paused)))),
        ("tapekeeper_job_silent", "1 while the last success of a critical job is too old.", |job| {
            job.max_silence_s.map(|_| f64::from(u8::from(job.silent)))
        }),
    ];
    for (name, help, value) in gauges {
        let values = jobs.iter().filter_map(|job| Some((job.name.as_str(), value(job)?)));
        metrics.gauge(name, help).add_each("job", values);
    }
}

/// Reads a count of a job.
type Counter = fn(&JobStatus) -> u64;

/// Reads a value of a job, when it has one.
type Gauge = fn(&JobStatus) -> Option<f64>;

fn seconds(at: &Option<String>) -> Option<f64> {
    Some(Timestamp::parse(at.as_deref()?)?.micros() as f64 / 1e6)
}
