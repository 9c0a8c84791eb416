//! Collects the service's snapshot and saves it to the file and, as a backup, to the cache.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Mutex, watch};
use tracing::warn;

use crate::backfill::RecordingStarts;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::exchange::ListingStates;
use crate::exchange::rest::Rest;
use crate::exchange::socket::Connections;
use crate::market::{Exchange, Stream, Timestamp};
use crate::progress::Progress;
use crate::state::{LostHistory, Snapshot, StateFile};

/// The sources of a snapshot and where it goes.
pub struct SnapshotSaver {
    /// The file that takes it first.
    pub file: StateFile,
    /// The cache that takes the backup; a failure there is a warning.
    pub cache: Arc<dyn Cache>,
    /// The name of the backup.
    pub instance: String,
    /// The durable positions.
    pub progress: Arc<Progress>,
    /// The recorded streams.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Which of their symbols have ended.
    pub listings: Arc<ListingStates>,
    /// The name of the log to which the saved offsets belong.
    pub log: String,
    /// The REST clients, for the deadlines of pauses and bans.
    pub rest: HashMap<Exchange, Arc<Rest>>,
    /// The connections, for the time before which none may be opened.
    pub connections: Connections,
    /// Streams whose first trade or closed kline is not yet stored.
    pub recording_starts: Arc<RecordingStarts>,
    /// History's identity, when it is known.
    pub identity: std::sync::Mutex<Option<String>>,
    /// What an earlier history held and the present one lacks.
    pub lost_history: std::sync::Mutex<Option<LostHistory>>,
    /// When the process started.
    pub startup: Timestamp,
    /// The time.
    pub clock: Clock,
    /// The last saved generation; the lock also keeps two saves apart.
    pub generation: Mutex<u64>,
}

impl SnapshotSaver {
    /// Saves a snapshot; `shutdown` adds the time of an orderly stop. Returns a summary for the log.
    pub async fn save(&self, shutdown: bool) -> anyhow::Result<String> {
        let mut generation = self.generation.lock().await;
        let snapshot = self.snapshot(*generation + 1, shutdown);
        let document = snapshot.encode()?;
        let (file, text) = (self.file.clone(), document.clone());
        tokio::task::spawn_blocking(move || file.save(&text)).await.context("save the state")??;
        *generation = snapshot.generation;
        let backup = self.cache.put_state(&self.instance, &document);
        match tokio::time::timeout(Duration::from_secs(2), backup).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("the state is saved, but not its backup in the cache: {error}"),
            Err(_elapsed) => warn!("the state is saved, but the cache did not accept its backup within 2 s"),
        }
        Ok(format!("generation {}, {} streams", snapshot.generation, snapshot.watermarks.len()))
    }

    /// Sets history's identity when it becomes known.
    pub fn set_identity(&self, identity: Option<String>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Sets what an earlier history held and the present one lacks.
    pub fn set_lost_history(&self, lost: Option<LostHistory>) {
        *self.lost_history.lock().unwrap_or_else(PoisonError::into_inner) = lost;
    }

    /// What an earlier history held and the present one lacks.
    pub fn lost_history(&self) -> Option<LostHistory> {
        self.lost_history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn snapshot(&self, generation: u64, shutdown: bool) -> Snapshot {
        let now = self.clock.now();
        let mut snapshot = Snapshot {
            active_subscriptions: self.streams.borrow().iter().map(Stream::to_string).collect(),
            ended: self.listings.all_ended().iter().map(|(exchange, symbol)| format!("{exchange}:{symbol}")).collect(),
            startup_time: self.startup.rfc3339(),
            shutdown_time: shutdown.then(|| now.rfc3339()),
            log: Some(self.log.clone()),
            history_identity: self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            generation,
            ..Snapshot::default()
        };
        for (partition, next) in self.progress.committed() {
            snapshot.consumer_offsets.insert(partition.to_string(), next);
        }
        for (stream, progress) in self.progress.streams() {
            let name = stream.to_string();
            if let Some(ts) = progress.last_ts {
                snapshot.last_processed_timestamps.insert(name.clone(), Timestamp(ts).millis());
            }
            if let (Some(next), Some(step)) = (progress.next, stream.channel.step()) {
                if progress.epoch > 0 {
                    snapshot.epochs.insert(name.clone(), progress.epoch);
                }
                snapshot.watermarks.insert(name, next - step);
            }
        }
        snapshot.anchors = self.recording_starts.to_save();
        self.add_deadlines(&mut snapshot, now);
        // A suspicion that the log has not confirmed is not saved.
        let is_known = |lost: &LostHistory| !lost.positions.is_empty() || lost.received_before.is_some();
        snapshot.lost_history = self.lost_history().filter(is_known);
        snapshot
    }

    /// Adds the end of each exchange's pause and ban of this address, for REST and for the WebSockets.
    fn add_deadlines(&self, snapshot: &mut Snapshot, now: Timestamp) {
        for (exchange, rest) in &self.rest {
            let deadlines = rest.deadlines();
            if let Some(until) = deadlines.banned_until {
                snapshot.ban_until.insert(exchange.to_string(), until.millis());
            }
            if let Some(until) = deadlines.limited_until {
                snapshot.limit_until.insert(exchange.to_string(), until.millis());
            }
            if let Some(wait) = self.connections.deferred_for(*exchange) {
                let until = now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
                snapshot.connect_after.insert(exchange.to_string(), until.millis());
            }
        }
        let deadlines = [&snapshot.ban_until, &snapshot.limit_until, &snapshot.connect_after];
        if deadlines.iter().any(|deadlines| !deadlines.is_empty()) {
            snapshot.deadlines_saved_at = Some(now.millis());
        }
    }
}
