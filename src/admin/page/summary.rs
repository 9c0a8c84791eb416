//! The page's head and its tiles: the state of the service and its main figures.

use maud::{Markup, html};
use serde_json::Value;

use super::super::time_series;
use super::action_items::ActionItem;
use super::facts::Facts;
use super::format::{pluralize, short, size, span};
use super::html::instant;

/// The state of the service: words, a colour and a mark.
#[derive(Clone, Debug)]
pub struct Headline {
    /// `good`, `warn` or `bad`.
    pub class: &'static str,
    /// For people who cannot tell the colours apart.
    pub mark: &'static str,
    /// The state, in words.
    pub words: String,
}

impl Headline {
    /// The headline for these facts. The worst state wins.
    pub fn of(facts: &Facts, items: &[ActionItem]) -> Self {
        let is = |name: &str| facts.status[name] == true;
        let is_degraded = facts.status["degraded"].as_object().is_some_and(|parts| !parts.is_empty());
        let problems = items.iter().filter(|item| item.is_bad).count();
        let (class, mark, words) = match () {
            () if facts.stuck_loop().is_some() => ("bad", "\u{2715}", "stuck".to_owned()),
            () if is("stopping") => ("warn", "!", "stopping".to_owned()),
            () if !is("ready") => ("warn", "!", "starting".to_owned()),
            () if is_degraded => ("warn", "!", "degraded".to_owned()),
            () if problems > 0 => {
                ("bad", "\u{2715}", format!("recording, {}", pluralize(problems as i64, "problem", "problems")))
            }
            () if !items.is_empty() => {
                ("warn", "!", format!("recording, {}", pluralize(items.len() as i64, "notice", "notices")))
            }
            () => ("good", "\u{2713}", "recording".to_owned()),
        };
        Self { class, mark, words }
    }
}

/// The name, the state, and the time of this rendering.
pub fn head(facts: &Facts, items: &[ActionItem]) -> Markup {
    let Headline { class, mark, words } = Headline::of(facts, items);
    let status = &facts.status;
    let instance = status["instance"].as_str().filter(|instance| !instance.is_empty());
    html! {
        h1 { "Tapekeeper " span class={ "state " (class) } { span aria-hidden="true" { (mark) } " " (words) } }
        p class="dim" {
            @if let Some(instance) = instance { b { (instance) } " \u{b7} " }
            "version " (status["version"].as_str().unwrap_or_default())
            " \u{b7} up " (span(status["uptime_s"].as_f64().unwrap_or_default()))
            " \u{b7} as of " (instant(facts.now, facts.now)) " UTC"
        }
    }
}

/// The main figures.
pub fn tiles(facts: &Facts) -> Markup {
    let status = &facts.status;
    // A figure that is not known is a dash, never a zero.
    let number = |value: &Value| value.as_f64().map_or("\u{2013}".to_owned(), short);
    let some = |value: &Value| if value.as_f64().is_some_and(|number| number > 0.0) { "bad" } else { "" };
    let (streams, gaps) = (&status["streams"], &status["gaps"]);
    // A symbol that does not trade sends nothing.
    let idle = ["not_trading", "ended"].iter().filter_map(|state| streams["states"][state].as_u64()).sum::<u64>();
    let due = streams["total"].as_u64().map(|total| total.saturating_sub(idle));
    let silent = if streams["receiving"].as_u64() >= due { "" } else { "warn" };
    let full_in = time_series::forecast(&facts.samples)
        .own_full_in_s
        .map_or("of disk free".to_owned(), |seconds| format!("of disk free, full in {}", span(seconds)));
    let free = facts.free.map_or("\u{2013}".to_owned(), |free| size(free as f64));
    let tiles = [
        ("streams receiving", format!("{} of {}", streams["receiving"], streams["total"]), silent),
        ("open gaps", number(&gaps["open"]), some(&gaps["open"])),
        ("rows missing now", short(facts.missing as f64), if facts.missing > 0 { "bad" } else { "" }),
        ("gaps found, filled", format!("{}, {}", number(&gaps["found"]), number(&gaps["filled"])), ""),
        ("rows stored", number(&status["rows"]), ""),
        ("rows backfilled", number(&status["backfilled"]), ""),
        ("frames wait in the log", number(&status["log"]["lag_frames"]), ""),
        ("dead letters", number(&status["dead_letters"]), some(&status["dead_letters"])),
        ("connections lost", number(&status["reconnects"]), ""),
        (full_in.as_str(), free, ""),
    ];
    html! {
        dl class="tiles" {
            @for (label, value, class) in tiles { div { dt class="dim" { (label) } dd class=(class) { (value) } } }
        }
        p class="dim note" { "counted since this process started" }
    }
}
