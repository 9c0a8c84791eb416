//! The calendar of coverage: a strip of days and a strip of today's minutes for every stream.
//!
//! What is what is told by colour and by shape: whole, whole with a seam, a hole at the bottom, a stump, a line.

use crate::market::{DAY_US, Stream, Timestamp};

use super::calendar::{CellState, DAYS, Day, MINUTES, StreamCalendar, first_day, segments};
use super::html::{Escaped, grouped, pluralize, put, span};
use super::render::{Facts, STREAMS_MAX};

/// Height of a strip in its own units.
const HEIGHT: i64 = 20;
/// Width of a day in its own units, with the space after it.
const DAY: i64 = 10;
/// The narrowest mark of something bad, in minutes: on a phone a minute is a quarter of a pixel.
const MARK_MIN: usize = 6;
const ALL_STATES: [CellState; 5] =
    [CellState::Complete, CellState::Backfilled, CellState::Open, CellState::Lost, CellState::Nothing];

fn words(cell_state: CellState) -> &'static str {
    match cell_state {
        CellState::Complete => "complete",
        CellState::Backfilled => "complete, some of it fetched later",
        CellState::Open => "open gap",
        CellState::Lost => "lost for good",
        CellState::Nothing => "nothing known",
    }
}

/// Draws a class from `x` on.
fn bar(out: &mut String, cell_state: CellState, x: i64, width: i64) {
    let mut rect = |class: &str, y: i64, height: i64| {
        put(out, format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"));
    };
    match cell_state {
        CellState::Complete => rect("complete", 0, HEIGHT),
        CellState::Backfilled => {
            rect("complete", 0, HEIGHT);
            rect("fetched", HEIGHT / 2, HEIGHT / 2);
        }
        CellState::Open => {
            rect("paper", 0, HEIGHT);
            rect("open", 0, HEIGHT * 3 / 5);
        }
        CellState::Lost => {
            rect("paper", 0, HEIGHT);
            rect("lost", HEIGHT * 2 / 3, HEIGHT / 3 + 1);
        }
        CellState::Nothing => rect("nothing", HEIGHT - 2, 2),
    }
}

/// The whole calendar.
pub fn coverage(out: &mut String, facts: &Facts, calendars: &[(&Stream, StreamCalendar)]) {
    out.push_str("<ul class=\"legend\">");
    for cell_state in ALL_STATES {
        out.push_str("<li><svg aria-hidden=\"true\" viewBox=\"0 0 14 20\" preserveAspectRatio=\"none\">");
        bar(out, cell_state, 0, 14);
        put(out, format_args!("</svg>{}</li>", words(cell_state)));
    }
    out.push_str("</ul>");
    for problem in [&facts.coverage.error, &facts.today.error].into_iter().flatten().take(1) {
        put(out, format_args!("<p class=\"warn\">{}</p>", Escaped(problem)));
    }
    if calendars.is_empty() {
        out.push_str("<p class=\"dim\">no feed is configured</p>");
        return;
    }
    let ago = |days: i64| date((facts.now.day() - days) * DAY_US)[5..].to_owned();
    put(
        out,
        format_args!(
            "<div class=\"calendar axis dim\" aria-hidden=\"true\"><span></span><span class=\"ticks days\"><span>{}</span>\
             <span>{}</span><span>today</span></span><span class=\"ticks\"><span>00:00</span><span>06:00</span>\
             <span>12:00</span><span>18:00</span><span>24:00</span></span></div><ul class=\"calendars\">",
            ago(DAYS - 1),
            ago(DAYS / 2)
        ),
    );
    for (stream, calendar) in calendars {
        let (name, channel) = (stream.symbol.as_str(), stream.channel.as_str());
        let (class, mark, verdict) = verdict(calendar);
        put(
            out,
            format_args!(
                "<li class=\"calendar\"><div><b>{} {channel}</b> <span class=\"{class}\"><span aria-hidden=\"true\">{mark}\
                 </span> {verdict}</span></div>",
                Escaped(name)
            ),
        );
        days(out, &calendar.days, facts.now);
        minutes(out, &calendar.minutes, facts.now);
        out.push_str("</li>");
    }
    out.push_str("</ul>");
    notes(out, facts, calendars.len());
}

/// How old the counts are, and what is not shown.
fn notes(out: &mut String, facts: &Facts, drawn: usize) {
    out.push_str("<p class=\"dim note\">days and minutes of UTC, counted in history");
    if let Some(age) = facts.coverage.age().filter(|age| age.as_secs() >= 60) {
        put(out, format_args!("; the days before today {} ago", span(age.as_secs_f64())));
    }
    let numbered = facts.streams.iter().filter(|stream| stream.channel != "book_ticker").count();
    if numbered > drawn && drawn == STREAMS_MAX {
        put(out, format_args!("; {drawn} of {numbered} streams, tapekeeper coverage has all"));
    }
    out.push_str("</p>");
}

/// A colour, a mark, and words.
fn verdict(calendar: &StreamCalendar) -> (&'static str, &'static str, String) {
    let unexplained: i64 = calendar.days.iter().map(|day| day.unexplained).sum();
    let is = |cell_state: CellState| calendar.days.iter().any(|day| day.cell_state == cell_state);
    match () {
        () if calendar.missing > 0 => {
            ("bad", "\u{2715}", format!("{} missing", pluralize(calendar.missing, "row", "rows")))
        }
        () if unexplained > 0 => {
            ("bad", "\u{2715}", format!("{} unexplained", pluralize(unexplained, "hole", "holes")))
        }
        () if is(CellState::Open) => ("bad", "\u{2715}", "a gap is open".to_owned()),
        () if calendar.lost > 0 => ("warn", "!", format!("{} lost for good", pluralize(calendar.lost, "row", "rows"))),
        () if is(CellState::Backfilled) || is(CellState::Complete) => ("good", "\u{2713}", "complete".to_owned()),
        () => ("dim", "", "nothing yet".to_owned()),
    }
}

fn date(at: i64) -> String {
    Timestamp(at).rfc3339().get(..10).unwrap_or_default().to_owned()
}

/// `24 days complete, 1 with an open gap`.
fn summary(cell_states: impl Iterator<Item = CellState>, one: &str, many: &str) -> String {
    let mut counts = [0; ALL_STATES.len()];
    for cell_state in cell_states {
        if let Some(at) = ALL_STATES.iter().position(|every| *every == cell_state) {
            counts[at] += 1;
        }
    }
    let known = ALL_STATES
        .into_iter()
        .zip(counts)
        .filter(|(cell_state, count)| *count > 0 && *cell_state != CellState::Nothing);
    let parts: Vec<String> =
        known.map(|(cell_state, count)| format!("{} {}", pluralize(count, one, many), words(cell_state))).collect();
    if parts.is_empty() { "nothing known yet".to_owned() } else { parts.join(", ") }
}

fn days(out: &mut String, days: &[Day], now: Timestamp) {
    let summary = summary(days.iter().map(|day| day.cell_state), "day", "days");
    put(
        out,
        format_args!(
            "<svg class=\"strip days\" role=\"img\" aria-label=\"the last {DAYS} days: {summary}\" \
             viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\"><rect class=\"nothing\" x=\"0\" y=\"{}\" width=\"{}\" height=\"2\"/>",
            DAYS * DAY,
            HEIGHT - 2,
            DAYS * DAY
        ),
    );
    for (at, day) in (0..).zip(days).filter(|(_, day)| day.cell_state != CellState::Nothing) {
        let Day { cell_state, present, backfilled, unexplained } = *day;
        let when = date((first_day(now) + at) * DAY_US);
        put(out, format_args!("<g><title>{when}: {}", words(cell_state)));
        // Today's grow all the time, and would have the whole calendar sent anew.
        if present > 0 && at < DAYS - 1 {
            put(out, format_args!(", {} stored", grouped(present as f64)));
        }
        if backfilled > 0 && at < DAYS - 1 {
            put(out, format_args!(", {} of them fetched later", grouped(backfilled as f64)));
        }
        if unexplained > 0 {
            put(out, format_args!(", {} that no gap names", pluralize(unexplained, "hole", "holes")));
        }
        out.push_str("</title>");
        bar(out, cell_state, at * DAY, DAY - 1);
        out.push_str("</g>");
    }
    out.push_str("</svg>");
}

fn minutes(out: &mut String, minutes: &[CellState], now: Timestamp) {
    let summary = summary(minutes.iter().copied(), "minute", "minutes");
    put(
        out,
        format_args!(
            "<svg class=\"strip\" role=\"img\" aria-label=\"today: {summary}\" viewBox=\"0 0 {MINUTES} {HEIGHT}\" \
             preserveAspectRatio=\"none\"><rect class=\"nothing\" x=\"0\" y=\"{}\" width=\"{MINUTES}\" height=\"2\"/>",
            HEIGHT - 2
        ),
    );
    let mut all = segments(minutes);
    all.retain(|(.., cell_state)| *cell_state != CellState::Nothing);
    // The bad is drawn over the good, because it is drawn wider than it is.
    all.sort_by_key(|(.., cell_state)| *cell_state);
    for (from, length, cell_state) in all {
        let width = if cell_state > CellState::Complete { length.max(MARK_MIN) } else { length };
        let x = from.min(minutes.len() - width);
        let clock = |minute: usize| format!("{:02}:{:02}", minute / 60, minute % 60);
        put(
            out,
            format_args!("<g><title>{}\u{2013}{}: {}</title>", clock(from), clock(from + length), words(cell_state)),
        );
        bar(out, cell_state, x as i64, width as i64);
        out.push_str("</g>");
    }
    let at = now.micros().rem_euclid(DAY_US) / 60_000_000;
    put(out, format_args!("<rect class=\"now\" x=\"{at}\" y=\"0\" width=\"2\" height=\"{HEIGHT}\"/></svg>"));
}
