//! Checks the requirements of jobs against health, connections and disk.

use std::sync::Arc;

use crate::config::format_size;
use crate::health::Health;
use crate::jobs::Conditions;
use crate::jobs::spec::Requirement;

use super::Service;

/// A function that returns why a requirement is not met.
pub fn check(service: &Service) -> Conditions {
    let service = service.clone();
    Arc::new(move |requirement| match requirement {
        Requirement::IngestConnected => connected(&service),
        Requirement::LogConnected => not_degraded(&service.health, &["log", "ingest"]),
        Requirement::HistoryConnected => not_degraded(&service.health, &["history"]),
        Requirement::CacheConnected => not_degraded(&service.health, &["cache"]),
        Requirement::DiskFree(wanted) => disk_free(&service, wanted),
    })
}

/// Fails with the reason when one of these parts is degraded.
fn not_degraded(health: &Health, parts: &[&str]) -> Result<(), String> {
    let degraded = health.degraded_parts();
    match parts.iter().find_map(|part| degraded.get(*part)) {
        Some(why) => Err(why.clone()),
        None => Ok(()),
    }
}

fn connected(service: &Service) -> Result<(), String> {
    let sockets = service.connections.snapshot();
    let in_use: Vec<_> = sockets.iter().filter(|socket| socket.streams > 0).collect();
    let down = in_use.iter().filter(|socket| socket.connected_since.is_none()).count();
    match (in_use.len(), down) {
        (0, _) => Err("there is no connection".to_owned()),
        (_, 0) => Ok(()),
        (all, down) => Err(format!("{down} of {all} connections are down")),
    }
}

fn disk_free(service: &Service, wanted: u64) -> Result<(), String> {
    let directory = &service.config.data_dir;
    let found = rustix::fs::statvfs(directory).map_err(|error| format!("cannot read the free disk space: {error}"))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= wanted {
        return Ok(());
    }
    let mebibytes = free >> 20;
    Err(format!("{mebibytes} MiB are free, the job requires {}", format_size(wanted)))
}
