//! What is known at start: the newest whole snapshot, history's own rows, and the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backfill::RecordingStarts;
use crate::cache::{Cache, CacheError};
use crate::clock::Clock;
use crate::gap::{Evidence, Gap, Range};
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::history::{Batch, GapFilter, History, HistoryError};
use crate::ledger::Ledger;
use crate::market::{Stream, Timestamp};
use crate::state::{Snapshot, StateFile};

/// How long the cache may take to say whether it has a backup.
const BACKUP_MAX: Duration = Duration::from_secs(5);

/// How long history may take to say where every stream stands.
const RESUME_MAX: Duration = Duration::from_secs(60);

/// Who waits for a history that is away.
pub struct HistoryWait {
    /// The time.
    pub clock: Clock,
    /// Where it is said that history is away.
    pub health: Health,
    /// Proves that we wait.
    pub heartbeat: Heartbeat,
    /// Ends the wait.
    pub stop: CancellationToken,
}

/// Where every stream goes on.
#[derive(Debug, Default)]
pub struct ResumeState {
    /// The highest durable position of each stream, and the exchange's time of it when known.
    pub watermarks: HashMap<Stream, (i64, Option<Timestamp>)>,
    /// Open gaps and settled ranges.
    pub ledger: Ledger,
    /// History's identity, when it is known.
    pub identity: Option<String>,
}

/// The newest whole snapshot: the file, the generation before it, then the cache. What is corrupt is warned of.
pub async fn snapshot(file: &StateFile, cache: Option<&Arc<dyn Cache>>, instance: &str) -> Option<Snapshot> {
    let (snapshot, warnings) = file.load();
    for warning in &warnings {
        warn!("{warning}");
    }
    if snapshot.is_some() {
        return snapshot;
    }
    // A cache that is down must not hold the start: history knows the watermarks as well.
    let asked = tokio::time::timeout(BACKUP_MAX, cache?.get_state(instance)).await;
    let document = match asked.unwrap_or_else(|_elapsed| Err(CacheError("no answer in time".to_owned()))) {
        Ok(document) => document?,
        Err(error) => {
            warn!("cannot read the state's backup: {error}");
            return None;
        }
    };
    match Snapshot::decode(&document) {
        Ok(snapshot) => {
            info!("the state comes from the cache's backup, generation {}", snapshot.generation);
            Some(snapshot)
        }
        Err(error) => {
            warn!("the state's backup in the cache is corrupt: {error:#}");
            None
        }
    }
}

/// Since when streams are recorded whose beginning is not settled: in the state before the exchange is connected, so that a
/// kill at any time after it is known to the next process. Returns the snapshot as it is saved now.
pub fn recording_starts(
    file: &StateFile,
    snapshot: Option<Snapshot>,
    streams: &[Stream],
    clock: &Clock,
) -> (RecordingStarts, Option<Snapshot>) {
    let saved = snapshot.as_ref().map(|snapshot| snapshot.anchors.clone()).unwrap_or_default();
    let has_watermark = |name: &str| snapshot.as_ref().is_some_and(|snapshot| snapshot.watermarks.contains_key(name));
    let starts = RecordingStarts::restore(&saved, streams, has_watermark, clock.now());
    let to_save = starts.to_save();
    if to_save == saved {
        return (starts, snapshot);
    }
    let mut first = snapshot.unwrap_or_default();
    first.anchors = to_save;
    first.generation += 1;
    // Not to record for want of this file would lose more than it can tell.
    if let Err(error) = first.encode().and_then(|document| file.save(&document)) {
        warn!("cannot save since when the streams are recorded: {error:#}");
    }
    (starts, Some(first))
}

/// What the snapshot alone says, while history is away: what was saved must not be forgotten meanwhile.
pub fn from_snapshot(snapshot: Option<&Snapshot>, streams: &[Stream]) -> ResumeState {
    let Some(snapshot) = snapshot else { return ResumeState::default() };
    let saved = |stream: &Stream| Some((stream.clone(), (*snapshot.watermarks.get(&stream.to_string())?, None)));
    ResumeState {
        watermarks: streams.iter().filter_map(saved).collect(),
        identity: snapshot.history_identity.clone(),
        ledger: Ledger::default(),
    }
}

/// The same as [`resume`] for a history that is away now: asks until it answers. `None` when told to stop first.
pub async fn resume_when_available(
    history: &Arc<dyn History>,
    snapshot: Option<&Snapshot>,
    streams: &[Stream],
    wait: &HistoryWait,
) -> anyhow::Result<Option<ResumeState>> {
    loop {
        wait.heartbeat.beat();
        let asked = tokio::time::timeout(RESUME_MAX, resume(history, snapshot, streams, &wait.clock));
        let why = match wait.heartbeat.beat_while(RESUME_MAX * 2, asked).await {
            Ok(Ok(resume)) => {
                wait.health.restored("history");
                info!("history is there");
                return Ok(Some(resume));
            }
            Ok(Err(error)) if !is_unavailable(&error) => return Err(error),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_elapsed) => format!("no answer within {} s", RESUME_MAX.as_secs()),
        };
        wait.health.degraded("history", &why);
        tokio::select! {
            () = wait.stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Whether waiting may help.
pub fn is_unavailable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(HistoryError::Unavailable(_))))
}

/// Takes the highest watermark of snapshot and history, for the history the snapshot was written against; rows
/// that the snapshot knows and this history lacks (a restored backup) are gaps.
pub async fn resume(
    history: &Arc<dyn History>,
    snapshot: Option<&Snapshot>,
    streams: &[Stream],
    clock: &Clock,
) -> anyhow::Result<ResumeState> {
    let identity = history.identity().await.context("read history's identity")?;
    let rows = history.gaps(&GapFilter::default()).await.context("read the gap ledger")?;
    let mut resume = ResumeState { ledger: Ledger::restore(rows), identity: Some(identity), ..ResumeState::default() };
    for watermark in history.watermarks(streams).await.context("read history's watermarks")? {
        resume.watermarks.insert(watermark.stream, (watermark.position, Some(watermark.ts)));
    }
    let Some(snapshot) = snapshot else { return Ok(resume) };
    if snapshot.watermarks.is_empty() {
        return Ok(resume);
    }
    if snapshot.history_identity != resume.identity {
        warn!("the saved watermarks were written against another history: each stream goes on from its own rows");
        return Ok(resume);
    }
    let mut lost = Vec::new();
    for stream in streams {
        let Some(&saved) = snapshot.watermarks.get(&stream.to_string()) else { continue };
        let stored = resume.watermarks.get(stream).map(|(position, _)| *position);
        if stored.is_some_and(|stored| stored >= saved) {
            continue;
        }
        resume.watermarks.insert(stream.clone(), (saved, None));
        let step = stream.channel.step().unwrap_or(1);
        if let Some(range) = stored.and_then(|stored| Range::new(stored + step, saved)) {
            let evidence = Evidence { by: "restart".to_owned(), previous: stored, ..Evidence::default() };
            let found = Gap::open(stream.clone(), range, evidence, clock.now());
            lost.append(&mut resume.ledger.open(&found).changed());
        }
    }
    record_lost(history, lost).await?;
    Ok(resume)
}

async fn record_lost(history: &Arc<dyn History>, lost: Vec<Gap>) -> anyhow::Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    for gap in lost.iter().filter(|gap| !gap.state.is_closed()) {
        warn!("history lacks rows of {} that were durable before: {}", gap.stream, gap.span());
    }
    let token = format!("restart:{}", lost[0].gap_id);
    history.insert(&Batch { gaps: lost, token, ..Batch::default() }).await.context("record the gaps of the restart")
}
