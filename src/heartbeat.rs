//! Proof of progress: each recording loop beats once per iteration, and the watchdog reads the beats. Knows the names
//! of loops, not what they do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The longest time between two beats of a healthy loop: its waits and its calls end within this. The unit's
/// `WatchdogSec` is at least four times as long (a test reads the unit file).
pub const BEAT_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// How often a loop beats while it waits for an exchange or a store.
const WAITING_BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// One loop's heartbeat; cheap to clone and to beat.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<WatchedLoop>);

#[derive(Debug)]
struct WatchedLoop {
    name: String,
    created: Instant,
    /// Milliseconds since `created` of the last beat.
    last_ms: AtomicU64,
    count: AtomicU64,
    retired: std::sync::atomic::AtomicBool,
    /// At this age the loop gets stuck on purpose (`TAPEKEEPER_FAULTS`).
    stuck_after: Option<Duration>,
}

impl Heartbeat {
    /// Records one iteration of the loop.
    pub fn beat(&self) {
        if let Some(after) = self.0.stuck_after {
            while self.0.created.elapsed() >= after {
                // Only this loop stops: the other loops must keep running.
                tokio::task::block_in_place(std::thread::park);
            }
        }
        self.0.last_ms.store(self.0.created.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for something outside this process, an exchange or a store, and beats meanwhile: a slow or dead one is no
    /// reason to restart this process. Beats for at most `limit`, which is longer than the wait's own timeout, so that
    /// the watchdog still notices a wait that exceeds its timeout.
    pub async fn beat_while<T>(&self, limit: Duration, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        let began = Instant::now();
        loop {
            if began.elapsed() < limit {
                self.beat();
            }
            if let Ok(outcome) = tokio::time::timeout(WAITING_BEAT_INTERVAL, &mut wait).await {
                return outcome;
            }
        }
    }

    /// The loop has ended in order: the watchdog no longer watches it.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}

/// All heartbeats of the process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    heartbeats: Mutex<Vec<Heartbeat>>,
    /// Loops that get stuck on purpose, and at which age.
    stuck: OnceLock<Vec<(String, Duration)>>,
    /// The loop for which the watchdog ended the previous process.
    previous_stuck_loop: OnceLock<StuckLoop>,
}

/// A loop for which the watchdog ended a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckLoop {
    /// The loop's name; several names when one loop blocked others, the first to stop comes first.
    pub name: String,
    /// Milliseconds since its last beat.
    pub age_ms: u64,
    /// When that was, seconds since 1970.
    pub at: u64,
}

impl std::fmt::Display for StuckLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} had made no progress for {:.1} s", self.name, self.age_ms as f64 / 1e3)
    }
}

/// A loop's state as health and metrics show it.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct LoopStatus {
    /// The loop's name.
    pub name: String,
    /// Milliseconds since its last beat.
    pub age_ms: u64,
    /// Beats so far.
    pub count: u64,
}

impl Heartbeats {
    /// Makes these loops get stuck at this age. Only for showing that the watchdog works.
    pub fn with_stuck(stuck: Vec<(String, Duration)>) -> Self {
        let heartbeats = Self::default();
        heartbeats.0.stuck.set(stuck).expect("`stuck` is empty: the value was created above");
        heartbeats
    }

    /// Remembers the loop for which the watchdog ended the previous process.
    pub fn remember_stuck_loop(&self, stuck_loop: StuckLoop) {
        // Called once per process; a second value is ignored.
        self.0.previous_stuck_loop.set(stuck_loop).ok();
    }

    /// The loop for which the watchdog ended the previous process, if it did.
    pub fn previous_stuck_loop(&self) -> Option<&StuckLoop> {
        self.0.previous_stuck_loop.get()
    }

    /// Adds a loop to those that the watchdog watches.
    pub fn watch(&self, name: &str) -> Heartbeat {
        let stuck = self.0.stuck.get().into_iter().flatten();
        let heartbeat = Heartbeat(Arc::new(WatchedLoop {
            name: name.to_owned(),
            created: Instant::now(),
            last_ms: AtomicU64::new(0),
            count: AtomicU64::new(0),
            retired: std::sync::atomic::AtomicBool::new(false),
            stuck_after: stuck.filter(|(stuck, _)| stuck == name).map(|(_, after)| *after).next(),
        }));
        self.0.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).push(heartbeat.clone());
        heartbeat
    }

    /// Every loop that is still watched.
    pub fn statuses(&self) -> Vec<LoopStatus> {
        let mut heartbeats = self.0.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeats.retain(|heartbeat| !heartbeat.0.retired.load(Ordering::Relaxed));
        heartbeats
            .iter()
            .map(|heartbeat| LoopStatus {
                name: heartbeat.0.name.clone(),
                age_ms: (heartbeat.0.created.elapsed().as_millis() as u64)
                    .saturating_sub(heartbeat.0.last_ms.load(Ordering::Relaxed)),
                count: heartbeat.0.count.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// The loop whose last beat is older than `limit`, if there is one. A loop that blocks its thread also stops
    /// others: then the name lists all of them, the first to stop comes first, and the age is that of the first.
    pub fn stuck_loop(&self, limit: Duration) -> Option<LoopStatus> {
        let mut stuck = self.statuses();
        stuck.retain(|status| u128::from(status.age_ms) > limit.as_millis());
        stuck.sort_by_key(|status| std::cmp::Reverse(status.age_ms));
        let names: Vec<&str> = stuck.iter().map(|status| status.name.as_str()).collect();
        let name = names.join(", ");
        let first = stuck.into_iter().next()?;
        Some(LoopStatus { name, ..first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_beat_is_stuck_until_it_retires() {
        let heartbeats = Heartbeats::default();
        let heartbeat = heartbeats.watch("ingest");
        std::thread::park_timeout(Duration::from_millis(20));
        assert_eq!(
            heartbeats.stuck_loop(Duration::from_millis(1)).map(|status| status.name),
            Some("ingest".to_owned())
        );
        heartbeat.beat();
        assert!(heartbeats.stuck_loop(Duration::from_secs(5)).is_none());
        heartbeat.retire();
        std::thread::park_timeout(Duration::from_millis(20));
        assert!(heartbeats.stuck_loop(Duration::from_millis(1)).is_none());
    }

    #[test]
    fn only_the_chosen_loop_gets_stuck() {
        let heartbeats = Heartbeats::with_stuck(vec![("consume".to_owned(), Duration::ZERO)]);
        let other = heartbeats.watch("ingest");
        other.beat();
        let (heartbeat, (beat_sent, waited)) = (heartbeats.watch("consume"), std::sync::mpsc::sync_channel(1));
        std::thread::spawn(move || {
            heartbeat.beat();
            beat_sent.send(()).unwrap();
        });
        assert!(waited.recv_timeout(Duration::from_millis(50)).is_err());
        other.beat();
        let name = heartbeats.stuck_loop(Duration::from_millis(40)).unwrap().name;
        assert!(name.starts_with("consume"), "{name}");
    }

    #[test]
    fn all_stuck_loops_are_named_the_first_to_stop_first() {
        let heartbeats = Heartbeats::default();
        let (_ingest, cache) = (heartbeats.watch("ingest"), heartbeats.watch("cache"));
        std::thread::park_timeout(Duration::from_millis(20));
        cache.beat();
        std::thread::park_timeout(Duration::from_millis(20));
        let stuck = heartbeats.stuck_loop(Duration::from_millis(5)).unwrap();
        assert_eq!(stuck.name, "ingest, cache");
        assert!(stuck.age_ms >= 20, "{stuck:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_loop_beats_only_up_to_its_limit() {
        let heartbeat = Heartbeats::default().watch("tail");
        let never = std::future::pending::<()>();
        let long = heartbeat.beat_while(Duration::from_secs(3_600), never);
        assert!(tokio::time::timeout(Duration::from_millis(10_500), long).await.is_err());
        assert_eq!(heartbeat.0.count.load(Ordering::Relaxed), 11);
        let broken = heartbeat.beat_while(Duration::ZERO, std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(10_500), broken).await.is_err());
        assert_eq!(heartbeat.0.count.load(Ordering::Relaxed), 11);
    }
}
