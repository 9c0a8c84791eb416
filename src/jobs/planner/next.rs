//! The next instant of a job, and its jitter.

use std::time::Duration;

use super::{Calendar, Now};
use crate::jobs::spec::{Align, JobSpec, When};
use crate::market::Timestamp;

#[derive(Debug)]
pub(super) enum Next {
    /// Due at this monotonic instant, and a jitter later.
    Monotonic(Duration),
    /// Due at this wall instant, and a jitter later; `None` when the pattern never fires again.
    Wall(Box<Calendar>, Option<Timestamp>),
    /// Not known until an event occurs or a run ends.
    Unknown,
}

impl Next {
    pub(super) fn new(spec: &JobSpec, last: Option<Timestamp>, now: Now) -> Self {
        match &spec.when {
            When::Every { period, align: Align::Start } => Self::Monotonic(now.monotonic + *period),
            When::Every { period, align: Align::Wall } => {
                // A multiple that equals `now` is due.
                let wait = until_multiple(*period, now.wall.plus_micros(-1)).saturating_sub(Duration::from_micros(1));
                Self::Monotonic(now.monotonic + wait)
            }
            When::Delay(delay) => Self::Monotonic(now.monotonic + *delay),
            When::Cron { text, timezone } => match Calendar::parse(text, *timezone) {
                Ok(calendar) => {
                    let at = calendar.next(last.unwrap_or(now.wall));
                    Self::Wall(Box::new(calendar), at)
                }
                // Unreachable: the configuration checks the pattern.
                Err(_) => Self::Unknown,
            },
            When::On(_) => Self::Unknown,
        }
    }
}

/// From a wall instant to the next multiple of a period since 1970.
pub(super) fn until_multiple(period: Duration, wall: Timestamp) -> Duration {
    let period = (period.as_micros() as i64).max(1);
    Duration::from_micros((period - wall.micros().rem_euclid(period)) as u64)
}

/// A pseudo-random duration from zero to `max`, the same for the same seed, name and instant.
pub(super) fn draw(seed: u64, name: &str, instant: i64, max: Duration) -> Duration {
    // splitmix64 over FNV-1a: no state, so an instant's jitter does not depend on what was drawn before.
    let mut hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = hash.wrapping_add(seed).wrapping_add((instant as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let max = max.as_micros() as u64;
    Duration::from_micros((hash ^ (hash >> 31)) % max.saturating_add(1))
}
