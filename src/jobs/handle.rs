//! The handle through which other modules use the runner.

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
    /// Pauses with a reason, resumes without one.
    Pause(String, Option<String>, oneshot::Sender<bool>),
    Replace(Schedule, bool, oneshot::Sender<Changes>),
}

/// A handle of the runner; cheap to clone. Its calls fail when the runner is stopped or takes longer than 5 s.
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

    /// Reports an event: jobs with this `on` run. Never waits; repeated reports before the runner's next tick are one
    /// event.
    pub fn notify(&self, event: JobEvent) {
        self.events.notify(event);
    }

    /// The status of every job.
    pub async fn list(&self) -> anyhow::Result<Vec<JobStatus>> {
        let (reply, response) = oneshot::channel();
        self.request(Request::List(reply), response).await
    }

    /// Runs a job now; returns the run's id. The inner error says why it does not run.
    pub async fn run(&self, name: &str) -> anyhow::Result<Result<String, String>> {
        let (reply, response) = oneshot::channel();
        self.request(Request::Run(name.to_owned(), reply, None), response).await
    }

    /// Runs a job now and waits for its end; the inner error says why it does not run.
    pub async fn run_to_end(&self, name: &str) -> anyhow::Result<Result<JobRun, String>> {
        let ((reply, response), (done, ended)) = (oneshot::channel(), oneshot::channel());
        match self.request(Request::Run(name.to_owned(), reply, Some(done)), response).await? {
            Ok(_run_id) => Ok(Ok(ended.await.context("the scheduler stopped during the run")?)),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Pauses a job, restarts included, with a reason; false when no job has this name.
    pub async fn pause(&self, name: &str, reason: &str) -> anyhow::Result<bool> {
        let (reply, response) = oneshot::channel();
        self.request(Request::Pause(name.to_owned(), Some(reason.to_owned()), reply), response).await
    }

    /// Resumes a paused job; false when no job has this name.
    pub async fn resume(&self, name: &str) -> anyhow::Result<bool> {
        let (reply, response) = oneshot::channel();
        self.request(Request::Pause(name.to_owned(), None, reply), response).await
    }

    /// Replaces the schedule, or with `dry_run` only returns what would change.
    pub async fn replace(&self, schedule: Schedule, dry_run: bool) -> anyhow::Result<Changes> {
        let (reply, response) = oneshot::channel();
        self.request(Request::Replace(schedule, dry_run, reply), response).await
    }

    async fn request<T>(&self, request: Request, response: oneshot::Receiver<T>) -> anyhow::Result<T> {
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, self.requests.send(request)).await.context("the scheduler is busy")?.ok();
        tokio::time::timeout(limit, response)
            .await
            .context("the scheduler does not answer")?
            .context("the scheduler stopped")
    }
}
