//! The coverage calendar: for every stream a strip of days and a strip of today's minutes.
//!
//! Colour and shape both show the state of a cell: a full bar is complete, a bar with a darker half was backfilled in part, a
//! bar cut at the bottom has an open gap, a stump is lost, a thin line is unknown.

use maud::{Markup, html};

use crate::market::{DAY_US, Stream, Timestamp};

use super::calendar::{CellState, DAYS, Day, MINUTES, StreamCalendar, first_day, segments};
use super::facts::{Facts, STREAMS_MAX};
use super::format::{grouped, pluralize, span};

/// Height of a strip in its own units.
const HEIGHT: i64 = 20;
/// Width of a day in its own units, with the space after it.
const DAY: i64 = 10;
/// The narrowest mark of a gap or a loss, in minutes: on a phone a minute is a quarter of a pixel.
const MARK_MIN: usize = 6;
const ALL_STATES: [CellState; 5] =
    [CellState::Complete, CellState::Backfilled, CellState::Open, CellState::Lost, CellState::Unknown];

fn words(state: CellState) -> &'static str {
    match state {
        CellState::Complete => "complete",
        CellState::Backfilled => "complete, partly backfilled",
        CellState::Open => "open gap",
        CellState::Lost => "lost",
        CellState::Unknown => "unknown",
    }
}

/// A cell from `x` on.
fn bar(state: CellState, x: i64, width: i64) -> Markup {
    let rect =
        |class: &str, y: i64, height: i64| html! { rect class=(class) x=(x) y=(y) width=(width) height=(height) {} };
    html! {
        @match state {
            CellState::Complete => { (rect("complete", 0, HEIGHT)) }
            CellState::Backfilled => { (rect("complete", 0, HEIGHT)) (rect("fetched", HEIGHT / 2, HEIGHT / 2)) }
            CellState::Open => { (rect("paper", 0, HEIGHT)) (rect("open", 0, HEIGHT * 3 / 5)) }
            CellState::Lost => { (rect("paper", 0, HEIGHT)) (rect("lost", HEIGHT * 2 / 3, HEIGHT / 3 + 1)) }
            CellState::Unknown => { (rect("nothing", HEIGHT - 2, 2)) }
        }
    }
}

/// The whole calendar.
pub fn coverage(facts: &Facts, calendars: &[(&Stream, StreamCalendar)]) -> Markup {
    let error = facts.coverage.error.as_ref().or(facts.today.error.as_ref());
    html! {
        ul class="legend" {
            @for state in ALL_STATES {
                li {
                    svg aria-hidden="true" viewBox="0 0 14 20" preserveAspectRatio="none" { (bar(state, 0, 14)) }
                    (words(state))
                }
            }
        }
        @if let Some(error) = error { p class="warn" { (error) } }
        @if calendars.is_empty() {
            p class="dim" { "no feed is configured" }
        } @else {
            (axis(facts.now))
            ul class="calendars" { @for (stream, calendar) in calendars { (row(stream, calendar, facts.now)) } }
            (notes(facts, calendars.len()))
        }
    }
}

fn axis(now: Timestamp) -> Markup {
    let ago = |days: i64| date((now.day() - days) * DAY_US)[5..].to_owned();
    html! {
        div class="calendar axis dim" aria-hidden="true" {
            span {}
            span class="ticks days" { span { (ago(DAYS - 1)) } span { (ago(DAYS / 2)) } span { "today" } }
            span class="ticks" {
                @for hour in ["00:00", "06:00", "12:00", "18:00", "24:00"] { span { (hour) } }
            }
        }
    }
}

fn row(stream: &Stream, calendar: &StreamCalendar, now: Timestamp) -> Markup {
    let (class, mark, verdict) = verdict(calendar);
    html! {
        li class="calendar" {
            div {
                b { (stream.symbol.as_str()) " " (stream.channel.as_str()) } " "
                span class=(class) { span aria-hidden="true" { (mark) } " " (verdict) }
            }
            (days(&calendar.days, now))
            (minutes(&calendar.minutes, now))
        }
    }
}

/// The age of the counts, and the number of streams that are not shown.
fn notes(facts: &Facts, drawn: usize) -> Markup {
    let age = facts.coverage.age().filter(|age| age.as_secs() >= 60);
    let numbered = facts.streams.iter().filter(|stream| stream.channel != "book_ticker").count();
    html! {
        p class="dim note" {
            "days and minutes of UTC, counted in history"
            @if let Some(age) = age { "; the days before today " (span(age.as_secs_f64())) " ago" }
            @if numbered > drawn && drawn == STREAMS_MAX {
                "; " (drawn) " of " (numbered) " streams, tapekeeper coverage lists all"
            }
        }
    }
}

/// The verdict on a stream: a colour, a mark, and words.
fn verdict(calendar: &StreamCalendar) -> (&'static str, &'static str, String) {
    let unexplained: i64 = calendar.days.iter().map(|day| day.unexplained).sum();
    let is = |state: CellState| calendar.days.iter().any(|day| day.state == state);
    match () {
        () if calendar.missing > 0 => {
            ("bad", "\u{2715}", format!("{} missing", pluralize(calendar.missing, "row", "rows")))
        }
        () if unexplained > 0 => {
            ("bad", "\u{2715}", format!("{} missing without a gap", pluralize(unexplained, "row", "rows")))
        }
        () if is(CellState::Open) => ("bad", "\u{2715}", "a gap is open".to_owned()),
        () if calendar.lost > 0 => ("warn", "!", format!("{} lost", pluralize(calendar.lost, "row", "rows"))),
        () if is(CellState::Backfilled) || is(CellState::Complete) => ("good", "\u{2713}", "complete".to_owned()),
        () => ("dim", "", "no rows yet".to_owned()),
    }
}

fn date(at: i64) -> String {
    Timestamp(at).rfc3339().get(..10).unwrap_or_default().to_owned()
}

/// `24 days complete, 1 day open gap`.
fn summary(states: impl Iterator<Item = CellState>, one: &str, many: &str) -> String {
    let mut counts = [0; ALL_STATES.len()];
    for state in states {
        if let Some(at) = ALL_STATES.iter().position(|every| *every == state) {
            counts[at] += 1;
        }
    }
    let known = ALL_STATES.into_iter().zip(counts);
    let known = known.filter(|(state, count)| *count > 0 && *state != CellState::Unknown);
    let parts: Vec<String> =
        known.map(|(state, count)| format!("{} {}", pluralize(count, one, many), words(state))).collect();
    if parts.is_empty() { "unknown".to_owned() } else { parts.join(", ") }
}

/// The ground line of a strip, under its cells.
fn ground(width: i64) -> Markup {
    html! { rect class="nothing" x="0" y=(HEIGHT - 2) width=(width) height="2" {} }
}

fn days(days: &[Day], now: Timestamp) -> Markup {
    let summary = summary(days.iter().map(|day| day.state), "day", "days");
    let known = (0..).zip(days).filter(|(_, day)| day.state != CellState::Unknown);
    html! {
        svg class="strip days" role="img" aria-label=(format!("the last {DAYS} days: {summary}"))
            viewBox=(format!("0 0 {} {HEIGHT}", DAYS * DAY)) preserveAspectRatio="none" {
            (ground(DAYS * DAY))
            @for (at, day) in known {
                g { title { (day_title(at, day, now)) } (bar(day.state, at * DAY, DAY - 1)) }
            }
        }
    }
}

fn day_title(at: i64, day: &Day, now: Timestamp) -> String {
    let Day { state, present, backfilled, unexplained } = *day;
    let mut text = format!("{}: {}", date((first_day(now) + at) * DAY_US), words(state));
    // Today's counts change all the time; with them the page would receive the whole calendar again.
    if present > 0 && at < DAYS - 1 {
        text.push_str(&format!(", {} stored", grouped(present as f64)));
    }
    if backfilled > 0 && at < DAYS - 1 {
        text.push_str(&format!(", {} of them backfilled", grouped(backfilled as f64)));
    }
    if unexplained > 0 {
        text.push_str(&format!(", {} missing without a gap", pluralize(unexplained, "row", "rows")));
    }
    text
}

fn minutes(minutes: &[CellState], now: Timestamp) -> Markup {
    let summary = summary(minutes.iter().copied(), "minute", "minutes");
    let mut all = segments(minutes);
    all.retain(|(.., state)| *state != CellState::Unknown);
    // Gaps and losses are drawn last, because they are drawn wider than they are.
    all.sort_by_key(|(.., state)| *state);
    let clock = |minute: usize| format!("{:02}:{:02}", minute / 60, minute % 60);
    let now_at = now.micros().rem_euclid(DAY_US) / 60_000_000;
    html! {
        svg class="strip" role="img" aria-label=(format!("today: {summary}"))
            viewBox=(format!("0 0 {MINUTES} {HEIGHT}")) preserveAspectRatio="none" {
            (ground(MINUTES))
            @for (from, length, state) in all {
                @let width = if state > CellState::Complete { length.max(MARK_MIN) } else { length };
                @let x = from.min(minutes.len() - width);
                g {
                    title { (clock(from)) "\u{2013}" (clock(from + length)) ": " (words(state)) }
                    (bar(state, x as i64, width as i64))
                }
            }
            rect class="now" x=(now_at) y="0" width="2" height=(HEIGHT) {}
        }
    }
}
