//! Metrics of the process, under the names that every Prometheus client library uses.

use rustix::process::{Resource, getrlimit};

use super::exposition::Metrics;
use crate::admin::AppState;

/// Adds start time, CPU time, memory and file descriptors.
pub fn process(metrics: &mut Metrics, state: &AppState) {
    let started = state.started_at().micros() as f64 / 1e6;
    metrics.gauge("process_start_time_seconds", "When the process started, since 1970.").set(started);
    if let Some(seconds) = cpu_seconds() {
        metrics.counter("process_cpu_seconds_total", "CPU time, user and system.").set(seconds);
    }
    if let Some(bytes) = resident_bytes() {
        metrics.gauge("process_resident_memory_bytes", "Resident memory.").set(bytes as f64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics.gauge("process_open_fds", "Open file descriptors.").set(files.count() as f64);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        metrics.gauge("process_max_fds", "Limit of open file descriptors.").set(limit as f64);
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Fields 14 and 15 of `/proc/self/stat`. The program's name, field 2, may contain spaces.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}
