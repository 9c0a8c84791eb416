//! The calendar's cell states, for a stream recorded since yesterday.

use std::collections::HashMap;

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

fn today(of: &Stream, counts: &[(i64, i64, i64)], gaps: Vec<Gap>) -> TodayCounts {
    let count = |(minute, present, backfilled): &(i64, i64, i64)| MinuteCount {
        minute: NOW.day() * MINUTES + minute,
        present: *present,
        backfilled: *backfilled,
    };
    TodayCounts {
        minutes: HashMap::from([(of.clone(), counts.iter().map(count).collect())]),
        gaps,
        ..TodayCounts::default()
    }
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
        epoch: 0,
        first: Some(1),
        last: Some(100),
        expected: 100,
        present: 100,
        backfilled: 0,
        missing: Vec::new(),
        unconfirmed: Vec::new(),
        never_existed: Vec::new(),
        unrecoverable: Vec::new(),
        refused: Vec::new(),
        open_gaps: 0,
        complete: true,
        state: audit::CoverageState::Complete,
        days: days.iter().map(day).collect(),
    }
}

/// The segments of today, as minutes and words.
fn drawn(calendar: &StreamCalendar) -> Vec<(usize, usize, CellState)> {
    segments(&calendar.minutes).into_iter().filter(|(_, _, cell_state)| *cell_state != CellState::Unknown).collect()
}

#[test]
fn what_lies_between_two_rows_is_complete_and_what_lies_outside_is_unknown() {
    let calendar = stream_calendar(&trades(), None, &today(&trades(), &[(60, 5, 0), (90, 5, 0)], Vec::new()), NOW);
    assert_eq!(drawn(&calendar), [(60, 31, CellState::Complete)]);
    assert_eq!(calendar.minutes.len(), MINUTES as usize);
    assert_eq!(calendar.days.last().map(|day| (day.state, day.present)), Some((CellState::Complete, 10)));
    assert!(calendar.days[..34].iter().all(|day| *day == Day::default()));
}

#[test]
fn a_stream_of_yesterday_is_known_since_midnight() {
    let yesterday = coverage(&[(1, 10, 10, 0)]);
    let calendar = stream_calendar(&trades(), Some(&yesterday), &today(&trades(), &[(90, 5, 0)], Vec::new()), NOW);
    assert_eq!(drawn(&calendar), [(0, 91, CellState::Complete)]);
    assert_eq!(calendar.days[33].state, CellState::Complete);
}

#[test]
fn the_worst_of_a_minute_is_what_is_drawn() {
    let lost = gap(&trades(), GapState::Unrecoverable, at(62), at(64));
    let open = gap(&trades(), GapState::Open, at(64), at(65));
    let filled = gap(&trades(), GapState::Filled, at(70), at(72));
    let other = gap(&stream("binance:ETHUSDT:trade"), GapState::Open, at(75), at(76));
    let today = today(&trades(), &[(60, 5, 0), (71, 5, 2), (80, 5, 0)], vec![lost, open, filled, other]);
    let calendar = stream_calendar(&trades(), None, &today, NOW);
    let expected = [
        (60, 2, CellState::Complete),
        (62, 2, CellState::Lost),
        (64, 2, CellState::Open),
        (66, 5, CellState::Complete),
        (71, 9, CellState::Backfilled),
        (80, 1, CellState::Complete),
    ];
    assert_eq!(drawn(&calendar), expected);
    assert_eq!((calendar.missing, calendar.lost), (10, 10));
    let day = calendar.days.last().unwrap();
    assert_eq!((day.state, day.present, day.backfilled), (CellState::Open, 15, 2));
}

#[test]
fn a_gap_over_midnight_is_on_both_days() {
    let open = gap(&trades(), GapState::Open, at(-30), at(5));
    let calendar = stream_calendar(
        &trades(),
        Some(&coverage(&[(1, 10, 10, 3)])),
        &today(&trades(), &[(9, 1, 0)], vec![open]),
        NOW,
    );
    assert_eq!(drawn(&calendar), [(0, 6, CellState::Open), (6, 4, CellState::Complete)]);
    assert_eq!([33, 34].map(|day: usize| calendar.days[day].state), [CellState::Open, CellState::Open]);
}

#[test]
fn a_day_that_lacks_what_no_gap_names_is_not_called_complete() {
    let calendar =
        stream_calendar(&trades(), Some(&coverage(&[(2, 10, 7, 0), (1, 10, 10, 1)])), &TodayCounts::default(), NOW);
    let [before, yesterday, today] = [32, 33, 34].map(|day: usize| calendar.days[day]);
    assert_eq!((before.state, before.unexplained), (CellState::Open, 3));
    assert_eq!((yesterday.state, yesterday.unexplained), (CellState::Backfilled, 0));
    assert_eq!(today.state, CellState::Unknown);
}

#[test]
fn a_klines_gap_lies_where_its_klines_open() {
    let hours = stream("binance:BTCUSDT:kline_1h");
    let midnight = NOW.day() * DAY_US;
    let range = Range { first: midnight + 60 * MINUTE_US, last: midnight + 120 * MINUTE_US };
    let gap = Gap::open(hours.clone(), range, Evidence::default(), NOW);
    let calendar = stream_calendar(&hours, None, &today(&hours, &[(0, 1, 0), (180, 1, 0)], vec![gap]), NOW);
    assert_eq!(
        drawn(&calendar),
        [(0, 60, CellState::Complete), (60, 120, CellState::Open), (180, 60, CellState::Complete)]
    );
}

#[test]
fn what_is_before_the_calendar_is_not_drawn() {
    let old = gap(&trades(), GapState::Unrecoverable, at(-MINUTES * 60), at(-MINUTES * 59));
    let calendar =
        stream_calendar(&trades(), Some(&coverage(&[(60, 10, 10, 0)])), &today(&trades(), &[], vec![old]), NOW);
    assert!(calendar.days.iter().all(|day| day.state == CellState::Unknown));
    assert_eq!((calendar.lost, drawn(&calendar)), (0, Vec::new()));
}

#[test]
fn a_gap_that_begins_nobody_knows_where_is_wherever_there_is_no_row() {
    let mut open = gap(&trades(), GapState::Open, at(0), at(0));
    (open.from_ts, open.to_ts, open.detected_at) = (None, None, at(90));
    let counted = today(&trades(), &[(60, 5, 5), (61, 5, 5), (80, 5, 0)], vec![open.clone()]);
    let calendar = stream_calendar(&trades(), Some(&coverage(&[(3, 10, 10, 9), (1, 10, 10, 9)])), &counted, NOW);
    let expected = [
        (0, 60, CellState::Open),
        (60, 2, CellState::Backfilled),
        (62, 18, CellState::Open),
        (80, 1, CellState::Complete),
        (81, 10, CellState::Open),
    ];
    assert_eq!(drawn(&calendar), expected);
    let days = [30, 31, 32, 33, 34].map(|day: usize| calendar.days[day].state);
    assert_eq!(
        days,
        [CellState::Unknown, CellState::Backfilled, CellState::Open, CellState::Backfilled, CellState::Open]
    );
}

#[test]
fn what_a_tail_lacks_reaches_from_the_last_row_to_when_it_was_found() {
    let mut open = gap(&trades(), GapState::Open, at(80), at(80));
    (open.to_ts, open.detected_at) = (None, at(82));
    let calendar = stream_calendar(&trades(), None, &today(&trades(), &[(80, 5, 0)], vec![open]), NOW);
    assert_eq!(drawn(&calendar), [(80, 3, CellState::Open)]);
}

#[test]
fn a_loss_without_a_known_time_is_counted_and_not_drawn() {
    let mut lost = gap(&trades(), GapState::Unrecoverable, at(0), at(0));
    (lost.from_ts, lost.to_ts) = (None, None);
    let calendar = stream_calendar(&trades(), None, &today(&trades(), &[(80, 5, 0)], vec![lost]), NOW);
    assert_eq!((drawn(&calendar), calendar.lost), (vec![(80, 1, CellState::Complete)], 10));
}
