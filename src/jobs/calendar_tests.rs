//! Patterns against a naive model of the wall clock, in every timezone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Duration, NaiveDate, Offset};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn instants(text: &str, timezone: Tz, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let calendar = Calendar::parse(text, timezone).unwrap();
    let mut found = Vec::new();
    let mut next = calendar.next(from);
    while let Some(instant) = next.filter(|at| *at < to) {
        found.push(instant);
        next = calendar.next(instant);
    }
    found
}

#[track_caller]
fn check(text: &str, timezone: Tz, from: &str, to: &str, expected: &[&str]) {
    let shown = |at: &Timestamp| timezone.timestamp_opt(at.0 / 1_000_000, 0).unwrap().to_rfc3339();
    let found: Vec<String> = instants(text, timezone, Timestamp::parse(from).unwrap(), Timestamp::parse(to).unwrap())
        .iter()
        .map(shown)
        .collect();
    assert_eq!(found, expected, "{text} in {timezone}");
}

#[test]
fn a_local_time_that_does_not_exist_runs_once_after_the_jump() {
    let (from, to) = ("2026-03-28T12:00:00Z", "2026-03-29T10:00:00Z");
    check("0 30 2 * * *", Tz::Europe__Berlin, from, to, &["2026-03-29T03:00:00+02:00"]);
    check("0,30 2 * * *", Tz::Europe__Berlin, from, to, &["2026-03-29T03:00:00+02:00"]);
    check("30 2,3 * * *", Tz::Europe__Berlin, from, to, &["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"]);
}

#[test]
fn a_local_time_that_happens_twice_runs_once_the_first_time() {
    let (from, to) = ("2026-10-24T12:00:00Z", "2026-10-25T10:00:00Z");
    check("0 30 2 * * *", Tz::Europe__Berlin, from, to, &["2026-10-25T02:30:00+02:00"]);
    check("0,30 2 * * *", Tz::Europe__Berlin, from, to, &["2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00"]);
    check("30 2,3 * * *", Tz::Europe__Berlin, from, to, &["2026-10-25T02:30:00+02:00", "2026-10-25T03:30:00+01:00"]);
}

#[test]
fn a_day_without_a_midnight_begins_after_the_jump() {
    check("@daily", Tz::Africa__Cairo, "2026-04-23T12:00:00Z", "2026-04-24T12:00:00Z", &["2026-04-24T01:00:00+03:00"]);
}

#[test]
fn a_period_of_hours_does_not_pause_when_daylight_saving_skips_its_hour() {
    let expected = ["2026-03-29T00:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"];
    check("0 */2 * * *", Tz::Europe__Berlin, "2026-03-28T22:00:00Z", "2026-03-29T03:00:00Z", &expected);
}

#[test]
fn instants_are_whole_seconds() {
    let cron = parse_cron("*/5 * * * *").unwrap();
    assert_eq!(next_cron(&cron, Tz::UTC, Timestamp(1_234_567)), Some(Timestamp(300_000_000)));
}

#[test]
fn a_pattern_without_a_date_never_fires() {
    let cron = parse_cron("0 0 0 31 2 *").unwrap();
    assert_eq!(next_cron(&cron, Tz::UTC, Timestamp(0)), None);
}

#[test]
fn counting_stops_when_the_clock_was_set_by_decades() {
    let calendar = Calendar::parse("* * * * * *", Tz::UTC).unwrap();
    let now = at("2026-01-01T00:00:00.5Z");
    let passed = calendar.passed(Timestamp(1_000_000), now).unwrap();
    assert_eq!((passed.latest, passed.count), (at("2026-01-01T00:00:00Z"), COUNT_MAX));
    let yearly = Calendar::parse("0 0 1 1 *", Tz::UTC).unwrap();
    let passed = yearly.passed(at("1970-01-01"), now).unwrap();
    assert_eq!((passed.latest, passed.count), (at("2026-01-01"), 57));
}

/// One timezone of each kind: timezones with the same changes behave alike.
fn kinds(year: i32) -> Vec<(Tz, Vec<Timestamp>)> {
    let mut kinds: BTreeMap<Vec<(i64, i32)>, Tz> = BTreeMap::new();
    for timezone in chrono_tz::TZ_VARIANTS {
        let start = NaiveDate::from_ymd_opt(year, 1, 1).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc();
        let offset =
            |at: chrono::DateTime<Utc>| timezone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc();
        let mut changes = vec![(0, offset(start))];
        for hour in 1..366 * 24 {
            let at = start + Duration::hours(hour);
            if offset(at) != changes.last().unwrap().1 {
                changes.push((at.timestamp(), offset(at)));
            }
        }
        kinds.entry(changes).or_insert(timezone);
    }
    let changes = |changes: Vec<(i64, i32)>| changes[1..].iter().map(|(at, _)| Timestamp(at * 1_000_000)).collect();
    kinds.into_iter().map(|(key, timezone)| (timezone, changes(key))).collect()
}

/// Two days around each change of a timezone's offset.
fn around(changes: &[Timestamp]) -> impl Iterator<Item = (Timestamp, Timestamp)> {
    let day = crate::market::DAY_US;
    changes.iter().map(move |at| (at.plus_micros(-day), at.plus_micros(day)))
}

#[test]
fn a_period_is_regular_in_every_timezone() {
    let kinds = kinds(2026);
    assert!(kinds.len() > 40, "{} kinds of timezones", kinds.len());
    for (timezone, changes) in kinds {
        for (from, to) in around(&changes) {
            for (text, period) in [("*/30 * * * * *", 30), ("0 */5 * * * *", 300), ("*/15 * * * *", 900)] {
                let found = instants(text, timezone, from, to);
                let regular = found.windows(2).all(|pair| pair[1].since(pair[0]) == period * 1_000_000);
                assert!(regular && found.len() as i64 == 2 * 86_400 / period - 1, "{text} in {timezone} at {from}");
            }
        }
        // A period of hours follows the wall clock: when the clock goes back in autumn, one period is longer by that
        // much.
        let year = instants("0 0 */6 * * *", timezone, at("2026-01-01"), at("2027-01-01"));
        let hours = |pair: &[Timestamp]| pair[1].since(pair[0]) as f64 / 3.6e9;
        assert!(year.windows(2).all(|pair| hours(pair) > 0.0 && hours(pair) <= 8.0), "{timezone}");
        let long = year.windows(2).filter(|pair| hours(pair) > 6.0).count();
        assert!(long <= changes.len(), "{timezone}: {long} long pauses");
    }
}

/// The instants of these local times, found by reading the local clock every quarter of an hour: no clock changes at
/// any other time.
fn watched(times: &[(u32, u32)], timezone: Tz, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
    let local = |at: Timestamp| timezone.timestamp_opt(at.0 / 1_000_000, 0).unwrap().naive_local();
    let mut found = BTreeSet::new();
    let (start, end) = (from.plus_micros(-2 * crate::market::DAY_US), to.plus_micros(2 * crate::market::DAY_US));
    let mut date = local(start).date();
    while date <= local(end).date() {
        for (hour, minute) in times {
            let wanted = date.and_hms_opt(*hour, *minute, 0).unwrap();
            // Start early enough for any offset.
            let mut clock = Timestamp(wanted.and_utc().timestamp_micros() - 30 * 3_600_000_000);
            while local(clock) < wanted {
                clock = clock.plus_micros(15 * 60_000_000);
            }
            found.insert(clock);
        }
        date = date.succ_opt().unwrap();
    }
    found.into_iter().filter(|at| *at > from && *at < to).collect()
}

#[test]
fn a_time_of_day_runs_once_a_day_in_every_timezone() {
    for (timezone, changes) in kinds(2026) {
        // Over the whole year, every local day has exactly one instant.
        let (from, to) = (at("2026-01-01"), at("2027-01-01"));
        let year: Vec<Timestamp> = instants("30 2 * * *", timezone, from, to);
        let watched_year = watched(&[(2, 30)], timezone, from, to);
        assert!(year.windows(2).all(|pair| pair[0] < pair[1]), "{timezone}");
        assert_eq!(year.into_iter().collect::<BTreeSet<_>>(), watched_year, "{timezone}");
        for (from, to) in around(&changes) {
            for (text, times) in [
                ("30 2 * * *", vec![(2, 30)]),
                ("30 0,2,14 * * *", vec![(0, 30), (2, 30), (14, 30)]),
                ("0,15,45 0-3 * * *", (0..4).flat_map(|hour| [(hour, 0), (hour, 15), (hour, 45)]).collect()),
            ] {
                let found: BTreeSet<Timestamp> = instants(text, timezone, from, to).into_iter().collect();
                assert_eq!(found, watched(&times, timezone, from, to), "{text} in {timezone} from {from}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_pattern_matches_its_fields(
        minute in 0_u32..60, step in 1_u32..30, hour in 0_u32..24, last in 0_u32..24, weekday in 0_u32..7,
        start in 1_600_000_000_i64..1_900_000_000,
    ) {
        let (first, last) = (hour.min(last), hour.max(last));
        let text = format!("{minute}-59/{step} {first}-{last} * * {weekday}");
        let cron = parse_cron(&text).unwrap();
        let from = Timestamp(start * 1_000_000);
        let next = next_cron(&cron, Tz::UTC, from).unwrap();
        use chrono::{Datelike, Timelike};
        let matches = |at: chrono::DateTime<Utc>| {
            at.second() == 0 && at.minute() >= minute && (at.minute() - minute).is_multiple_of(step)
                && (first..=last).contains(&at.hour()) && at.weekday().num_days_from_sunday() == weekday
        };
        let mut oracle = (start / 60 + 1) * 60;
        while !matches(chrono::DateTime::from_timestamp(oracle, 0).unwrap()) {
            oracle += 60;
        }
        prop_assert_eq!(next, Timestamp(oracle * 1_000_000), "{} after {}", text, from);
    }
}
