//! Wrappers of the ports that retry unavailable calls, as the recording path does.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tapekeeper::cache::{Cache, CacheError, Update};
use tapekeeper::gap::{Gap, Range};
use tapekeeper::history::{
    Batch, ConflictRow, Count, CoverageDay, DeadLetter, EpochRow, GapFilter, History, HistoryError, JobRun, KlineRow,
    LedgerStore, MinuteCount, Retention, RowStore, RunStore, TradeRow, Watermark, WindowCount,
};
use tapekeeper::log::{Consumer, Delivery, Log, LogError, LogUsage, Offsets, Partition, Record};
use tapekeeper::market::{Book, Channel, Exchange, Frame, Interval, Kline, Stream, Symbol, Tick, Timestamp};

/// More attempts than consecutive faults of any test.
const ATTEMPTS_MAX: usize = 200;

/// Retries unavailable calls; returns every other result.
pub struct Retrying<T: ?Sized>(pub Arc<T>);

/// Whether another attempt may succeed.
trait Retryable {
    fn is_retryable(&self) -> bool;
}

impl Retryable for LogError {
    fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl Retryable for HistoryError {
    fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(text) if text.contains("injected"))
    }
}

impl Retryable for CacheError {
    fn is_retryable(&self) -> bool {
        true
    }
}

async fn retry<T, E: Retryable, F: Future<Output = Result<T, E>> + Send>(call: impl Fn() -> F + Send) -> Result<T, E> {
    for _ in 1..ATTEMPTS_MAX {
        match call().await {
            Err(error) if error.is_retryable() => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
    call().await
}

struct RetryingConsumer(Box<dyn Consumer>);

#[async_trait]
impl Consumer for RetryingConsumer {
    async fn next(&mut self) -> Result<Delivery, LogError> {
        // A loop instead of `retry`, because the call borrows the consumer mutably.
        for _ in 1..ATTEMPTS_MAX {
            match self.0.next().await {
                Err(error) if error.is_retryable() => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
        self.0.next().await
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<(), LogError> {
        for _ in 1..ATTEMPTS_MAX {
            match self.0.commit(offsets).await {
                Err(error) if error.is_retryable() => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
        self.0.commit(offsets).await
    }

    fn pause(&mut self, paused: bool) {
        self.0.pause(paused);
    }
}

#[async_trait]
impl Log for Retrying<dyn Log> {
    async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError> {
        retry(|| self.0.append(frames.clone())).await
    }
    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError> {
        Ok(Box::new(RetryingConsumer(retry(|| self.0.consumer()).await?)))
    }
    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        retry(|| self.0.read(partition, offset, limit)).await
    }
    fn partition(&self, key: &str) -> Option<Partition> {
        self.0.partition(key)
    }

    async fn usage(&self) -> Result<LogUsage, LogError> {
        retry(|| self.0.usage()).await
    }
    async fn retain(&self, older_than: Timestamp, bytes: u64) -> Result<u64, LogError> {
        retry(|| self.0.retain(older_than, bytes)).await
    }
    async fn close(&self) -> Result<(), LogError> {
        self.0.close().await
    }
}

#[async_trait]
impl Cache for Retrying<dyn Cache> {
    async fn apply(&self, update: &Update) -> Result<u64, CacheError> {
        retry(|| self.0.apply(update)).await
    }
    async fn ticks(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Tick>>, CacheError> {
        retry(|| self.0.ticks(exchange, symbols)).await
    }
    async fn klines(&self, exchange: Exchange, keys: &[(Symbol, Interval)]) -> Result<Vec<Option<Kline>>, CacheError> {
        retry(|| self.0.klines(exchange, keys)).await
    }
    async fn books(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Book>>, CacheError> {
        retry(|| self.0.books(exchange, symbols)).await
    }
    async fn put_state(&self, instance: &str, document: &str) -> Result<(), CacheError> {
        retry(|| self.0.put_state(instance, document)).await
    }
    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError> {
        retry(|| self.0.get_state(instance)).await
    }
    async fn ping(&self) -> Result<String, CacheError> {
        retry(|| self.0.ping()).await
    }
}

#[async_trait]
impl RowStore for Retrying<dyn History> {
    async fn insert(&self, batch: &Batch) -> Result<(), HistoryError> {
        retry(|| self.0.insert(batch)).await
    }

    async fn watermarks(&self, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError> {
        retry(|| self.0.watermarks(streams)).await
    }

    async fn latest_trades(
        &self,
        exchange: Exchange,
        channel: Channel,
        symbols: &[Symbol],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        retry(|| self.0.latest_trades(exchange, channel, symbols)).await
    }

    async fn latest_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        intervals: &[Interval],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        retry(|| self.0.latest_klines(exchange, symbols, intervals)).await
    }

    async fn trades_by_id(
        &self,
        exchange: Exchange,
        channel: Channel,
        keys: &[(Symbol, i64)],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        retry(|| self.0.trades_by_id(exchange, channel, keys)).await
    }

    async fn klines_by_time(
        &self,
        exchange: Exchange,
        keys: &[(Symbol, Interval, Timestamp)],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        retry(|| self.0.klines_by_time(exchange, keys)).await
    }

    async fn trades(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<TradeRow>, HistoryError> {
        retry(|| self.0.trades(stream, range, limit)).await
    }

    async fn klines(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<KlineRow>, HistoryError> {
        retry(|| self.0.klines(stream, range, limit)).await
    }

    async fn count(&self, stream: &Stream, range: Range) -> Result<Count, HistoryError> {
        retry(|| self.0.count(stream, range)).await
    }

    async fn extent(&self, stream: &Stream) -> Result<Option<Range>, HistoryError> {
        retry(|| self.0.extent(stream)).await
    }

    async fn missing(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<Range>, HistoryError> {
        retry(|| self.0.missing(stream, range, limit)).await
    }

    async fn minute_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        since: Timestamp,
    ) -> Result<Vec<KlineRow>, HistoryError> {
        retry(|| self.0.minute_klines(exchange, symbols, since)).await
    }

    async fn windows(
        &self,
        streams: &[Stream],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Stream, WindowCount)>, HistoryError> {
        retry(|| self.0.windows(streams, from, to)).await
    }

    async fn missing_each(
        &self,
        ranges: &[(Stream, Range)],
        limit: usize,
    ) -> Result<Vec<(Stream, Range)>, HistoryError> {
        retry(|| self.0.missing_each(ranges, limit)).await
    }

    async fn days(
        &self,
        streams: &[Stream],
        first_day: Option<i64>,
    ) -> Result<Vec<(Stream, CoverageDay)>, HistoryError> {
        retry(|| self.0.days(streams, first_day)).await
    }

    async fn per_minute(
        &self,
        streams: &[Stream],
        since: Timestamp,
    ) -> Result<Vec<(Stream, MinuteCount)>, HistoryError> {
        retry(|| self.0.per_minute(streams, since)).await
    }
}

#[async_trait]
impl LedgerStore for Retrying<dyn History> {
    async fn insert_gaps(&self, gaps: &[Gap], token: &str) -> Result<(), HistoryError> {
        self.insert(&Batch::of_gaps(gaps, token)).await
    }

    async fn epochs(&self) -> Result<Vec<EpochRow>, HistoryError> {
        retry(|| self.0.epochs()).await
    }

    async fn conflicts(&self, pending_only: bool, limit: usize) -> Result<Vec<ConflictRow>, HistoryError> {
        retry(|| self.0.conflicts(pending_only, limit)).await
    }

    async fn gaps(&self, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError> {
        retry(|| self.0.gaps(filter)).await
    }
}

#[async_trait]
impl RunStore for Retrying<dyn History> {
    async fn dead_letters(&self, recorder: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HistoryError> {
        retry(|| self.0.dead_letters(recorder, limit)).await
    }

    async fn dead_letter_count(&self, recorder: Option<&str>) -> Result<u64, HistoryError> {
        retry(|| self.0.dead_letter_count(recorder)).await
    }

    async fn put_run(&self, run: &JobRun) -> Result<(), HistoryError> {
        retry(|| self.0.put_run(run)).await
    }

    async fn runs(&self, job: Option<&str>, recorder: Option<&str>, limit: usize) -> Result<Vec<JobRun>, HistoryError> {
        retry(|| self.0.runs(job, recorder, limit)).await
    }
}

#[async_trait]
impl History for Retrying<dyn History> {
    async fn identity(&self) -> Result<String, HistoryError> {
        retry(|| self.0.identity()).await
    }

    fn at_epoch(&self, epoch: i64) -> Arc<dyn History> {
        Arc::new(Retrying::<dyn History>(self.0.at_epoch(epoch)))
    }

    async fn retain(&self, retention: &Retention) -> Result<u64, HistoryError> {
        retry(|| self.0.retain(retention)).await
    }

    async fn bytes(&self) -> Result<Option<u64>, HistoryError> {
        retry(|| self.0.bytes()).await
    }

    async fn close(&self) -> Result<(), HistoryError> {
        self.0.close().await
    }
}
