//! Backfill's dependencies, and its way to the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::rest::Rest;
use crate::gap::{Evidence, Gap, GapState, Range, retry_after};
use crate::history::{History, HistoryError};
use crate::ledger::SharedLedger;
use crate::market::{Channel, Exchange, Stream, Timestamp};
use crate::writer::Writer;

use super::answers::Answers;

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
    /// How long the exchange is asked for positions that it does not serve, before a gap closes without them.
    pub confirm_after: Duration,
    /// What its answers have taught.
    pub answers: Arc<Answers>,
}

impl Deps {
    /// Opens a gap that no frame revealed: a sweep, an audit or an operator found it. See [`SharedLedger::open`].
    pub async fn open(&self, stream: &Stream, range: Range, evidence: &Evidence) -> Result<Vec<Gap>, HistoryError> {
        let mut found = Gap::open(stream.clone(), range, evidence.clone(), self.clock.now());
        // Most calls repeat a range that the ledger knows.
        if self.ledger.with(|ledger| ledger.would_open(&found)) {
            self.add_time_bounds(&mut found).await;
        }
        self.ledger.open(&**self.history(), &found).await
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
        self.ledger.supersede(&**self.history(), keep, reason, self.clock.now()).await
    }

    pub(super) fn history(&self) -> &Arc<dyn History> {
        self.writer.history()
    }

    /// Stores a changed gap and the rows split off it. See [`SharedLedger::record`].
    pub(super) async fn record(&self, gap: &Gap, split_off: &[Gap]) -> Result<bool, HistoryError> {
        self.ledger.record(&**self.history(), gap, split_off).await
    }

    pub(super) fn pause_after(&self, gap: &Gap) -> Duration {
        match gap.state {
            GapState::Unconfirmed => gap.pause(self.confirm_after),
            _ => retry_after(gap.attempts),
        }
    }

    pub(super) fn count_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "deps_tests.rs"]
mod tests;
