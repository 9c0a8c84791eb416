//! Backfill's dependencies, and what its parts do with them: open, store and supersede gaps in the ledger and in history.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::info;

use crate::clock::Clock;
use crate::exchange::Dialect;
use crate::exchange::rest::Rest;
use crate::gap::{Evidence, Gap, GapState, Range, RangeSet, retry_after};
use crate::history::{Batch, GapFilter, History, HistoryError};
use crate::ledger::SharedLedger;
use crate::market::{Channel, Exchange, Stream, Timestamp};
use crate::messages;
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
    /// Opens a gap that no frame revealed: a sweep, an audit or an operator found it. The gap is durable when this
    /// returns. Returns the new rows; none when the ledger knows the whole range already.
    pub async fn open(&self, stream: &Stream, range: Range, evidence: &Evidence) -> Result<Vec<Gap>, HistoryError> {
        let mut found = Gap::open(stream.clone(), range, evidence.clone(), self.clock.now());
        // Most calls repeat a range that the ledger knows.
        if self.ledger.with(|ledger| ledger.would_open(&found)) {
            self.add_time_bounds(&mut found).await;
        }
        let verdicts = if evidence.is_appeal() { self.verdicts(stream, range).await? } else { Vec::new() };
        let opened = self.ledger.with(|ledger| ledger.open(&found));
        if opened.is_empty() {
            return Ok(opened.rows);
        }
        let appealed = appeal(&verdicts, &opened.rows, found.detected_at);
        for gap in &opened.rows {
            info!(
                MESSAGE_ID = messages::GAP_FOUND,
                EXCHANGE = %stream.exchange, SYMBOL = %stream.symbol, GAP_FIRST = gap.range.first,
                GAP_LAST = gap.range.last, "gap in {stream}: {} missing, {}, found by {}",
                gap.len(), gap.span(), evidence.by
            );
        }
        let token = format!("open:{}", opened.rows[0].gap_id);
        let gaps = appealed.iter().cloned().chain(opened.changed()).collect();
        self.writer.history().insert(&Batch { gaps, token, ..Batch::default() }).await?;
        self.ledger.with(|ledger| appealed.iter().for_each(|row| ledger.update(row)));
        self.ledger.gap_opened.notify_one();
        Ok(opened.rows)
    }

    /// The rows of a stream that closed without their positions and overlap `range`.
    async fn verdicts(&self, stream: &Stream, range: Range) -> Result<Vec<Gap>, HistoryError> {
        let filter = GapFilter { stream: Some(stream.clone()), range: Some(range), ..GapFilter::verdicts() };
        self.history().gaps(&filter).await
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
        // The store first: a row that is not durable as superseded must stay open here, so that the caller's next attempt
        // finds it again.
        if !rows.is_empty() {
            let token = format!("supersede:{}:{}", rows[0].gap_id, rows[0].version);
            self.writer.history().insert(&Batch { gaps: rows.clone(), token, ..Batch::default() }).await?;
            self.ledger.with(|ledger| rows.iter().for_each(|row| ledger.update(row)));
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

/// Supersedes the parts of closed rows that `opened` asks for again. The other parts keep their state in rows of their
/// own.
fn appeal(verdicts: &[Gap], opened: &[Gap], now: Timestamp) -> Vec<Gap> {
    let mut changed = Vec::new();
    for verdict in verdicts {
        let step = verdict.stream.channel.step().unwrap_or(1);
        let mut kept = RangeSet::new(step);
        kept.insert(verdict.range);
        let asking: Vec<&Gap> = opened.iter().filter(|gap| kept.remove(gap.range)).collect();
        let Some(first) = asking.first() else { continue };
        changed.extend(kept.iter().map(|range| verdict.closed_part(range, verdict.state, &verdict.reason, now)));
        let mut verdict = verdict.clone();
        verdict.advance(
            GapState::Superseded,
            &format!("asked again by {}; it was {}", first.gap_id, verdict.state),
            now,
        );
        changed.push(verdict);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::tests::{Harness, complete_exchange, stream};
    use crate::cache::PendingUpdates;
    use crate::faults::{Fault, Faults};
    use crate::health::Health;
    use crate::history::faulty::FaultyHistory;

    #[tokio::test]
    async fn gaps_that_history_could_not_supersede_stay_open_and_the_next_attempt_closes_them() {
        let harness = Harness::new(complete_exchange()).await;
        let evidence = Evidence { by: "manual".to_owned(), ..Evidence::default() };
        harness.deps.open(&stream(), Range { first: 1, last: 3 }, &evidence).await.unwrap();
        let faults = Faults::none();
        let history = Arc::new(FaultyHistory::new(harness.deps.history().clone(), faults.clone()));
        let writer = Writer::new(history, Arc::new(PendingUpdates::default()), Health::default());
        let deps = Deps { writer, ..harness.deps.clone() };
        faults.script([Fault::Fail]);
        deps.supersede(|_| false, "feed removed").await.unwrap_err();
        assert_eq!(deps.ledger.with(|ledger| ledger.open_count()), (1, 3));
        assert_eq!(deps.supersede(|_| false, "feed removed").await.unwrap(), 1);
        assert_eq!(deps.ledger.with(|ledger| ledger.open_count()), (0, 0));
        let rows = deps.history().gaps(&GapFilter::default()).await.unwrap();
        assert_eq!((rows.len(), rows[0].state), (1, GapState::Superseded));
    }
}
