//! The one place that reads the wall clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::market::Timestamp;

/// One instant by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// By the wall clock, which an operator or NTP may set by years in either direction.
    pub wall: Timestamp,
    /// By the steady clock: the wall clock's time when the clock was created, plus the time since then as the monotonic
    /// clock counts it. Nobody can set it. Two such times measure a wait; one of them is not a date.
    pub steady: Timestamp,
}

impl Reading {
    /// The date of a steady time, as the wall clock is set now.
    pub fn date_of(&self, steady: Timestamp) -> Timestamp {
        self.wall.plus_micros(steady.since(self.steady))
    }
}

/// Reads the time; cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Reading + Send + Sync>);

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        let (created_at, created) = (wall_now(), Instant::now());
        Self(Arc::new(move || Reading {
            wall: wall_now(),
            steady: created_at.plus_micros(i64::try_from(created.elapsed().as_micros()).unwrap_or(i64::MAX)),
        }))
    }

    /// Any other source that nobody sets, for tests and simulations.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self::from_readings(move || {
            let now = now();
            Reading { wall: now, steady: now }
        })
    }

    /// Any source of both clocks, for tests in which the wall clock is set.
    pub fn from_readings(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> Timestamp {
        self.read().wall
    }

    /// The time since some fixed instant, by the steady clock. Deadlines use it.
    pub fn monotonic(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.read().steady.micros()).unwrap_or(0))
    }

    /// Now, by both clocks.
    pub fn read(&self) -> Reading {
        (self.0)()
    }
}

fn wall_now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "only this module reads the wall clock")]
    let now = SystemTime::now();
    // A clock before 1970 means a machine without a clock battery: its rows carry the time 0.
    Timestamp(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64))
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_a_steady_time_follows_the_wall_clock() {
        let reading = Reading { wall: Timestamp(5_000), steady: Timestamp(900) };
        assert_eq!(reading.date_of(Timestamp(950)), Timestamp(5_050));
        assert_eq!(reading.date_of(Timestamp(800)), Timestamp(4_900));
    }

    #[test]
    fn the_steady_clock_of_the_machine_never_runs_back() {
        let clock = Clock::system();
        let first = clock.read();
        assert!(clock.read().steady >= first.steady);
    }
}
