//! Whether an id or a time fits its stream. One frame is no proof of a jump: an id far ahead would open a gap of ids that
//! nobody ever used, and everything after it would look old. Pure.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::market::{Kline, Timestamp, Trade};

/// A jump of this many ids needs no confirmation: its gap costs at most one page.
pub const JUMP_MIN: i64 = 1_000;
/// A jump may be this many times as long as the stream's highest pace explains.
const PACE_FACTOR: f64 = 4.0;
/// Time that is added to the time since the last trade, in microseconds: bursts.
const BURST_US: i64 = 5_000_000;
/// The pace is measured over at least this time, in microseconds.
const SAMPLE_US: i64 = 1_000_000;
/// The exchange may have published this much more than the newest trade that REST shows, in microseconds.
const LAG_US: i64 = 60_000_000;
/// No exchange comes near this id (2^53, the largest exact integer in JSON for many readers).
const ID_MAX: i64 = 1 << 53;
/// How far ahead of the exchange's clock a time may be, in microseconds.
const AHEAD_MAX_US: i64 = 60_000_000;
/// The error of a measured clock, in microseconds: half a slow round trip.
const CLOCK_ERROR_US: i64 = 5_000_000;
/// Silence that widens the limit, at most, in microseconds: by half a minute of it, ten minutes of exchange time.
const SILENCE_MAX_US: i64 = 30_000_000;
/// How much faster than ours the exchange's clock may run.
const DRIFT_FACTOR: i64 = 20;
/// Event times in a row that agree before they outweigh the clock that we measured.
const AGREED_MIN: u32 = 16;
/// A measured clock is wrong by at most this much, in microseconds; a time in another unit is centuries away.
const CLOCK_WRONG_MAX_US: i64 = 86_400_000_000;
/// Trades in doubt that show a pace.
const DOUBTFUL_MIN: u32 = 16;
/// Trades whose content is remembered per stream.
const RECENT_MAX: usize = 1_024;
/// A trade with a lower id may be this much newer, in microseconds; beyond it the exchange must say what it is.
const DISORDER_US: i64 = 100_000;
/// Klines whose content is remembered per stream.
const RECENT_KLINES_MAX: usize = 256;
/// A socket sends the present kline and the one before it. One that is older by more than this many intervals names a
/// wrong time.
const KLINES_BEHIND_MAX: i64 = 1_000;
/// A book's update id may rise this far at once: hours of a busy book.
const BOOK_RISE_MAX: i64 = 1_000_000_000;
/// Two connections deliver updates at most this far apart; a longer fall means another numbering.
const BOOK_FALL_MAX: i64 = 100_000;
/// Consecutive updates that confirm another numbering.
const BOOK_CONFIRMED_BY: u32 = 3;

/// The pace of a stream's ids, and the ids that the exchange has confirmed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    sample: Option<(i64, Timestamp)>,
    last: Option<(i64, Timestamp)>,
    /// The highest pace measured, in ids a second.
    peak: f64,
    confirmed_to: Option<i64>,
    /// Trades in doubt that follow each other: the last id, how many, the first id and its time.
    doubtful: Option<(i64, u32, i64, Timestamp)>,
}

impl Pace {
    /// Counts an id that was in order at `at`, by the partition's time.
    pub fn advance(&mut self, id: i64, at: Timestamp) {
        // A jump is a gap and no pace: the next sample begins behind it.
        if self.last.is_none_or(|(last, _)| id != last + 1) {
            self.sample = None;
        }
        self.last = Some((id, at));
        let (first, began) = *self.sample.get_or_insert((id, at));
        let took = at.since(began);
        if took >= SAMPLE_US {
            self.peak = self.peak.max((id - first) as f64 * 1e6 / took as f64);
            self.sample = Some((id, at));
        }
    }

    /// The ids that fit within `us` microseconds.
    fn ids_in(&self, us: i64) -> i64 {
        (self.peak * PACE_FACTOR * us as f64 / 1e6) as i64
    }

    /// Whether `id` fits a stream that expects `next`, at `at` by the partition's time.
    pub fn fits(&self, next: i64, id: i64, at: Timestamp) -> bool {
        let since = self.last.map_or(0, |(_, last)| at.since(last).max(0));
        let jump_max = JUMP_MIN.saturating_add(self.ids_in(since.saturating_add(BURST_US)));
        let confirmed = self.confirmed_to.is_some_and(|confirmed| id <= confirmed);
        (0..ID_MAX).contains(&id) && (confirmed || id.saturating_sub(next) <= jump_max)
    }

    /// Counts a trade that waits for the exchange's word: where many follow each other, their pace tells how far REST may
    /// lag behind them. Returns how many follow each other up to this one.
    pub fn observe_doubtful(&mut self, id: i64, at: Timestamp) -> u32 {
        match &mut self.doubtful {
            Some((last, count, first, began)) if (1..=JUMP_MIN).contains(&id.saturating_sub(*last)) => {
                (*last, *count) = (id, *count + 1);
                let took = at.since(*began);
                if *count >= DOUBTFUL_MIN && took >= SAMPLE_US {
                    self.peak = self.peak.max((id - *first) as f64 * 1e6 / took as f64);
                }
                *count
            }
            doubtful => {
                *doubtful = Some((id, 1, id, at));
                1
            }
        }
    }

    /// Records the newest id that the exchange's REST shows: every id up to it exists, and some more may.
    pub fn confirm(&mut self, newest: i64) {
        let beyond = newest.saturating_add(JUMP_MIN).saturating_add(self.ids_in(LAG_US));
        self.confirmed_to = self.confirmed_to.max(Some(beyond));
    }
}

/// Whether a kline that opened at `position` is too old for a stream that expects `next`.
pub fn is_long_past(next: i64, position: i64, step: i64) -> bool {
    next.saturating_sub(position) > KLINES_BEHIND_MAX.saturating_mul(step)
}

/// Whether `time` is ahead of the exchange's clock, of which `exchange_now` is our best knowledge.
pub fn is_ahead(time: Timestamp, exchange_now: Option<Timestamp>) -> bool {
    exchange_now.is_some_and(|now| time.since(now) > AHEAD_MAX_US)
}

/// Whether a time is not reached yet by the exchange's clock: a kline that closes then is not over.
pub fn closed_early(close_time: Timestamp, exchange_now: Option<Timestamp>) -> bool {
    exchange_now.is_some_and(|now| close_time.since(now) > CLOCK_ERROR_US)
}

/// An exchange's time as its event times show it. One of them moves it by at most a minute beyond what is known; many
/// that agree move it further, because the clock that we measured may be the wrong one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExchangeTime {
    known: Option<Timestamp>,
    /// When the last time that fits was received, by our clock.
    advanced_at: Option<Timestamp>,
    /// The newest time that does not fit, and how many in a row agree with it.
    suspect: Option<(Timestamp, u32)>,
    /// How many times in a row, and the measured clock, say that the known time is ahead.
    behind: u32,
}

impl ExchangeTime {
    /// Counts an event time. `measured` is the exchange's clock as REST showed it; before it did, our own clock at the
    /// receipt must do, which may be wrong by years.
    pub fn observe(&mut self, time: Timestamp, measured: Option<Timestamp>, received_at: Timestamp) {
        let is_behind = |known: Timestamp| {
            known.since(time) > AHEAD_MAX_US && measured.is_some_and(|measured| known.since(measured) > AHEAD_MAX_US)
        };
        self.behind = if self.known.is_some_and(is_behind) { self.behind + 1 } else { 0 };
        if self.behind >= AGREED_MIN {
            // The exchange's clock was wrong for a while.
            *self = Self { known: Some(time), advanced_at: Some(received_at), ..Self::default() };
            return;
        }
        let reference = measured.unwrap_or(received_at);
        let ahead = time.since(self.known.map_or(reference, |known| known.max(reference)));
        // The longer nothing arrived, the further two clocks may have drifted apart.
        let silent_us = self.advanced_at.map_or(SILENCE_MAX_US, |last| received_at.since(last).max(0));
        if ahead <= AHEAD_MAX_US + silent_us.min(SILENCE_MAX_US) * DRIFT_FACTOR {
            (self.known, self.suspect) = (self.known.max(Some(time)), None);
            self.advanced_at = Some(received_at);
            return;
        }
        let agreed = self.suspect.filter(|(other, _)| time.since(*other).abs() <= AHEAD_MAX_US);
        let count = agreed.map_or(1, |(_, count)| count + 1);
        self.suspect = Some((time, count));
        if count >= AGREED_MIN && (measured.is_none() || ahead <= CLOCK_WRONG_MAX_US) {
            (self.known, self.suspect) = (Some(time), None);
            self.advanced_at = Some(received_at);
        }
    }

    /// The latest time that the exchange's clock may show at a receipt. Where its event times have outrun the clock that we
    /// measured, the two run apart: what they did in a silence is unknown, until the next event time arrives.
    pub fn at_most(&self, measured: Timestamp, received_at: Timestamp) -> Timestamp {
        let Some(known) = self.known.filter(|known| known.since(measured) > CLOCK_ERROR_US) else {
            return self.known.map_or(measured, |known| known.max(measured));
        };
        let silent_us = self.advanced_at.map_or(0, |last| received_at.since(last).clamp(0, SILENCE_MAX_US));
        known.plus_micros(silent_us * DRIFT_FACTOR)
    }

    /// The newest event time that fits.
    pub fn known(&self) -> Option<Timestamp> {
        self.known
    }
}

/// The contents of a stream's newest trades.
#[derive(Clone, Debug, Default)]
pub struct RecentTrades(VecDeque<(i64, u64, Timestamp)>);

/// What a trade below the watermark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateTrade {
    /// A copy of a remembered one.
    Copy,
    /// A late arrival, or a copy of one that is not remembered.
    Ordinary,
    /// Another trade has its id.
    OtherContent,
    /// It is newer than a trade with a higher id: the numbering may have begun again.
    Restarted,
}

impl RecentTrades {
    /// Remembers a trade that was in order.
    pub fn push(&mut self, trade: &Trade) {
        if self.0.len() == RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((trade.id, content(trade), trade.ts));
    }

    /// Compares a trade below the watermark with what is known. Before the first trade in order, `watermark_ts` is the
    /// time of the last stored one.
    pub fn judge(&self, trade: &Trade, watermark_ts: Option<Timestamp>) -> LateTrade {
        match self.0.binary_search_by_key(&trade.id, |(id, _, _)| *id) {
            Ok(at) if self.0[at].1 == content(trade) => LateTrade::Copy,
            // A numbering that began again uses ids once more, for newer trades.
            Ok(_) if self.0.back().is_some_and(|(_, _, newest)| trade.ts > *newest) => LateTrade::Restarted,
            Ok(_) => LateTrade::OtherContent,
            // The next higher id that is known is not older.
            Err(at) => match self.0.get(at).map(|(_, _, ts)| *ts).or(watermark_ts) {
                Some(higher) if trade.ts.since(higher) > DISORDER_US => LateTrade::Restarted,
                _ => LateTrade::Ordinary,
            },
        }
    }
}

/// The contents and event times of a stream's newest closed klines.
#[derive(Clone, Debug, Default)]
pub struct RecentKlines(VecDeque<(i64, u64, Option<Timestamp>)>);

/// What a closed kline of a known position is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedKline {
    /// A copy.
    Copy,
    /// Another content, and the exchange sent it later: a correction.
    Later,
    /// Another content, and the exchange sent it earlier.
    Earlier,
    /// Its position is not remembered, or its event time is not known.
    Unknown,
}

impl RecentKlines {
    /// Remembers a closed kline, in place of another one of its position.
    pub fn push(&mut self, kline: &Kline, event_time: Option<Timestamp>) {
        let (position, content) = (kline.open_time.micros(), content_of_kline(kline));
        self.0.retain(|(known, ..)| *known != position);
        if self.0.len() == RECENT_KLINES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((position, content, event_time));
    }

    /// Compares a closed kline with the remembered one of its position.
    pub fn judge(&self, kline: &Kline, event_time: Option<Timestamp>) -> RepeatedKline {
        let known = self.0.iter().find(|(position, ..)| *position == kline.open_time.micros());
        match known {
            Some((_, content, _)) if *content == content_of_kline(kline) => RepeatedKline::Copy,
            Some((_, _, known)) => match event_time.zip(*known) {
                Some((time, known)) if time > known => RepeatedKline::Later,
                Some((time, known)) if time < known => RepeatedKline::Earlier,
                _ => RepeatedKline::Unknown,
            },
            None => RepeatedKline::Unknown,
        }
    }
}

fn content_of_kline(kline: &Kline) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume).hash(&mut hasher);
    (kline.trade_count, kline.first_trade_id, kline.last_trade_id, kline.close_time).hash(&mut hasher);
    hasher.finish()
}

fn content(trade: &Trade) -> u64 {
    let mut hasher = DefaultHasher::new();
    (trade.ts, trade.price, trade.quantity, trade.side, trade.trade_ids).hash(&mut hasher);
    hasher.finish()
}

/// Update ids of a book that do not fit, until enough of them agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct BookNumbering {
    suspect: i64,
    agreed: u32,
}

impl BookNumbering {
    /// Whether an update may replace the one with id `latest`: `None` when it is old, `Some(false)` when it does not fit.
    pub fn accepts(&mut self, latest: i64, update_id: i64) -> Option<bool> {
        let rise = update_id.saturating_sub(latest);
        if (-BOOK_FALL_MAX..=BOOK_RISE_MAX).contains(&rise) && update_id >= 0 {
            self.agreed = 0;
            return (rise > 0).then_some(true);
        }
        let follows = self.agreed > 0 && (1..=BOOK_RISE_MAX).contains(&update_id.saturating_sub(self.suspect));
        self.agreed = if follows { self.agreed + 1 } else { 1 };
        self.suspect = update_id;
        let accepted = self.agreed >= BOOK_CONFIRMED_BY && update_id >= 0;
        if accepted {
            self.agreed = 0;
        }
        Some(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    /// A pace after ten seconds at 100 ids a second, up to id 1,000.
    fn pace() -> Pace {
        let mut pace = Pace::default();
        (1..=1_000).for_each(|id| pace.advance(id, Timestamp(id * S / 100)));
        pace
    }

    #[test]
    fn a_jump_fits_when_the_pace_and_the_time_explain_it() {
        let pace = pace();
        let at = |s: i64| Timestamp((10 + s) * S);
        assert!(pace.fits(1_001, 2_500, at(0)) && !pace.fits(1_001, 10_000, at(0)));
        assert!(pace.fits(1_001, 4_000, at(30)), "thirty seconds without a connection");
        for id in [1_000_000_000_000, i64::MAX, i64::MAX - 1, i64::MIN, -1] {
            assert!(!pace.fits(1_001, id, at(30)), "{id}");
        }
        assert!(Pace::default().fits(5, 1_005, at(0)) && !Pace::default().fits(5, 1_006, at(0)));
    }

    #[test]
    fn the_exchange_confirms_a_jump_but_not_an_id_beyond_its_newest() {
        let mut pace = pace();
        pace.confirm(5_000_000);
        assert!(pace.fits(1_001, 5_000_000, Timestamp(10 * S)) && !pace.fits(1_001, 6_000_000, Timestamp(10 * S)));
        pace.confirm(i64::MAX);
        assert!(!pace.fits(1_001, i64::MAX, Timestamp(10 * S)), "REST may lie as well");
    }

    #[test]
    fn a_gap_is_no_pace() {
        let mut pace = pace();
        pace.advance(5_000_000, Timestamp(11 * S));
        (5_000_001..5_000_200).for_each(|id| pace.advance(id, Timestamp(11 * S + (id - 5_000_000) * S / 100)));
        assert!(pace.peak < 110.0, "{}", pace.peak);
    }

    #[test]
    fn one_event_time_far_ahead_moves_nothing_and_a_clock_that_runs_fast_is_followed() {
        let (mut time, now) = (ExchangeTime::default(), Some(Timestamp(1_000 * S)));
        time.observe(Timestamp(1_000 * S), now, Timestamp(0));
        for ahead in [3_600 * S, 7_200 * S, i64::MAX / 2, 1_000_000_000 * S] {
            time.observe(Timestamp(1_000 * S), now, Timestamp(0));
            time.observe(Timestamp(ahead), now, Timestamp(0));
        }
        assert_eq!(time.known(), now);
        // The exchange's time runs ten times as fast as the clock that was measured once.
        (0..1_000).for_each(|n| time.observe(Timestamp((1_000 + n * 10) * S), now, Timestamp(0)));
        assert_eq!(time.known(), Some(Timestamp(10_990 * S)));
        // Every event time is in another unit: centuries ahead of the measured clock.
        (0..100).for_each(|n| time.observe(Timestamp(1_000_000_000 * S + n), now, Timestamp(0)));
        assert_eq!(time.known(), Some(Timestamp(10_990 * S)));
    }

    #[test]
    fn an_exchange_whose_clock_was_ahead_for_a_while_is_followed_back() {
        let mut time = ExchangeTime::default();
        let at = |s: i64| Timestamp(s * S);
        (0..20).for_each(|n| time.observe(at(4_600 + n), Some(at(4_600 + n)), at(0)));
        assert_eq!(time.known(), Some(at(4_619)), "an hour ahead, and REST said so too");
        (0..15).for_each(|n| time.observe(at(1_000 + n), Some(at(1_000 + n)), at(20 + n)));
        assert_eq!(time.known(), Some(at(4_619)));
        time.observe(at(1_015), Some(at(1_015)), at(35));
        assert_eq!(time.known(), Some(at(1_015)));
        // A market that runs faster than the clock that was measured, and a backlog, change nothing.
        let mut time = ExchangeTime::default();
        (0..100).for_each(|n| time.observe(at(1_000 + n * 10), Some(at(1_000)), at(n)));
        (0..100).for_each(|n| time.observe(at(500 + n), Some(at(2_100)), at(n)));
        assert_eq!(time.known(), Some(at(1_990)));
    }

    #[test]
    fn a_silence_widens_the_clock_of_an_exchange_only_while_it_runs_apart_from_the_measured_one() {
        let at = |seconds: i64| Timestamp(seconds * S);
        let mut time = ExchangeTime::default();
        assert_eq!(time.at_most(at(7), at(0)), at(7), "only the measured clock is known");
        time.observe(at(1_000), Some(at(998)), at(0));
        assert_eq!(time.at_most(at(998), at(0)), at(1_000));
        assert_eq!(time.at_most(at(1_002), at(4)), at(1_002), "four silent seconds of clocks that agree");
        time.observe(at(1_030), Some(at(1_003)), at(5));
        assert_eq!(time.at_most(at(1_003), at(5)), at(1_030));
        assert_eq!(time.at_most(at(1_006), at(8)), at(1_090), "three silent seconds of a clock that runs fast");
        assert_eq!(time.at_most(at(1_006), at(3)), at(1_030), "our clock went back");
    }

    #[test]
    fn event_times_that_agree_outweigh_a_clock_that_is_wrong_by_hours() {
        let (mut time, now) = (ExchangeTime::default(), Some(Timestamp(1_000 * S)));
        (0..16).for_each(|n| time.observe(Timestamp(8_000 * S + n), now, Timestamp(0)));
        assert_eq!(time.known(), Some(Timestamp(8_000 * S + 15)));
    }

    #[test]
    fn a_book_changes_its_numbering_when_three_updates_agree() {
        let mut numbering = BookNumbering::default();
        let mut accepts = |latest, id| numbering.accepts(latest, id);
        assert_eq!([accepts(10, 11), accepts(11, 11), accepts(11, 9)], [Some(true), None, None]);
        assert_eq!([accepts(11, i64::MAX), accepts(11, 12)], [Some(false), Some(true)]);
        let fallen = [accepts(9_000_000, 5), accepts(9_000_000, 6), accepts(9_000_000, 9)];
        assert_eq!(fallen, [Some(false), Some(false), Some(true)]);
        assert_eq!([accepts(9, i64::MIN), accepts(9, i64::MIN + 1), accepts(9, i64::MIN + 2)], [Some(false); 3]);
    }
}
