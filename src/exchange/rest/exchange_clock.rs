//! What the exchange's clock shows. Pure: the caller passes our clocks.
//!
//! The exchange's time decides which klines are closed and how old a served row is, so one answer must not move it by
//! years. The rule:
//!
//! * A time that is 0, negative or centuries ahead is not a time: the dialect refuses it.
//! * A measurement within [`STEP_MAX_US`] of what we expect is used at once. We expect the last used measurement, carried
//!   forward by the steady clock; before the first one, our wall clock.
//! * Any other measurement waits for a second one, at least [`CONFIRM_AFTER_US`] later, that agrees: the exchange's clock
//!   must have moved on, by at least half of the time that passed here (a constant is not a clock) and by at most
//!   [`STEP_MAX_US`] more. Meanwhile the old one stays in use, and no kline counts as closed unless both say so.
//!
//! A used measurement is kept against the steady clock. Setting the machine's clock moves nothing.

use crate::clock::Reading;
use crate::market::Timestamp;

/// A larger difference from the expected time needs a second measurement: a day.
const STEP_MAX_US: i64 = 86_400_000_000;
/// Least time between a measurement and the one that confirms it.
const CONFIRM_AFTER_US: i64 = 1_000_000;

/// The exchange's clock, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct ExchangeClock {
    /// The exchange's clock minus our steady clock, in microseconds.
    offset_us: Option<i64>,
    unconfirmed: Option<Measurement>,
}

#[derive(Clone, Copy, Debug)]
struct Measurement {
    theirs: Timestamp,
    /// When, by our steady clock.
    steady: Timestamp,
}

/// A measurement that is not used yet; the exchange's time minus the expected time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unconfirmed(pub(super) i64);

impl ExchangeClock {
    /// The exchange's clock showed `theirs` at `ours`. An error when the measurement needs a second one.
    pub(super) fn measured(&mut self, theirs: Timestamp, ours: Reading) -> Result<(), Unconfirmed> {
        let step_us = theirs.since(self.now(ours));
        let new = Measurement { theirs, steady: ours.steady };
        let is_expected = step_us.saturating_abs() <= STEP_MAX_US;
        if is_expected || self.unconfirmed.is_some_and(|first| first.is_confirmed_by(new)) {
            self.offset_us = Some(theirs.since(ours.steady));
            self.unconfirmed = None;
            return Ok(());
        }
        // A measurement right after the first proves nothing: the first one keeps waiting.
        if self.unconfirmed.is_none_or(|first| new.steady.since(first.steady) >= CONFIRM_AFTER_US) {
            self.unconfirmed = Some(new);
        }
        Err(Unconfirmed(step_us))
    }

    /// The exchange's time: by the last used measurement, else by our wall clock.
    pub(super) fn now(&self, ours: Reading) -> Timestamp {
        self.offset_us.map_or(ours.wall, |offset_us| ours.steady.plus_micros(offset_us))
    }

    /// The exchange's time, no later than an unconfirmed measurement says: what ended before it has ended.
    pub(super) fn earliest_now(&self, ours: Reading) -> Timestamp {
        let unconfirmed = self.unconfirmed.map(|first| first.theirs.plus_micros(ours.steady.since(first.steady)));
        unconfirmed.map_or(self.now(ours), |unconfirmed| unconfirmed.min(self.now(ours)))
    }

    /// The latest time that a row can have: a day ahead of the exchange's clock or ours. Without a used measurement, or
    /// with another one waiting, every time can be right.
    pub(super) fn latest(&self, ours: Reading) -> Timestamp {
        match (self.offset_us, self.unconfirmed) {
            // Ours counts too: a machine that slept has a steady clock that is late.
            (Some(_), None) => self.now(ours).max(ours.wall).plus_micros(STEP_MAX_US),
            _ => Timestamp(i64::MAX),
        }
    }

    /// The exchange's clock minus our wall clock in microseconds; `None` before the first used measurement.
    pub(super) fn offset_us(&self, ours: Reading) -> Option<i64> {
        self.offset_us.map(|_| self.now(ours).since(ours.wall))
    }
}

impl Measurement {
    fn is_confirmed_by(self, second: Self) -> bool {
        let (theirs, ours) = (second.theirs.since(self.theirs), second.steady.since(self.steady));
        ours >= CONFIRM_AFTER_US && theirs >= ours / 2 && theirs.saturating_sub(ours) <= STEP_MAX_US
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const YEAR: i64 = 365 * 86_400 * SECOND;
    const NOW: Timestamp = Timestamp(56 * YEAR);

    /// Our clocks `us` after [`NOW`], with the wall clock set forward by `set_us`.
    fn ours(us: i64, set_us: i64) -> Reading {
        Reading { wall: NOW.plus_micros(us + set_us), steady: NOW.plus_micros(us) }
    }

    #[test]
    fn a_plausible_measurement_is_used_at_once() {
        let mut clock = ExchangeClock::default();
        assert_eq!(clock.measured(NOW.plus_micros(-5 * SECOND), ours(0, 0)), Ok(()));
        assert_eq!(
            (clock.offset_us(ours(7, 0)), clock.now(ours(7, 0))),
            (Some(-5 * SECOND), NOW.plus_micros(7 - 5 * SECOND))
        );
    }

    #[test]
    fn an_absurd_time_moves_nothing_until_a_later_one_agrees() {
        let mut clock = ExchangeClock::default();
        clock.measured(NOW, ours(0, 0)).unwrap();
        let lie = |us: i64| NOW.plus_micros(YEAR + us);
        assert_eq!(clock.measured(lie(0), ours(0, 0)), Err(Unconfirmed(YEAR)));
        assert_eq!(clock.measured(lie(5), ours(5, 0)), Err(Unconfirmed(YEAR)), "two answers of one moment are one");
        assert_eq!((clock.now(ours(5, 0)), clock.earliest_now(ours(5, 0))), (NOW.plus_micros(5), NOW.plus_micros(5)));
        assert_eq!(clock.measured(lie(SECOND), ours(SECOND, 0)), Ok(()));
        assert_eq!(clock.now(ours(SECOND, 0)), lie(SECOND));
    }

    #[test]
    fn a_lie_between_two_true_answers_is_forgotten() {
        let mut clock = ExchangeClock::default();
        clock.measured(NOW, ours(0, 0)).unwrap();
        clock.measured(NOW.plus_micros(-YEAR), ours(SECOND, 0)).unwrap_err();
        assert_eq!(clock.earliest_now(ours(SECOND, 0)), NOW.plus_micros(-YEAR), "no kline is closed while it waits");
        clock.measured(NOW.plus_micros(2 * SECOND), ours(2 * SECOND, 0)).unwrap();
        assert_eq!(clock.earliest_now(ours(2 * SECOND, 0)), NOW.plus_micros(2 * SECOND));
        clock.measured(NOW.plus_micros(-YEAR), ours(3 * SECOND, 0)).unwrap_err();
    }

    #[test]
    fn a_constant_is_not_a_clock() {
        let mut clock = ExchangeClock::default();
        for second in 0..1_000 {
            assert!(clock.measured(Timestamp(1_000), ours(second * SECOND, 0)).is_err());
        }
        assert_eq!(clock.offset_us(ours(0, 0)), None);
    }

    #[test]
    fn two_absurd_times_that_differ_confirm_nothing() {
        let mut clock = ExchangeClock::default();
        for second in 0..20 {
            let theirs = NOW.plus_micros((second + 1) * YEAR);
            assert!(clock.measured(theirs, ours(second * SECOND, 0)).is_err());
        }
    }

    #[test]
    fn a_machine_whose_clock_is_wrong_by_years_learns_the_exchanges_time() {
        let mut clock = ExchangeClock::default();
        let (wrong, theirs) = (-7 * YEAR, |us: i64| NOW.plus_micros(us));
        clock.measured(theirs(0), ours(0, wrong)).unwrap_err();
        assert_eq!(clock.latest(ours(0, wrong)), Timestamp(i64::MAX), "no row is refused meanwhile");
        clock.measured(theirs(2 * SECOND), ours(2 * SECOND, wrong)).unwrap();
        assert_eq!(clock.offset_us(ours(2 * SECOND, wrong)), Some(7 * YEAR));
        // NTP sets the clock.
        assert_eq!(
            (clock.now(ours(3 * SECOND, 0)), clock.offset_us(ours(3 * SECOND, 0))),
            (theirs(3 * SECOND), Some(0))
        );
    }

    #[test]
    fn a_clock_ahead_by_years_closes_no_kline_while_it_waits() {
        let mut clock = ExchangeClock::default();
        clock.measured(NOW, ours(0, 70 * YEAR)).unwrap_err();
        assert_eq!(clock.earliest_now(ours(SECOND, 70 * YEAR)), NOW.plus_micros(SECOND));
    }

    proptest! {
        #[test]
        fn no_step_of_the_wall_clock_moves_the_exchanges_time(steps in prop::collection::vec(any::<i32>(), 1..20)) {
            let mut clock = ExchangeClock::default();
            clock.measured(NOW, ours(0, 0)).unwrap();
            for (second, step) in (1_i64..).zip(steps) {
                let ours = ours(second * SECOND, i64::from(step) * SECOND);
                prop_assert_eq!(clock.now(ours), NOW.plus_micros(second * SECOND));
                clock.measured(NOW.plus_micros(second * SECOND), ours).unwrap();
            }
        }

        #[test]
        fn any_numbers_are_measured(theirs in any::<i64>(), wall in any::<i64>(), steady in any::<i64>(), again in any::<i64>()) {
            let mut clock = ExchangeClock::default();
            let ours = Reading { wall: Timestamp(wall), steady: Timestamp(steady) };
            for at in [theirs, again, theirs] {
                let used = clock.measured(Timestamp(at), ours).is_ok();
                prop_assert_eq!(used, clock.offset_us.is_some() && clock.unconfirmed.is_none());
            }
            let _times = (clock.now(ours), clock.earliest_now(ours), clock.latest(ours));
        }
    }
}
