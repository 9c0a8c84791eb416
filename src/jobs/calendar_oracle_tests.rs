//! The cron parser against a naive model that checks every day, hour, minute and second.

use std::collections::BTreeSet;

use chrono::{Datelike, Duration, NaiveDate, NaiveDateTime, Weekday};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;

/// A field's text and its values.
#[derive(Clone, Debug)]
struct Field(String, BTreeSet<u32>);

/// A field for days of the month or of the week.
#[derive(Clone, Debug)]
enum Day {
    Any,
    /// Days 1-31, or weekdays 0-6 with Sunday as 0.
    Listed(Field),
    /// `L`: the month's last day; `5L`: its last Friday.
    Last(Option<u32>),
    /// `15W`: the weekday nearest to the 15th, within the month.
    Nearest(u32),
    /// `5#2`: the second Friday.
    Nth(u32, u32),
}

fn plain(min: u32, max: u32) -> impl Strategy<Value = Field> {
    let all = move |step: u32| (min..=max).step_by(step as usize).collect::<BTreeSet<u32>>();
    prop_oneof![
        Just(Field("*".to_owned(), all(1))),
        (2..=max / 2).prop_map(move |step| Field(format!("*/{step}"), all(step))),
        listed(min, max),
    ]
}

fn listed(min: u32, max: u32) -> impl Strategy<Value = Field> {
    let one = (min..=max).prop_map(|value| Field(value.to_string(), BTreeSet::from([value])));
    let range = (min..=max, min..=max, 1_u32..6).prop_map(|(a, b, step)| {
        let (first, last) = (a.min(b), a.max(b));
        let text = if step == 1 { format!("{first}-{last}") } else { format!("{first}-{last}/{step}") };
        Field(text, (first..=last).step_by(step as usize).collect())
    });
    prop::collection::vec(prop_oneof![one, range], 1..4).prop_map(|parts| {
        let texts: Vec<String> = parts.iter().map(|part| part.0.clone()).collect();
        Field(texts.join(","), parts.into_iter().flat_map(|part| part.1).collect())
    })
}

fn months() -> impl Strategy<Value = Field> {
    let names = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
    let named = (0_u32..12, 0_u32..12).prop_map(move |(a, b)| {
        let (first, last) = (a.min(b), a.max(b));
        Field(format!("{}-{}", names[first as usize], names[last as usize]), (first + 1..=last + 1).collect())
    });
    prop_oneof![4 => plain(1, 12), 1 => named]
}

fn days() -> impl Strategy<Value = (Day, Day)> {
    let of_month = || {
        prop_oneof![
            3 => listed(1, 28).prop_map(Day::Listed),
            1 => Just(Day::Last(None)),
            1 => (1_u32..=28).prop_map(Day::Nearest),
        ]
    };
    let names = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let named = (0_u32..7).prop_map(move |day| Field(names[day as usize].to_owned(), BTreeSet::from([day])));
    let seven = Just(Field("7".to_owned(), BTreeSet::from([0])));
    let of_week = || {
        prop_oneof![
            3 => listed(0, 6).prop_map(Day::Listed),
            1 => named.prop_map(Day::Listed),
            1 => seven.clone().prop_map(Day::Listed),
            1 => (0_u32..7).prop_map(|day| Day::Last(Some(day))),
            1 => (0_u32..7, 1_u32..=4).prop_map(|(day, nth)| Day::Nth(day, nth)),
        ]
    };
    prop_oneof![
        Just((Day::Any, Day::Any)),
        of_month().prop_map(|day| (day, Day::Any)),
        of_week().prop_map(|day| (Day::Any, day)),
        // Both: cron matches a day when either field does.
        (listed(1, 28).prop_map(Day::Listed), listed(0, 6).prop_map(Day::Listed)),
    ]
}

impl Day {
    fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Listed(field) => field.0.clone(),
            Self::Last(None) => "L".to_owned(),
            Self::Last(Some(day)) => format!("{day}L"),
            Self::Nearest(day) => format!("{day}W"),
            Self::Nth(day, nth) => format!("{day}#{nth}"),
        }
    }

    fn holds(&self, date: NaiveDate, value: u32) -> bool {
        let next_month = |days: i64| (date + Duration::days(days)).month() != date.month();
        match self {
            Self::Any => true,
            Self::Listed(field) => field.1.contains(&value),
            Self::Last(None) => next_month(1),
            Self::Last(Some(day)) => *day == value && next_month(7),
            Self::Nth(day, nth) => *day == value && (date.day() - 1) / 7 + 1 == *nth,
            Self::Nearest(day) => date.with_day(*day).is_some_and(|wanted| nearest(wanted) == date),
        }
    }
}

fn nearest(day: NaiveDate) -> NaiveDate {
    let days = match (day.weekday(), day.day()) {
        (Weekday::Sat, 1) => 2,
        (Weekday::Sat, _) => -1,
        (Weekday::Sun, _) if (day + Duration::days(1)).month() != day.month() => -2,
        (Weekday::Sun, _) => 1,
        _ => 0,
    };
    day + Duration::days(days)
}

fn is_day(of_month: &Day, of_week: &Day, date: NaiveDate) -> bool {
    let month = of_month.holds(date, date.day());
    let week = of_week.holds(date, date.weekday().num_days_from_sunday());
    match (of_month, of_week) {
        (Day::Any, _) => week,
        (_, Day::Any) => month,
        _ => month || week,
    }
}

proptest! {
    #[test]
    fn a_pattern_fires_at_the_instants_of_the_naive_model(
        seconds in prop::option::of(plain(0, 59)), minutes in plain(0, 59), hours in plain(0, 23),
        month in months(), (of_month, of_week) in days(), start in 1_600_000_000_i64..1_900_000_000,
    ) {
        let six = seconds.as_ref().map(|field| format!("{} ", field.0)).unwrap_or_default();
        let text = format!(
            "{six}{} {} {} {} {}", minutes.0, hours.0, of_month.text(), month.0, of_week.text()
        );
        let calendar = Calendar::parse(&text, Tz::UTC).unwrap();
        let from = chrono::DateTime::from_timestamp(start, 0).unwrap().naive_utc();
        let zero = BTreeSet::from([0]);
        let seconds = seconds.as_ref().map_or(&zero, |field| &field.1);
        let (mut expected, mut date): (Vec<NaiveDateTime>, NaiveDate) = (Vec::new(), from.date());
        // Eight years have every combination that these fields can make.
        for _ in 0..8 * 366 {
            if month.1.contains(&date.month()) && is_day(&of_month, &of_week, date) {
                let times = hours.1.iter().flat_map(|hour| minutes.1.iter().map(move |minute| (*hour, *minute)));
                let times = times.flat_map(|(hour, minute)| seconds.iter().map(move |second| (hour, minute, *second)));
                let times = times.filter_map(|(hour, minute, second)| date.and_hms_opt(hour, minute, second));
                expected.extend(times.filter(|at| *at > from).take(10));
            }
            if expected.len() >= 10 {
                break;
            }
            date = date.succ_opt().unwrap();
        }
        expected.truncate(10);
        let mut found = Vec::new();
        let mut next = calendar.next(Timestamp(start * 1_000_000));
        while let Some(at) = next.filter(|_| found.len() < expected.len()) {
            found.push(at.to_chrono().unwrap().naive_utc());
            next = calendar.next(at);
        }
        prop_assert_eq!(found, expected, "{} after {}", text, from);
    }
}
