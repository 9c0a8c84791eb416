//! How others talk to the runner.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::JobStatus;
use super::events::Events;
use super::planner::Changes;
use super::spec::{JobEvent, Schedule};
use crate::history::JobRun;

/// Requests that may wait for the runner.
const REQUESTS_MAX: usize = 64;

pub(super) enum Request {
    List(oneshot::Sender<Vec<JobStatus>>),
    Run(String, oneshot::Sender<Result<String, String>>, Option<oneshot::Sender<JobRun>>),
    /// A reason pauses, none resumes.
    Pause(String, Option<String>, oneshot::Sender<bool>),
    Replace(Schedule, bool, oneshot::Sender<Changes>),
}

/// Talks to the runner; cheap to clone.
#[derive(Clone)]
pub struct JobsHandle {
    requests: mpsc::Sender<Request>,
    events: Arc<Events>,
}

impl JobsHandle {
    pub(super) fn new(events: Arc<Events>) -> (Self, mpsc::Receiver<Request>) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        (Self { requests: sender, events }, requests)
    }

    /// Something happened: jobs with `on` run. Never waits, and however often it is said before the runner looks, it is
    /// one event.
    pub fn happened(&self, event: JobEvent) {
        self.events.ring(event);
    }

    /// Every job.
    pub async fn list(&self) -> anyhow::Result<Vec<JobStatus>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::List(answer), answered).await
    }

    /// Runs a job now; returns the run's id, or why it does not run.
    pub async fn run(&self, name: &str) -> anyhow::Result<Result<String, String>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Run(name.to_owned(), answer, None), answered).await
    }

    /// Runs a job now and waits for its end; the inner error says why it does not run.
    pub async fn run_to_end(&self, name: &str) -> anyhow::Result<Result<JobRun, String>> {
        let ((answer, answered), (done, ended)) = (oneshot::channel(), oneshot::channel());
        match self.ask(Request::Run(name.to_owned(), answer, Some(done)), answered).await? {
            Ok(_run_id) => Ok(Ok(ended.await.context("the scheduler stopped during the run")?)),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Pauses a job, also over restarts, and says why; false when there is none of this name.
    pub async fn pause(&self, name: &str, reason: &str) -> anyhow::Result<bool> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Pause(name.to_owned(), Some(reason.to_owned()), answer), answered).await
    }

    /// Lets a paused job run again; false when there is none of this name.
    pub async fn resume(&self, name: &str) -> anyhow::Result<bool> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Pause(name.to_owned(), None, answer), answered).await
    }

    /// Takes a new schedule over, or only says what it would change.
    pub async fn replace(&self, schedule: Schedule, dry_run: bool) -> anyhow::Result<Changes> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Replace(schedule, dry_run, answer), answered).await
    }

    async fn ask<T>(&self, request: Request, answered: oneshot::Receiver<T>) -> anyhow::Result<T> {
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, self.requests.send(request)).await.context("the scheduler is busy")?.ok();
        tokio::time::timeout(limit, answered)
            .await
            .context("the scheduler does not answer")?
            .context("the scheduler stopped")
    }
}
