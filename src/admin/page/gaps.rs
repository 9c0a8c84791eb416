//! The gaps with their evidence: how each was noticed, what was tried, what filled it and how soon.

use crate::gap::{Evidence, Gap, GapState};
use crate::market::{Channel, Timestamp};

use super::html::{Escaped, grouped, instant, pluralize, put, span};
use super::render::Facts;

/// Closed gaps shown.
const CLOSED_MAX: usize = 8;

/// Open ones, then the last that were closed.
pub fn gaps(out: &mut String, facts: &Facts) {
    let (open, newest) = match (&facts.open, &facts.newest) {
        (Ok(open), Ok(newest)) => (open, newest),
        (Err(why), _) | (_, Err(why)) => {
            put(out, format_args!("<p class=\"bad\">the gap ledger cannot be read: {}</p>", Escaped(why)));
            return;
        }
    };
    let closed = newest.iter().filter(|gap| gap.state.is_closed()).take(CLOSED_MAX);
    let shown: Vec<&Gap> = open.iter().chain(closed).collect();
    if shown.is_empty() {
        out.push_str("<p class=\"dim\">none was ever found</p>");
        return;
    }
    out.push_str("<ul class=\"gaps\">");
    for gap in &shown {
        row(out, gap, facts.now);
    }
    put(
        out,
        format_args!(
            "</ul><p class=\"dim note\">open ones, then the {CLOSED_MAX} newest that are closed; \
        tapekeeper gaps has all</p>"
        ),
    );
}

fn row(out: &mut String, gap: &Gap, now: Timestamp) {
    let (class, mark) = match gap.state {
        GapState::Open | GapState::Filling => ("bad", "\u{2715}"),
        GapState::Filled => ("good", "\u{2713}"),
        GapState::Unrecoverable => ("bad", "\u{2298}"),
        GapState::NeverExisted | GapState::Superseded => ("dim", "\u{2013}"),
    };
    let channel = gap.stream.channel.as_str();
    put(
        out,
        format_args!(
            "<li><div><span class=\"{class}\"><span aria-hidden=\"true\">{mark}</span> {}</span> <br>\
             <b>{} {channel}</b></div>",
            gap.state.as_str().replace('_', " "),
            Escaped(gap.stream.symbol.as_str())
        ),
    );
    let position_text = |position| position_text(gap.stream.channel, position);
    put(out, format_args!("<div>{} missing <br><span class=\"dim\">{}", rows(gap), position_text(gap.range.first)));
    if gap.range.last != gap.range.first {
        put(out, format_args!("\u{2013}{}", position_text(gap.range.last)));
    }
    out.push_str("</span></div><div>");
    put(
        out,
        format_args!("found {} <span class=\"dim\">{}</span>", instant(gap.detected_at, now), Escaped(&evidence(gap))),
    );
    if let (Some(from), Some(to)) = (gap.from_ts, gap.to_ts) {
        let long = span(to.since(from).max(0) as f64 / 1e6);
        put(out, format_args!(" <br><span class=\"dim\">traded from {}, within {long}</span>", instant(from, now)));
    }
    put(out, format_args!("</div><div>{}</div></li>", outcome(gap, now)));
}

fn rows(gap: &Gap) -> String {
    pluralize(gap.len(), "row", "rows")
}

/// A trade id as it is, a kline's open time as people read it.
pub fn position_text(channel: Channel, position: i64) -> String {
    match channel {
        Channel::Kline(_) => Timestamp(position).rfc3339().get(..16).unwrap_or_default().replacen('T', " ", 1),
        Channel::Trade | Channel::BookTicker => position.to_string(),
    }
}

fn evidence(gap: &Gap) -> String {
    let Evidence { by, previous, next, partition, offset, connection, replaces } = &gap.evidence;
    let position_text = |position: i64| position_text(gap.stream.channel, position);
    let mut words = format!("by {by}");
    match (previous, next) {
        (Some(previous), Some(next)) => {
            words.push_str(&format!(": after {} came {}", position_text(*previous), position_text(*next)));
        }
        (Some(previous), None) => words.push_str(&format!(": after {}", position_text(*previous))),
        (None, Some(next)) => words.push_str(&format!(": before {}", position_text(*next))),
        (None, None) => {}
    }
    if let Some(connection) = connection {
        words.push_str(&format!(", connection {connection}"));
    }
    if let (Some(partition), Some(offset)) = (partition, offset) {
        words.push_str(&format!(", log {partition}/{offset}"));
    }
    if !replaces.is_empty() {
        words.push_str(&format!(", speaks for {}", pluralize(replaces.len() as i64, "other row", "other rows")));
    }
    words
}

fn outcome(gap: &Gap, now: Timestamp) -> String {
    let seconds = |to: Timestamp| span(to.since(gap.detected_at).max(0) as f64 / 1e6);
    let mut words = match (gap.state, gap.closed_at) {
        (GapState::Filled, Some(at)) => format!("<b>healed in {}</b>", seconds(gap.filled_at.unwrap_or(at))),
        (_, Some(at)) => format!("closed after {}", seconds(at)),
        (_, None) => format!("<b class=\"bad\">open for {}</b>", seconds(now)),
    };
    let tries = match gap.attempts {
        0 if gap.state == GapState::Filling => "the first try is under way".to_owned(),
        0 => "not tried".to_owned(),
        tries => pluralize(tries, "try", "tries"),
    };
    put(&mut words, format_args!(", {tries}"));
    if gap.filled > 0 {
        let by = match gap.filled_by.as_str() {
            "rest" => "REST",
            "socket" => "the socket: they were only late",
            "cache" => "the cache",
            other => other,
        };
        put(&mut words, format_args!(", {} came back by {}", grouped(gap.filled as f64), Escaped(by)));
    }
    if !gap.reason.is_empty() {
        put(&mut words, format_args!(" <br><span class=\"dim\">{}</span>", Escaped(&gap.reason)));
    }
    words
}
