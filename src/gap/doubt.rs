//! How long the exchange has been asked for positions that it does not serve, and what it answered.
//!
//! A lagging shard, a symbol in maintenance and ids that were never assigned look the same for minutes. So absence is a
//! doubt first, and becomes a verdict only after hours of asking. The pauses grow: a position that is served again
//! after some time is asked for within that time once more.

use std::time::Duration;

use crate::market::Timestamp;

use super::{Evidence, Gap, GapState};

/// Longest pause between two requests for a range in doubt.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Shortest pause.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Most time that counts between two answers. A process that was down for days, or a clock that jumped by years, asked
/// nothing meanwhile.
const COUNTED_MAX: Duration = Duration::from_secs(2 * 3_600);
/// Most different answers kept with a gap. The first and the latest ones stay.
const ANSWERS_MAX: usize = 32;

/// How long the exchange has been asked without success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Doubt {
    /// The time between the answers that did not serve the positions, in microseconds. Time in which nobody asked does
    /// not count.
    pub asked_for_us: i64,
    /// The last answer, by our clock, in microseconds since 1970 UTC.
    pub asked_at: i64,
}

/// An answer of the exchange about positions that it did not serve, given once or several times in a row.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Answer {
    /// What the exchange answered.
    pub answer: String,
    /// The first time, by our clock, RFC 3339.
    pub first_at: String,
    /// The last time, by our clock, RFC 3339.
    pub last_at: String,
    /// How many times in a row.
    pub times: u32,
}

impl Evidence {
    /// Adds an answer. Equal answers in a row share one entry.
    pub fn note_answer(&mut self, answer: &str, now: Timestamp) {
        let at = now.rfc3339();
        if let Some(last) = self.answers.last_mut()
            && last.answer == answer
        {
            last.last_at = at;
            last.times = last.times.saturating_add(1);
            return;
        }
        if self.answers.len() == ANSWERS_MAX {
            self.answers.remove(ANSWERS_MAX / 2);
        }
        self.answers.push(Answer { answer: answer.to_owned(), first_at: at.clone(), last_at: at, times: 1 });
    }
}

impl Gap {
    /// Moves the gap to `unconfirmed` and counts the time since the last answer. `since_last` is the monotonic time
    /// since that answer where this process received it; else the wall clock decides.
    pub fn doubt(&mut self, why: &str, since_last: Option<Duration>, now: Timestamp) {
        let counted = match self.evidence.doubt {
            None => Duration::ZERO,
            Some(doubt) => since_last.unwrap_or_else(|| {
                Duration::from_micros(u64::try_from(now.micros().saturating_sub(doubt.asked_at)).unwrap_or(0))
            }),
        };
        let asked_for = self.asked_for().saturating_add(counted.min(COUNTED_MAX));
        let asked_for_us = i64::try_from(asked_for.as_micros()).unwrap_or(i64::MAX);
        self.evidence.doubt = Some(Doubt { asked_for_us, asked_at: now.micros() });
        self.evidence.note_answer(why, now);
        self.advance(GapState::Unconfirmed, why, now);
    }

    /// Forgets the doubt: the exchange served some of the positions, so its database changes.
    pub fn clear_doubt(&mut self) {
        self.evidence.doubt = None;
    }

    /// How long the exchange has been asked while it did not serve the positions.
    pub fn asked_for(&self) -> Duration {
        let us = self.evidence.doubt.map_or(0, |doubt| doubt.asked_for_us);
        Duration::from_micros(u64::try_from(us).unwrap_or(0))
    }

    /// The pause before the next request: as long as the exchange was asked so far, at most an hour, and not beyond
    /// `confirm_after`.
    pub fn pause(&self, confirm_after: Duration) -> Duration {
        let rest = confirm_after.saturating_sub(self.asked_for());
        self.asked_for().min(PAUSE_MAX).min(rest).max(PAUSE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gap::Range;

    const CONFIRM_AFTER: Duration = Duration::from_secs(6 * 3_600);

    fn gap(now: Timestamp) -> Gap {
        let stream = "binance:BTCUSDT:trade".parse().unwrap();
        Gap::open(stream, Range { first: 5, last: 9 }, Evidence::default(), now)
    }

    #[test]
    fn the_pauses_grow_to_an_hour_and_the_last_one_ends_with_the_verdict() {
        let mut gap = gap(Timestamp(0));
        let (mut now, mut pauses) = (Timestamp(0), Vec::new());
        gap.doubt("skipped", None, now);
        while gap.asked_for() < CONFIRM_AFTER {
            let pause = gap.pause(CONFIRM_AFTER);
            pauses.push(pause.as_secs());
            now = now.plus_micros(pause.as_micros() as i64);
            gap.doubt("skipped", Some(pause), now);
        }
        assert_eq!(pauses[..4], [2, 2, 4, 8]);
        assert!(pauses.iter().all(|pause| *pause <= 3_600) && pauses.len() < 24, "{pauses:?}");
        assert_eq!(gap.asked_for(), CONFIRM_AFTER);
        assert_eq!((gap.evidence.answers.len(), gap.evidence.answers[0].times as usize), (1, pauses.len() + 1));
    }

    #[test]
    fn a_clock_that_jumps_and_a_process_that_was_down_prove_nothing() {
        let year = 365 * 86_400 * 1_000_000_i64;
        let mut gap = gap(Timestamp(year));
        gap.doubt("skipped", None, Timestamp(year));
        gap.doubt("skipped", Some(Duration::from_secs(3)), Timestamp(40 * year));
        assert_eq!(gap.asked_for(), Duration::from_secs(3), "the monotonic time counts");
        gap.doubt("skipped", None, Timestamp(80 * year));
        assert_eq!(gap.asked_for(), Duration::from_secs(3) + COUNTED_MAX, "nobody asked for forty years");
        gap.doubt("skipped", None, Timestamp(0));
        assert_eq!(gap.asked_for(), Duration::from_secs(3) + COUNTED_MAX, "a clock set back counts nothing");
    }

    #[test]
    fn many_different_answers_keep_the_first_and_the_latest() {
        let mut gap = gap(Timestamp(0));
        for n in 0..100 {
            gap.doubt(&format!("answer {n}"), None, Timestamp(n));
        }
        let answers = &gap.evidence.answers;
        assert_eq!(answers.len(), ANSWERS_MAX);
        assert_eq!((answers[0].answer.as_str(), answers[ANSWERS_MAX - 1].answer.as_str()), ("answer 0", "answer 99"));
    }

    proptest! {
        #[test]
        fn a_position_that_is_served_in_time_is_asked_for_within_twice_its_absence(served_after in 0_u64..21_600) {
            let mut gap = gap(Timestamp(0));
            let mut at = Duration::ZERO;
            gap.doubt("skipped", None, Timestamp(0));
            while at < Duration::from_secs(served_after) {
                prop_assert!(gap.asked_for() < CONFIRM_AFTER, "a verdict before the positions are served");
                let pause = gap.pause(CONFIRM_AFTER);
                at += pause;
                gap.doubt("skipped", Some(pause), Timestamp(at.as_micros() as i64));
            }
            let bound = Duration::from_secs(served_after * 2).max(Duration::from_secs(4));
            prop_assert!(at <= bound && at <= Duration::from_secs(served_after + 3_600), "{at:?} {served_after}");
        }
    }
}
