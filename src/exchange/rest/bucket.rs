//! What one request limit holds: the weight in the present window of a clock, or in a bucket that leaks. Pure.

use super::budget::{Permit, Purpose};
use crate::market::Timestamp;

/// The longest time that a leak counts: by then every bucket is empty.
const LEAK_MAX_US: i64 = 3_600_000_000;
/// The exchange's window may start a little after ours.
pub(super) const WINDOW_MARGIN_US: i64 = 250_000;
/// The exchange refuses requests above its limit, so it counts little more than that, also when others use this address.
const USED_FACTOR_MAX: u32 = 2;

/// What one bucket holds.
#[derive(Debug)]
pub(super) enum Level {
    Window(Window),
    Leaky(Leaky),
}

/// The weight in the present window of the clock.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) limit: u32,
    /// The limit that the exchange documents.
    pub(super) documented: u32,
    pub(super) per_us: i64,
    /// The window of `answered_weight`, counted from 1970.
    pub(super) number: i64,
    /// Weight of the answered requests of this window: the exchange's own count once it has reported one, ours until
    /// then.
    pub(super) answered_weight: u32,
    /// Weight of requests that are sent and not answered.
    pub(super) in_flight: u32,
}

/// A bucket that leaks, in millionths of a weight. Repairs have a smaller one of their own besides.
#[derive(Debug)]
pub(super) struct Leaky {
    pub(super) per_second: u32,
    pub(super) burst: u32,
    pub(super) at: Timestamp,
    pub(super) level: i64,
    pub(super) repair_level: i64,
}

pub(super) const MILLION: i64 = 1_000_000;

/// `of` / `by`, rounded up; neither is negative.
pub(super) const fn quotient_up(of: i64, by: i64) -> i64 {
    let by = if by < 1 { 1 } else { by };
    of / by + (of % by != 0) as i64
}

impl Window {
    pub(super) fn request(&mut self, weight: u32, allowed_percent: u32, now: Timestamp) -> Permit {
        self.roll(now);
        let used = self.answered_weight.saturating_add(self.in_flight);
        let allowed = (u64::from(self.limit) * u64::from(allowed_percent) / 100) as u32;
        if used > 0 && used.saturating_add(weight) > allowed {
            return Permit::Wait(Timestamp((self.number + 1) * self.per_us + WINDOW_MARGIN_US));
        }
        self.in_flight += weight;
        Permit::Granted
    }

    pub(super) fn finish(&mut self, weight: u32, answered_weight: u32, reported: Option<u32>, now: Timestamp) {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(weight);
        let reported = reported.filter(|&reported| reported <= self.limit.saturating_mul(USED_FACTOR_MAX));
        self.answered_weight = match reported {
            // Answers may come out of order: within a window the count never falls.
            Some(reported) if reported >= answered_weight.saturating_add(weight) => reported.max(self.answered_weight),
            // Less than when it was sent: the exchange is in another window, or our count was too high.
            Some(reported) => reported,
            None => self.answered_weight.saturating_add(weight),
        };
    }

    pub(super) fn roll(&mut self, now: Timestamp) {
        let number = now.micros().div_euclid(self.per_us);
        // Any other window, not only a later one: a clock that is set back must not freeze the budget.
        if number != self.number {
            self.number = number;
            self.answered_weight = 0;
        }
    }
}

impl Leaky {
    pub(super) fn request(&mut self, weight: u32, purpose: Purpose, share_percent: u32, now: Timestamp) -> Permit {
        self.leak(share_percent, now);
        let added = i64::from(weight) * MILLION;
        let full = i64::from(self.burst) * MILLION;
        // A request heavier than the bucket gets its turn when the bucket is empty.
        let surplus = |level: i64| if level == 0 { 0 } else { (level + added - full).max(0) };
        let mut wait = quotient_up(surplus(self.level), i64::from(self.per_second));
        if purpose == Purpose::Repair {
            let rate = i64::from(self.per_second) * i64::from(share_percent);
            wait = wait.max(quotient_up(surplus(self.repair_level).saturating_mul(100), rate));
        }
        if wait > 0 {
            return Permit::Wait(now.plus_micros(wait));
        }
        self.level += added;
        if purpose == Purpose::Repair {
            self.repair_level += added;
        }
        Permit::Granted
    }

    /// Lets out what has leaked since the last call.
    pub(super) fn leak(&mut self, share_percent: u32, now: Timestamp) {
        let passed = now.since(self.at).clamp(0, LEAK_MAX_US);
        let leaked = passed * i64::from(self.per_second);
        self.level = (self.level - leaked).max(0);
        self.repair_level = (self.repair_level - leaked * i64::from(share_percent) / 100).max(0);
        self.at = now;
    }
}
