//! The only thread that writes history: work that waits at the same time shares one transaction and one sync.

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::retention::{self, Chunk};
use super::tables;
use crate::history::{Batch, HistoryError, JobRun, Retention};
use crate::market::Timestamp;
use crate::sqlite::{Failure, FileWatch};

/// The number of rows at which a transaction takes no further work: more would not make the sync cheaper per row, but
/// the first caller would wait longer.
const GROUP_ROWS_MAX: usize = 20_000;

/// A unit of work for the writer. Each kind is idempotent.
#[derive(Debug)]
pub(super) enum Work {
    /// Insert the rows of a batch.
    Insert(Batch),
    /// Store a run of a job.
    PutRun(JobRun),
    /// Remove expired dead letters and runs.
    RemoveExpired(Retention),
    /// Remove the rows of a chunk that are older than `before`.
    RemoveRows { chunk: Chunk, before: Timestamp },
}

/// Work, and the channel for its response.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) work: Work,
    /// Receives the number of removed rows when the work is durable.
    pub(super) done: oneshot::Sender<Result<u64, HistoryError>>,
}

/// The write connection.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    watch: FileWatch,
}

impl Writer {
    pub(super) fn new(connection: Connection, watch: FileWatch) -> Self {
        Self { connection, watch }
    }

    /// Runs until the last sender is dropped.
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut rows = first.work.rows();
            let mut group = vec![first];
            while rows < GROUP_ROWS_MAX
                && let Ok(request) = waiting.try_recv()
            {
                rows += request.work.rows();
                group.push(request);
            }
            self.process_group(group);
        }
        self.watch.before_close(&self.connection);
    }

    /// Executes the work in one transaction. If that fails it executes each unit separately, so that one bad batch does
    /// not fail the others.
    fn process_group(&mut self, group: Vec<Request>) {
        let works: Vec<&Work> = group.iter().map(|request| &request.work).collect();
        let answers = match self.write(&works) {
            Ok(removed) => removed.into_iter().map(Ok).collect(),
            Err(failure) if group.len() == 1 => vec![Err(failure)],
            Err(_) => works.into_iter().map(|work| self.write(&[work]).map(|removed| removed.iter().sum())).collect(),
        };
        for (request, answer) in group.into_iter().zip::<Vec<Result<u64, Failure>>>(answers) {
            if request.done.send(answer.map_err(super::running)).is_err() {
                tracing::debug!("a caller of history stopped waiting for its response");
            }
        }
    }

    /// Executes one transaction; returns the number of rows that each unit removed. Fails when the file has lost its
    /// name, before or meanwhile: what is written to it then disappears with this process.
    fn write(&mut self, works: &[&Work]) -> Result<Vec<u64>, Failure> {
        self.watch.check()?;
        let removed = self.transaction(works).map_err(|failure| self.watch.note(failure))?;
        self.watch.check()?;
        Ok(removed)
    }

    fn transaction(&mut self, works: &[&Work]) -> Result<Vec<u64>, Failure> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut removed = Vec::with_capacity(works.len());
        for work in works {
            removed.push(match work {
                Work::Insert(batch) => tables::insert(&transaction, batch).map(|()| 0)?,
                Work::PutRun(run) => tables::put_run(&transaction, run).map(|()| 0)?,
                Work::RemoveExpired(retention) => retention::remove_expired(&transaction, retention)?,
                Work::RemoveRows { chunk, before } => retention::remove(&transaction, chunk, *before)?,
            });
        }
        transaction.commit()?;
        Ok(removed)
    }
}

impl Work {
    fn rows(&self) -> usize {
        match self {
            Self::Insert(batch) => batch.rows(),
            Self::PutRun(_) => 1,
            Self::RemoveExpired(_) | Self::RemoveRows { .. } => GROUP_ROWS_MAX,
        }
    }
}
