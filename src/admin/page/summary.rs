//! The page's head and its figures: the service at one glance.

use serde_json::Value;

use super::super::time_series;
use super::action_items::ActionItem;
use super::html::{Escaped, instant, put, short, size, span};
use super::render::Facts;

/// The service in one word, a colour and a mark.
#[derive(Clone, Copy, Debug)]
pub struct Headline {
    /// `good`, `warn` or `bad`.
    pub class: &'static str,
    /// For eyes that do not tell colours.
    pub mark: &'static str,
    /// The word.
    pub words: &'static str,
}

impl Headline {
    /// How the service stands.
    pub fn of(facts: &Facts, items: &[ActionItem]) -> Self {
        let is = |name: &str| facts.status[name] == true;
        let (class, mark, words) = match () {
            () if facts.wedged().is_some() => ("bad", "\u{2715}", "wedged"),
            () if is("stopping") => ("warn", "!", "stopping"),
            () if !is("ready") => ("warn", "!", "starting"),
            () if facts.status["degraded"].as_object().is_some_and(|parts| !parts.is_empty()) => {
                ("warn", "!", "degraded")
            }
            () if items.iter().any(|item| item.is_bad) => ("bad", "\u{2715}", "recording, and needs a person"),
            () if !items.is_empty() => ("warn", "!", "recording, and needs a look"),
            () => ("good", "\u{2713}", "recording"),
        };
        Self { class, mark, words }
    }
}

/// The name, the state, and of when the page is.
pub fn head(out: &mut String, facts: &Facts, items: &[ActionItem]) {
    let Headline { class, mark, words } = Headline::of(facts, items);
    let status = &facts.status;
    put(
        out,
        format_args!(
            "<h1>Tapekeeper <span class=\"state {class}\"><span aria-hidden=\"true\">{mark}</span> {words}</span></h1>\
             <p class=\"dim\">"
        ),
    );
    if let Some(instance) = status["instance"].as_str().filter(|instance| !instance.is_empty()) {
        put(out, format_args!("<b>{}</b> &middot; ", Escaped(instance)));
    }
    let version = status["version"].as_str().unwrap_or_default();
    let uptime = span(status["uptime_s"].as_f64().unwrap_or_default());
    let now = instant(facts.now, facts.now);
    put(out, format_args!("version {} &middot; up {uptime} &middot; as of {now} UTC</p>", Escaped(version)));
}

/// The figures.
pub fn tiles(out: &mut String, facts: &Facts) {
    let status = &facts.status;
    // What cannot be known now is a dash, never a zero.
    let number = |value: &Value| value.as_f64().map_or("\u{2013}".to_owned(), short);
    let some = |value: &Value| if value.as_f64().is_some_and(|number| number > 0.0) { "bad" } else { "" };
    let (streams, gaps) = (&status["streams"], &status["gaps"]);
    let silent = if streams["receiving"] == streams["total"] { "" } else { "warn" };
    let full_in = time_series::forecast(&facts.samples)
        .own_full_in_s
        .map_or("of disk free".to_owned(), |seconds| format!("of disk free, full in {}", span(seconds)));
    let free = facts.free.map_or("\u{2013}".to_owned(), |free| size(free as f64));
    let waiting = number(&status["log"]["lag_frames"]);
    let tiles = [
        ("streams receiving", format!("{} of {}", streams["receiving"], streams["total"]), silent),
        ("open gaps", number(&gaps["open"]), some(&gaps["open"])),
        ("rows missing now", short(facts.missing as f64), if facts.missing > 0 { "bad" } else { "" }),
        ("gaps found, filled", format!("{}, {}", number(&gaps["found"]), number(&gaps["filled"])), ""),
        ("rows stored", number(&status["rows"]), ""),
        ("of these fetched later", number(&status["backfilled"]), ""),
        ("frames wait in the log", waiting, ""),
        ("dead letters", number(&status["dead_letters"]), some(&status["dead_letters"])),
        ("connections lost", number(&status["reconnects"]), ""),
        (full_in.as_str(), free, ""),
    ];
    out.push_str("<dl class=\"tiles\">");
    for (label, value, class) in tiles {
        put(
            out,
            format_args!("<div><dt class=\"dim\">{label}</dt><dd class=\"{class}\">{}</dd></div>", Escaped(&value)),
        );
    }
    out.push_str("</dl><p class=\"dim note\">counted since this process began</p>");
}
