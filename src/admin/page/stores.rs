//! One card for each store, the disk, each connection and each REST client.

use maud::{Markup, html};
use serde_json::Value;

use crate::market::Timestamp;

use super::super::time_series;
use super::facts::Facts;
use super::format::{grouped, pluralize, size, span};

/// A card: a name, a state, and lines of detail.
struct Card {
    name: String,
    class: &'static str,
    state: String,
    lines: Vec<(&'static str, String)>,
    /// The used part of a whole, 0 to 1, drawn as a bar.
    used: Option<f64>,
}

impl Card {
    fn new(name: &str, error: Option<&str>) -> Self {
        let (class, words) = error.map_or(("good", "ok"), |why| ("bad", why));
        Self { name: name.to_owned(), class, state: words.to_owned(), lines: Vec::new(), used: None }
    }

    fn line(mut self, name: &'static str, value: String) -> Self {
        if !value.is_empty() {
            self.lines.push((name, value));
        }
        self
    }

    fn markup(&self) -> Markup {
        let mark = match self.class {
            "good" => "\u{2713}",
            "warn" => "!",
            _ => "\u{2715}",
        };
        html! {
            li class="card" {
                h3 { (self.name) " " span class=(self.class) { span aria-hidden="true" { (mark) } " " (self.state) } }
                @if let Some(used) = self.used {
                    svg class="part" aria-hidden="true" {
                        rect class="rest" width="100%" height="100%" {}
                        rect class="used" width=(format!("{:.1}%", (used * 100.0).clamp(0.0, 100.0))) height="100%" {}
                    }
                }
                dl { @for (name, value) in &self.lines { div { dt class="dim" { (name) } dd { (value) } } } }
            }
        }
    }
}

/// All cards: stores, disk, connections, REST clients.
pub fn stores(facts: &Facts) -> Markup {
    let status = &facts.status;
    let connections = status["connections"].as_array().into_iter().flatten().enumerate();
    let connections = connections.map(|(at, socket)| connection(at + 1, socket));
    let is_degraded = status["degraded"]["rest"].is_string();
    let clients = status["rest"].as_object().into_iter().flatten();
    let clients = clients.map(|(exchange, client)| rest(exchange, client, is_degraded, facts.now));
    let cards = kept_in(facts).into_iter().chain([disk(facts)]).chain(connections).chain(clients);
    html! { ul class="cards" { @for card in cards { (card.markup()) } } }
}

/// Log, history and cache.
fn kept_in(facts: &Facts) -> [Card; 3] {
    let status = &facts.status;
    let number = |value: &Value| value.as_f64().map_or("not known".to_owned(), grouped);
    let bytes = |value: &Value| value.as_f64().map_or(String::new(), size);
    let error = |part: &str| status["degraded"][part].as_str().or(status[part]["error"].as_str());
    let [log, history, cache] = &facts.backends;
    let waiting = status["cache"]["waiting"].as_i64().unwrap_or_default();
    [
        Card::new("Log", error("log"))
            .line("backend", log.clone())
            .line("on disk", bytes(&status["log"]["usage"]["bytes"]))
            .line("waiting", format!("{} frames", number(&status["log"]["lag_frames"])))
            .line("received", format!("{} frames", number(&status["frames"]["received"]))),
        Card::new("History", error("history"))
            .line("backend", history.clone())
            .line("on disk", bytes(&status["history"]["bytes"]))
            .line("rows", number(&status["rows"]))
            .line("backfilled", number(&status["backfilled"])),
        Card::new("Cache", error("cache"))
            .line("backend", cache.clone())
            .line("waiting", format!("{} to write", pluralize(waiting, "key", "keys"))),
    ]
}

fn disk(facts: &Facts) -> Card {
    let Some(free) = facts.free else { return Card::new("Disk", Some("the system does not report its free space")) };
    let forecast = time_series::forecast(&facts.samples);
    let kept = facts.samples.last().and_then(|sample| sample.kept).map(|kept| size(kept as f64));
    let growth = match forecast.growth {
        Some(growth) if growth > 0.0 => format!("{} an hour", size(growth * 3_600.0)),
        Some(_) => "not in the last hour".to_owned(),
        None => "known after half an hour".to_owned(),
    };
    Card::new("Disk", None)
        .line("free", size(free as f64))
        .line("used by us", kept.unwrap_or_default())
        .line("grows", growth)
        .line("full in", forecast.own_full_in_s.map(span).unwrap_or_default())
}

fn connection(number: usize, socket: &Value) -> Card {
    let exchange = socket["exchange"].as_str().unwrap_or_default();
    // The state is `waiting: why`, and the reason can be long.
    let state = socket["state"].as_str().unwrap_or_default();
    let (state, why) = state.split_once(": ").unwrap_or((state, ""));
    let mut card = Card::new(&format!("{exchange} socket {number}"), Some(state));
    card.class = if state == "connected" { "good" } else { "warn" };
    // By the monotonic clock: a wall clock that is set changes no age.
    let age = |name: &str| socket[name].as_f64().map(span);
    let times = |name: &str| grouped(socket[name].as_f64().unwrap_or_default());
    card.line("reason", why.to_owned())
        .line("streams", times("streams"))
        .line("connected for", age("connected_s").unwrap_or_default())
        .line("last frame", age("last_frame_s").map_or("none yet".to_owned(), |age| format!("{age} ago")))
        .line("frames", times("frames"))
        .line("reconnects", format!("{}, and {} planned", times("reconnects"), times("rotations")))
        .line("last error", socket["last_error"].as_str().unwrap_or_default().to_owned())
}

fn rest(exchange: &str, rest: &Value, is_degraded: bool, now: Timestamp) -> Card {
    let until = |name: &str| rest[name].as_str().and_then(Timestamp::parse).filter(|until| *until > now);
    let mut card = Card::new(&format!("{exchange} REST"), None);
    match (until("banned_until"), until("limited_until")) {
        (Some(until), _) => (card.class, card.state) = ("bad", format!("banned until {until}")),
        (_, Some(until)) => (card.class, card.state) = ("warn", format!("limited until {until}")),
        _ if is_degraded => (card.class, card.state) = ("warn", "failing".to_owned()),
        _ => {}
    }
    let number = |name: &str| rest[name].as_f64().unwrap_or_default();
    let (used, limit) = (number("used"), number("limit"));
    card.used = (limit > 0.0).then_some(used / limit);
    let offset = rest["clock_offset_us"].as_f64().map_or("not measured yet".to_owned(), |us| {
        format!("{:.1} ms {} ours", us.abs() / 1e3, if us < 0.0 { "behind" } else { "ahead of" })
    });
    card.line("weight used", format!("{} of {} this minute", grouped(used), grouped(limit)))
        .line("backfill share", format!("{} %", rest["share_percent"]))
        .line("requests", format!("{}, {} failed", grouped(number("requests")), grouped(number("failures"))))
        .line("clock", offset)
        .line("last error", rest["last_error"].as_str().unwrap_or_default().to_owned())
}
