//! The request weight of REST: counts it, limits it, and bans a caller who ignores the limit. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Whether a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is served.
    Granted,
    /// 429 with Retry-After.
    TooMuch(Duration),
    /// 418 with Retry-After.
    Banned(Duration),
}

/// The weight used by the one client address on loopback.
#[derive(Debug)]
pub struct Budget {
    weight_max: u32,
    window: Duration,
    ban: Duration,
    refusals_max: u32,
    used: u32,
    refusals: u32,
    window_start: Option<Instant>,
    banned_until: Option<Instant>,
}

impl Budget {
    /// Allows `weight_max` in each `window`; a caller who ignores more than `refusals_max` answers of 429 in a window
    /// is banned for `ban`.
    pub fn new(weight_max: u32, window: Duration, ban: Duration, refusals_max: u32) -> Self {
        Self { weight_max, window, ban, refusals_max, used: 0, refusals: 0, window_start: None, banned_until: None }
    }

    /// Weight used in the window of the last request.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Bans the caller until `until`.
    pub fn ban_until(&mut self, until: Instant) {
        self.banned_until = Some(until);
    }

    /// Counts a request and decides whether it is served.
    pub fn admit(&mut self, weight: u32, now: Instant) -> Admission {
        if let Some(until) = self.banned_until {
            if until > now {
                return Admission::Banned(until - now);
            }
            self.banned_until = None;
            self.refusals = 0;
        }
        let start = *self.window_start.get_or_insert(now);
        if now.duration_since(start) >= self.window {
            self.window_start = Some(now);
            self.used = 0;
            self.refusals = 0;
        }
        let start = self.window_start.unwrap_or(now);
        self.used = self.used.saturating_add(weight);
        if self.used <= self.weight_max {
            return Admission::Granted;
        }
        self.refusals += 1;
        if self.refusals > self.refusals_max {
            self.banned_until = Some(now + self.ban);
            return Admission::Banned(self.ban);
        }
        Admission::TooMuch((start + self.window).duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn beyond_the_limit_is_429_and_ignoring_it_is_a_ban() {
        let mut budget = Budget::new(50, MINUTE, MINUTE * 2, 1);
        let now = Instant::now();
        assert_eq!(budget.admit(25, now), Admission::Granted);
        assert_eq!(budget.admit(25, now), Admission::Granted);
        assert_eq!(budget.admit(25, now + MINUTE / 2), Admission::TooMuch(MINUTE / 2));
        assert_eq!(budget.admit(25, now + MINUTE / 2), Admission::Banned(MINUTE * 2));
        assert_eq!(budget.admit(1, now + MINUTE), Admission::Banned(MINUTE * 3 / 2));
        assert_eq!(budget.admit(1, now + MINUTE * 3), Admission::Granted);
        assert_eq!(budget.used(), 1);
    }

    #[test]
    fn a_new_window_starts_at_zero() {
        let mut budget = Budget::new(10, MINUTE, MINUTE, 5);
        let now = Instant::now();
        assert_eq!(budget.admit(10, now), Admission::Granted);
        assert_eq!(budget.admit(10, now + MINUTE), Admission::Granted);
    }
}
