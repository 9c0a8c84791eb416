//! The calendar of coverage: a strip of days and a strip of today's minutes for every stream.
//!
//! What is what is told by colour and by shape: whole, whole with a seam, a hole at the bottom, a stump, a line.

use crate::market::{DAY_US, Stream, Timestamp};

use super::calendar::{Cover, DAYS, Day, MINUTES, Sheet, first_day, stretches};
use super::html::{Text, counted, grouped, put, span};
use super::press::{Facts, STREAMS_MAX};

/// Height of a strip in its own units.
const HEIGHT: i64 = 20;
/// Width of a day in its own units, with the space after it.
const DAY: i64 = 10;
/// The narrowest mark of something bad, in minutes: on a phone a minute is a quarter of a pixel.
const MARK_MIN: usize = 6;
const EVERY: [Cover; 5] = [Cover::Complete, Cover::Backfilled, Cover::Open, Cover::Lost, Cover::Nothing];

fn words(cover: Cover) -> &'static str {
    match cover {
        Cover::Complete => "complete",
        Cover::Backfilled => "complete, some of it fetched later",
        Cover::Open => "open gap",
        Cover::Lost => "lost for good",
        Cover::Nothing => "nothing known",
    }
}

/// Draws a class from `x` on.
fn bar(out: &mut String, cover: Cover, x: i64, width: i64) {
    let mut rect = |class: &str, y: i64, height: i64| {
        put(out, format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"));
    };
    match cover {
        Cover::Complete => rect("complete", 0, HEIGHT),
        Cover::Backfilled => {
            rect("complete", 0, HEIGHT);
            rect("fetched", HEIGHT / 2, HEIGHT / 2);
        }
        Cover::Open => {
            rect("paper", 0, HEIGHT);
            rect("open", 0, HEIGHT * 3 / 5);
        }
        Cover::Lost => {
            rect("paper", 0, HEIGHT);
            rect("lost", HEIGHT * 2 / 3, HEIGHT / 3 + 1);
        }
        Cover::Nothing => rect("nothing", HEIGHT - 2, 2),
    }
}

/// The whole calendar.
pub fn coverage(out: &mut String, facts: &Facts, sheets: &[(&Stream, Sheet)]) {
    out.push_str("<ul class=\"legend\">");
    for cover in EVERY {
        out.push_str("<li><svg aria-hidden=\"true\" viewBox=\"0 0 14 20\" preserveAspectRatio=\"none\">");
        bar(out, cover, 0, 14);
        put(out, format_args!("</svg>{}</li>", words(cover)));
    }
    out.push_str("</ul>");
    for problem in [&facts.coverage.problem, &facts.today.problem].into_iter().flatten().take(1) {
        put(out, format_args!("<p class=\"warn\">{}</p>", Text(problem)));
    }
    if sheets.is_empty() {
        out.push_str("<p class=\"dim\">no feed is configured</p>");
        return;
    }
    let ago = |days: i64| date((facts.now.day() - days) * DAY_US)[5..].to_owned();
    put(
        out,
        format_args!(
            "<div class=\"sheet axis dim\" aria-hidden=\"true\"><span></span><span class=\"ticks days\"><span>{}</span>\
             <span>{}</span><span>today</span></span><span class=\"ticks\"><span>00:00</span><span>06:00</span>\
             <span>12:00</span><span>18:00</span><span>24:00</span></span></div><ul class=\"sheets\">",
            ago(DAYS - 1),
            ago(DAYS / 2)
        ),
    );
    for (stream, sheet) in sheets {
        let (name, channel) = (stream.symbol.as_str(), stream.channel.as_str());
        let (class, mark, verdict) = verdict(sheet);
        put(
            out,
            format_args!(
                "<li class=\"sheet\"><div><b>{} {channel}</b> <span class=\"{class}\"><span aria-hidden=\"true\">{mark}\
                 </span> {verdict}</span></div>",
                Text(name)
            ),
        );
        days(out, &sheet.days, facts.now);
        minutes(out, &sheet.minutes, facts.now);
        out.push_str("</li>");
    }
    out.push_str("</ul>");
    notes(out, facts, sheets.len());
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
fn verdict(sheet: &Sheet) -> (&'static str, &'static str, String) {
    let unexplained: i64 = sheet.days.iter().map(|day| day.unexplained).sum();
    let is = |cover: Cover| sheet.days.iter().any(|day| day.cover == cover);
    match () {
        () if sheet.missing > 0 => ("bad", "\u{2715}", format!("{} missing", counted(sheet.missing, "row", "rows"))),
        () if unexplained > 0 => ("bad", "\u{2715}", format!("{} unexplained", counted(unexplained, "hole", "holes"))),
        () if is(Cover::Open) => ("bad", "\u{2715}", "a gap is open".to_owned()),
        () if sheet.lost > 0 => ("warn", "!", format!("{} lost for good", counted(sheet.lost, "row", "rows"))),
        () if is(Cover::Backfilled) || is(Cover::Complete) => ("good", "\u{2713}", "complete".to_owned()),
        () => ("dim", "", "nothing yet".to_owned()),
    }
}

fn date(at: i64) -> String {
    Timestamp(at).rfc3339().get(..10).unwrap_or_default().to_owned()
}

/// `24 days complete, 1 with an open gap`.
fn summary(covers: impl Iterator<Item = Cover>, one: &str, many: &str) -> String {
    let mut counts = [0; EVERY.len()];
    for cover in covers {
        if let Some(at) = EVERY.iter().position(|every| *every == cover) {
            counts[at] += 1;
        }
    }
    let known = EVERY.into_iter().zip(counts).filter(|(cover, count)| *count > 0 && *cover != Cover::Nothing);
    let parts: Vec<String> =
        known.map(|(cover, count)| format!("{} {}", counted(count, one, many), words(cover))).collect();
    if parts.is_empty() { "nothing known yet".to_owned() } else { parts.join(", ") }
}

fn days(out: &mut String, days: &[Day], now: Timestamp) {
    let summary = summary(days.iter().map(|day| day.cover), "day", "days");
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
    for (at, day) in (0..).zip(days).filter(|(_, day)| day.cover != Cover::Nothing) {
        let Day { cover, present, backfilled, unexplained } = *day;
        let when = date((first_day(now) + at) * DAY_US);
        put(out, format_args!("<g><title>{when}: {}", words(cover)));
        // Today's grow all the time, and would have the whole calendar sent anew.
        if present > 0 && at < DAYS - 1 {
            put(out, format_args!(", {} stored", grouped(present as f64)));
        }
        if backfilled > 0 && at < DAYS - 1 {
            put(out, format_args!(", {} of them fetched later", grouped(backfilled as f64)));
        }
        if unexplained > 0 {
            put(out, format_args!(", {} that no gap names", counted(unexplained, "hole", "holes")));
        }
        out.push_str("</title>");
        bar(out, cover, at * DAY, DAY - 1);
        out.push_str("</g>");
    }
    out.push_str("</svg>");
}

fn minutes(out: &mut String, minutes: &[Cover], now: Timestamp) {
    let summary = summary(minutes.iter().copied(), "minute", "minutes");
    put(
        out,
        format_args!(
            "<svg class=\"strip\" role=\"img\" aria-label=\"today: {summary}\" viewBox=\"0 0 {MINUTES} {HEIGHT}\" \
             preserveAspectRatio=\"none\"><rect class=\"nothing\" x=\"0\" y=\"{}\" width=\"{MINUTES}\" height=\"2\"/>",
            HEIGHT - 2
        ),
    );
    let mut all = stretches(minutes);
    all.retain(|(.., cover)| *cover != Cover::Nothing);
    // The bad is drawn over the good, because it is drawn wider than it is.
    all.sort_by_key(|(.., cover)| *cover);
    for (from, length, cover) in all {
        let width = if cover > Cover::Complete { length.max(MARK_MIN) } else { length };
        let x = from.min(minutes.len() - width);
        let clock = |minute: usize| format!("{:02}:{:02}", minute / 60, minute % 60);
        put(out, format_args!("<g><title>{}\u{2013}{}: {}</title>", clock(from), clock(from + length), words(cover)));
        bar(out, cover, x as i64, width as i64);
        out.push_str("</g>");
    }
    let at = now.micros().rem_euclid(DAY_US) / 60_000_000;
    put(out, format_args!("<rect class=\"now\" x=\"{at}\" y=\"0\" width=\"2\" height=\"{HEIGHT}\"/></svg>"));
}
