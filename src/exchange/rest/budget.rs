//! The request budget of one exchange and address: which request may be sent when. Pure: the caller passes the time, of
//! the steady clock, so that a wall clock that is set ends or extends no wait.

use super::bucket::{Leaky, Level, MILLION, Window, quotient_up};
use crate::exchange::spec::Bucket;
use crate::market::Timestamp;

/// A count or a limit that is this many times the documented one is not believed.
const LIMIT_FACTOR_MAX: u32 = 100;

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A page of a repair: uses at most the configured share of the budget.
    Repair,
    /// A small request that repairs must not delay: may use the whole budget.
    Query,
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// It may be sent now; its weight is reserved until [`Budget::finish_request`].
    Granted,
    /// Not before this instant: the budget is used up, or the exchange requires a pause.
    Wait(Timestamp),
    /// The exchange has banned the address until this instant.
    Banned(Timestamp),
    /// The exchange refuses the address; try again at this instant.
    Refused(Timestamp),
}

/// What each bucket holds, and the times when nothing may be sent.
#[derive(Debug)]
pub(super) struct Budget {
    buckets: Vec<Level>,
    share_percent: u32,
    paused_until: Option<Timestamp>,
    banned_until: Option<Timestamp>,
    refused_until: Option<Timestamp>,
}

impl Budget {
    pub(super) fn new(buckets: &[Bucket], share_percent: u32) -> Self {
        let level = |bucket: &Bucket| match *bucket {
            Bucket::Window { weight, per } => Level::Window(Window {
                limit: weight,
                documented: weight,
                per_us: i64::try_from(per.as_micros()).unwrap_or(i64::MAX).max(1),
                number: 0,
                answered_weight: 0,
                in_flight: 0,
            }),
            Bucket::Leaky { per_second, burst } => {
                Level::Leaky(Leaky { per_second, burst, at: Timestamp(0), level: 0, repair_level: 0 })
            }
        };
        Self {
            buckets: buckets.iter().map(level).collect(),
            share_percent: share_percent.clamp(1, 100),
            paused_until: None,
            banned_until: None,
            refused_until: None,
        }
    }

    /// Requests a permit for this weight of a bucket. A request heavier than the whole allowance gets one when the
    /// bucket is empty; otherwise it would never get one.
    pub(super) fn request(&mut self, bucket: usize, weight: u32, purpose: Purpose, now: Timestamp) -> Permit {
        if let Some(until) = self.banned_until(now) {
            return Permit::Banned(until);
        }
        if let Some(until) = self.refused_until.filter(|&until| now < until) {
            return Permit::Refused(until);
        }
        if let Some(until) = self.paused_until.filter(|&until| now < until) {
            return Permit::Wait(until);
        }
        match &mut self.buckets[bucket] {
            Level::Window(window) => {
                let allowed_percent = match purpose {
                    Purpose::Repair => self.share_percent,
                    Purpose::Query => 100,
                };
                window.request(weight, allowed_percent, now)
            }
            Level::Leaky(leaky) => leaky.request(weight, purpose, self.share_percent, now),
        }
    }

    /// Ends a permitted request. `answered_weight` is [`Budget::answered_weight`] when it was sent. `reported` is the
    /// exchange's own count for this window and replaces ours; without it (a lost answer), or when it is absurd, the
    /// weight counts as used: one header must not stop the requests of every window.
    pub(super) fn finish_request(
        &mut self,
        bucket: usize,
        weight: u32,
        answered_weight: u32,
        reported: Option<u32>,
        now: Timestamp,
    ) {
        if let Level::Window(window) = &mut self.buckets[bucket] {
            window.finish(weight, answered_weight, reported, now);
        }
    }

    /// Weight of the answered requests of the bucket's present window.
    pub(super) fn answered_weight(&self, bucket: usize) -> u32 {
        match &self.buckets[bucket] {
            Level::Window(window) => window.answered_weight,
            Level::Leaky(_) => 0,
        }
    }

    /// "Read limits from exchangeInfo.rateLimits": the limit of the first bucket. An absurd limit changes nothing, and the
    /// answer is false: one below the weight of the request that it answers (0 would stop every request), or far above the
    /// documented one (it would end in a ban).
    pub(super) fn set_limit(&mut self, limit: u32, answered_weight: u32) -> bool {
        let Some(Level::Window(window)) = self.buckets.first_mut() else { return false };
        let is_plausible =
            (answered_weight.max(1)..=window.documented.saturating_mul(LIMIT_FACTOR_MAX)).contains(&limit);
        if is_plausible {
            window.limit = limit;
        }
        is_plausible
    }

    /// "429 -> Retry-After": nothing may be sent before `until`.
    pub(super) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// "418: banned": nothing may be sent before `until`. A later deadline replaces an earlier one, never the reverse.
    pub(super) fn ban(&mut self, until: Timestamp) {
        self.banned_until = self.banned_until.max(Some(until));
    }

    /// A 403 or 451: nothing may be sent before `until`.
    pub(super) fn refuse(&mut self, until: Timestamp) {
        self.refused_until = Some(until);
    }

    /// The end of the ban; `None` without one.
    pub(super) fn banned_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.banned_until.filter(|&until| now < until)
    }

    /// The end of the pause that the exchange requires; `None` without one.
    pub(super) fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|&until| now < until)
    }

    /// Weight used of the first bucket, including requests that are not answered yet.
    pub(super) fn used(&mut self, now: Timestamp) -> u32 {
        let share_percent = self.share_percent;
        match self.buckets.first_mut() {
            Some(Level::Window(window)) => {
                window.roll(now);
                window.answered_weight.saturating_add(window.in_flight)
            }
            Some(Level::Leaky(leaky)) => {
                leaky.leak(share_percent, now);
                u32::try_from(quotient_up(leaky.level, MILLION)).unwrap_or(u32::MAX)
            }
            None => 0,
        }
    }

    /// Weight that the first bucket holds.
    pub(super) fn limit(&self) -> u32 {
        match self.buckets.first() {
            Some(Level::Window(window)) => window.limit,
            Some(Level::Leaky(leaky)) => leaky.burst,
            None => 0,
        }
    }

    /// Percent of the weight that repairs may use.
    pub(super) fn share_percent(&self) -> u32 {
        self.share_percent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exchange::rest::bucket::WINDOW_MARGIN_US;

    const MINUTE_US: i64 = 60_000_000;

    const AT: Timestamp = Timestamp(100 * MINUTE_US + 5_000_000);
    const NEXT_MINUTE: Timestamp = Timestamp(101 * MINUTE_US + WINDOW_MARGIN_US);

    fn minute(weight: u32, share_percent: u32) -> Budget {
        Budget::new(&[Bucket::Window { weight, per: std::time::Duration::from_secs(60) }], share_percent)
    }

    fn later(us: i64) -> Timestamp {
        AT.plus_micros(us)
    }

    #[test]
    fn repairs_stop_at_their_share_and_queries_do_not() {
        let mut budget = minute(100, 50);
        assert_eq!(budget.request(0, 25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(0, 25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(0, 1, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
        assert_eq!(budget.request(0, 4, Purpose::Query, AT), Permit::Granted);
        assert_eq!(budget.used(AT), 54);
        assert_eq!(budget.request(0, 47, Purpose::Query, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn the_exchanges_own_count_replaces_ours_up_and_down() {
        let mut budget = minute(100, 50);
        budget.request(0, 25, Purpose::Repair, AT);
        budget.finish_request(0, 25, 0, Some(90), AT);
        assert_eq!(budget.used(AT), 90);
        assert_eq!(budget.request(0, 25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
        budget.request(0, 5, Purpose::Query, AT);
        budget.finish_request(0, 5, 90, Some(2), AT);
        assert_eq!(budget.used(AT), 2);
        budget.request(0, 5, Purpose::Query, AT);
        budget.finish_request(0, 5, 2, None, AT);
        assert_eq!(budget.used(AT), 7);
    }

    #[test]
    fn an_answer_out_of_order_does_not_lower_the_count() {
        let mut budget = minute(100, 100);
        budget.request(0, 4, Purpose::Query, AT);
        budget.request(0, 25, Purpose::Repair, AT);
        budget.finish_request(0, 25, 0, Some(29), AT);
        budget.finish_request(0, 4, 0, Some(4), AT);
        assert_eq!(budget.used(AT), 29);
    }

    #[test]
    fn a_new_minute_starts_with_the_weight_of_unanswered_requests_only() {
        let mut budget = minute(100, 100);
        budget.request(0, 40, Purpose::Repair, AT);
        budget.finish_request(0, 40, 0, None, AT);
        budget.request(0, 30, Purpose::Repair, AT);
        assert_eq!(budget.used(AT), 70);
        assert_eq!(budget.used(NEXT_MINUTE), 30);
        budget.finish_request(0, 30, 40, Some(0), NEXT_MINUTE);
        assert_eq!(budget.used(NEXT_MINUTE), 0);
    }

    #[test]
    fn a_request_heavier_than_the_share_is_sent_alone() {
        let mut budget = minute(20, 50);
        assert_eq!(budget.request(0, 25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(0, 25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn a_limit_from_the_exchange_applies_at_once() {
        let mut budget = minute(100, 100);
        budget.request(0, 40, Purpose::Repair, AT);
        assert!(budget.set_limit(50, 20));
        assert_eq!(budget.request(0, 25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn an_absurd_limit_changes_nothing() {
        let mut budget = minute(6_000, 50);
        for absurd in [0, 1, 19, 600_001, u32::MAX] {
            assert!(!budget.set_limit(absurd, 20), "{absurd}");
            assert_eq!(budget.limit(), 6_000);
        }
        assert!(budget.set_limit(1_200, 20));
        assert!(!budget.set_limit(0, 20));
        assert_eq!(budget.limit(), 1_200, "the last good one stays");
    }

    #[test]
    fn an_absurd_count_of_the_exchange_is_replaced_by_ours() {
        let mut budget = minute(100, 100);
        for absurd in [201, 4_000_000_000, u32::MAX] {
            budget.request(0, 10, Purpose::Query, AT);
            let answered = budget.answered_weight(0);
            budget.finish_request(0, 10, answered, Some(absurd), AT);
        }
        assert_eq!(budget.used(AT), 30);
        budget.request(0, 10, Purpose::Query, AT);
        budget.finish_request(0, 10, 30, Some(150), AT);
        assert_eq!(budget.used(AT), 150, "others use this address too");
    }

    #[test]
    fn pauses_bans_and_refusals_expire() {
        let mut budget = minute(100, 100);
        budget.pause(later(7));
        assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Wait(later(7)));
        budget.refuse(later(8));
        assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Refused(later(8)));
        budget.ban(later(9));
        budget.ban(later(3));
        assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Banned(later(9)));
        assert_eq!(budget.banned_until(later(9)), None);
        assert_eq!(budget.request(0, 1, Purpose::Query, later(9)), Permit::Granted);
    }

    #[test]
    fn a_pause_may_outlast_a_ban() {
        let mut budget = minute(100, 100);
        budget.ban(later(5));
        budget.pause(later(9));
        assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Banned(later(5)));
        assert_eq!(budget.request(0, 1, Purpose::Query, later(5)), Permit::Wait(later(9)));
    }

    #[test]
    fn a_leaky_bucket_gives_a_burst_and_then_its_rate() {
        let mut budget = Budget::new(&[Bucket::Leaky { per_second: 10, burst: 3 }], 50);
        for _ in 0..3 {
            assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Granted);
        }
        assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Wait(later(100_000)));
        assert_eq!(budget.request(0, 1, Purpose::Query, later(100_000)), Permit::Granted);
        assert_eq!(budget.used(later(100_000)), 3);
        let mut budget = Budget::new(&[Bucket::Leaky { per_second: 10, burst: 1 }], 50);
        assert_eq!(budget.request(0, 1, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(0, 1, Purpose::Repair, AT), Permit::Wait(later(200_000)), "repairs have half of it");
        assert_eq!(budget.request(0, 1, Purpose::Query, later(100_000)), Permit::Granted);
    }

    #[test]
    fn a_bucket_does_not_concern_another() {
        let leaky = Bucket::Leaky { per_second: 1, burst: 1 };
        let mut budget = Budget::new(&[leaky, leaky], 100);
        assert_eq!(budget.request(0, 1, Purpose::Query, AT), Permit::Granted);
        assert_eq!(budget.request(1, 1, Purpose::Query, AT), Permit::Granted);
        assert!(matches!(budget.request(1, 1, Purpose::Query, AT), Permit::Wait(_)));
    }

    proptest! {
        #[test]
        fn no_second_of_a_leaky_bucket_has_more_than_burst_and_rate(
            steps in prop::collection::vec((0_i64..300_000, any::<bool>()), 1..300),
            per_second in 1_u32..20,
            burst in 1_u32..20,
        ) {
            let mut budget = Budget::new(&[Bucket::Leaky { per_second, burst }], 60);
            let (mut now, mut granted) = (AT, Vec::new());
            for (step, repair) in steps {
                now = now.plus_micros(step);
                let purpose = if repair { Purpose::Repair } else { Purpose::Query };
                match budget.request(0, 1, purpose, now) {
                    Permit::Granted => granted.push(now),
                    Permit::Wait(until) => prop_assert!(until > now),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            for from in &granted {
                let within = granted.iter().filter(|at| (0..1_000_000).contains(&at.since(*from))).count();
                prop_assert!(within <= (burst + per_second) as usize, "{} in a second", within);
            }
        }

        #[test]
        fn no_minute_uses_more_than_the_limit(
            steps in prop::collection::vec((0_i64..5_000_000, 1_u32..30, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let (limit, share) = (200, 60);
            let mut budget = minute(limit, share);
            let mut now = AT;
            let mut spent = std::collections::BTreeMap::<i64, (u32, u32)>::new();
            for (step, weight, repair, reported) in steps {
                now = now.plus_micros(step);
                let purpose = if repair { Purpose::Repair } else { Purpose::Query };
                match budget.request(0, weight, purpose, now) {
                    Permit::Granted => {
                        let (all, repairs) = spent.entry(now.micros() / MINUTE_US).or_default();
                        *all += weight;
                        if repair {
                            *repairs += weight;
                        }
                        budget.finish_request(0, weight, budget.answered_weight(0), reported.then_some(*all), now);
                        prop_assert_eq!(budget.used(now), *all);
                        prop_assert!(*all <= limit && *repairs <= limit * share / 100);
                    }
                    Permit::Wait(until) => prop_assert!(until > now),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
