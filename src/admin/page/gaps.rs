//! The gaps with their evidence: how each was found, what was tried, what filled it and how soon.

use maud::{Markup, html};

use crate::gap::{Evidence, Gap, GapState};
use crate::market::{Channel, Timestamp};

use super::facts::Facts;
use super::format::{grouped, pluralize, span};
use super::html::instant;

/// Closed gaps shown.
const CLOSED_MAX: usize = 8;

/// The open gaps, then the newest closed ones.
pub fn gaps(facts: &Facts) -> Markup {
    let (open, newest) = match (&facts.open, &facts.newest) {
        (Ok(open), Ok(newest)) => (open, newest),
        (Err(why), _) | (_, Err(why)) => {
            return html! { p class="bad" { "the gap ledger cannot be read: " (why) } };
        }
    };
    let closed = newest.iter().filter(|gap| gap.state.is_closed()).take(CLOSED_MAX);
    let shown: Vec<&Gap> = open.iter().chain(closed).collect();
    if shown.is_empty() {
        return html! { p class="dim" { "no gap was ever found" } };
    }
    html! {
        ul class="gaps" { @for gap in shown { (row(gap, facts.now)) } }
        p class="dim note" {
            "open gaps, then the " (CLOSED_MAX) " newest closed ones; tapekeeper gaps lists all"
        }
    }
}

fn row(gap: &Gap, now: Timestamp) -> Markup {
    let (class, mark) = match gap.state {
        GapState::Open | GapState::Filling => ("bad", "\u{2715}"),
        GapState::Unconfirmed => ("dim", "?"),
        GapState::Filled => ("good", "\u{2713}"),
        GapState::Unrecoverable | GapState::Refused => ("bad", "\u{2298}"),
        GapState::NeverExisted | GapState::Superseded => ("dim", "\u{2013}"),
    };
    let channel = gap.stream.channel;
    let (first, last) = (position_text(channel, gap.range.first), position_text(channel, gap.range.last));
    html! {
        li {
            div {
                span class=(class) { span aria-hidden="true" { (mark) } " " (gap.state.as_str().replace('_', " ")) }
                " " br;
                b { (gap.stream.symbol.as_str()) " " (channel.as_str()) }
            }
            div {
                (pluralize(gap.len(), "row", "rows")) " missing " br;
                span class="dim" { (first) @if first != last { "\u{2013}" (last) } }
            }
            div {
                "found " (instant(gap.detected_at, now)) " " span class="dim" { (evidence(gap)) }
                @if let (Some(from), Some(to)) = (gap.from_ts, gap.to_ts) {
                    " " br;
                    span class="dim" {
                        "traded from " (instant(from, now)) ", within " (span(to.since(from).max(0) as f64 / 1e6))
                    }
                }
            }
            div { (outcome(gap, now)) }
        }
    }
}

/// A trade id as a number, a kline's open time as a date.
pub fn position_text(channel: Channel, position: i64) -> String {
    match channel {
        Channel::Kline(_) => Timestamp(position).rfc3339().get(..16).unwrap_or_default().replacen('T', " ", 1),
        Channel::Trade | Channel::AggTrade | Channel::BookTicker => position.to_string(),
    }
}

fn evidence(gap: &Gap) -> String {
    let Evidence { by, previous, next, partition, offset, connection, replaces, answers: _, doubt: _ } = &gap.evidence;
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
        words.push_str(&format!(", replaces {}", pluralize(replaces.len() as i64, "other row", "other rows")));
    }
    words
}

fn outcome(gap: &Gap, now: Timestamp) -> Markup {
    let seconds = |to: Timestamp| span(to.since(gap.detected_at).max(0) as f64 / 1e6);
    let attempts = match gap.attempts {
        0 if gap.state == GapState::Filling => "first attempt in progress".to_owned(),
        0 => "not tried yet".to_owned(),
        attempts => pluralize(attempts, "attempt", "attempts"),
    };
    let source = match gap.filled_by.as_str() {
        "rest" => "over REST",
        "socket" => "over the socket: they were only late",
        "cache" => "from the cache",
        other => other,
    };
    html! {
        @match (gap.state, gap.closed_at) {
            (GapState::Filled, Some(at)) => { b { "filled in " (seconds(gap.filled_at.unwrap_or(at))) } }
            (_, Some(at)) => { "closed after " (seconds(at)) }
            (GapState::Unconfirmed, None) => {
                b { "in doubt for " (seconds(now)) }
                ", asked for " (span(gap.asked_for().as_secs_f64()))
            }
            (_, None) => { b class="bad" { "open for " (seconds(now)) } }
        }
        ", " (attempts)
        @if gap.filled > 0 { ", " (grouped(gap.filled as f64)) " arrived " (source) }
        @if !gap.reason.is_empty() { " " br; span class="dim" { (gap.reason) } }
    }
}
