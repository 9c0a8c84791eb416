//! Starts tasks in groups, watches them, and stops the groups in order, each within its grace.
//!
//! A spine task that ends by itself, in error or in a panic, stops the process in order (invariant 8): systemd
//! restarts it, and what was not acknowledged is consumed again. This room knows names and times only.

use std::future::Future;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Tasks that are started and stopped together.
pub struct Group {
    name: &'static str,
    /// Asks the tasks to end.
    pub stop: CancellationToken,
    tasks: JoinSet<(String, anyhow::Result<()>)>,
    grace: Duration,
}

/// A spine task that ended although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// The task.
    pub task: String,
    /// How it ended.
    pub reason: String,
}

impl Group {
    /// An empty group; its tasks get `grace` to end.
    pub fn new(name: &'static str, grace: Duration) -> Self {
        Self { name, stop: CancellationToken::new(), tasks: JoinSet::new(), grace }
    }

    /// Starts a spine task.
    pub fn spawn(&mut self, task: &str, future: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let task = task.to_owned();
        self.tasks.spawn(async move { (task, future.await) });
    }

    /// Returns when a task ends by itself; never while all of them run.
    async fn failure(&mut self) -> TaskFailure {
        loop {
            let Some(ended) = self.tasks.join_next().await else { return std::future::pending().await };
            match ended {
                // A task with a bounded errand (`since`) is done when it is done.
                Ok((task, Ok(()))) if !self.stop.is_cancelled() => {
                    info!("{task} is done");
                }
                Ok((_, Ok(()))) => {}
                Ok((task, Err(error))) => return TaskFailure { task, reason: format!("{error:#}") },
                Err(error) => return TaskFailure { task: self.name.to_owned(), reason: format!("panic: {error}") },
            }
        }
    }

    /// Asks the tasks to end, waits for their grace, then aborts what is left. Returns whether all ended.
    pub async fn stop(mut self) -> bool {
        self.stop.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((task, Err(error))) => error!("{task} ended in an error: {error:#}"),
                    Err(error) => error!("a task of {} ended in a panic: {error}", self.name),
                }
            }
        };
        if tokio::time::timeout(self.grace, all).await.is_ok() {
            return true;
        }
        warn!(
            "{} did not end within {} s: what is not done stays unacknowledged and is done again",
            self.name,
            self.grace.as_secs_f64()
        );
        self.tasks.abort_all();
        false
    }
}

/// Returns when a task of any group ends by itself.
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
