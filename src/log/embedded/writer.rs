//! The only thread that writes the log: requests that wait at the same time share one transaction and one sync.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::ring::Ring;
use super::{PARTITION, retention, rows};
use crate::log::{LogError, Record};
use crate::market::{Frame, Timestamp};
use crate::sqlite::{Failure, FileWatch};

/// The number of frames at which a transaction takes no further request: more would not make the sync cheaper per
/// frame, but the first caller would wait longer.
const GROUP_FRAMES_MAX: usize = 20_000;

/// A request to the writer. `done` receives the response when the result is durable.
#[derive(Debug)]
pub(super) enum Request {
    /// Append frames.
    Append { frames: Vec<Frame>, done: oneshot::Sender<Result<(), LogError>> },
    /// Raise the committed offset to `next`.
    Commit { next: i64, done: oneshot::Sender<Result<(), LogError>> },
    /// Run one bounded step of retention.
    Retain { older_than: Timestamp, bytes: u64, done: oneshot::Sender<Result<RetainStep, LogError>> },
}

/// The result of one step of retention.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RetainStep {
    /// Frames removed.
    pub(super) removed: u64,
    /// The first offset that the step kept.
    pub(super) keep_from: i64,
    /// Whether another step is needed.
    pub(super) more: bool,
}

/// The write connection, and the offsets that it has made durable.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    watch: FileWatch,
    recent: Arc<Mutex<Ring>>,
    end: watch::Sender<i64>,
    committed: watch::Sender<Option<i64>>,
}

impl Writer {
    pub(super) fn open(path: &Path, recent: Arc<Mutex<Ring>>) -> Result<(Self, FileWatch), LogError> {
        let connection = rows::SCHEMA.open(path)?;
        let watch = FileWatch::new(path);
        let in_file = |error: rusqlite::Error| watch.note(error.into());
        let committed = rows::committed(&connection).map_err(in_file)?;
        let last = rows::last(&connection).map_err(in_file)?;
        let end = last.map_or(0, |last| last + 1).max(committed.unwrap_or(0));
        let (end, committed) = (watch::Sender::new(end), watch::Sender::new(committed));
        Ok((Self { connection, watch: watch.clone(), recent, end, committed }, watch))
    }

    pub(super) fn end(&self) -> watch::Receiver<i64> {
        self.end.subscribe()
    }

    pub(super) fn committed(&self) -> watch::Receiver<Option<i64>> {
        self.committed.subscribe()
    }

    /// Runs until the last sender is dropped.
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut deferred = None;
        while let Some(first) = deferred.take().or_else(|| waiting.blocking_recv()) {
            let group = group(first, &mut waiting, &mut deferred);
            self.process_group(group);
        }
        self.watch.before_close(&self.connection);
    }

    /// Executes the requests in one transaction. If that fails it executes each one separately, so that one bad request
    /// does not fail the others.
    fn process_group(&mut self, group: Vec<Request>) {
        if group.len() > 1
            && let Ok(end) = self.write(&group)
        {
            self.answer(group, &Ok(end));
            return;
        }
        for request in group {
            if let Request::Retain { older_than, bytes, done } = request {
                let step = retention::step(&mut self.connection, *self.committed.borrow(), older_than, bytes)
                    .map_err(|failure| self.watch.note(failure));
                if let Ok(step) = &step {
                    self.recent.lock().unwrap_or_else(PoisonError::into_inner).remove_below(step.keep_from);
                }
                answer(done, step.map_err(LogError::from));
                continue;
            }
            let alone = vec![request];
            let written = self.write(&alone);
            self.answer(alone, &written);
        }
    }

    /// Executes one transaction; returns the committed offset after it. Fails when the file has lost its name, before
    /// or meanwhile: what is written to it then disappears with this process.
    fn write(&mut self, group: &[Request]) -> Result<Option<i64>, Failure> {
        self.watch.check()?;
        let committed = self.transaction(group).map_err(|failure| self.watch.note(failure))?;
        self.watch.check()?;
        Ok(committed)
    }

    fn transaction(&mut self, group: &[Request]) -> Result<Option<i64>, Failure> {
        let mut end = *self.end.borrow();
        let mut committed = *self.committed.borrow();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for request in group {
            match request {
                Request::Append { frames, .. } => {
                    rows::append(&transaction, end, frames)?;
                    end += frames.len() as i64;
                }
                // An offset beyond the end would skip frames that are still to come.
                Request::Commit { next, .. } => committed = committed.max(Some((*next).min(end))),
                Request::Retain { .. } => {}
            }
        }
        if let Some(next) = committed
            && committed != *self.committed.borrow()
        {
            rows::commit(&transaction, next)?;
        }
        transaction.commit()?;
        Ok(committed)
    }

    /// Updates the ring and the end before it sends the responses, so that a caller can read its frames at once.
    fn answer(&mut self, group: Vec<Request>, written: &Result<Option<i64>, Failure>) {
        let mut answers = Vec::with_capacity(group.len());
        let mut end = *self.end.borrow();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for request in group {
            match request {
                Request::Append { frames, done } => {
                    answers.push(done);
                    if written.is_err() {
                        continue;
                    }
                    for frame in frames {
                        recent.push(Record { partition: PARTITION, offset: end, frame });
                        end += 1;
                    }
                }
                Request::Commit { done, .. } => answers.push(done),
                Request::Retain { .. } => {}
            }
        }
        drop(recent);
        self.end.send_if_modified(|current| std::mem::replace(current, end) != end);
        if let Ok(committed) = written {
            self.committed.send_if_modified(|current| std::mem::replace(current, *committed) != *committed);
        }
        for done in answers {
            answer(done, written.clone().map(|_| ()).map_err(LogError::from));
        }
    }
}

/// Takes the requests that share a transaction with `first`: those that wait already, up to [`GROUP_FRAMES_MAX`] frames.
/// Retention runs transactions of its own, so it is a group of its own; the one that ends a group is `deferred`.
fn group(first: Request, waiting: &mut mpsc::Receiver<Request>, deferred: &mut Option<Request>) -> Vec<Request> {
    let mut frames = first.frames();
    let mut group = vec![first];
    while frames < GROUP_FRAMES_MAX
        && !group[0].is_retention()
        && let Ok(request) = waiting.try_recv()
    {
        if request.is_retention() {
            *deferred = Some(request);
            break;
        }
        frames += request.frames();
        group.push(request);
    }
    group
}

impl Request {
    fn is_retention(&self) -> bool {
        matches!(self, Self::Retain { .. })
    }

    fn frames(&self) -> usize {
        match self {
            Self::Append { frames, .. } => frames.len(),
            Self::Commit { .. } | Self::Retain { .. } => 0,
        }
    }
}

fn answer<T>(done: oneshot::Sender<Result<T, LogError>>, result: Result<T, LogError>) {
    if done.send(result).is_err() {
        tracing::debug!("a caller of the log stopped waiting for its response");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Origin;

    fn append(len: usize) -> (Request, oneshot::Receiver<Result<(), LogError>>) {
        let (done, answer) = oneshot::channel();
        let frame = Frame {
            key: "binance:BTCUSDT".into(),
            received_at: Timestamp(7),
            connection: 1,
            origin: Origin::Socket,
            payload: vec![b'x'; len].into(),
        };
        (Request::Append { frames: vec![frame], done }, answer)
    }

    fn writer(directory: &Path) -> Writer {
        Writer::open(&directory.join("log.db"), Arc::new(Mutex::new(Ring::new(1 << 20)))).unwrap().0
    }

    #[test]
    fn a_full_disk_refuses_only_the_append_that_does_not_fit() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        let (before, stored) = append(10);
        writer.process_group(vec![before]);
        stored.blocking_recv().unwrap().unwrap();
        // SQLite returns SQLITE_FULL, as on a full disk.
        writer.connection.pragma_update_and_check(None, "max_page_count", 20, |_| Ok(())).unwrap();
        let (big, refused) = append(1 << 20);
        let (small, stored) = append(10);
        let (done, committed) = oneshot::channel();
        writer.process_group(vec![big, small, Request::Commit { next: 1, done }]);
        assert!(matches!(refused.blocking_recv().unwrap(), Err(LogError::Unavailable(_))));
        stored.blocking_recv().unwrap().unwrap();
        committed.blocking_recv().unwrap().unwrap();
        assert_eq!((*writer.end.borrow(), *writer.committed.borrow()), (2, Some(1)));
        let kept = rows::read(&writer.connection, 0, 9, 1 << 30).unwrap();
        assert_eq!(kept.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1]);
        // With free space the same frame fits and takes the next offset.
        writer.connection.pragma_update_and_check(None, "max_page_count", 1 << 20, |_| Ok(())).unwrap();
        let (big, stored) = append(1 << 20);
        writer.process_group(vec![big]);
        stored.blocking_recv().unwrap().unwrap();
        assert_eq!(rows::last(&writer.connection), Ok(Some(2)));
    }

    #[test]
    fn retention_and_the_appends_around_it_are_all_answered() {
        // Each order of an append, a retention and an append that wait together when the writer looks.
        for retention_at in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let writer = writer(directory.path());
            let end = writer.end();
            let (requests, waiting) = mpsc::channel(8);
            let (mut appended, mut retained) = (Vec::new(), None);
            for index in 0..3 {
                let request = if index == retention_at {
                    let (done, answer) = oneshot::channel();
                    retained = Some(answer);
                    Request::Retain { older_than: Timestamp(0), bytes: 1 << 30, done }
                } else {
                    let (request, answer) = append(10);
                    appended.push(answer);
                    request
                };
                requests.try_send(request).unwrap();
            }
            drop(requests);
            writer.run(waiting);
            for answer in appended {
                answer.blocking_recv().expect("the writer answers every append").unwrap();
            }
            retained.unwrap().blocking_recv().expect("the writer answers the retention").unwrap();
            assert_eq!(*end.borrow(), 2);
        }
    }

    #[test]
    fn a_commit_beyond_the_end_commits_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        let (done, answer) = oneshot::channel();
        writer.process_group(vec![append(1).0, Request::Commit { next: 99, done }]);
        answer.blocking_recv().unwrap().unwrap();
        assert_eq!(*writer.committed.borrow(), Some(1));
    }
}
