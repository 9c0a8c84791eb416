//! Proof of progress: each spine loop beats once per turn, and the watchdog reads the beats.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest that a watched loop goes without a beat when all is well: its waits and the calls it makes end within
/// this. The unit's `WatchdogSec` is at least four times as long (a test reads the unit to prove it).
pub const QUIET_MAX: Duration = Duration::from_secs(5);
/// How often a loop beats while it waits for somebody else.
const WAITING_BEAT: Duration = Duration::from_secs(1);

/// One loop's pulse; cheap to clone and to beat.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    name: String,
    born: Instant,
    /// Milliseconds since `born` of the last beat.
    last_ms: AtomicU64,
    count: AtomicU64,
    retired: std::sync::atomic::AtomicBool,
}

impl Pulse {
    /// Says that the loop has come round.
    pub fn beat(&self) {
        self.0.last_ms.store(self.0.born.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for somebody else, an exchange or a store, and beats meanwhile: that one being slow or dead is no reason
    /// to restart us. Beats for `limit` at most, which is above the wait's own limit, so that a wait that broke its
    /// limit is still seen.
    pub async fn waiting<T>(&self, limit: Duration, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        let began = Instant::now();
        loop {
            if began.elapsed() < limit {
                self.beat();
            }
            if let Ok(outcome) = tokio::time::timeout(WAITING_BEAT, &mut wait).await {
                return outcome;
            }
        }
    }

    /// The loop has ended in order: it is no longer watched.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}

/// All pulses of the process.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<Vec<Pulse>>>);

/// A loop's state as health and metrics show it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Beat {
    /// The loop's name.
    pub name: String,
    /// Milliseconds since its last beat.
    pub age_ms: u64,
    /// Beats so far.
    pub count: u64,
}

impl Pulses {
    /// A new watched loop.
    pub fn watch(&self, name: &str) -> Pulse {
        let pulse = Pulse(Arc::new(Beats {
            name: name.to_owned(),
            born: Instant::now(),
            last_ms: AtomicU64::new(0),
            count: AtomicU64::new(0),
            retired: std::sync::atomic::AtomicBool::new(false),
        }));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        pulse
    }

    /// Every loop that is still watched.
    pub fn beats(&self) -> Vec<Beat> {
        let mut pulses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.retain(|pulse| !pulse.0.retired.load(Ordering::Relaxed));
        pulses
            .iter()
            .map(|pulse| Beat {
                name: pulse.0.name.clone(),
                age_ms: (pulse.0.born.elapsed().as_millis() as u64)
                    .saturating_sub(pulse.0.last_ms.load(Ordering::Relaxed)),
                count: pulse.0.count.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// The loop that has not beaten for longer than `limit`, if there is one.
    pub fn wedged(&self, limit: Duration) -> Option<Beat> {
        self.beats().into_iter().find(|beat| u128::from(beat.age_ms) > limit.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_beat_is_wedged_until_it_retires() {
        let pulses = Pulses::default();
        let pulse = pulses.watch("ingest");
        std::thread::park_timeout(Duration::from_millis(20));
        assert_eq!(pulses.wedged(Duration::from_millis(1)).map(|beat| beat.name), Some("ingest".to_owned()));
        pulse.beat();
        assert!(pulses.wedged(Duration::from_secs(5)).is_none());
        pulse.retire();
        std::thread::park_timeout(Duration::from_millis(20));
        assert!(pulses.wedged(Duration::from_millis(1)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_for_somebody_else_beats_meanwhile_but_not_for_ever() {
        let pulse = Pulses::default().watch("tail");
        let never = std::future::pending::<()>();
        let long = pulse.waiting(Duration::from_secs(3_600), never);
        assert!(tokio::time::timeout(Duration::from_millis(10_500), long).await.is_err());
        assert_eq!(pulse.0.count.load(Ordering::Relaxed), 11);
        let broken = pulse.waiting(Duration::ZERO, std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(10_500), broken).await.is_err());
        assert_eq!(pulse.0.count.load(Ordering::Relaxed), 11);
    }
}
