//! The request budget of one exchange and address: which request may be sent when. Pure: the caller passes the time, of
//! the steady clock, so that a wall clock that is set ends or extends no wait.

use crate::market::Timestamp;

const MINUTE_US: i64 = 60_000_000;
/// The exchange's minute may start a little after ours.
const MINUTE_MARGIN_US: i64 = 250_000;
/// A count or a limit that is this many times the documented one is not believed.
const LIMIT_FACTOR_MAX: u32 = 100;
/// The exchange refuses requests above its limit, so it counts little more than that, also when others use this address.
const USED_FACTOR_MAX: u32 = 2;

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
    /// Not before this instant: the minute's budget is used up, or the exchange requires a pause.
    Wait(Timestamp),
    /// The exchange has banned the address until this instant.
    Banned(Timestamp),
    /// The exchange refuses the address; try again at this instant.
    Refused(Timestamp),
}

/// The weight per minute, and the times when nothing may be sent.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u32,
    /// The limit that the exchange documents.
    documented: u32,
    share_percent: u32,
    /// The minute of `answered_weight`, counted from 1970.
    minute: i64,
    /// Weight of the answered requests of this minute: the exchange's own count once it has reported one, ours until
    /// then.
    answered_weight: u32,
    /// Weight of requests that are sent and not answered.
    in_flight: u32,
    paused_until: Option<Timestamp>,
    banned_until: Option<Timestamp>,
    refused_until: Option<Timestamp>,
}

impl Budget {
    pub(super) fn new(limit: u32, share_percent: u32) -> Self {
        Self {
            limit,
            documented: limit,
            share_percent: share_percent.clamp(1, 100),
            minute: 0,
            answered_weight: 0,
            in_flight: 0,
            paused_until: None,
            banned_until: None,
            refused_until: None,
        }
    }

    /// Requests a permit for this weight. A request heavier than the whole allowance gets one when nothing else was
    /// sent in the minute; otherwise it would never get one.
    pub(super) fn request(&mut self, weight: u32, purpose: Purpose, now: Timestamp) -> Permit {
        if let Some(until) = self.banned_until(now) {
            return Permit::Banned(until);
        }
        if let Some(until) = self.refused_until.filter(|&until| now < until) {
            return Permit::Refused(until);
        }
        if let Some(until) = self.paused_until.filter(|&until| now < until) {
            return Permit::Wait(until);
        }
        let used = self.used(now);
        let allowed = match purpose {
            Purpose::Repair => (u64::from(self.limit) * u64::from(self.share_percent) / 100) as u32,
            Purpose::Query => self.limit,
        };
        if used > 0 && used.saturating_add(weight) > allowed {
            return Permit::Wait(Timestamp((self.minute + 1) * MINUTE_US + MINUTE_MARGIN_US));
        }
        self.in_flight += weight;
        Permit::Granted
    }

    /// Ends a permitted request. `answered_weight` is [`Budget::answered_weight`] when it was sent. `reported` is the
    /// exchange's own count for this minute and replaces ours; without it (a lost answer), or when it is absurd, the
    /// weight counts as used: one header must not stop the requests of every minute.
    pub(super) fn finish_request(&mut self, weight: u32, answered_weight: u32, reported: Option<u32>, now: Timestamp) {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(weight);
        let reported = reported.filter(|&reported| reported <= self.limit.saturating_mul(USED_FACTOR_MAX));
        self.answered_weight = match reported {
            // Answers may come out of order: within a minute the count never falls.
            Some(reported) if reported >= answered_weight.saturating_add(weight) => reported.max(self.answered_weight),
            // Less than when it was sent: the exchange is in another minute, or our count was too high.
            Some(reported) => reported,
            None => self.answered_weight.saturating_add(weight),
        };
    }

    /// Weight of this minute's answered requests.
    pub(super) fn answered_weight(&self) -> u32 {
        self.answered_weight
    }

    /// "Read limits from exchangeInfo.rateLimits". An absurd limit changes nothing, and the answer is false: one below
    /// the weight of the request that it answers (0 would stop every request), or far above the documented one (it would
    /// end in a ban).
    pub(super) fn set_limit(&mut self, limit: u32, answered_weight: u32) -> bool {
        let is_plausible = (answered_weight.max(1)..=self.documented.saturating_mul(LIMIT_FACTOR_MAX)).contains(&limit);
        if is_plausible {
            self.limit = limit;
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

    /// Weight used in this minute, including requests that are not answered yet.
    pub(super) fn used(&mut self, now: Timestamp) -> u32 {
        self.roll(now);
        self.answered_weight.saturating_add(self.in_flight)
    }

    /// Weight allowed per minute.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Percent of the weight that repairs may use.
    pub(super) fn share_percent(&self) -> u32 {
        self.share_percent
    }

    fn roll(&mut self, now: Timestamp) {
        let minute = now.micros().div_euclid(MINUTE_US);
        // Any other minute, not only a later one: a clock that is set back must not freeze the budget.
        if minute != self.minute {
            self.minute = minute;
            self.answered_weight = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Timestamp = Timestamp(100 * MINUTE_US + 5_000_000);
    const NEXT_MINUTE: Timestamp = Timestamp(101 * MINUTE_US + MINUTE_MARGIN_US);

    fn later(us: i64) -> Timestamp {
        AT.plus_micros(us)
    }

    #[test]
    fn repairs_stop_at_their_share_and_queries_do_not() {
        let mut budget = Budget::new(100, 50);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(1, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
        assert_eq!(budget.request(4, Purpose::Query, AT), Permit::Granted);
        assert_eq!(budget.used(AT), 54);
        assert_eq!(budget.request(47, Purpose::Query, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn the_exchanges_own_count_replaces_ours_up_and_down() {
        let mut budget = Budget::new(100, 50);
        budget.request(25, Purpose::Repair, AT);
        budget.finish_request(25, 0, Some(90), AT);
        assert_eq!(budget.used(AT), 90);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
        budget.request(5, Purpose::Query, AT);
        budget.finish_request(5, 90, Some(2), AT);
        assert_eq!(budget.used(AT), 2);
        budget.request(5, Purpose::Query, AT);
        budget.finish_request(5, 2, None, AT);
        assert_eq!(budget.used(AT), 7);
    }

    #[test]
    fn an_answer_out_of_order_does_not_lower_the_count() {
        let mut budget = Budget::new(100, 100);
        budget.request(4, Purpose::Query, AT);
        budget.request(25, Purpose::Repair, AT);
        budget.finish_request(25, 0, Some(29), AT);
        budget.finish_request(4, 0, Some(4), AT);
        assert_eq!(budget.used(AT), 29);
    }

    #[test]
    fn a_new_minute_starts_with_the_weight_of_unanswered_requests_only() {
        let mut budget = Budget::new(100, 100);
        budget.request(40, Purpose::Repair, AT);
        budget.finish_request(40, 0, None, AT);
        budget.request(30, Purpose::Repair, AT);
        assert_eq!(budget.used(AT), 70);
        assert_eq!(budget.used(NEXT_MINUTE), 30);
        budget.finish_request(30, 40, Some(0), NEXT_MINUTE);
        assert_eq!(budget.used(NEXT_MINUTE), 0);
    }

    #[test]
    fn a_request_heavier_than_the_share_is_sent_alone() {
        let mut budget = Budget::new(20, 50);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn a_limit_from_the_exchange_applies_at_once() {
        let mut budget = Budget::new(100, 100);
        budget.request(40, Purpose::Repair, AT);
        assert!(budget.set_limit(50, 20));
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn an_absurd_limit_changes_nothing() {
        let mut budget = Budget::new(6_000, 50);
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
        let mut budget = Budget::new(100, 100);
        for absurd in [201, 4_000_000_000, u32::MAX] {
            budget.request(10, Purpose::Query, AT);
            let answered = budget.answered_weight();
            budget.finish_request(10, answered, Some(absurd), AT);
        }
        assert_eq!(budget.used(AT), 30);
        budget.request(10, Purpose::Query, AT);
        budget.finish_request(10, 30, Some(150), AT);
        assert_eq!(budget.used(AT), 150, "others use this address too");
    }

    #[test]
    fn pauses_bans_and_refusals_expire() {
        let mut budget = Budget::new(100, 100);
        budget.pause(later(7));
        assert_eq!(budget.request(1, Purpose::Query, AT), Permit::Wait(later(7)));
        budget.refuse(later(8));
        assert_eq!(budget.request(1, Purpose::Query, AT), Permit::Refused(later(8)));
        budget.ban(later(9));
        budget.ban(later(3));
        assert_eq!(budget.request(1, Purpose::Query, AT), Permit::Banned(later(9)));
        assert_eq!(budget.banned_until(later(9)), None);
        assert_eq!(budget.request(1, Purpose::Query, later(9)), Permit::Granted);
    }

    #[test]
    fn a_pause_may_outlast_a_ban() {
        let mut budget = Budget::new(100, 100);
        budget.ban(later(5));
        budget.pause(later(9));
        assert_eq!(budget.request(1, Purpose::Query, AT), Permit::Banned(later(5)));
        assert_eq!(budget.request(1, Purpose::Query, later(5)), Permit::Wait(later(9)));
    }

    proptest! {
        #[test]
        fn no_minute_uses_more_than_the_limit(
            steps in prop::collection::vec((0_i64..5_000_000, 1_u32..30, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let (limit, share) = (200, 60);
            let mut budget = Budget::new(limit, share);
            let mut now = AT;
            let mut spent = std::collections::BTreeMap::<i64, (u32, u32)>::new();
            for (step, weight, repair, reported) in steps {
                now = now.plus_micros(step);
                let purpose = if repair { Purpose::Repair } else { Purpose::Query };
                match budget.request(weight, purpose, now) {
                    Permit::Granted => {
                        let (all, repairs) = spent.entry(now.micros() / MINUTE_US).or_default();
                        *all += weight;
                        if repair {
                            *repairs += weight;
                        }
                        budget.finish_request(weight, budget.answered_weight(), reported.then_some(*all), now);
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
