//! The calendar's classes, on a stream that was recorded since yesterday.

use super::*;
use crate::audit;
use crate::gap::{Evidence, Range};

/// Noon of a day.
const NOW: Timestamp = Timestamp(20_000 * DAY_US + DAY_US / 2);

fn stream(name: &str) -> Stream {
    name.parse().unwrap()
}

fn trades() -> Stream {
    stream("binance:BTCUSDT:trade")
}

fn at(minute: i64) -> Timestamp {
    Timestamp(NOW.day() * DAY_US + minute * MINUTE_US + 1_000_000)
}

fn gap(of: &Stream, state: GapState, from: Timestamp, to: Timestamp) -> Gap {
    let mut gap = Gap::open(of.clone(), Range { first: 10, last: 19 }, Evidence::default(), NOW);
    (gap.from_ts, gap.to_ts) = (Some(from), Some(to));
    assert!(gap.state == state || gap.advance(state, "", NOW));
    gap
}

fn today(of: &Stream, counts: &[(i64, i64, i64)], gaps: Vec<Gap>) -> Today {
    let count = |(minute, present, backfilled): &(i64, i64, i64)| MinuteCount {
        minute: NOW.day() * MINUTES + minute,
        present: *present,
        backfilled: *backfilled,
    };
    Today { minutes: HashMap::from([(of.clone(), counts.iter().map(count).collect())]), gaps, ..Today::default() }
}

fn coverage(days: &[(i64, i64, i64, i64)]) -> Coverage {
    let day = |(ago, expected, present, backfilled): &(i64, i64, i64, i64)| audit::Day {
        date: Timestamp((NOW.day() - ago) * DAY_US).rfc3339()[..10].to_owned(),
        first: 1,
        last: *expected,
        expected: *expected,
        present: *present,
        backfilled: *backfilled,
        missing: Vec::new(),
        state: audit::CoverageState::Complete,
    };
    Coverage {
        exchange: "binance".to_owned(),
        symbol: "BTCUSDT".to_owned(),
        channel: "trade".to_owned(),
        first: Some(1),
        last: Some(100),
        expected: 100,
        present: 100,
        backfilled: 0,
        missing: Vec::new(),
        open_gaps: 0,
        complete: true,
        state: audit::CoverageState::Complete,
        days: days.iter().map(day).collect(),
    }
}

/// The stretches of today, as minutes and words.
fn drawn(sheet: &Sheet) -> Vec<(usize, usize, Cover)> {
    stretches(&sheet.minutes).into_iter().filter(|(_, _, cover)| *cover != Cover::Nothing).collect()
}

#[test]
fn what_lies_between_two_rows_is_complete_and_what_lies_outside_is_unknown() {
    let sheet = sheet(&trades(), None, &today(&trades(), &[(60, 5, 0), (90, 5, 0)], Vec::new()), NOW);
    assert_eq!(drawn(&sheet), [(60, 31, Cover::Complete)]);
    assert_eq!(sheet.minutes.len(), MINUTES as usize);
    assert_eq!(sheet.days.last().map(|day| (day.cover, day.present)), Some((Cover::Complete, 10)));
    assert!(sheet.days[..34].iter().all(|day| *day == Day::default()));
}

#[test]
fn a_stream_of_yesterday_is_known_since_midnight() {
    let yesterday = coverage(&[(1, 10, 10, 0)]);
    let sheet = sheet(&trades(), Some(&yesterday), &today(&trades(), &[(90, 5, 0)], Vec::new()), NOW);
    assert_eq!(drawn(&sheet), [(0, 91, Cover::Complete)]);
    assert_eq!(sheet.days[33].cover, Cover::Complete);
}

#[test]
fn the_worst_of_a_minute_is_what_is_drawn() {
    let lost = gap(&trades(), GapState::Unrecoverable, at(62), at(64));
    let open = gap(&trades(), GapState::Open, at(64), at(65));
    let filled = gap(&trades(), GapState::Filled, at(70), at(72));
    let other = gap(&stream("binance:ETHUSDT:trade"), GapState::Open, at(75), at(76));
    let today = today(&trades(), &[(60, 5, 0), (71, 5, 2), (80, 5, 0)], vec![lost, open, filled, other]);
    let sheet = sheet(&trades(), None, &today, NOW);
    let expected = [
        (60, 2, Cover::Complete),
        (62, 2, Cover::Lost),
        (64, 2, Cover::Open),
        (66, 5, Cover::Complete),
        (71, 9, Cover::Backfilled),
        (80, 1, Cover::Complete),
    ];
    assert_eq!(drawn(&sheet), expected);
    assert_eq!((sheet.missing, sheet.lost), (10, 10));
    let day = sheet.days.last().unwrap();
    assert_eq!((day.cover, day.present, day.backfilled), (Cover::Open, 15, 2));
}

#[test]
fn a_gap_over_midnight_is_on_both_days() {
    let open = gap(&trades(), GapState::Open, at(-30), at(5));
    let sheet = sheet(&trades(), Some(&coverage(&[(1, 10, 10, 3)])), &today(&trades(), &[(9, 1, 0)], vec![open]), NOW);
    assert_eq!(drawn(&sheet), [(0, 6, Cover::Open), (6, 4, Cover::Complete)]);
    assert_eq!([33, 34].map(|day: usize| sheet.days[day].cover), [Cover::Open, Cover::Open]);
}

#[test]
fn a_day_that_lacks_what_no_gap_names_is_not_called_complete() {
    let sheet = sheet(&trades(), Some(&coverage(&[(2, 10, 7, 0), (1, 10, 10, 1)])), &Today::default(), NOW);
    let [before, yesterday, today] = [32, 33, 34].map(|day: usize| sheet.days[day]);
    assert_eq!((before.cover, before.unexplained), (Cover::Open, 3));
    assert_eq!((yesterday.cover, yesterday.unexplained), (Cover::Backfilled, 0));
    assert_eq!(today.cover, Cover::Nothing);
}

#[test]
fn a_klines_gap_lies_where_its_klines_open() {
    let hours = stream("binance:BTCUSDT:kline_1h");
    let midnight = NOW.day() * DAY_US;
    let range = Range { first: midnight + 60 * MINUTE_US, last: midnight + 120 * MINUTE_US };
    let gap = Gap::open(hours.clone(), range, Evidence::default(), NOW);
    let sheet = sheet(&hours, None, &today(&hours, &[(0, 1, 0), (180, 1, 0)], vec![gap]), NOW);
    assert_eq!(drawn(&sheet), [(0, 60, Cover::Complete), (60, 120, Cover::Open), (180, 60, Cover::Complete)]);
}

#[test]
fn what_is_before_the_calendar_is_not_drawn() {
    let old = gap(&trades(), GapState::Unrecoverable, at(-MINUTES * 60), at(-MINUTES * 59));
    let sheet = sheet(&trades(), Some(&coverage(&[(60, 10, 10, 0)])), &today(&trades(), &[], vec![old]), NOW);
    assert!(sheet.days.iter().all(|day| day.cover == Cover::Nothing));
    assert_eq!((sheet.lost, drawn(&sheet)), (0, Vec::new()));
}

#[test]
fn a_gap_that_begins_nobody_knows_where_is_wherever_there_is_no_row() {
    let mut open = gap(&trades(), GapState::Open, at(0), at(0));
    (open.from_ts, open.to_ts, open.detected_at) = (None, None, at(90));
    let counted = today(&trades(), &[(60, 5, 5), (61, 5, 5), (80, 5, 0)], vec![open.clone()]);
    let sheet = sheet(&trades(), Some(&coverage(&[(3, 10, 10, 9), (1, 10, 10, 9)])), &counted, NOW);
    let expected = [
        (0, 60, Cover::Open),
        (60, 2, Cover::Backfilled),
        (62, 18, Cover::Open),
        (80, 1, Cover::Complete),
        (81, 10, Cover::Open),
    ];
    assert_eq!(drawn(&sheet), expected);
    let days = [30, 31, 32, 33, 34].map(|day: usize| sheet.days[day].cover);
    assert_eq!(days, [Cover::Nothing, Cover::Backfilled, Cover::Open, Cover::Backfilled, Cover::Open]);
}

#[test]
fn what_a_tail_lacks_reaches_from_the_last_row_to_when_it_was_found() {
    let mut open = gap(&trades(), GapState::Open, at(80), at(80));
    (open.to_ts, open.detected_at) = (None, at(82));
    let sheet = sheet(&trades(), None, &today(&trades(), &[(80, 5, 0)], vec![open]), NOW);
    assert_eq!(drawn(&sheet), [(80, 3, Cover::Open)]);
}

#[test]
fn what_was_lost_nobody_knows_when_is_told_and_not_drawn() {
    let mut lost = gap(&trades(), GapState::Unrecoverable, at(0), at(0));
    (lost.from_ts, lost.to_ts) = (None, None);
    let sheet = sheet(&trades(), None, &today(&trades(), &[(80, 5, 0)], vec![lost]), NOW);
    assert_eq!((drawn(&sheet), sheet.lost), (vec![(80, 1, Cover::Complete)], 10));
}
