//! Starts tasks in groups, watches them, and stops the groups in order, each within its grace period.
//!
//! A task that ends in an error or a panic stops the process in order (invariant 8): systemd restarts it, and the
//! consumer reads again what was not acknowledged. Must not know what the tasks do, only their names and grace periods.

use std::future::Future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Tasks that start and stop together.
pub struct Group {
    name: &'static str,
    /// Cancelled to ask the tasks to end.
    pub stop: CancellationToken,
    tasks: JoinSet<(String, anyhow::Result<()>)>,
    grace: Duration,
}

/// A task that ended in an error or a panic before its group was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// The task's name; the group's name after a panic.
    pub task: String,
    /// The error, or the panic.
    pub reason: String,
}

impl Group {
    /// An empty group; [`Group::stop`] gives its tasks `grace` to end.
    pub fn new(name: &'static str, grace: Duration) -> Self {
        Self { name, stop: CancellationToken::new(), tasks: JoinSet::new(), grace }
    }

    /// Starts a task.
    pub fn spawn(&mut self, task: &str, future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let task = task.to_owned();
        self.tasks.spawn(async move { (task, future.await) });
    }

    /// Returns when a task fails; waits for ever while none does.
    async fn failure(&mut self) -> TaskFailure {
        loop {
            let Some(ended) = self.tasks.join_next().await else { return std::future::pending().await };
            match ended {
                // Some tasks do a bounded piece of work and then end (`since`).
                Ok((task, Ok(()))) if !self.stop.is_cancelled() => {
                    info!("{task} is done");
                }
                Ok((_, Ok(()))) => {}
                Ok((task, Err(error))) => return TaskFailure { task, reason: format!("{error:#}") },
                Err(error) => return TaskFailure { task: self.name.to_owned(), reason: format!("panic: {error}") },
            }
        }
    }

    /// Asks the tasks to end, waits for the grace period, then aborts the rest. Returns whether all ended in time.
    pub async fn stop(mut self) -> bool {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((task, Err(error))) => error!("{task} failed while stopping: {error:#}"),
                    Err(error) => error!("a task of {} panicked while stopping: {error}", self.name),
                }
            }
        };
        if tokio::time::timeout(self.grace, all).await.is_ok() {
            return true;
        }
        warn!(
            "{} did not end within {} s: its unacknowledged work is repeated after the next start",
            self.name,
            self.grace.as_secs_f64()
        );
        self.tasks.abort_all();
        false
    }
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
    async fn a_task_that_fails_or_panics_is_a_failure_and_one_that_ends_is_not() {
        let mut quiet = Group::new("quiet", Duration::from_secs(1));
        quiet.spawn("errand", async { Ok(()) });
        let mut loud = Group::new("loud", Duration::from_secs(1));
        loud.spawn("ingest", async { anyhow::bail!("no disk") });
        let found = first_failure(&mut [&mut quiet, &mut loud]).await;
        assert_eq!(found, TaskFailure { task: "ingest".to_owned(), reason: "no disk".to_owned() });
        loud.spawn("ingest", async { panic!("bug") });
        assert!(first_failure(&mut [&mut quiet, &mut loud]).await.reason.starts_with("panic"));
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
