//! The one thread that writes history: work that waits together shares a transaction and its sync.

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::retention::{self, Chunk};
use super::tables;
use crate::history::{Batch, HistoryError, JobRun, Retention};
use crate::market::Timestamp;
use crate::sqlite::Failure;

/// A transaction is closed to further work at so many rows: a sync is paid for long before, and the
/// first caller does not wait for all the others.
const GROUP_ROWS_MAX: usize = 20_000;

/// Something to write; all of it is idempotent.
#[derive(Debug)]
pub(super) enum Work {
    /// The rows of a batch.
    Insert(Batch),
    /// A job's run.
    PutRun(JobRun),
    /// Remove dead letters and runs that are not kept.
    RemoveExpired(Retention),
    /// Remove what is older than `before` in a chunk of a table.
    RemoveRows { chunk: Chunk, before: Timestamp },
}

/// Work, and who waits for it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) work: Work,
    /// Gets the number of rows removed, when it is durable.
    pub(super) done: oneshot::Sender<Result<u64, HistoryError>>,
}

/// The write connection.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Works until nobody can ask any more.
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
    }

    /// Carries out work together; when that fails each alone, so that one cannot spoil the others.
    fn process_group(&mut self, group: Vec<Request>) {
        let works: Vec<&Work> = group.iter().map(|request| &request.work).collect();
        let answers = match self.write(&works) {
            Ok(removed) => removed.into_iter().map(Ok).collect(),
            Err(failure) if group.len() == 1 => vec![Err(failure)],
            Err(_) => works.into_iter().map(|work| self.write(&[work]).map(|removed| removed.iter().sum())).collect(),
        };
        for (request, answer) in group.into_iter().zip::<Vec<Result<u64, Failure>>>(answers) {
            if request.done.send(answer.map_err(HistoryError::from)).is_err() {
                tracing::debug!("a caller of history went away before its answer");
            }
        }
    }

    /// One transaction; returns how many rows each removed.
    fn write(&mut self, works: &[&Work]) -> Result<Vec<u64>, Failure> {
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
