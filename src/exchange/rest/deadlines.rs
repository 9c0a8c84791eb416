//! The deadlines before which nothing may be sent, as they are saved over a restart.

use std::fmt;
use std::time::Duration;

use crate::clock::{Clock, Reading};
use crate::exchange::retry_after::WAIT_MAX;
use crate::market::Timestamp;

/// The instant before which nothing may be sent. It is measured by the steady clock, so a wall clock that is set neither
/// ends nor extends the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    steady: Timestamp,
    /// The date as the wall clock was set when the deadline was read, for people.
    pub date: Timestamp,
}

impl Deadline {
    /// The deadline at this steady time.
    pub(super) fn at(steady: Timestamp, now: Reading) -> Self {
        Self { steady, date: now.date_of(steady) }
    }

    /// What is left of the wait.
    pub fn left(&self, clock: &Clock) -> Duration {
        Duration::from_micros(u64::try_from(self.steady.since(clock.read().steady)).unwrap_or(0))
    }
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.date.fmt(f)
    }
}

/// Until when the exchange limits and bans this address, by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// The end of a pause (HTTP 429).
    pub limited_until: Option<Timestamp>,
    /// The end of a ban (HTTP 418).
    pub banned_until: Option<Timestamp>,
}

/// The deadlines that an earlier process saved.
#[derive(Clone, Copy, Debug, Default)]
pub struct SavedDeadlines {
    /// As they were.
    pub deadlines: Deadlines,
    /// When they were saved, if the file says so.
    pub saved_at: Option<Timestamp>,
}

impl SavedDeadlines {
    /// What is left of the deadlines, as steady times: of the pause and of the ban.
    ///
    /// Never longer than at the save, and never longer than four days: a clock that was set back since then does not
    /// extend a ban.
    pub fn left(&self, now: Reading) -> (Option<Timestamp>, Option<Timestamp>) {
        let left = |until: Option<Timestamp>| {
            let until = until?;
            let at_save = self.saved_at.map_or(i64::MAX, |saved_at| until.since(saved_at));
            let left_us = until.since(now.wall).min(at_save).min(micros(WAIT_MAX));
            (left_us > 0).then(|| now.steady.plus_micros(left_us))
        };
        (left(self.deadlines.limited_until), left(self.deadlines.banned_until))
    }
}

/// Microseconds of a wait.
pub(super) fn micros(wait: Duration) -> i64 {
    i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const NOW: Timestamp = Timestamp(500_000 * HOUR);

    /// What is left of a ban, in hours, when it was saved an hour ago by this clock.
    fn check(until_hours: i64, saved_hours: Option<i64>, expected: Option<i64>) {
        let at = |hours: i64| NOW.plus_micros(hours * HOUR);
        let deadlines = Deadlines { limited_until: None, banned_until: Some(at(until_hours)) };
        let saved = SavedDeadlines { deadlines, saved_at: saved_hours.map(at) };
        let now = Reading { wall: NOW, steady: Timestamp(7) };
        let left = saved.left(now);
        assert_eq!(left, (None, expected.map(|hours| Timestamp(7 + hours * HOUR))), "{until_hours} {saved_hours:?}");
    }

    #[test]
    fn a_wall_clock_that_is_set_neither_ends_nor_extends_a_wait() {
        let deadline = Deadline::at(Timestamp(7 + HOUR), Reading { wall: NOW, steady: Timestamp(7) });
        assert_eq!(deadline.date, NOW.plus_micros(HOUR));
        for wall in [NOW, NOW.plus_micros(-90_000 * HOUR), NOW.plus_micros(90_000 * HOUR)] {
            let clock = Clock::from_readings(move || Reading { wall, steady: Timestamp(7 + HOUR / 4) });
            assert_eq!(deadline.left(&clock), Duration::from_secs(45 * 60), "{wall}");
        }
        let clock = Clock::from_readings(|| Reading { wall: NOW, steady: Timestamp(7 + 2 * HOUR) });
        assert_eq!(deadline.left(&clock), Duration::ZERO);
    }

    #[test]
    fn a_saved_ban_lasts_as_long_as_it_would_have() {
        check(5, Some(-1), Some(5));
        check(5, None, Some(5));
        check(0, Some(-1), None);
        check(-5, Some(-6), None);
    }

    #[test]
    fn a_deadline_is_capped_at_four_days() {
        check(1_000, None, Some(96));
        check(1_000, Some(-1), Some(96));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_extend_a_ban() {
        // Saved for two hours; then the clock went back by ten.
        check(12, Some(10), Some(2));
        check(90_000, Some(89_998), Some(2));
    }

    proptest! {
        #[test]
        fn no_file_stops_requests_for_more_than_four_days(until in any::<i64>(), saved in any::<Option<i64>>(), now in any::<i64>()) {
            let deadlines = Deadlines { limited_until: Some(Timestamp(until)), banned_until: Some(Timestamp(until)) };
            let saved = SavedDeadlines { deadlines, saved_at: saved.map(Timestamp) };
            let now = Reading { wall: Timestamp(now), steady: Timestamp(0) };
            let (limited, banned) = saved.left(now);
            prop_assert_eq!(limited, banned);
            prop_assert!(banned.is_none_or(|until| (1..=96 * HOUR).contains(&until.micros())));
        }
    }
}
