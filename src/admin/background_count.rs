//! What the status page has counted in history, but not for every look at it.
//!
//! A count reads every key of a stream's last weeks. Ten open pages that ask each few seconds would read history all day;
//! so one loop counts for all who look, only while somebody does, and at most a twentieth of the time, however large
//! history is and however many look.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// A count is not repeated sooner, however fast it is.
const AGE_MIN: Duration = Duration::from_secs(2);
/// A count that took this long is shown for twenty times as long.
const PAUSE_FACTOR: u32 = 20;
/// The longest count: weeks of the busiest markets are read in less.
const COUNT_TIMEOUT: Duration = Duration::from_secs(900);
/// How long whoever opens the page waits for a count before it is shown with an older one.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The last count, shared by all who look.
pub struct BackgroundCount<T> {
    requested: Notify,
    last: watch::Sender<CountSnapshot<T>>,
}

/// What is shown.
pub struct CountSnapshot<T> {
    /// What was counted; empty before the first count.
    pub value: Arc<T>,
    /// Why there is no newer one.
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
    /// Counts while somebody looks, until `stop`.
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
                tokio::time::sleep((took * PAUSE_FACTOR).max(AGE_MIN)).await;
            }
        };
        stop.run_until_cancelled(counting).await;
    }

    /// What was counted last, for the one that counts next.
    pub fn value(&self) -> Arc<T> {
        self.last.borrow().value.clone()
    }

    /// The last count; asks for a newer one.
    pub fn latest(&self) -> CountSnapshot<T> {
        self.requested.notify_one();
        self.last.borrow().clone()
    }

    /// Waits a little for a count that is as new as there may be, for whoever looks only once.
    pub async fn wait_for_fresh(&self) {
        let mut last = self.last.subscribe();
        let is_fresh = last
            .borrow_and_update()
            .attempt
            .is_some_and(|(at, took)| at.elapsed() < (took * PAUSE_FACTOR).max(AGE_MIN));
        self.requested.notify_one();
        if !is_fresh {
            // Whether it came or not: what there is, is shown, and says how old it is.
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
