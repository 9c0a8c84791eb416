//! Counts history in the background for all readers of the status page.
//!
//! A count reads every key of a stream's last weeks. Ten open pages that each count every few seconds would read
//! history all day. So one loop counts for all readers, only while somebody reads, and for at most a twentieth of the
//! time. It must not know what is counted.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Shortest pause between two counts.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// The pause after a count is this many times as long as the count took.
const PAUSE_FACTOR: u32 = 20;
/// Longest time for a count: weeks of the busiest markets take less.
const COUNT_TIMEOUT: Duration = Duration::from_secs(900);
/// Longest wait for a new count when a page opens; then it shows the older one.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The last count, shared by all readers.
pub struct BackgroundCount<T> {
    requested: Notify,
    last: watch::Sender<CountSnapshot<T>>,
}

/// The last count and its age.
pub struct CountSnapshot<T> {
    /// The result; empty before the first count.
    pub value: Arc<T>,
    /// Why there is no newer result.
    pub error: Option<String>,
    /// When the last attempt ended, and how long it took.
    attempt: Option<(Instant, Duration)>,
}

impl<T> Clone for CountSnapshot<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), error: self.error.clone(), attempt: self.attempt }
    }
}

impl<T: Default> Default for BackgroundCount<T> {
    fn default() -> Self {
        let nothing = CountSnapshot { value: Arc::default(), error: None, attempt: None };
        Self { requested: Notify::new(), last: watch::Sender::new(nothing) }
    }
}

impl<T> BackgroundCount<T> {
    /// Counts whenever a reader has asked, until `stop`.
    pub async fn run<Count>(&self, stop: &CancellationToken, count: impl Fn() -> Count)
    where
        Count: Future<Output = anyhow::Result<T>>,
    {
        let counting = async {
            loop {
                self.requested.notified().await;
                let begun = Instant::now();
                let counted = tokio::time::timeout(COUNT_TIMEOUT, count()).await;
                let took = begun.elapsed();
                self.last.send_modify(|last| {
                    last.attempt = Some((Instant::now(), took));
                    match counted {
                        Ok(Ok(value)) => (last.value, last.error) = (Arc::new(value), None),
                        Ok(Err(error)) => last.error = Some(format!("history cannot be counted: {error:#}")),
                        Err(_elapsed) => {
                            let limit = COUNT_TIMEOUT.as_secs();
                            last.error = Some(format!("counting history takes longer than {limit} s"));
                        }
                    }
                });
                tokio::time::sleep((took * PAUSE_FACTOR).max(PAUSE_MIN)).await;
            }
        };
        stop.run_until_cancelled(counting).await;
    }

    /// The last result, for the next count to build on.
    pub fn value(&self) -> Arc<T> {
        self.last.borrow().value.clone()
    }

    /// The last count; requests a newer one.
    pub fn latest(&self) -> CountSnapshot<T> {
        self.requested.notify_one();
        self.last.borrow().clone()
    }

    /// Waits for a fresh count, for at most [`WAIT_MAX`]: for a reader that asks only once.
    pub async fn wait_for_fresh(&self) {
        let mut last = self.last.subscribe();
        let is_fresh = last
            .borrow_and_update()
            .attempt
            .is_some_and(|(at, took)| at.elapsed() < (took * PAUSE_FACTOR).max(PAUSE_MIN));
        self.requested.notify_one();
        if !is_fresh {
            // After a timeout the page shows the older count and its age.
            tokio::time::timeout(WAIT_MAX, last.changed()).await.ok();
        }
    }
}

impl<T> CountSnapshot<T> {
    /// How long ago the count ended; none before the first one.
    pub fn age(&self) -> Option<Duration> {
        self.attempt.map(|(at, _)| at.elapsed())
    }
}
