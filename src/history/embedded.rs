//! History in SQLite: one file, one writer thread and concurrent readers.
//!
//! Inserts that wait at the same time share one transaction and one sync. The tables are the contract of DESIGN.md
//! section 5 with dashboards and audits; other programs may read them during writes.

mod coverage;
mod decimal_text;
mod ledger;
mod lookup;
mod per_minute;
mod retention;
mod runs;
mod schema;
mod tables;
mod window;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    Batch, ConflictRow, Count, CoverageDay, DeadLetter, EpochRow, GapFilter, History, HistoryError, JobRun, KlineRow,
    LedgerStore, MinuteCount, Retention, RowStore, RunStore, TradeRow, Watermark, WindowCount,
};
use crate::gap::{Gap, Range};
use crate::market::{Channel, Exchange, Interval, Stream, Symbol, Timestamp};
use crate::sqlite::{Failure, FileWatch, Readers};
use writer::{Request, Work, Writer};

/// Requests that wait in the writer's channel. Further callers wait until it has room.
const REQUESTS_MAX: usize = 64;
/// Reads that run at the same time.
const READERS_MAX: usize = 3;

/// History in one SQLite file.
#[derive(Debug)]
pub struct EmbeddedHistory {
    shared: Arc<Shared>,
    /// The epoch of trades to read; `None` is the newest of each symbol.
    epoch: Option<i64>,
}

/// What all views of the file share.
#[derive(Debug)]
struct Shared {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    readers: Readers,
    watch: FileWatch,
    identity: String,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl EmbeddedHistory {
    /// Opens the file `{data_dir}/history.db`, or creates it. The directory must exist. Other processes may have the
    /// file open.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let connection = schema::SCHEMA.open(path)?;
        let watch = FileWatch::new(path);
        let identity = schema::identity(&connection).map_err(|failure| watch.note(failure))?;
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let writer = Writer::new(connection, watch.clone());
        let thread = std::thread::Builder::new()
            .name("history-writer".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| HistoryError::Unavailable(format!("start history's writer thread: {error}")))?;
        let shared = Shared {
            requests: Mutex::new(Some(requests)),
            readers: Readers::new(path, READERS_MAX, watch.clone()),
            watch,
            identity,
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self { shared: Arc::new(shared), epoch: None })
    }

    /// Sends work to the writer and waits until it is durable; returns the number of removed rows. The writer executes
    /// all work that it has received, even if the caller stops waiting.
    async fn write(&self, work: Work) -> Result<u64, HistoryError> {
        let closed = || HistoryError::Unavailable("history is closed".to_owned());
        let requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, answer) = oneshot::channel();
        let requests = requests.ok_or_else(closed)?;
        requests.send(Request { work, done }).await.map_err(|_| closed())?;
        drop(requests);
        answer.await.map_err(|_| closed())?
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        self.shared.readers.read(read).await.map_err(running)
    }
}

#[async_trait]
impl RowStore for EmbeddedHistory {
    async fn insert(&self, batch: &Batch) -> Result<(), HistoryError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write(Work::Insert(batch.clone())).await.map(|_| ())
    }

    async fn watermarks(&self, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError> {
        let streams = streams.to_vec();
        let epoch = self.epoch;
        self.read(move |connection| lookup::watermarks(connection, &streams, epoch)).await
    }

    async fn latest_trades(
        &self,
        exchange: Exchange,
        channel: Channel,
        symbols: &[Symbol],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        let symbols = symbols.to_vec();
        let epoch = self.epoch;
        self.read(move |connection| lookup::latest_trades(connection, (exchange, channel), &symbols, epoch)).await
    }

    async fn latest_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        intervals: &[Interval],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        let (symbols, intervals) = (symbols.to_vec(), intervals.to_vec());
        self.read(move |connection| lookup::latest_klines(connection, exchange, &symbols, &intervals)).await
    }

    async fn trades_by_id(
        &self,
        exchange: Exchange,
        channel: Channel,
        keys: &[(Symbol, i64)],
    ) -> Result<Vec<TradeRow>, HistoryError> {
        let keys = keys.to_vec();
        let epoch = self.epoch;
        self.read(move |connection| lookup::trades_by_id(connection, (exchange, channel), &keys, epoch)).await
    }

    async fn klines_by_time(
        &self,
        exchange: Exchange,
        keys: &[(Symbol, Interval, Timestamp)],
    ) -> Result<Vec<KlineRow>, HistoryError> {
        let keys = keys.to_vec();
        self.read(move |connection| lookup::klines_by_time(connection, exchange, &keys)).await
    }

    async fn trades(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<TradeRow>, HistoryError> {
        let stream = stream.clone();
        let epoch = self.epoch;
        self.read(move |connection| lookup::trades(connection, &stream, range, limit, epoch)).await
    }

    async fn klines(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<KlineRow>, HistoryError> {
        let Channel::Kline(interval) = stream.channel else { return Ok(Vec::new()) };
        let stream = stream.clone();
        self.read(move |connection| lookup::klines(connection, &stream, interval, range, limit)).await
    }

    async fn count(&self, stream: &Stream, range: Range) -> Result<Count, HistoryError> {
        let stream = stream.clone();
        let epoch = self.epoch;
        self.read(move |connection| coverage::count(connection, &stream, range, epoch)).await
    }

    async fn extent(&self, stream: &Stream) -> Result<Option<Range>, HistoryError> {
        let stream = stream.clone();
        let epoch = self.epoch;
        self.read(move |connection| coverage::extent(connection, &stream, epoch)).await
    }

    async fn missing(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<Range>, HistoryError> {
        let stream = stream.clone();
        let epoch = self.epoch;
        self.read(move |connection| coverage::missing(connection, &stream, range, limit, epoch)).await
    }

    async fn minute_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        since: Timestamp,
    ) -> Result<Vec<KlineRow>, HistoryError> {
        let symbols = symbols.to_vec();
        self.read(move |connection| lookup::minute_klines(connection, exchange, &symbols, since)).await
    }

    async fn windows(
        &self,
        streams: &[Stream],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Stream, WindowCount)>, HistoryError> {
        let (streams, epoch) = (streams.to_vec(), self.epoch);
        self.read(move |connection| window::windows(connection, &streams, from, to, epoch)).await
    }

    async fn missing_each(
        &self,
        ranges: &[(Stream, Range)],
        limit: usize,
    ) -> Result<Vec<(Stream, Range)>, HistoryError> {
        let (ranges, epoch) = (ranges.to_vec(), self.epoch);
        self.read(move |connection| window::missing_each(connection, &ranges, limit, epoch)).await
    }

    async fn days(
        &self,
        streams: &[Stream],
        first_day: Option<i64>,
    ) -> Result<Vec<(Stream, CoverageDay)>, HistoryError> {
        let streams = streams.to_vec();
        let epoch = self.epoch;
        self.read(move |connection| coverage::days(connection, &streams, first_day, epoch)).await
    }

    async fn per_minute(
        &self,
        streams: &[Stream],
        since: Timestamp,
    ) -> Result<Vec<(Stream, MinuteCount)>, HistoryError> {
        let streams = streams.to_vec();
        let epoch = self.epoch;
        self.read(move |connection| per_minute::per_minute(connection, &streams, since, epoch)).await
    }
}

#[async_trait]
impl LedgerStore for EmbeddedHistory {
    async fn insert_gaps(&self, gaps: &[Gap], token: &str) -> Result<(), HistoryError> {
        self.insert(&Batch::of_gaps(gaps, token)).await
    }

    async fn gaps(&self, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError> {
        let (filter, epoch) = (filter.clone(), self.epoch);
        self.read(move |connection| ledger::gaps(connection, &filter, epoch)).await
    }

    async fn epochs(&self) -> Result<Vec<EpochRow>, HistoryError> {
        self.read(ledger::epochs).await
    }

    async fn conflicts(&self, pending_only: bool, limit: usize) -> Result<Vec<ConflictRow>, HistoryError> {
        self.read(move |connection| ledger::conflicts(connection, pending_only, limit)).await
    }
}

#[async_trait]
impl RunStore for EmbeddedHistory {
    async fn dead_letters(&self, recorder: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HistoryError> {
        let recorder = recorder.map(str::to_owned);
        self.read(move |connection| runs::dead_letters(connection, recorder.as_deref(), limit)).await
    }

    async fn dead_letter_count(&self, recorder: Option<&str>) -> Result<u64, HistoryError> {
        let recorder = recorder.map(str::to_owned);
        self.read(move |connection| runs::dead_letter_count(connection, recorder.as_deref())).await
    }

    async fn put_run(&self, run: &JobRun) -> Result<(), HistoryError> {
        self.write(Work::PutRun(run.clone())).await.map(|_| ())
    }

    async fn runs(&self, job: Option<&str>, recorder: Option<&str>, limit: usize) -> Result<Vec<JobRun>, HistoryError> {
        let (job, recorder) = (job.map(str::to_owned), recorder.map(str::to_owned));
        self.read(move |connection| runs::runs(connection, job.as_deref(), recorder.as_deref(), limit)).await
    }
}

#[async_trait]
impl History for EmbeddedHistory {
    async fn identity(&self) -> Result<String, HistoryError> {
        Ok(self.shared.identity.clone())
    }

    fn epoch(&self) -> Option<i64> {
        self.epoch
    }

    fn at_epoch(&self, epoch: i64) -> Arc<dyn History> {
        Arc::new(Self { shared: self.shared.clone(), epoch: Some(epoch) })
    }

    async fn retain(&self, retention: &Retention) -> Result<u64, HistoryError> {
        let mut removed = self.write(Work::RemoveExpired(*retention)).await?;
        let Some(before) = retention.rows_before else { return Ok(removed) };
        let mut cursor = retention::Cursor::default();
        // Readers search for old rows; the writer gets only bounded chunks that contain some.
        loop {
            let from = cursor.clone();
            let chunk = self.read(move |connection| retention::next_chunk(connection, from, before)).await?;
            let Some(chunk) = chunk else { return Ok(removed) };
            cursor = chunk.next_cursor();
            if chunk.has_old {
                removed += self.write(Work::RemoveRows { chunk, before }).await?;
            }
        }
    }

    async fn bytes(&self) -> Result<Option<u64>, HistoryError> {
        Ok(Some(self.shared.readers.bytes_on_disk()))
    }

    fn trouble(&self) -> Option<HistoryError> {
        self.shared.watch.trouble().map(running)
    }

    async fn find_damage(&self) -> Result<(), HistoryError> {
        self.shared.readers.find_damage().await.map_err(running)
    }

    async fn close(&self) -> Result<(), HistoryError> {
        let Some(thread) = self.shared.stop() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(HistoryError::Unavailable("history's writer thread panicked".to_owned())),
        }
    }
}

impl Shared {
    fn stop(&self) -> Option<std::thread::JoinHandle<()>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.watch.close();
        self.readers.close();
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Waits for the work that the writer has received, so that the next process opens a file without a writer.
        if let Some(thread) = self.stop()
            && thread.join().is_err()
        {
            tracing::error!("history's writer thread panicked");
        }
    }
}

/// The error of a call on an open history: somebody has changed a table since it was opened, and may change it back.
fn running(failure: Failure) -> HistoryError {
    match HistoryError::from(failure) {
        HistoryError::Schema(text) => HistoryError::Unavailable(text),
        error => error,
    }
}

impl From<Failure> for HistoryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(text) => Self::Unavailable(text),
            Failure::Lost(text) => Self::Unavailable(format!("{text}: restart, then `tapekeeper replay`")),
            Failure::Refused(text) => Self::Data(text),
            Failure::Unusable(text) => Self::Schema(text),
            Failure::Damaged(text) => Self::Damaged(format!(
                "{text}: restore it (docs/operations.md, Backup); without a backup stop tapekeeper, move history.db, \
                 history.db-wal and history.db-shm away, start it and run `tapekeeper replay`"
            )),
        }
    }
}
