//! A fault injector for tests: a history that fails, loses responses, stores half a batch, refuses marked trades and
//! delays, as [`Faults`] and the test decide.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{
    Batch, ConflictRow, Count, CoverageDay, DeadLetter, EpochRow, GapFilter, History, HistoryError, JobRun, KlineRow,
    LedgerStore, MinuteCount, Retention, RowStore, RunStore, TradeRow, Watermark, WindowCount,
};
use crate::faults::{Fault, Faults};
use crate::gap::{Gap, Range};
use crate::market::{Channel, Exchange, Interval, Stream, Symbol, Timestamp};

/// Wraps any history. It keeps every promise of the port, but calls fail more often.
pub struct FaultyHistory {
    inner: Arc<dyn History>,
    faults: Faults,
    refused: Mutex<HashSet<(Symbol, i64)>>,
}

impl FaultyHistory {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn History>, faults: Faults) -> Self {
        Self { inner, faults, refused: Mutex::default() }
    }

    /// From now on refuses every batch that contains this trade with [`HistoryError::Data`].
    pub fn refuse_trade(&self, symbol: Symbol, trade_id: i64) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert((symbol, trade_id));
    }

    fn check(&self, batch: &Batch) -> Result<(), HistoryError> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_empty() {
            return Ok(());
        }
        match batch.trades.iter().find(|row| refused.contains(&(row.symbol.clone(), row.trade.id))) {
            Some(row) => Err(HistoryError::Data(format!("injected fault: trade {} of {}", row.trade.id, row.symbol))),
            None => Ok(()),
        }
    }

    async fn before_read(&self) -> Result<(), HistoryError> {
        match self.faults.for_read() {
            Fault::None => Ok(()),
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Fault::Fail | Fault::LoseAnswer | Fault::Tear => Err(injected()),
        }
    }
}

fn injected() -> HistoryError {
    HistoryError::Unavailable("injected fault".to_owned())
}

/// Stops a test's paused clock until the returned sender is dropped. tokio advances a paused clock as soon as every
/// task waits, even for the thread of a store, so a deadline could pass before a write runs. It does not advance the
/// clock while a blocking task runs.
fn hold_clock() -> std::sync::mpsc::Sender<()> {
    let (hold, released) = std::sync::mpsc::channel();
    // The task ends when the sender is dropped, which `recv` reports as an error.
    drop(tokio::task::spawn_blocking(move || released.recv().is_err()));
    hold
}

/// The first half of the rows, in the order in which a store writes them: epochs and gaps first (promise 3).
fn first_half(batch: &Batch) -> Batch {
    let mut rest = batch.rows() / 2;
    let mut take = |rows: usize| {
        let taken = rest.min(rows);
        rest -= taken;
        taken
    };
    Batch {
        epochs: batch.epochs[..take(batch.epochs.len())].to_vec(),
        gaps: batch.gaps[..take(batch.gaps.len())].to_vec(),
        trades: batch.trades[..take(batch.trades.len())].to_vec(),
        klines: batch.klines[..take(batch.klines.len())].to_vec(),
        conflicts: batch.conflicts[..take(batch.conflicts.len())].to_vec(),
        dead_letters: batch.dead_letters[..take(batch.dead_letters.len())].to_vec(),
        token: format!("{} torn", batch.token),
    }
}

#[async_trait]
impl RowStore for FaultyHistory {
    async fn insert(&self, batch: &Batch) -> Result<(), HistoryError> {
        let fault = self.faults.for_write();
        if fault == Fault::Fail {
            return Err(injected());
        }
        self.check(batch)?;
        match fault {
            Fault::None | Fault::Fail => self.inner.insert(batch).await,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                self.inner.insert(batch).await
            }
            Fault::LoseAnswer => {
                self.inner.insert(batch).await?;
                Err(injected())
            }
            Fault::Tear => {
                self.inner.insert(&first_half(batch)).await?;
                Err(injected())
            }
        }
    }

    async fn watermarks(&self, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError> {
        self.before_read().await?;
        self.inner.watermarks(streams).await
    }

    async fn latest_trades(
        &self,
        exchange: Exchange,
        channel: Channel,
        symbols: &[Symbol],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        self.before_read().await?;
        self.inner.latest_trades(exchange, channel, symbols).await
    }

    async fn latest_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        intervals: &[Interval],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        self.before_read().await?;
        self.inner.latest_klines(exchange, symbols, intervals).await
    }

    async fn trades_by_id(
        &self,
        exchange: Exchange,
        channel: Channel,
        keys: &[(Symbol, i64)],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        self.before_read().await?;
        self.inner.trades_by_id(exchange, channel, keys).await
    }

    async fn klines_by_time(
        &self,
        exchange: Exchange,
        keys: &[(Symbol, Interval, Timestamp)],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        self.before_read().await?;
        self.inner.klines_by_time(exchange, keys).await
    }

    async fn trades(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<TradeRow>, HistoryError> {
        self.before_read().await?;
        self.inner.trades(stream, range, limit).await
    }

    async fn klines(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<KlineRow>, HistoryError> {
        self.before_read().await?;
        self.inner.klines(stream, range, limit).await
    }

    async fn count(&self, stream: &Stream, range: Range) -> Result<Count, HistoryError> {
        self.before_read().await?;
        self.inner.count(stream, range).await
    }

    async fn extent(&self, stream: &Stream) -> Result<Option<Range>, HistoryError> {
        self.before_read().await?;
        self.inner.extent(stream).await
    }

    async fn missing(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<Range>, HistoryError> {
        self.before_read().await?;
        self.inner.missing(stream, range, limit).await
    }

    async fn minute_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        since: Timestamp,
    ) -> Result<Vec<KlineRow>, HistoryError> {
        self.before_read().await?;
        self.inner.minute_klines(exchange, symbols, since).await
    }

    async fn windows(
        &self,
        streams: &[Stream],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Stream, WindowCount)>, HistoryError> {
        self.before_read().await?;
        self.inner.windows(streams, from, to).await
    }

    async fn missing_each(
        &self,
        ranges: &[(Stream, Range)],
        limit: usize,
    ) -> Result<Vec<(Stream, Range)>, HistoryError> {
        self.before_read().await?;
        self.inner.missing_each(ranges, limit).await
    }

    async fn days(
        &self,
        streams: &[Stream],
        first_day: Option<i64>,
    ) -> Result<Vec<(Stream, CoverageDay)>, HistoryError> {
        self.before_read().await?;
        self.inner.days(streams, first_day).await
    }

    async fn per_minute(
        &self,
        streams: &[Stream],
        since: Timestamp,
    ) -> Result<Vec<(Stream, MinuteCount)>, HistoryError> {
        self.before_read().await?;
        self.inner.per_minute(streams, since).await
    }
}

#[async_trait]
impl LedgerStore for FaultyHistory {
    async fn insert_gaps(&self, gaps: &[Gap], token: &str) -> Result<(), HistoryError> {
        self.insert(&Batch::of_gaps(gaps, token)).await
    }

    async fn gaps(&self, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError> {
        self.before_read().await?;
        self.inner.gaps(filter).await
    }

    async fn epochs(&self) -> Result<Vec<EpochRow>, HistoryError> {
        self.before_read().await?;
        self.inner.epochs().await
    }

    async fn conflicts(&self, pending_only: bool, limit: usize) -> Result<Vec<ConflictRow>, HistoryError> {
        self.before_read().await?;
        self.inner.conflicts(pending_only, limit).await
    }
}

#[async_trait]
impl RunStore for FaultyHistory {
    async fn dead_letters(&self, recorder: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HistoryError> {
        self.before_read().await?;
        self.inner.dead_letters(recorder, limit).await
    }

    async fn dead_letter_count(&self, recorder: Option<&str>) -> Result<u64, HistoryError> {
        self.before_read().await?;
        self.inner.dead_letter_count(recorder).await
    }

    async fn put_run(&self, run: &JobRun) -> Result<(), HistoryError> {
        let fault = self.faults.for_small_write();
        match fault {
            Fault::Fail => return Err(injected()),
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::None | Fault::LoseAnswer | Fault::Tear => {}
        }
        let _paused_clock = hold_clock();
        self.inner.put_run(run).await?;
        if fault == Fault::LoseAnswer { Err(injected()) } else { Ok(()) }
    }

    async fn runs(&self, job: Option<&str>, recorder: Option<&str>, limit: usize) -> Result<Vec<JobRun>, HistoryError> {
        self.before_read().await?;
        self.inner.runs(job, recorder, limit).await
    }
}

#[async_trait]
impl History for FaultyHistory {
    async fn identity(&self) -> Result<String, HistoryError> {
        self.before_read().await?;
        self.inner.identity().await
    }

    fn epoch(&self) -> Option<i64> {
        self.inner.epoch()
    }

    fn at_epoch(&self, epoch: i64) -> Arc<dyn History> {
        Arc::new(Self::new(self.inner.at_epoch(epoch), self.faults.clone()))
    }

    async fn retain(&self, retention: &Retention) -> Result<u64, HistoryError> {
        self.before_read().await?;
        self.inner.retain(retention).await
    }

    async fn bytes(&self) -> Result<Option<u64>, HistoryError> {
        self.before_read().await?;
        self.inner.bytes().await
    }

    fn trouble(&self) -> Option<HistoryError> {
        self.inner.trouble()
    }

    async fn find_damage(&self) -> Result<(), HistoryError> {
        self.inner.find_damage().await
    }

    async fn close(&self) -> Result<(), HistoryError> {
        self.inner.close().await
    }
}
