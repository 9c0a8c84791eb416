//! Which days of a stream are sealed in a run. Pure.

use std::collections::BTreeMap;

use crate::market::Timestamp;

use super::Day;
use super::changed::{Change, SealedRange};

/// Which days a run seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Every finished day that is not sealed, and those whose gaps changed since.
    All,
    /// The days that ended in this window, later ones than the last sealed day, and sealed days whose gaps changed since.
    Window(Timestamp, Timestamp),
    /// These days, both included, whether or not something seems to have changed.
    Days(Day, Day),
}

/// The days to seal, ascending. `recorded` are the first and last day with rows, `now` is the time; `sealed` are the days
/// that have a revision, with the changes since.
pub fn days(
    selection: Selection,
    recorded: (Day, Day),
    now: Timestamp,
    sealed: &BTreeMap<Day, SealedRange>,
    changes: &[Change],
) -> Vec<Day> {
    let (first, last) = (recorded.0, recorded.1.min(Day::of(now).previous()));
    let is_changed = |day: Day| sealed.get(&day).is_some_and(|range| range.is_changed(changes));
    let is_due = |day: Day| match selection {
        Selection::Days(from, to) => from <= day && day <= to,
        Selection::All => !sealed.contains_key(&day) || is_changed(day),
        Selection::Window(from, to) => {
            let ended_in_window = from < day.end() && day.end() <= to;
            // A day of a quiet symbol has no row until a later one arrives.
            let continues = sealed.last_key_value().is_some_and(|(last, _)| *last < day);
            (!sealed.contains_key(&day) && (ended_in_window || continues)) || is_changed(day)
        }
    };
    first.to(last).filter(|day| is_due(*day)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gap::{Evidence, Gap, GapState, Range};

    fn day(text: &str) -> Day {
        Day::parse(text).unwrap()
    }

    fn check(selection: Selection, sealed: &[&str], changes: &[Change]) -> Vec<String> {
        let range = |at: i64| SealedRange {
            epoch: 0,
            range: Some(Range { first: at * 10, last: at * 10 + 9 }),
            sealed_at: day("2026-11-29").start(),
            open_end: false,
        };
        let sealed = sealed.iter().map(|text| (day(text), range(text[8..].parse().unwrap()))).collect();
        let now = day("2026-11-29").start().plus_micros(1_200_000_000);
        let recorded = (day("2026-11-25"), day("2026-11-29"));
        days(selection, recorded, now, &sealed, changes).iter().map(Day::to_string).collect()
    }

    #[test]
    fn a_run_seals_finished_days_once() {
        assert_eq!(check(Selection::All, &[], &[]).len(), 4);
        assert_eq!(check(Selection::All, &["2026-11-25", "2026-11-26"], &[]), ["2026-11-27", "2026-11-28"]);
        let window = Selection::Window(day("2026-11-28").start(), day("2026-11-29").start());
        assert_eq!(check(window, &[], &[]), ["2026-11-28"]);
        assert_eq!(check(window, &["2026-11-25"], &[]), ["2026-11-26", "2026-11-27", "2026-11-28"]);
        assert!(check(window, &["2026-11-28"], &[]).is_empty());
        let days = Selection::Days(day("2026-11-27"), day("2026-12-24"));
        assert_eq!(check(days, &["2026-11-27"], &[]), ["2026-11-27", "2026-11-28"]);
    }

    fn changed(gap: &Gap) -> Vec<Change> {
        Change::of(gap).into_iter().collect()
    }

    #[test]
    fn a_late_fill_seals_its_day_again() {
        let stream = "binance:BTCUSDT:trade".parse().unwrap();
        let at = day("2026-11-29").start();
        let mut gap = Gap::open(stream, Range { first: 265, last: 267 }, Evidence::default(), at.plus_micros(-5));
        let sealed = ["2026-11-25", "2026-11-26", "2026-11-27", "2026-11-28"];
        assert!(check(Selection::All, &sealed, &changed(&gap)).is_empty(), "it was open when the day was sealed");
        gap.advance(GapState::Filled, "", at.plus_micros(5));
        assert_eq!(check(Selection::All, &sealed, &changed(&gap)), ["2026-11-26"]);
        let window = Selection::Window(at, at.plus_micros(1));
        assert_eq!(check(window, &sealed, &changed(&gap)), ["2026-11-26"]);
        assert!(check(Selection::All, &sealed, &changed(&Gap { epoch: 1, ..gap })).is_empty());
    }
}
