//! Backfill's dependencies, and what its parts do with them: open, store and supersede gaps in the ledger and in history.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::info;

use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::rest::Rest;
use crate::gap::{Evidence, Gap, Range, retry_at};
use crate::history::{Batch, History, HistoryError};
use crate::ledger::SharedLedger;
use crate::market::{Channel, Exchange, Stream, Timestamp};
use crate::messages;
use crate::writer::Writer;

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

    pub(super) fn history(&self) -> &Arc<dyn History> {
        self.writer.history()
    }

    /// Stores a changed gap and the rows split off it, in the store and in the ledger. Returns `false` and writes
    /// nothing when the gap was superseded meanwhile.
    pub(super) async fn record(&self, gap: &Gap, split_off: &[Gap]) -> Result<bool, HistoryError> {
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

    pub(super) fn next_retry(&self, attempts: i64) -> Timestamp {
        retry_at(self.clock.now(), attempts)
    }

    pub(super) fn count_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}
