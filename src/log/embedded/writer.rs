//! The one thread that writes the log: requests that wait together share a transaction and its sync.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::ring::Ring;
use super::{PARTITION, retention, rows};
use crate::log::{LogError, Record};
use crate::market::{Frame, Timestamp};
use crate::sqlite::Failure;

/// A transaction is closed to further requests at so many frames: a sync is paid for long before, and
/// the first caller does not wait for all the others.
const GROUP_FRAMES_MAX: usize = 20_000;

/// What the writer is asked to do; `done` gets the answer when it is durable.
#[derive(Debug)]
pub(super) enum Request {
    /// Append frames.
    Append { frames: Vec<Frame>, done: oneshot::Sender<Result<(), LogError>> },
    /// Move the committed position to `next`.
    Commit { next: i64, done: oneshot::Sender<Result<(), LogError>> },
    /// Remove one bounded portion of what is consumed and old, or beyond the size.
    Retain { older_than: Timestamp, bytes: u64, done: oneshot::Sender<Result<RetainStep, LogError>> },
}

/// What one step of retention did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RetainStep {
    /// Frames removed.
    pub(super) removed: u64,
    /// The first offset that may still be there.
    pub(super) keep_from: i64,
    /// Whether there is more to do.
    pub(super) more: bool,
}

/// The write connection and the positions that follow from what it wrote.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    recent: Arc<Mutex<Ring>>,
    end: watch::Sender<i64>,
    committed: watch::Sender<Option<i64>>,
}

impl Writer {
    pub(super) fn open(path: &Path, recent: Arc<Mutex<Ring>>) -> Result<Self, LogError> {
        let connection = rows::SCHEMA.open(path)?;
        let committed = rows::committed(&connection).map_err(Failure::from)?;
        let last = rows::last(&connection).map_err(Failure::from)?;
        let end = last.map_or(0, |last| last + 1).max(committed.unwrap_or(0));
        Ok(Self { connection, recent, end: watch::Sender::new(end), committed: watch::Sender::new(committed) })
    }

    pub(super) fn end(&self) -> watch::Receiver<i64> {
        self.end.subscribe()
    }

    pub(super) fn committed(&self) -> watch::Receiver<Option<i64>> {
        self.committed.subscribe()
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut deferred = None;
        while let Some(first) = deferred.take().or_else(|| waiting.blocking_recv()) {
            let mut group = vec![first];
            let mut frames = group[0].frames();
            while frames < GROUP_FRAMES_MAX
                && let Ok(request) = waiting.try_recv()
            {
                // Retention has its own transaction, in its own group.
                if matches!(request, Request::Retain { .. }) {
                    deferred = Some(request);
                    break;
                }
                frames += request.frames();
                group.push(request);
            }
            self.process_group(group);
        }
    }

    /// Carries out requests together; when that fails each alone, so that one cannot spoil the others.
    fn process_group(&mut self, group: Vec<Request>) {
        if group.len() > 1
            && let Ok(end) = self.write(&group)
        {
            self.answer(group, &Ok(end));
            return;
        }
        for request in group {
            if let Request::Retain { older_than, bytes, done } = request {
                let step = retention::step(&mut self.connection, *self.committed.borrow(), older_than, bytes);
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

    /// One transaction; returns the committed position that it wrote.
    fn write(&mut self, group: &[Request]) -> Result<Option<i64>, Failure> {
        let mut end = *self.end.borrow();
        let mut committed = *self.committed.borrow();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for request in group {
            match request {
                Request::Append { frames, .. } => {
                    rows::append(&transaction, end, frames)?;
                    end += frames.len() as i64;
                }
                // A position beyond the end would swallow frames that are yet to come.
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

    /// Tells everyone: the ring and the end first, so that who is answered finds the frames readable.
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

impl Request {
    fn frames(&self) -> usize {
        match self {
            Self::Append { frames, .. } => frames.len(),
            Self::Commit { .. } | Self::Retain { .. } => 0,
        }
    }
}

fn answer<T>(done: oneshot::Sender<Result<T, LogError>>, result: Result<T, LogError>) {
    if done.send(result).is_err() {
        tracing::debug!("a caller of the log went away before its answer");
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
        Writer::open(&directory.join("log.db"), Arc::new(Mutex::new(Ring::new(1 << 20)))).unwrap()
    }

    #[test]
    fn a_full_disk_refuses_alone_what_does_not_fit_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        let (before, stored) = append(10);
        writer.process_group(vec![before]);
        stored.blocking_recv().unwrap().unwrap();
        // As a full disk answers: SQLITE_FULL.
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
        // Space returns: the same frame fits and takes the next offset.
        writer.connection.pragma_update_and_check(None, "max_page_count", 1 << 20, |_| Ok(())).unwrap();
        let (big, stored) = append(1 << 20);
        writer.process_group(vec![big]);
        stored.blocking_recv().unwrap().unwrap();
        assert_eq!(rows::last(&writer.connection), Ok(Some(2)));
    }

    #[test]
    fn a_commit_beyond_the_end_is_taken_to_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        let (done, answer) = oneshot::channel();
        writer.process_group(vec![append(1).0, Request::Commit { next: 99, done }]);
        answer.blocking_recv().unwrap().unwrap();
        assert_eq!(*writer.committed.borrow(), Some(1));
    }
}
