//! Delays between the attempts of an operation that fails: exponential with jitter, or fixed; a stop ends the wait. And
//! growing pauses between repeated actions. Every delay that grows is computed here, by [`doubled`]. Must not know what is
//! retried: the caller decides which error is worth another attempt.
//!
//! Our own and not the crate `backon`: its jitter lengthens a delay where ours shortens it, its delays have no reset after a
//! success, and its retry adapter cannot be cancelled by a token between two attempts or beat a heartbeat during one.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// `first`, doubled `times` times, at most `max`.
pub fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(max)
}

/// Delays that double after each failure up to a maximum. The jitter shortens each by up to a half, so that many recorders do
/// not retry at the same time.
#[derive(Debug)]
pub struct Backoff {
    delay_min: Duration,
    delay_max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first delay is `delay_min`, no delay exceeds `delay_max`.
    pub fn new(delay_min: Duration, delay_max: Duration) -> Self {
        Self { delay_min, delay_max, failures: 0 }
    }

    /// Counts a failure and returns the delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.delay(rand::random())
    }

    /// Counts a failure and waits before the next attempt; false when the stop comes first.
    pub async fn wait(&mut self, stop: &CancellationToken) -> bool {
        wait(self.next_delay(), stop).await
    }

    /// The operation succeeded: the next delay is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// `jitter` is in 0..1: 0 halves the delay, 1 leaves it whole.
    fn delay(&mut self, jitter: f64) -> Duration {
        let doubled = doubled(self.delay_min, self.failures, self.delay_max);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(0.5 + jitter / 2.0)
    }
}

/// Growing pauses between repetitions of an action that may not help: each is twice as long as the one before.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// The first pause.
    pub min: Duration,
    /// No pause is longer.
    pub max: Duration,
}

/// When an action may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Paused {
    until: Instant,
    wait: Duration,
}

impl Paused {
    /// Whether the pause is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// Whether the action was repeated lately: its pause, and a calm as long as the pause, are not over yet.
    pub fn is_recent(&self, now: Instant) -> bool {
        now < self.until + self.wait
    }
}

impl Pauses {
    /// Begins the next pause, whatever became of the one before.
    pub fn begin(self, paused: &mut Option<Paused>, now: Instant) {
        let wait = paused.map_or(self.min, |before| doubled(before.wait, 1, self.max));
        *paused = Some(Paused { until: now + wait, wait });
    }

    /// Whether the action is allowed now; if so, the pause begins. After a calm as long as the last pause the pauses
    /// begin again with the shortest.
    pub fn allow(self, paused: &mut Option<Paused>, now: Instant) -> bool {
        if paused.is_some_and(|paused| !paused.is_over(now)) {
            return false;
        }
        *paused = paused.filter(|paused| paused.is_recent(now));
        self.begin(paused, now);
        true
    }
}

/// Waits a fixed delay; false when the stop comes first.
pub async fn wait(delay: Duration, stop: &CancellationToken) -> bool {
    stop.run_until_cancelled(tokio::time::sleep(delay)).await.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_until_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        let delays: Vec<u128> = (0..9).map(|_| backoff.delay(1.0).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        for _ in 0..100 {
            backoff.delay(0.0);
        }
        assert_eq!(backoff.delay(0.0).as_millis(), 15_000);
        backoff.reset();
        assert_eq!(backoff.delay(0.5).as_micros(), 187_500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_wait() {
        let (start, stop) = (Instant::now(), CancellationToken::new());
        let hour = Duration::from_secs(3_600);
        assert!(wait(hour, &stop).await && start.elapsed() == hour);
        let mut backoff = Backoff::new(hour, hour);
        let (went_on, ()) = tokio::join!(backoff.wait(&stop), async { stop.cancel() });
        assert!(!went_on && start.elapsed() == hour);
        assert!(!backoff.wait(&stop).await, "a stop before the wait");
    }
}
