//! The request budget of one exchange and address: what may be sent when. Pure: it is told the time.

use crate::market::Timestamp;

const MINUTE_US: i64 = 60_000_000;
/// The exchange's minute may begin a little after ours.
const MINUTE_MARGIN_US: i64 = 250_000;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Pages of a repair: at most the configured share of the budget.
    Repair,
    /// A small question that repair must not delay: may use all of the budget.
    Query,
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Now; its weight is reserved until [`Budget::finish_request`].
    Granted,
    /// Not before this instant: the minute's budget is used up, or the exchange asked for a pause.
    Wait(Timestamp),
    /// The exchange has banned the address until this instant.
    Banned(Timestamp),
    /// The exchange refuses the address; ask again at this instant.
    Refused(Timestamp),
}

/// Weight per minute, and the times when nothing may be sent at all.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u32,
    share_percent: u32,
    /// The minute that `answered_weight` speaks of, counted from 1970.
    minute: i64,
    /// Used in this minute: the exchange's own count once it has reported one, ours till then.
    answered_weight: u32,
    /// Sent and not answered.
    in_flight: u32,
    paused_until: Option<Timestamp>,
    banned_until: Option<Timestamp>,
    refused_until: Option<Timestamp>,
}

impl Budget {
    pub(super) fn new(limit: u32, share_percent: u32, banned_until: Option<Timestamp>) -> Self {
        Self {
            limit,
            share_percent: share_percent.clamp(1, 100),
            minute: 0,
            answered_weight: 0,
            in_flight: 0,
            paused_until: None,
            banned_until,
            refused_until: None,
        }
    }

    /// Asks to send a request of this weight. A request that is heavier than the whole allowance goes when
    /// nothing else was sent in the minute, or it would never go.
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

    /// A request that was permitted has ended; `answered_weight` is what was [`Budget::answered_weight`] when it left. `reported` is the
    /// exchange's own count for this minute and wins over ours; without it (a lost answer) the weight counts as used.
    pub(super) fn finish_request(&mut self, weight: u32, answered_weight: u32, reported: Option<u32>, now: Timestamp) {
        self.roll(now);
        self.in_flight = self.in_flight.saturating_sub(weight);
        self.answered_weight = match reported {
            // Answers overtake each other: within a minute the count never falls, whichever is read last.
            Some(reported) if reported >= answered_weight.saturating_add(weight) => reported.max(self.answered_weight),
            // Less than before it left: the exchange's minute is another one, or we had counted too much.
            Some(reported) => reported,
            None => self.answered_weight.saturating_add(weight),
        };
    }

    /// Used in this minute by what was answered.
    pub(super) fn answered_weight(&self) -> u32 {
        self.answered_weight
    }

    /// "Read limits from exchangeInfo.rateLimits".
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// "429 -> Retry-After": nothing is sent until then.
    pub(super) fn pause(&mut self, until: Timestamp) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// "418: banned": nothing is sent until then. A later deadline replaces an earlier one, never the reverse.
    pub(super) fn ban(&mut self, until: Timestamp) {
        self.banned_until = self.banned_until.max(Some(until));
    }

    /// A 403 or 451: nothing is sent until then.
    pub(super) fn refuse(&mut self, until: Timestamp) {
        self.refused_until = Some(until);
    }

    /// The end of the ban, while there is one.
    pub(super) fn banned_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.banned_until.filter(|&until| now < until)
    }

    /// The end of the pause that the exchange asked for, while there is one.
    pub(super) fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|&until| now < until)
    }

    /// Weight used in this minute, requests under way included.
    pub(super) fn used(&mut self, now: Timestamp) -> u32 {
        self.roll(now);
        self.answered_weight.saturating_add(self.in_flight)
    }

    /// Weight allowed per minute.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Percent of it that repairs may use.
    pub(super) fn share_percent(&self) -> u32 {
        self.share_percent
    }

    fn roll(&mut self, now: Timestamp) {
        let minute = now.micros().div_euclid(MINUTE_US);
        // Any other minute, not only a later one: a clock that was set back must not freeze the budget.
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
    fn repair_stops_at_its_share_and_questions_go_on() {
        let mut budget = Budget::new(100, 50, None);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(1, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
        assert_eq!(budget.request(4, Purpose::Query, AT), Permit::Granted);
        assert_eq!(budget.used(AT), 54);
        assert_eq!(budget.request(47, Purpose::Query, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn the_exchanges_own_count_wins_both_ways() {
        let mut budget = Budget::new(100, 50, None);
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
    fn an_answer_that_was_overtaken_takes_nothing_back() {
        let mut budget = Budget::new(100, 100, None);
        budget.request(4, Purpose::Query, AT);
        budget.request(25, Purpose::Repair, AT);
        budget.finish_request(25, 0, Some(29), AT);
        budget.finish_request(4, 0, Some(4), AT);
        assert_eq!(budget.used(AT), 29);
    }

    #[test]
    fn a_new_minute_is_a_new_budget_but_for_what_is_under_way() {
        let mut budget = Budget::new(100, 100, None);
        budget.request(40, Purpose::Repair, AT);
        budget.finish_request(40, 0, None, AT);
        budget.request(30, Purpose::Repair, AT);
        assert_eq!(budget.used(AT), 70);
        assert_eq!(budget.used(NEXT_MINUTE), 30);
        budget.finish_request(30, 40, Some(0), NEXT_MINUTE);
        assert_eq!(budget.used(NEXT_MINUTE), 0);
    }

    #[test]
    fn a_request_heavier_than_the_share_goes_alone() {
        let mut budget = Budget::new(20, 50, None);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Granted);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn a_learnt_limit_holds_at_once() {
        let mut budget = Budget::new(100, 100, None);
        budget.request(40, Purpose::Repair, AT);
        budget.set_limit(50);
        assert_eq!(budget.request(25, Purpose::Repair, AT), Permit::Wait(NEXT_MINUTE));
    }

    #[test]
    fn pauses_bans_and_refusals_end_by_themselves() {
        let mut budget = Budget::new(100, 100, None);
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
    fn a_ban_survives_a_restart() {
        let mut budget = Budget::new(100, 100, Some(later(5)));
        assert_eq!(budget.request(1, Purpose::Query, AT), Permit::Banned(later(5)));
    }

    proptest! {
        #[test]
        fn no_minute_uses_more_than_the_limit(
            steps in prop::collection::vec((0_i64..5_000_000, 1_u32..30, any::<bool>(), any::<bool>()), 0..300),
        ) {
            let (limit, share) = (200, 60);
            let mut budget = Budget::new(limit, share, None);
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
