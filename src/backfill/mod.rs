//! Repairs gaps: requests the missing pages over REST and writes them to history and cache, flagged `is_backfilled`.
//! Backfilled rows never enter the log, so live consumers of the log never see old data.
//!
//! Several gaps are repaired at a time, the newest and smallest first, within the request budget that the REST client
//! enforces. When a repair fails, the gap's row stores the reason and the repair is tried again. Knows no store's
//! backend.

mod pages;
mod recording_starts;
mod repair;
mod requested_range;
pub mod since;
mod tail;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use recording_starts::RecordingStarts;
pub use requested_range::{MissingReport, RangeBound};
pub use tail::{ConnectionHandle, Tail, TailOptions};

use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::rest::Rest;
use crate::gap::{Evidence, Gap, GapState, Range, repair_order, retry_at};
use crate::heartbeat::Heartbeat;
use crate::history::{Batch, History, HistoryError};
use crate::ledger::SharedLedger;
use crate::market::{Channel, Exchange, Stream, Timestamp};
use crate::messages;
use crate::writer::Writer;

/// Gaps repaired at a time: enough to hide the round trips when fifty symbols lose their connection together.
const REPAIRS_MAX: usize = 6;

/// Backfill's dependencies.
#[derive(Clone)]
pub struct Deps {
    /// One REST client per exchange.
    pub rest: HashMap<Exchange, Arc<Rest>>,
    /// One dialect per exchange.
    pub dialects: HashMap<Exchange, Arc<dyn Dialect>>,
    /// Makes rows durable.
    pub writer: Writer,
    /// The open gaps.
    pub ledger: SharedLedger,
    /// Reads the time.
    pub clock: Clock,
    /// Rows written since this process began.
    pub rows: Arc<AtomicU64>,
}

/// Repairs open gaps until `stop`.
pub async fn run(deps: Deps, heartbeat: Heartbeat, stop: CancellationToken) {
    let mut running: JoinSet<(String, Timestamp)> = JoinSet::new();
    // When to try each gap again; a gap that was not tried yet has no entry.
    let mut due: HashMap<String, Timestamp> = HashMap::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        let now = deps.clock.now();
        for gap in claim_next(&deps, &due, now, REPAIRS_MAX - running.len()) {
            let (deps, stop) = (deps.clone(), stop.clone());
            // A repair is not a recording loop, so no heartbeat watches it.
            running.spawn(async move {
                let gap_id = gap.gap_id.clone();
                let again = repair::repair(&deps, gap, &stop).await;
                (gap_id, again)
            });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = deps.ledger.gap_opened.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            Some(ended) = running.join_next() => match ended {
                Ok((gap_id, again)) => {
                    deps.ledger.with(|ledger| ledger.unclaim(&gap_id));
                    due.insert(gap_id, again);
                }
                Err(error) => {
                    // The error does not name the gap, so all repairs are stopped and start again.
                    warn!("a repair panicked, starting all repairs again: {error}");
                    running.shutdown().await;
                    deps.ledger.with(|ledger| ledger.unclaim_all());
                }
            },
        }
        due.retain(|gap_id, _| deps.ledger.with(|ledger| ledger.get(gap_id).is_some()));
    }
    // Repairs watch `stop` themselves. A page in flight is written, or dropped and requested again after the restart.
    let _ended = tokio::time::timeout(Duration::from_secs(2), running.join_all()).await;
    heartbeat.retire();
}

/// Claims the gaps to repair next.
fn claim_next(deps: &Deps, due: &HashMap<String, Timestamp>, now: Timestamp, slots: usize) -> Vec<Gap> {
    if slots == 0 {
        return Vec::new();
    }
    deps.ledger.with(|ledger| {
        let is_due = |gap: &&Gap| due.get(&gap.gap_id).is_none_or(|at| *at <= now);
        let mut gaps: Vec<Gap> = ledger.rows().filter(is_due).cloned().collect();
        gaps.sort_by(repair_order);
        gaps.retain(|gap| !ledger.is_claimed(&gap.gap_id));
        gaps.truncate(slots);
        gaps.retain(|gap| ledger.claim(&gap.gap_id));
        gaps
    })
}

impl Deps {
    /// Opens a gap that no frame revealed: a sweep, an audit or an operator found it. The gap is durable when this
    /// returns. Returns the new rows; none when the ledger knows the whole range already.
    pub async fn open(&self, stream: &Stream, range: Range, evidence: &Evidence) -> Result<Vec<Gap>, HistoryError> {
        let mut found = Gap::open(stream.clone(), range, evidence.clone(), self.clock.now());
        // Most calls repeat a range that the ledger knows.
        if self.ledger.with(|ledger| ledger.would_open(&found)) {
            self.add_time_bounds(&mut found).await;
        }
        let opened = self.ledger.with(|ledger| ledger.open(&found));
        if opened.is_empty() {
            return Ok(opened.rows);
        }
        for gap in &opened.rows {
            info!(
                MESSAGE_ID = messages::GAP_FOUND,
                EXCHANGE = %stream.exchange, SYMBOL = %stream.symbol, GAP_FIRST = gap.range.first,
                GAP_LAST = gap.range.last, "gap in {stream}: {} missing, {}, found by {}",
                gap.len(), gap.span(), evidence.by
            );
        }
        let token = format!("open:{}", opened.rows[0].gap_id);
        self.writer.history().insert(&Batch { gaps: opened.changed(), token, ..Batch::default() }).await?;
        self.ledger.gap_opened.notify_one();
        Ok(opened.rows)
    }

    /// Sets the times of a gap from the rows on both sides, where history has them. A kline's position is its time.
    async fn add_time_bounds(&self, gap: &mut Gap) {
        let Range { first, last } = gap.range;
        if let Channel::Kline(interval) = gap.stream.channel {
            gap.from_ts = Some(Timestamp(first));
            gap.to_ts = Some(Timestamp(last.saturating_add(interval.micros())));
            return;
        }
        let at = async |id: i64| {
            let rows = self.history().trades(&gap.stream, Range { first: id, last: id }, 1).await;
            // When the store is down, the gap opens without this evidence.
            rows.ok()?.first().map(|row| row.trade.ts)
        };
        let (from_ts, to_ts) = (at(first.saturating_sub(1)).await, at(last.saturating_add(1)).await);
        let evidence = &mut gap.evidence;
        evidence.previous = evidence.previous.or_else(|| from_ts.map(|_| first - 1));
        evidence.next = evidence.next.or_else(|| to_ts.map(|_| last + 1));
        (gap.from_ts, gap.to_ts) = (from_ts, to_ts);
    }

    /// Supersedes the gaps of streams that are no longer recorded; returns how many.
    pub async fn supersede(&self, keep: impl Fn(&Stream) -> bool, reason: &str) -> Result<usize, HistoryError> {
        let _guard = self.ledger.write_lock.lock().await;
        let rows = self.ledger.with(|ledger| ledger.supersede(keep, reason, self.clock.now()));
        if !rows.is_empty() {
            let token = format!("supersede:{}:{}", rows[0].gap_id, rows[0].version);
            self.writer.history().insert(&Batch { gaps: rows.clone(), token, ..Batch::default() }).await?;
        }
        Ok(rows.len())
    }

    fn history(&self) -> &Arc<dyn History> {
        self.writer.history()
    }

    /// Stores a changed gap and the rows split off it, in the store and in the ledger. Returns `false` and writes
    /// nothing when the gap was superseded meanwhile.
    async fn record(&self, gap: &Gap, split_off: &[Gap]) -> Result<bool, HistoryError> {
        let _guard = self.ledger.write_lock.lock().await;
        if self.ledger.with(|ledger| ledger.get(&gap.gap_id).is_none()) {
            return Ok(false);
        }
        let token = format!("gap:{}:{}", gap.gap_id, gap.version);
        let gaps = split_off.iter().chain([gap]).cloned().collect();
        self.history().insert(&Batch { gaps, token, ..Batch::default() }).await?;
        self.ledger.with(|ledger| split_off.iter().chain([gap]).for_each(|row| ledger.update(row)));
        Ok(true)
    }

    fn next_retry(&self, attempts: i64) -> Timestamp {
        retry_at(self.clock.now(), attempts)
    }

    fn count_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// Logs the new state of a gap.
fn report(gap: &Gap) {
    let (first, last, span) = (gap.range.first, gap.range.last, gap.span());
    match gap.state {
        GapState::Filled => info!(
            MESSAGE_ID = messages::GAP_FILLED,
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "filled the gap in {}: {} of {} came back, {span}", gap.stream, gap.filled, gap.len()
        ),
        state if state.is_closed() => warn!(
            MESSAGE_ID = messages::GAP_CLOSED,
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "closed the gap in {} as {state}: {span}: {}", gap.stream, gap.reason
        ),
        _ => info!(
            EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = first, GAP_LAST = last,
            "the gap in {} stays open after {} attempts: {span}: {}", gap.stream, gap.attempts, gap.reason
        ),
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;

#[cfg(test)]
mod requested_range_tests;
