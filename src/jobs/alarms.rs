//! Alarms: critical jobs that are silent for too long, and failed runs of jobs with `on_failure = { alert = true }`.
//!
//! While an alarm lasts, the job is a degraded part of the service's health. Each alarm also writes one journal line
//! with the field ALERT, and a metric shows it.

use std::collections::BTreeMap;

use tracing::{error, info};

use super::planner::SilentJob;
use crate::health::Health;
use crate::messages;

/// The alarms that are active.
pub(super) struct Alarms {
    health: Health,
    silent: BTreeMap<String, String>,
    failed: BTreeMap<String, String>,
}

impl Alarms {
    pub(super) fn new(health: Health) -> Self {
        Self { health, silent: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Sets the jobs that are silent now; every other job is not.
    pub(super) fn set_silent(&mut self, now: Vec<SilentJob>) {
        let over: Vec<String> =
            self.silent.keys().filter(|job| !now.iter().any(|silent| silent.job == **job)).cloned().collect();
        for job in over {
            self.silent.remove(&job);
            info!(JOB = %job, "{job} is no longer silent");
            self.publish(&job);
        }
        for SilentJob { job, silent_for, max } in now {
            if self.silent.contains_key(&job) {
                continue;
            }
            let why = format!("no success for more than {} s", max.as_secs_f64());
            error!(
                MESSAGE_ID = messages::JOB_SILENT, ALERT = "job", JOB = %job,
                "{job} is critical and has not succeeded for {:.0} s: see `tapekeeper jobs history {job}`",
                silent_for.as_secs_f64()
            );
            self.silent.insert(job.clone(), why);
            self.publish(&job);
        }
    }

    /// Raises the alarm of a run that failed and is not retried.
    pub(super) fn failed(&mut self, job: &str, run_id: &str, why: &str) {
        error!(
            MESSAGE_ID = messages::JOB_ALERT, ALERT = "job", JOB = %job, RUN_ID = %run_id,
            "{job} needs attention: its last run {why}"
        );
        self.failed.insert(job.to_owned(), format!("its last run {why}"));
        self.publish(job);
    }

    /// Ends the alarm of a failed run after a success.
    pub(super) fn succeeded(&mut self, job: &str) {
        if self.failed.remove(job).is_some() {
            self.publish(job);
        }
    }

    /// Ends the alarms of jobs that the schedule no longer has.
    pub(super) fn retain(&mut self, is_scheduled: impl Fn(&str) -> bool) {
        let gone: Vec<String> =
            self.silent.keys().chain(self.failed.keys()).filter(|job| !is_scheduled(job)).cloned().collect();
        for job in gone {
            self.silent.remove(&job);
            self.failed.remove(&job);
            self.publish(&job);
        }
    }

    fn publish(&self, job: &str) {
        let part = format!("job {job}");
        match self.silent.get(job).or_else(|| self.failed.get(job)) {
            Some(why) => self.health.degraded(&part, why),
            // The result only says whether it was degraded before.
            None => drop(self.health.restored(&part)),
        }
    }
}
