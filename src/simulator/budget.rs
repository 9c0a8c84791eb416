//! The request limits of REST: counts the weight, refuses what is above a limit, and bans a caller who ignores that. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;
use crate::exchange::spec::Bucket;

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

/// All request limits of the one client address on loopback.
#[derive(Debug)]
pub struct Budgets {
    buckets: Vec<Budget>,
    ban: Duration,
    refusals_max: u32,
    banned_until: Option<Instant>,
}

impl Budgets {
    /// The venue's limits; a caller who ignores more than `refusals_max` refusals in a window is banned.
    pub fn new(limits: &Limits) -> Self {
        let buckets = limits.buckets.iter().map(|limit| Budget::new(*limit)).collect();
        Self { buckets, ban: limits.ban, refusals_max: limits.refusals_max, banned_until: None }
    }

    /// Weight used of the first limit in the window of the last request.
    pub fn used(&self) -> u32 {
        self.buckets.first().map_or(0, |budget| budget.used)
    }

    /// Bans the caller until `until`.
    pub fn ban_until(&mut self, until: Instant) {
        self.banned_until = Some(until);
    }

    /// Counts a request against a limit and decides whether it is served. A limit that the venue does not have is none.
    pub fn admit(&mut self, bucket: usize, weight: u32, now: Instant) -> Admission {
        if let Some(until) = self.banned_until {
            if until > now {
                return Admission::Banned(until - now);
            }
            self.banned_until = None;
            self.buckets.iter_mut().for_each(|budget| budget.refusals = 0);
        }
        let Some(budget) = self.buckets.get_mut(bucket) else { return Admission::Granted };
        let Some(wait) = budget.wait(weight, now) else { return Admission::Granted };
        budget.refusals = budget.refusals.saturating_add(1);
        if budget.refusals > self.refusals_max {
            self.banned_until = Some(now + self.ban);
            return Admission::Banned(self.ban);
        }
        Admission::TooMuch(wait)
    }
}

/// The weight used of one limit.
#[derive(Debug)]
struct Budget {
    limit: Bucket,
    used: u32,
    refusals: u32,
    /// The start of the window, or the last time that the bucket leaked.
    since: Option<Instant>,
}

impl Budget {
    const fn new(limit: Bucket) -> Self {
        Self { limit, used: 0, refusals: 0, since: None }
    }

    /// Counts a request; how long the caller must wait when it is above the limit.
    fn wait(&mut self, weight: u32, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        match self.limit {
            Bucket::Window { weight: most, per } => {
                let start = if now.duration_since(since) >= per {
                    (self.used, self.refusals) = (0, 0);
                    now
                } else {
                    since
                };
                self.since = Some(start);
                self.used = self.used.saturating_add(weight);
                (self.used > most).then(|| (start + per).duration_since(now))
            }
            Bucket::Leaky { per_second, burst } => {
                let per_second = u64::from(per_second.max(1));
                let leaked = now.duration_since(since).as_nanos() as u64 / (1_000_000_000 / per_second);
                if leaked > 0 {
                    self.used = self.used.saturating_sub(u32::try_from(leaked).unwrap_or(u32::MAX));
                    self.since = Some(since + Duration::from_nanos(leaked * (1_000_000_000 / per_second)));
                }
                if self.used == 0 {
                    (self.since, self.refusals) = (Some(now), 0);
                }
                let above = self.used.saturating_add(weight).saturating_sub(burst);
                if above == 0 {
                    self.used += weight;
                    return None;
                }
                Some(Duration::from_secs(1) * above / u32::try_from(per_second).unwrap_or(u32::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn budgets(bucket: Bucket, ban: Duration, refusals_max: u32) -> Budgets {
        Budgets::new(&Limits { buckets: vec![bucket], ban, refusals_max, ..Limits::default() })
    }

    #[test]
    fn beyond_the_limit_is_429_and_ignoring_it_is_a_ban() {
        let mut budgets = budgets(Bucket::Window { weight: 50, per: MINUTE }, MINUTE * 2, 1);
        let now = Instant::now();
        assert_eq!(budgets.admit(0, 25, now), Admission::Granted);
        assert_eq!(budgets.admit(0, 25, now), Admission::Granted);
        assert_eq!(budgets.admit(0, 25, now + MINUTE / 2), Admission::TooMuch(MINUTE / 2));
        assert_eq!(budgets.admit(0, 25, now + MINUTE / 2), Admission::Banned(MINUTE * 2));
        assert_eq!(budgets.admit(0, 1, now + MINUTE), Admission::Banned(MINUTE * 3 / 2));
        assert_eq!(budgets.admit(0, 1, now + MINUTE * 3), Admission::Granted);
        assert_eq!(budgets.used(), 1);
    }

    #[test]
    fn a_new_window_starts_at_zero() {
        let mut budgets = budgets(Bucket::Window { weight: 10, per: MINUTE }, MINUTE, 5);
        let now = Instant::now();
        assert_eq!(budgets.admit(0, 10, now), Admission::Granted);
        assert_eq!(budgets.admit(0, 10, now + MINUTE), Admission::Granted);
    }

    #[test]
    fn a_leaky_bucket_takes_a_burst_and_then_what_leaks() {
        let mut budgets = budgets(Bucket::Leaky { per_second: 10, burst: 3 }, MINUTE, 9);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(budgets.admit(0, 1, now), Admission::Granted);
        }
        let tenth = Duration::from_millis(100);
        assert_eq!(budgets.admit(0, 1, now), Admission::TooMuch(tenth));
        assert_eq!(budgets.admit(0, 1, now + tenth), Admission::Granted);
        assert_eq!(budgets.admit(0, 1, now + tenth), Admission::TooMuch(tenth));
        assert_eq!(budgets.admit(7, 1, now + tenth), Admission::Granted, "no such limit");
    }
}
