//! When a message may be sent and when a connection may be attempted. Pure: the caller passes the time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Spaces messages evenly. The network may bunch messages, so bursts that keep our limit in each second could break
/// the exchange's limit where they arrive.
#[derive(Debug)]
pub(super) struct Pacer {
    spacing: Duration,
    next: Instant,
}

impl Pacer {
    pub(super) fn new(messages_per_second: u32, now: Instant) -> Self {
        Self { spacing: Duration::from_secs(1) / messages_per_second.max(1), next: now }
    }

    /// When the next message may be sent.
    pub(super) fn ready_at(&self) -> Instant {
        self.next
    }

    /// Counts a message sent at `now`. A pong is sent as soon as its ping came, and delays the messages after it.
    pub(super) fn spend(&mut self, now: Instant) {
        self.next = self.next.max(now) + self.spacing;
    }
}

/// Keeps connection attempts under the exchange's limit per address: half of them may come at any time, the others
/// are spread over the rest of the window.
#[derive(Debug, Default)]
pub(super) struct ConnectLimit {
    attempts: VecDeque<Instant>,
}

impl ConnectLimit {
    /// Counts an attempt. The error is the time of the next permitted attempt.
    pub(super) fn attempt(&mut self, attempts_max: u32, window: Duration, now: Instant) -> Result<(), Instant> {
        while self.attempts.front().is_some_and(|&at| at + window <= now) {
            self.attempts.pop_front();
        }
        let free = (attempts_max / 2).max(1);
        if self.attempts.len() >= attempts_max as usize
            && let Some(&oldest) = self.attempts.front()
        {
            return Err(oldest + window);
        }
        if self.attempts.len() >= free as usize
            && let Some(&last) = self.attempts.back()
            && now < last + window / free
        {
            return Err(last + window / free);
        }
        self.attempts.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_spaced_evenly_and_pongs_delay_them() {
        let start = Instant::now();
        let mut pacer = Pacer::new(4, start);
        assert_eq!(pacer.ready_at(), start);
        pacer.spend(start);
        assert_eq!(pacer.ready_at(), start + Duration::from_millis(250));
        pacer.spend(start);
        assert_eq!(pacer.ready_at(), start + Duration::from_millis(500));
        pacer.spend(start + Duration::from_secs(9));
        assert_eq!(pacer.ready_at(), start + Duration::from_millis(9_250));
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_attempts_than_allowed(steps in prop::collection::vec(0_u64..3_000, 1..900)) {
            let (attempts_max, window) = (30, Duration::from_secs(30));
            let mut limit = ConnectLimit::default();
            let mut now = Instant::now();
            let mut made: Vec<Instant> = Vec::new();
            for step in steps {
                now += Duration::from_millis(step / 10);
                if let Err(later) = limit.attempt(attempts_max, window, now) {
                    prop_assert!(later > now && later <= now + window);
                    continue;
                }
                made.push(now);
            }
            for (index, &first) in made.iter().enumerate() {
                let within = made[index..].iter().filter(|&&at| at < first + window).count();
                prop_assert!(within <= attempts_max as usize);
            }
        }
    }
}
