//! Cron patterns on a wall clock with daylight saving. Pure.
//!
//! * A local time that does not exist runs once, at the first instant after the jump.
//! * A local time that happens twice runs once, the first time.
//! * A pattern that is a period (`*/30 * * * * *`, `0 0 */2 * * *`) never pauses and never runs twice.
//!
//! croner applies the first two only to patterns with a single second, minute and hour: `30 2,14 * * *` would not run
//! at 02:30 in spring and would run twice in autumn. So this module matches patterns that name their hours on the local
//! time alone, and uses croner's own handling of daylight saving for periods only.

use chrono::{LocalResult, NaiveDateTime, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::market::Timestamp;

/// Instants counted one by one; beyond this the count is a lower bound. After a clock starts in 1970 and is then set,
/// counting would take minutes.
pub(super) const COUNT_MAX: u64 = 10_000;

/// A pattern in a timezone.
#[derive(Clone, Debug)]
pub struct Calendar {
    cron: Cron,
    timezone: Tz,
}

/// Instants that have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedInstants {
    /// The earliest.
    pub first: Timestamp,
    /// The latest.
    pub latest: Timestamp,
    /// The number of instants; a lower bound from [`COUNT_MAX`] on.
    pub count: u64,
    /// The instant after them.
    pub next: Option<Timestamp>,
}

impl Calendar {
    /// Parses a pattern; the error is the parser's message.
    pub fn parse(text: &str, timezone: Tz) -> Result<Self, String> {
        Ok(Self { cron: parse_cron(text)?, timezone })
    }

    /// The first instant after `after`; `None` when the pattern never fires again.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        next_cron(&self.cron, self.timezone, after)
    }

    /// The instants from `first`, itself an instant, to `now`.
    pub fn passed(&self, first: Timestamp, now: Timestamp) -> Option<PassedInstants> {
        if first > now {
            return None;
        }
        let mut passed = PassedInstants { first, latest: first, count: 1, next: self.next(first) };
        while let Some(at) = passed.next.filter(|at| *at <= now) {
            passed.latest = at;
            passed.count += 1;
            if passed.count >= COUNT_MAX {
                passed.latest = self.latest(at, now);
            }
            passed.next = self.next(passed.latest);
        }
        Some(passed)
    }

    /// The last instant up to `now`, searched from further and further back; `known` is an earlier instant.
    fn latest(&self, known: Timestamp, now: Timestamp) -> Timestamp {
        for seconds in [60, 3_600, 86_400, 31 * 86_400, 366 * 86_400] {
            let from = now.plus_micros(-seconds * 1_000_000).max(known);
            let mut latest = None;
            let mut next = self.next(from);
            while let Some(at) = next.filter(|at| *at <= now) {
                latest = Some(at);
                next = self.next(at);
            }
            if let Some(latest) = latest {
                return latest;
            }
        }
        known
    }

    /// Whether it names its hours, so that each of its local times runs once.
    pub fn is_fixed(&self) -> bool {
        Hours::of(&self.cron) == Hours::Named
    }

    /// Describes the pattern in English.
    pub fn describe(&self) -> String {
        format!("{} ({})", self.cron.describe().trim_end_matches('.'), self.timezone)
    }
}

/// The kind of a pattern's hour field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hours {
    /// Every hour: the pattern is a period within the hour.
    All,
    /// `*/n`: the pattern is a period of hours.
    Stepped,
    /// Certain hours.
    Named,
}

impl Hours {
    fn of(cron: &Cron) -> Self {
        let hours = &cron.pattern.hours;
        if hours.values().len() == 24 {
            Self::All
        } else if hours.from_wildcard {
            Self::Stepped
        } else {
            Self::Named
        }
    }
}

/// Parses a pattern of five fields, or of six with seconds first.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    CronParser::builder().seconds(Seconds::Optional).build().parse(text).map_err(|error| error.to_string())
}

/// The first instant after `after`, in whole seconds; `None` when there is none.
pub fn next_cron(cron: &Cron, timezone: Tz, after: Timestamp) -> Option<Timestamp> {
    match Hours::of(cron) {
        Hours::All => next_elapsed(cron, timezone, after),
        Hours::Named => next_local(cron, timezone, after),
        // When daylight saving skips one of its hours, a period of hours would pause: it runs after the jump.
        Hours::Stepped => match (next_elapsed(cron, timezone, after), next_local(cron, timezone, after)) {
            (Some(elapsed), Some(local)) => Some(elapsed.min(local)),
            (elapsed, local) => elapsed.or(local),
        },
    }
}

/// The next instant whose local time matches: a repeated local time gives two instants.
fn next_elapsed(cron: &Cron, timezone: Tz, after: Timestamp) -> Option<Timestamp> {
    // croner keeps the sub-second part of the start time: cut it off, or every instant carries it.
    let whole = after.micros().div_euclid(1_000_000);
    let local = timezone.timestamp_opt(whole, 0).single()?;
    let next = cron.find_next_occurrence(&local, false).ok()?;
    Some(Timestamp(next.timestamp() * 1_000_000))
}

/// The next local time that matches, as an instant: a repeated local time gives one instant.
fn next_local(cron: &Cron, timezone: Tz, after: Timestamp) -> Option<Timestamp> {
    let whole = after.micros().div_euclid(1_000_000);
    let mut local = timezone.timestamp_opt(whole, 0).single()?.naive_local();
    loop {
        // In UTC, which has no daylight saving, so that the pattern alone decides.
        local = cron.find_next_occurrence(&Utc.from_utc_datetime(&local), false).ok()?.naive_utc();
        // After a jump and in a repeated hour, a local time's only instant may lie before `after`: skip it.
        if let Some(at) = instant(local, timezone).filter(|at| *at > after) {
            return Some(at);
        }
    }
}

/// When the wall clock first shows this local time, or the first time after it.
fn instant(local: NaiveDateTime, timezone: Tz) -> Option<Timestamp> {
    let at = match timezone.from_local_datetime(&local) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at,
        LocalResult::None => GapInfo::new(&local, &timezone)?.end?,
    };
    Some(Timestamp(at.timestamp() * 1_000_000))
}

#[cfg(test)]
#[path = "calendar_oracle_tests.rs"]
mod oracle_tests;
#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
