//! The log in SQLite: one file, one partition (0), one writer thread and concurrent readers.
//!
//! Appends and commits that wait at the same time share one transaction and one sync. A consumer at the end of the log
//! reads from memory; a lagging consumer reads the file. This module must not know what a frame contains.
//!
//! An offset is never used twice: retention removes only frames below the committed offset, which is durable in the
//! same file. So the next offset is always the higher of last row + 1 and the committed offset.

mod consumer;
mod retention;
mod ring;
mod rows;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Consumer, Log, LogError, LogUsage, Offsets, Partition, Record};
use crate::market::{Frame, Timestamp};
use crate::sqlite::{Failure, FileWatch, Readers};
use consumer::EmbeddedConsumer;
use ring::Ring;
use writer::{Request, Writer};

/// The one partition.
pub const PARTITION: Partition = 0;
/// Requests that wait in the writer's channel. Further callers wait until it has room.
const REQUESTS_MAX: usize = 64;
/// Consumers and replays that read the file at the same time.
const READERS_MAX: usize = 2;

/// The limits of the embedded log.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The largest number of records of one delivery.
    pub batch_records: usize,
    /// A delivery ends with the record that exceeds this number of payload bytes.
    pub batch_bytes: usize,
    /// Bytes of recently appended frames that stay in memory for consumers at the end of the log.
    pub recent_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { batch_records: 4_096, batch_bytes: 4 << 20, recent_bytes: 32 << 20 }
    }
}

/// The log in one SQLite file.
#[derive(Debug)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    options: Options,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// State that the log shares with its consumers.
#[derive(Debug)]
struct Shared {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    readers: Readers,
    watch: FileWatch,
    recent: Arc<Mutex<Ring>>,
    /// Next offset to write; all frames below it are durable.
    end: watch::Receiver<i64>,
    /// Next offset to consume; `None` before the first commit.
    committed: watch::Receiver<Option<i64>>,
}

impl EmbeddedLog {
    /// Opens the file `{data_dir}/log.db`, or creates it. The directory must exist.
    pub fn open(path: &Path, options: Options) -> Result<Self, LogError> {
        let recent = Arc::new(Mutex::new(Ring::new(options.recent_bytes)));
        let (writer, watch) = Writer::open(path, Arc::clone(&recent))?;
        let shared = Shared {
            requests: Mutex::new(None),
            readers: Readers::new(path, READERS_MAX, watch.clone()),
            watch,
            recent,
            end: writer.end(),
            committed: writer.committed(),
        };
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| LogError::Unavailable(format!("start the log's writer thread: {error}")))?;
        *shared.lock_requests() = Some(requests);
        Ok(Self { shared: Arc::new(shared), options, thread: Mutex::new(Some(thread)) })
    }

    fn stop(&self) -> Option<std::thread::JoinHandle<()>> {
        self.shared.lock_requests().take();
        self.shared.watch.close();
        self.shared.readers.close();
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Shared {
    fn lock_requests(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Request>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_recent(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to the writer and waits for the response. The writer executes every request that it has
    /// received, even if the caller stops waiting.
    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Request,
    ) -> Result<T, LogError> {
        let requests = self.lock_requests().clone().ok_or_else(closed)?;
        let (done, answer) = oneshot::channel();
        // Not closed by this process: the thread panicked.
        let ended = || LogError::Fatal("the log's writer thread has ended".to_owned());
        requests.send(request(done)).await.map_err(|_| ended())?;
        drop(requests);
        answer.await.map_err(|_| ended())?
    }

    fn refuse_when_closed(&self) -> Result<(), LogError> {
        if self.lock_requests().is_none() { Err(closed()) } else { Ok(()) }
    }

    async fn commit(&self, offsets: &Offsets) -> Result<(), LogError> {
        if let Some(partition) = offsets.keys().find(|partition| **partition != PARTITION) {
            return Err(LogError::Fatal(format!(
                "commit partition {partition}: the embedded log has only partition 0"
            )));
        }
        let Some(next) = offsets.get(&PARTITION).copied() else { return Ok(()) };
        self.request(|done| Request::Commit { next, done }).await
    }

    /// Reads at most `records` records, starting at `offset`, from memory if they are there. Ends with the record that
    /// exceeds `bytes` of payload.
    async fn read(&self, offset: i64, records: usize, bytes: usize) -> Result<Vec<Record>, LogError> {
        self.refuse_when_closed()?;
        if let Some(found) = self.lock_recent().read(offset, records, bytes) {
            return Ok(found);
        }
        let read = self.readers.read(move |connection| rows::read(connection, offset, records, bytes)).await;
        read.map_err(LogError::from)
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn append(&self, frames: Vec<Frame>) -> Result<(), LogError> {
        if frames.is_empty() {
            return Ok(());
        }
        self.shared.request(|done| Request::Append { frames, done }).await
    }

    async fn consumer(&self) -> Result<Box<dyn Consumer>, LogError> {
        self.shared.refuse_when_closed()?;
        let committed = *self.shared.committed.borrow();
        Ok(Box::new(EmbeddedConsumer::new(Arc::clone(&self.shared), self.options, committed.unwrap_or(0))))
    }

    async fn read(&self, partition: Partition, offset: i64, limit: usize) -> Result<Vec<Record>, LogError> {
        if partition != PARTITION {
            return Ok(Vec::new());
        }
        self.shared.read(offset.max(0), limit, usize::MAX).await
    }

    fn partition(&self, _key: &str) -> Option<Partition> {
        Some(PARTITION)
    }

    async fn usage(&self) -> Result<LogUsage, LogError> {
        self.shared.refuse_when_closed()?;
        let first = self.shared.readers.read(rows::first).await?;
        let end = *self.shared.end.borrow();
        let committed = *self.shared.committed.borrow();
        Ok(LogUsage {
            first: Offsets::from([(PARTITION, first.unwrap_or(end))]),
            end: Offsets::from([(PARTITION, end)]),
            committed: committed.map(|next| (PARTITION, next)).into_iter().collect(),
            bytes: Some(self.shared.readers.bytes_on_disk()),
        })
    }

    async fn retain(&self, older_than: Timestamp, bytes: u64) -> Result<u64, LogError> {
        let mut removed = 0;
        // Each request removes a bounded number of frames, so that appends between them never wait long.
        loop {
            let step = self.shared.request(|done| Request::Retain { older_than, bytes, done }).await?;
            removed += step.removed;
            if !step.more {
                return Ok(removed);
            }
        }
    }

    fn trouble(&self) -> Option<LogError> {
        self.shared.watch.trouble().map(LogError::from)
    }

    async fn find_damage(&self) -> Result<(), LogError> {
        Ok(self.shared.readers.find_damage().await?)
    }

    async fn close(&self) -> Result<(), LogError> {
        let Some(thread) = self.stop() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(LogError::Fatal("the log's writer thread panicked".to_owned())),
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        // Waits for the requests that the writer has received, so that the next process opens a file without a writer.
        if let Some(thread) = self.stop()
            && thread.join().is_err()
        {
            tracing::error!("the log's writer thread panicked");
        }
    }
}

fn closed() -> LogError {
    LogError::Fatal("the log is closed".to_owned())
}

impl From<Failure> for LogError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(text) => Self::Unavailable(text),
            Failure::Lost(text) => Self::Unavailable(format!("{text}: restart")),
            Failure::Refused(text) | Failure::Unusable(text) => Self::Fatal(text),
            Failure::Damaged(text) => Self::Damaged(format!(
                "{text}: stop tapekeeper and move log.db, log.db-wal and log.db-shm away; it then begins a new log, and \
                 what history lacks becomes a gap that backfill fills (docs/operations.md, Backup)"
            )),
        }
    }
}
