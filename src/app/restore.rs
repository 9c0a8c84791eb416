//! Reads the state at start: the newest whole snapshot, history's own positions, and the gap ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backfill::RecordingStarts;
use crate::cache::{Cache, CacheError};
use crate::clock::Clock;
use crate::exchange::rest::{Deadlines, SavedDeadlines};
use crate::exchange::socket::Connections;
use crate::gap::{Evidence, Gap, Range};
use crate::health::Health;
use crate::heartbeat::Heartbeat;
use crate::history::{EpochRow, GapFilter, History, HistoryError, each_gap};
use crate::ledger::Ledger;
use crate::market::{Exchange, Stream, Timestamp};
use crate::retry;
use crate::state::{LostHistory, Snapshot, StateFile};

/// Longest wait for the cache's backup of the snapshot.
const BACKUP_MAX: Duration = Duration::from_secs(5);

/// Longest wait for history's positions of all streams.
const RESUME_MAX: Duration = Duration::from_secs(60);
/// Delay between two attempts to read from a history that is down.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What the wait for a history that is down needs.
pub struct HistoryWait {
    /// The time.
    pub clock: Clock,
    /// Shows that history is down.
    pub health: Health,
    /// Beats during the wait.
    pub heartbeat: Heartbeat,
    /// Ends the wait.
    pub stop: CancellationToken,
}

/// The positions at which the streams resume.
#[derive(Debug, Default)]
pub struct ResumeState {
    /// The highest durable position of each stream, and its exchange time when known.
    pub watermarks: HashMap<Stream, (i64, Option<Timestamp>)>,
    /// The numberings that began after another one.
    pub epochs: Vec<EpochRow>,
    /// Open gaps and settled ranges.
    pub ledger: Ledger,
    /// History's identity, when it is known.
    pub identity: Option<String>,
    /// What an earlier history held and this one lacks.
    pub lost: Option<LostHistory>,
}

/// The newest whole snapshot: from the file, from the generation before it, or from the cache. Warns about corrupt
/// ones.
pub async fn snapshot(file: &StateFile, cache: Option<&Arc<dyn Cache>>, instance: &str) -> Option<Snapshot> {
    let (snapshot, warnings) = file.load();
    for warning in &warnings {
        warn!("{warning}");
    }
    if snapshot.is_some() {
        return snapshot;
    }
    // A cache that is down must not delay the start: history has the watermarks too.
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

/// Until when an exchange limits and bans this address, by the snapshot.
pub fn deadlines(snapshot: &Snapshot, exchange: Exchange) -> SavedDeadlines {
    // A file can hold any number; one that is no time is far in the future, and the client caps it.
    let at = |ms: i64| Timestamp(ms.saturating_mul(1_000));
    let of = |saved: &BTreeMap<String, i64>| saved.get(exchange.as_str()).map(|until| at(*until));
    let deadlines = Deadlines { limited_until: of(&snapshot.limit_until), banned_until: of(&snapshot.ban_until) };
    SavedDeadlines { deadlines, saved_at: snapshot.deadlines_saved_at.map(at) }
}

/// Opens no connection to an exchange before the end of a limit or ban that the snapshot names: a restart does not end it.
pub fn defer_connections(connections: &Connections, snapshot: Option<&Snapshot>, exchange: Exchange, clock: &Clock) {
    let Some(snapshot) = snapshot else { return };
    let at = |ms: i64| Timestamp(ms.saturating_mul(1_000));
    let until = snapshot.connect_after.get(exchange.as_str()).map(|ms| at(*ms));
    let saved = SavedDeadlines {
        deadlines: Deadlines { limited_until: until, banned_until: None },
        saved_at: snapshot.deadlines_saved_at.map(at),
    };
    let now = clock.read();
    if let (Some(until), _) = saved.left(now) {
        let wait = Duration::from_micros(u64::try_from(until.since(now.steady)).unwrap_or(0));
        let why = format!("{exchange} refused the connections of this address before the restart");
        connections.defer(exchange, wait, &why);
    }
}

/// The recording starts of the streams whose first trade or kline is not yet stored. Saves them before the exchange is
/// connected, so that the next process knows them after a kill at any time. Returns the snapshot as saved.
pub fn recording_starts(
    file: &StateFile,
    snapshot: Option<Snapshot>,
    streams: &[Stream],
    clock: &Clock,
) -> (RecordingStarts, Option<Snapshot>) {
    let saved = snapshot.as_ref().map(|snapshot| snapshot.anchors.clone()).unwrap_or_default();
    let has_watermark = |name: &str| snapshot.as_ref().is_some_and(|snapshot| snapshot.watermarks.contains_key(name));
    let starts = RecordingStarts::restore(&saved, streams, has_watermark, clock.read());
    let to_save = starts.to_save();
    if to_save == saved {
        return (starts, snapshot);
    }
    let mut first = snapshot.unwrap_or_default();
    first.anchors = to_save;
    first.generation += 1;
    // Refusing to record because of this file would lose more than the file is worth.
    if let Err(error) = first.encode().and_then(|document| file.save(&document)) {
        warn!("cannot save the recording starts of the streams: {error:#}");
    }
    (starts, Some(first))
}

/// The positions from the snapshot alone, while history is down: the next snapshot must not lose them.
pub fn from_snapshot(snapshot: Option<&Snapshot>, streams: &[Stream]) -> ResumeState {
    let Some(snapshot) = snapshot else { return ResumeState::default() };
    let saved = |stream: &Stream| Some((stream.clone(), (*snapshot.watermarks.get(&stream.to_string())?, None)));
    ResumeState {
        watermarks: streams.iter().filter_map(saved).collect(),
        identity: snapshot.history_identity.clone(),
        epochs: Vec::new(),
        ledger: Ledger::default(),
        lost: snapshot.lost_history.clone(),
    }
}

/// Repeats [`resume`] until a history that is down answers. Returns `None` when the stop comes first.
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
                info!("history is available");
                return Ok(Some(resume));
            }
            Ok(Err(error)) if !is_outage(&error) => return Err(error),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_elapsed) => format!("no answer within {} s", RESUME_MAX.as_secs()),
        };
        wait.health.degraded("history", &why);
        if !retry::wait(RETRY_DELAY, &wait.stop).await {
            return Ok(None);
        }
    }
}

/// Whether a later attempt may succeed, without a limit of time.
pub fn is_outage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref().is_some_and(HistoryError::is_outage))
}

/// Whether the store's file is damaged.
pub fn is_damaged(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(HistoryError::Damaged(_))))
}

/// Takes the higher watermark of snapshot and history when the snapshot belongs to this history. Rows that were durable
/// at the snapshot and are missing from this history (a restored backup) become gaps.
pub async fn resume(
    history: &Arc<dyn History>,
    snapshot: Option<&Snapshot>,
    streams: &[Stream],
    clock: &Clock,
) -> anyhow::Result<ResumeState> {
    let identity = history.identity().await.context("read history's identity")?;
    let epochs = history.epochs().await.context("read history's epochs")?;
    let mut ledger = Ledger::default();
    ledger.set_epochs(newest_epochs(&epochs));
    each_gap(&**history, GapFilter::unfilled(), |gap| ledger.load([gap])).await.context("read the gap ledger")?;
    let mut resume = ResumeState { ledger, epochs, identity: Some(identity), ..ResumeState::default() };
    for watermark in history.watermarks(streams).await.context("read history's watermarks")? {
        resume.watermarks.insert(watermark.stream, (watermark.position, Some(watermark.ts)));
    }
    let knows_a_history = |snapshot: &Snapshot| snapshot.history_identity.is_some() || snapshot.lost_history.is_some();
    if !snapshot.is_some_and(knows_a_history) && resume.watermarks.is_empty() {
        // Nothing says what an empty history has lost; `lost_history` asks the log.
        resume.lost = Some(lost(clock, BTreeMap::new()));
    }
    let Some(snapshot) = snapshot else { return Ok(resume) };
    resume.lost = snapshot.lost_history.clone().or(resume.lost);
    if snapshot.watermarks.is_empty() {
        return Ok(resume);
    }
    if snapshot.history_identity != resume.identity {
        warn!(
            "the saved watermarks belong to another history: each stream resumes from the rows of this one; `tapekeeper \
             replay` writes the rows that the log still holds"
        );
        resume.lost.get_or_insert_with(|| lost(clock, snapshot.watermarks.clone()));
        return Ok(resume);
    }
    let mut lost = Vec::new();
    for stream in streams {
        let name = stream.to_string();
        let Some(&saved) = snapshot.watermarks.get(&name) else { continue };
        // A position of another numbering says nothing about this one.
        if snapshot.epochs.get(&name).copied().unwrap_or(0) != resume.ledger.epoch_of(stream) {
            continue;
        }
        let stored = resume.watermarks.get(stream).map(|(position, _)| *position);
        if stored.is_some_and(|stored| stored >= saved) {
            continue;
        }
        resume.watermarks.insert(stream.clone(), (saved, None));
        let step = stream.channel.step().unwrap_or(1);
        if let Some(range) = stored.and_then(|stored| Range::new(stored + step, saved)) {
            let evidence = Evidence { by: "restart".to_owned(), previous: stored, ..Evidence::default() };
            let found = Gap::open(stream.clone(), range, evidence, clock.now());
            lost.push(found);
        }
    }
    let opened = resume.ledger.open_unshared(&**history, &lost).await.context("record the gaps of the restart")?;
    for gap in opened.iter().filter(|gap| !gap.state.is_closed()) {
        warn!("history lacks rows of {} that were durable before: {}", gap.stream, gap.span());
    }
    Ok(resume)
}

/// The newest numbering of each stream that has another than the first.
pub fn newest_epochs(epochs: &[EpochRow]) -> impl Iterator<Item = (Stream, i64)> + '_ {
    epochs.iter().map(|row| (row.stream(), row.epoch))
}

fn lost(clock: &Clock, positions: BTreeMap<String, i64>) -> LostHistory {
    LostHistory { noticed_at: clock.now().millis(), positions, received_before: None }
}
