//! Saves the service's snapshot, to the file and to the cache's backup.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Mutex, watch};
use tracing::warn;

use crate::backfill::RecordingStarts;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::exchange::rest::Rest;
use crate::market::{Exchange, Stream, Timestamp};
use crate::progress::Progress;
use crate::state::{Snapshot, StateFile};

/// Everything a snapshot is made of.
pub struct SnapshotSaver {
    /// Where it goes first.
    pub file: StateFile,
    /// Where its backup goes; failing there is a warning.
    pub cache: Arc<dyn Cache>,
    /// Names the backup.
    pub instance: String,
    /// What is durable.
    pub progress: Arc<Progress>,
    /// What is recorded.
    pub streams: watch::Receiver<Vec<Stream>>,
    /// Names the log whose offsets are saved.
    pub log: String,
    /// Who may have banned us.
    pub rest: HashMap<Exchange, Arc<Rest>>,
    /// Streams of which nothing is durable yet.
    pub recording_starts: Arc<RecordingStarts>,
    /// History's identity, when it is known.
    pub identity: std::sync::Mutex<Option<String>>,
    /// When the process started.
    pub startup: Timestamp,
    /// The time.
    pub clock: Clock,
    /// The generation saved last; also keeps two saves from crossing.
    pub generation: Mutex<u64>,
}

impl SnapshotSaver {
    /// Saves; `shutdown` stamps the end of an orderly stop. Returns what was saved in words.
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
            Err(_elapsed) => warn!("the state is saved, but the cache did not take its backup within 2 s"),
        }
        Ok(format!("generation {}, {} streams", snapshot.generation, snapshot.watermarks.len()))
    }

    /// Takes over history's identity, once it is known.
    pub fn set_identity(&self, identity: Option<String>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn snapshot(&self, generation: u64, shutdown: bool) -> Snapshot {
        let now = self.clock.now();
        let mut snapshot = Snapshot {
            active_subscriptions: self.streams.borrow().iter().map(Stream::to_string).collect(),
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
                snapshot.watermarks.insert(name, next - step);
            }
        }
        snapshot.anchors = self.recording_starts.to_save();
        snapshot.ban_until = self.bans();
        snapshot
    }

    /// Per exchange, until when it bans this address, milliseconds since 1970.
    pub fn bans(&self) -> BTreeMap<String, i64> {
        let now = self.clock.now();
        let bans = self.rest.iter().filter_map(|(exchange, rest)| Some((exchange, rest.banned_until()?)));
        bans.filter(|(_, until)| *until > now).map(|(exchange, until)| (exchange.to_string(), until.millis())).collect()
    }
}
