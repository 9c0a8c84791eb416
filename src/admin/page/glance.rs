//! The page's head and its figures: the service at one glance.

use serde_json::Value;

use super::super::trend;
use super::html::{Text, instant, put, short, size, span};
use super::needs::Need;
use super::press::Facts;

/// The service in one word, a colour and a mark.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// `good`, `warn` or `bad`.
    pub class: &'static str,
    /// For eyes that do not tell colours.
    pub mark: &'static str,
    /// The word.
    pub words: &'static str,
}

impl Standing {
    /// How the service stands.
    pub fn of(facts: &Facts, needs: &[Need]) -> Self {
        let is = |name: &str| facts.status[name] == true;
        let (class, mark, words) = match () {
            () if facts.wedged().is_some() => ("bad", "\u{2715}", "wedged"),
            () if is("stopping") => ("warn", "!", "stopping"),
            () if !is("ready") => ("warn", "!", "starting"),
            () if facts.status["degraded"].as_object().is_some_and(|parts| !parts.is_empty()) => {
                ("warn", "!", "degraded")
            }
            () if needs.iter().any(|need| need.is_bad) => ("bad", "\u{2715}", "recording, and needs a person"),
            () if !needs.is_empty() => ("warn", "!", "recording, and needs a look"),
            () => ("good", "\u{2713}", "recording"),
        };
        Self { class, mark, words }
    }
}

/// The name, the state, and of when the page is.
pub fn head(out: &mut String, facts: &Facts, needs: &[Need]) {
    let Standing { class, mark, words } = Standing::of(facts, needs);
    let status = &facts.status;
    put(
        out,
        format_args!(
            "<h1>Tapekeeper <span class=\"state {class}\"><span aria-hidden=\"true\">{mark}</span> {words}</span></h1>\
             <p class=\"dim\">"
        ),
    );
    if let Some(instance) = status["instance"].as_str().filter(|instance| !instance.is_empty()) {
        put(out, format_args!("<b>{}</b> &middot; ", Text(instance)));
    }
    let version = status["version"].as_str().unwrap_or_default();
    let uptime = span(status["uptime_s"].as_f64().unwrap_or_default());
    let now = instant(facts.now, facts.now);
    put(out, format_args!("version {} &middot; up {uptime} &middot; as of {now} UTC</p>", Text(version)));
}

/// The figures.
pub fn tiles(out: &mut String, facts: &Facts) {
    let status = &facts.status;
    // What cannot be known now is a dash, never a zero.
    let number = |value: &Value| value.as_f64().map_or("\u{2013}".to_owned(), short);
    let some = |value: &Value| if value.as_f64().is_some_and(|number| number > 0.0) { "bad" } else { "" };
    let (streams, gaps) = (&status["streams"], &status["gaps"]);
    let silent = if streams["receiving"] == streams["total"] { "" } else { "warn" };
    let full_in = trend::forecast(&facts.samples)
        .by_us
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
        put(out, format_args!("<div><dt class=\"dim\">{label}</dt><dd class=\"{class}\">{}</dd></div>", Text(&value)));
    }
    out.push_str("</dl><p class=\"dim note\">counted since this process began</p>");
}
