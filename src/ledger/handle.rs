//! The handle that finders, consumer, repairs and audits share: a lock around the ledger, the signal that a gap was
//! opened, and every write of gap rows. Knows no rule of the ledger.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::info;

use super::Ledger;
use super::appeal::appeal;
use crate::gap::{Gap, GapState, Range};
use crate::history::{GapFilter, HistoryError, LedgerStore, each_gap};
use crate::market::{Stream, Timestamp};
use crate::messages;

/// The ledger in memory, shared by the finders and the repairs.
#[derive(Clone, Default)]
pub struct SharedLedger {
    ledger: Arc<Mutex<Ledger>>,
    /// Notified when a gap was opened.
    pub gap_opened: Arc<Notify>,
    /// Held while a repair or the removal of a feed writes rows to the store: a repair must not overwrite a row that
    /// was superseded meanwhile.
    write_lock: Arc<tokio::sync::Mutex<()>>,
}

impl SharedLedger {
    /// Shares a ledger.
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger: Arc::new(Mutex::new(ledger)), ..Self::default() }
    }

    /// Uses the ledger for a moment; never across an await.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
        use_it(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a gap that no frame revealed. When this returns `Ok`, history has every row that covers its range. Returns
    /// the new rows; none when the ledger knows the whole range already.
    ///
    /// # Errors
    /// History does not have the rows yet. They are open here, and are stored as soon as it accepts them.
    pub async fn open(&self, history: &dyn LedgerStore, found: &Gap) -> Result<Vec<Gap>, HistoryError> {
        let (is_appeal, stream) = (found.evidence.is_appeal(), &found.stream);
        let mut verdicts = Vec::new();
        let mut closed = Vec::new();
        if is_appeal {
            verdicts = self.verdicts(history, stream, found.range).await?;
        } else if self.with(|ledger| ledger.would_open(found)) {
            closed = self.forgotten(history, stream, found.range).await?;
        }
        let (opened, to_store) = self.with(|ledger| {
            let opened = ledger.open(found, &closed);
            let appealed = appeal(&verdicts, &opened.rows, found.detected_at);
            appealed.iter().for_each(|row| ledger.update(row));
            ledger.note_unstored(&appealed);
            ledger.note_unstored(&opened.changed());
            (opened, ledger.unstored_of(stream))
        });
        opened.rows.iter().for_each(report_found);
        self.store(history, &to_store).await?;
        if !opened.is_empty() {
            self.gap_opened.notify_one();
        }
        Ok(opened.rows)
    }

    /// Opens a gap that a batch of rows reveals. The caller stores the returned rows with that batch, repeats it until it
    /// is stored, and then calls [`SharedLedger::batch_stored`].
    pub fn open_with_rows(&self, found: &Gap) -> Vec<Gap> {
        let (opened, mut rows) = self.with(|ledger| {
            // What covers a part of the range already may not be stored yet.
            let unstored = ledger.unstored_of(&found.stream);
            (ledger.open(found, &[]), unstored)
        });
        opened.rows.iter().for_each(report_found);
        // Of two versions of a row the higher one stays, so it comes last.
        rows.append(&mut opened.changed());
        rows
    }

    /// Begins a numbering, and returns the superseded rows of the ended one. The caller stores them as in
    /// [`SharedLedger::open_with_rows`].
    pub fn begin_epoch(&self, stream: &Stream, epoch: i64, now: Timestamp) -> Vec<Gap> {
        self.with(|ledger| ledger.begin_epoch(stream, epoch, now))
    }

    /// A batch with these rows is stored.
    pub fn batch_stored(&self, rows: &[Gap]) {
        if !rows.is_empty() {
            self.with(|ledger| ledger.note_stored(rows));
            self.gap_opened.notify_one();
        }
    }

    /// Stores a changed row and the rows split off it, in history and then here. Returns `false` and writes nothing when
    /// the gap was superseded meanwhile. On an error nothing changes here.
    pub async fn record(&self, history: &dyn LedgerStore, gap: &Gap, split_off: &[Gap]) -> Result<bool, HistoryError> {
        let _guard = self.write_lock.lock().await;
        if self.with(|ledger| ledger.get(&gap.gap_id).is_none()) {
            return Ok(false);
        }
        let rows: Vec<Gap> = split_off.iter().chain([gap]).cloned().collect();
        history.insert_gaps(&rows, &format!("gap:{}:{}", gap.gap_id, gap.version)).await?;
        self.take_over(&rows);
        Ok(true)
    }

    /// Supersedes the gaps of streams that `keep` rejects; returns how many. On an error nothing changes here, so the
    /// caller's next attempt finds the same rows again.
    pub async fn supersede(
        &self,
        history: &dyn LedgerStore,
        keep: impl Fn(&Stream) -> bool,
        reason: &str,
        now: Timestamp,
    ) -> Result<usize, HistoryError> {
        let _guard = self.write_lock.lock().await;
        let rows = self.with(|ledger| ledger.supersede(keep, reason, now));
        if let Some(first) = rows.first() {
            history.insert_gaps(&rows, &format!("supersede:{}:{}", first.gap_id, first.version)).await?;
            self.take_over(&rows);
        }
        Ok(rows.len())
    }

    /// The row of a gap that is filled by rows from `source` before it was ever open. The caller stores it in one batch
    /// with these rows.
    pub fn filled_row(&self, mut found: Gap, source: &str, reason: &str) -> Gap {
        let now = found.detected_at;
        found.epoch = self.with(|ledger| ledger.epoch_of(&found.stream));
        found.count_filled(found.len(), source, now);
        found.advance(GapState::Filled, reason, now);
        found
    }

    /// Stores the rows that their finders could not store, or did not wait for; returns how many.
    pub async fn store_unstored(&self, history: &dyn LedgerStore) -> Result<usize, HistoryError> {
        let rows = self.with(|ledger| ledger.abandoned());
        self.store(history, &rows).await?;
        Ok(rows.len())
    }

    /// Whether a position closed without its row.
    pub async fn is_settled(
        &self,
        history: &dyn LedgerStore,
        stream: &Stream,
        position: i64,
    ) -> Result<bool, HistoryError> {
        let range = Range { first: position, last: position };
        if self.with(|ledger| ledger.settled.within(stream, range).next().is_some()) {
            return Ok(true);
        }
        Ok(!self.forgotten(history, stream, range).await?.is_empty())
    }

    async fn store(&self, history: &dyn LedgerStore, rows: &[Gap]) -> Result<(), HistoryError> {
        if rows.is_empty() {
            return Ok(());
        }
        let _in_flight = InFlight::new(self, rows);
        // No two attempts have the same rows for sure, so each has its own token.
        history.insert_gaps(rows, &format!("open:{}", Gap::new_id())).await?;
        self.with(|ledger| ledger.note_stored(rows));
        Ok(())
    }

    fn take_over(&self, rows: &[Gap]) {
        self.with(|ledger| {
            rows.iter().for_each(|row| ledger.update(row));
            ledger.note_stored(rows);
        });
    }

    /// The rows of a stream that closed without their positions and overlap `range`.
    async fn verdicts(
        &self,
        history: &dyn LedgerStore,
        stream: &Stream,
        range: Range,
    ) -> Result<Vec<Gap>, HistoryError> {
        history.gaps(&verdicts_in(stream, range)).await
    }

    /// The settled ranges in the part of `range` that memory has forgotten.
    async fn forgotten(
        &self,
        history: &dyn LedgerStore,
        stream: &Stream,
        range: Range,
    ) -> Result<Vec<Range>, HistoryError> {
        let (forgotten, epoch) = self.with(|ledger| (ledger.forgotten(stream, range), ledger.epoch_of(stream)));
        let mut ranges = Vec::new();
        if let Some(part) = forgotten {
            let keep = |gap: Gap| ranges.extend((gap.epoch == epoch).then_some(gap.range));
            each_gap(history, verdicts_in(stream, part), keep).await?;
        }
        Ok(ranges)
    }
}

/// Rows that a caller stores now. When it stops waiting, the repair loop takes them.
struct InFlight<'a> {
    ledger: &'a SharedLedger,
    gap_ids: Vec<String>,
}

impl<'a> InFlight<'a> {
    fn new(ledger: &'a SharedLedger, rows: &[Gap]) -> Self {
        let gap_ids: Vec<String> = rows.iter().map(|row| row.gap_id.clone()).collect();
        ledger.with(|ledger| ledger.in_flight.extend(gap_ids.iter().cloned()));
        Self { ledger, gap_ids }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.ledger.with(|ledger| {
            for gap_id in &self.gap_ids {
                ledger.in_flight.remove(gap_id);
            }
        });
    }
}

impl Ledger {
    /// Opens gaps in a ledger that nobody shares yet, and stores them. Returns the rows. After an error the caller drops
    /// the ledger and begins again with the rows of history.
    pub async fn open_unshared(&mut self, history: &dyn LedgerStore, found: &[Gap]) -> Result<Vec<Gap>, HistoryError> {
        let rows: Vec<Gap> = found.iter().flat_map(|found| self.open(found, &[]).changed()).collect();
        if let Some(first) = rows.first() {
            history.insert_gaps(&rows, &format!("restart:{}", first.gap_id)).await?;
        }
        Ok(rows)
    }
}

fn verdicts_in(stream: &Stream, range: Range) -> GapFilter {
    GapFilter { stream: Some(stream.clone()), range: Some(range), ..GapFilter::verdicts() }
}

fn report_found(gap: &Gap) {
    info!(
        MESSAGE_ID = messages::GAP_FOUND,
        EXCHANGE = %gap.stream.exchange, SYMBOL = %gap.stream.symbol, GAP_FIRST = gap.range.first,
        GAP_LAST = gap.range.last, "gap in {}: {} missing, {}, found by {}",
        gap.stream, gap.len(), gap.span(), gap.evidence.by
    );
}
