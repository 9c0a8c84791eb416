//! Starts tasks in groups, watches them, and stops the groups in order, each within its grace period.
//!
//! A task that ends in an error or a panic stops the process in order (invariant 8): systemd restarts it, and the
//! consumer reads again what was not acknowledged. Must not know what the tasks do, only their names and grace periods.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Failures that a group keeps until somebody reads them. The first one stops the process; later ones are only logged.
const FAILURES_MAX: usize = 8;

/// Tasks that start and stop together.
pub struct Group {
    name: &'static str,
    /// Cancelled to ask the tasks to end.
    pub stop: CancellationToken,
    spawner: Spawner,
    failures: mpsc::Receiver<TaskFailure>,
    grace: Duration,
}

/// Starts tasks in a [`Group`] from wherever they are needed: a reload, or a task of the group itself, opens further
/// connections while the group runs. Cheap to clone.
#[derive(Clone)]
pub struct Spawner {
    /// The number of tasks that have not ended.
    running: watch::Sender<usize>,
    /// Cancelled to ask the tasks to end.
    pub stop: CancellationToken,
    /// Cancelled when the grace period is over: every task is dropped at its next await.
    abort: CancellationToken,
    failures: mpsc::Sender<TaskFailure>,
}

/// A task that ended in an error or a panic, or before anybody asked it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// The task's name.
    pub task: String,
    /// The error, or the panic.
    pub reason: String,
}

/// Whether a task may end before its group is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasts {
    UntilStop,
    UntilDone,
}

impl Group {
    /// An empty group; [`Group::stop`] gives its tasks `grace` to end.
    pub fn new(name: &'static str, grace: Duration) -> Self {
        let (sender, failures) = mpsc::channel(FAILURES_MAX);
        let stop = CancellationToken::new();
        let (running, abort) = (watch::Sender::new(0), CancellationToken::new());
        let spawner = Spawner { running, stop: stop.clone(), abort, failures: sender };
        Self { name, stop, spawner, failures, grace }
    }

    /// Starts tasks in this group from elsewhere.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Starts a task that runs until the group is stopped; an end before that is a failure.
    pub fn spawn(&mut self, task: &str, future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawner.start(task, Lasts::UntilStop, future);
    }

    /// Starts a task that does a bounded piece of work and then ends.
    pub fn spawn_bounded(&mut self, task: &str, future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawner.start(task, Lasts::UntilDone, future);
    }

    /// Returns when a task fails; waits for ever while none does.
    async fn failure(&mut self) -> TaskFailure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // The group itself holds a sender.
            None => std::future::pending().await,
        }
    }

    /// Asks the tasks to end, waits for the grace period, then aborts the rest. Returns whether all ended in time.
    pub async fn stop(mut self) -> bool {
        self.stop.cancel();
        let mut running = self.spawner.running.subscribe();
        let all_ended = tokio::time::timeout(self.grace, running.wait_for(|running| *running == 0)).await.is_ok();
        while let Ok(TaskFailure { task, reason }) = self.failures.try_recv() {
            error!("{task} failed while stopping: {reason}");
        }
        if !all_ended {
            warn!(
                "{} did not end within {} s: its unacknowledged work is repeated after the next start",
                self.name,
                self.grace.as_secs_f64()
            );
        }
        all_ended
    }
}

impl Drop for Group {
    /// Aborts what still runs: no task outlives its group.
    fn drop(&mut self) {
        self.spawner.abort.cancel();
    }
}

impl Spawner {
    /// Starts a task that runs until the group is stopped; an end before that is a failure.
    pub fn spawn(&self, task: &str, future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.start(task, Lasts::UntilStop, future);
    }

    fn start(&self, task: &str, lasts: Lasts, future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let (task, stop, abort, failures) =
            (task.to_owned(), self.stop.clone(), self.abort.clone(), self.failures.clone());
        let counted = Counted::new(&self.running);
        tokio::spawn(async move {
            let _counted = counted;
            // A task that panics is not used again, so a state that the panic left half changed is never read.
            let caught = AssertUnwindSafe(future).catch_unwind();
            let ended = tokio::select! {
                () = abort.cancelled() => return,
                ended = caught => ended,
            };
            let reason = match ended {
                Ok(Ok(())) if stop.is_cancelled() => return,
                Ok(Ok(())) if lasts == Lasts::UntilDone => {
                    info!("{task} is done");
                    return;
                }
                Ok(Ok(())) => "it ended before the service was stopped".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(panic) => format!("panic: {}", panic_message(&*panic)),
            };
            // Full: the process is stopping for an earlier failure. Closed: the group was dropped.
            if let Err(mpsc::error::TrySendError::Full(failure) | mpsc::error::TrySendError::Closed(failure)) =
                failures.try_send(TaskFailure { task, reason })
            {
                error!("{} failed too: {}", failure.task, failure.reason);
            }
        });
    }
}

/// Counts a task from its start until it has ended and dropped what it held.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(running: &watch::Sender<usize>) -> Self {
        running.send_modify(|running| *running += 1);
        Self(running.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

/// What the panic said; `panic!` with a text or a format has one of these two types.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Returns when a task of any group fails.
pub async fn first_failure(groups: &mut [&mut Group]) -> TaskFailure {
    let mut failures: FuturesUnordered<_> = groups.iter_mut().map(|group| group.failure()).collect();
    match failures.next().await {
        Some(failure) => failure,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_or_panics_is_a_failure_and_one_that_is_done_is_not() {
        let mut quiet = Group::new("quiet", Duration::from_secs(1));
        quiet.spawn_bounded("errand", async { Ok(()) });
        let mut loud = Group::new("loud", Duration::from_secs(1));
        loud.spawn("ingest", async { anyhow::bail!("no disk") });
        let found = first_failure(&mut [&mut quiet, &mut loud]).await;
        assert_eq!(found, TaskFailure { task: "ingest".to_owned(), reason: "no disk".to_owned() });
        loud.spawn("ingest", async { panic!("bug {}", 7) });
        let found = first_failure(&mut [&mut quiet, &mut loud]).await;
        assert_eq!(found, TaskFailure { task: "ingest".to_owned(), reason: "panic: bug 7".to_owned() });
    }

    #[tokio::test]
    async fn a_task_that_ends_although_nobody_asked_it_to_is_a_failure() {
        let mut group = Group::new("loud", Duration::from_secs(1));
        group.spawner().spawn("socket", async { Ok(()) });
        let failure = group.failure().await;
        assert_eq!((failure.task.as_str(), failure.reason.contains("ended before")), ("socket", true));
    }

    #[tokio::test]
    async fn a_dropped_group_ends_its_tasks() {
        let (ended, wait) = tokio::sync::oneshot::channel::<()>();
        let mut group = Group::new("start", Duration::from_secs(1));
        group.spawn("forever", async move {
            let _held = ended;
            std::future::pending().await
        });
        drop(group);
        assert!(wait.await.is_err(), "the task was dropped with what it held");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_within_its_grace_is_aborted() {
        let mut group = Group::new("slow", Duration::from_secs(3));
        group.spawn("stuck", std::future::pending());
        assert!(!group.stop().await);
        let mut group = Group::new("good", Duration::from_secs(3));
        let stop = group.stop.clone();
        group.spawn("good", async move {
            stop.cancelled().await;
            Ok(())
        });
        assert!(group.stop().await);
    }
}
