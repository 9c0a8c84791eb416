//! What the exchanges say about the feeds with patterns: what each pattern matches, and what is listed of the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::exchange_runtime;
use crate::app::recorded::idle_patterns;
use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::{Feed, ListingEntry, STREAMS_MAX, Selection, SymbolPattern};
use crate::exit::Failure;
use crate::market::{Exchange, Symbol};

use super::output::{Format, print_line};

/// Most symbols that one line names.
const NAMED_MAX: usize = 20;

/// Whether the patterns match something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matched {
    /// Each of them, or there is none.
    All,
    /// An exchange did not answer.
    Unknown,
    /// One matches nothing.
    Nothing,
}

/// What was found about one pattern or symbol.
#[derive(Debug, Default, PartialEq, Eq)]
struct Finding {
    /// The text in the feed.
    text: String,
    /// The symbols that it stands for.
    matches: Vec<String>,
    warning: Option<String>,
    error: Option<String>,
}

/// Asks each exchange with patterns, and prints one line per pattern and per oddity.
pub async fn run(config: &Config, format: Format, stop: &CancellationToken) -> Result<Matched, Failure> {
    let feeds = || config.feeds.iter().filter(|feed| !feed.patterns.is_empty());
    let exchanges: BTreeSet<Exchange> = feeds().map(|feed| feed.exchange).collect();
    let mut worst = Matched::All;
    for exchange in exchanges {
        let rest = exchange_runtime::rest(exchange, &config.feeds, 100, Clock::system(), None)?;
        let entries: BTreeMap<String, ListingEntry> = match rest.info(&[], stop).await {
            Ok(info) if !info.symbols.is_empty() => info.symbols.into_iter().collect(),
            answer => {
                let why = answer.map_or_else(|error| error.to_string(), |_empty| "its listing is empty".to_owned());
                let error = Some(format!("does not say what it lists: {why}"));
                print(exchange, &Finding { text: "listing".to_owned(), error, ..Finding::default() }, format);
                worst = worst.max(Matched::Unknown);
                continue;
            }
        };
        let mut findings: Vec<Finding> =
            feeds().filter(|feed| feed.exchange == exchange).flat_map(|feed| of_feed(feed, &entries)).collect();
        findings.extend(too_many(&config.feeds, exchange, &entries));
        for finding in &findings {
            print(exchange, finding, format);
            worst = worst.max(if finding.error.is_some() { Matched::Nothing } else { Matched::All });
        }
    }
    Ok(worst)
}

fn trading(entries: &BTreeMap<String, ListingEntry>) -> impl Iterator<Item = &str> + Clone {
    entries.iter().filter(|(_, entry)| **entry == ListingEntry::Trading).map(|(name, _)| name.as_str())
}

fn of_feed(feed: &Feed, entries: &BTreeMap<String, ListingEntry>) -> Vec<Finding> {
    let names = trading(entries);
    let idle: BTreeSet<String> = idle_patterns(feed, names.clone()).into_iter().collect();
    let pattern = |pattern: &SymbolPattern| {
        let text = pattern.to_string();
        let error = idle.contains(&text).then(|| "matches no symbol that trades".to_owned());
        let of = names.clone().filter(|name| pattern.matches(name) && feed.selects(name));
        Finding { matches: of.map(str::to_owned).collect(), warning: None, text, error }
    };
    let exclude = |exclude: &SymbolPattern| {
        let selected = |name: &str| feed.patterns.iter().any(|pattern| pattern.matches(name));
        let leaves_out = names.clone().any(|name| selected(name) && exclude.matches(name));
        let warning = (!leaves_out).then(|| "excludes nothing".to_owned())?;
        Some(Finding { text: exclude.to_string(), warning: Some(warning), ..Finding::default() })
    };
    let symbol = |symbol: &Symbol| {
        let warning = match entries.get(symbol.as_str()) {
            Some(ListingEntry::Trading) => return None,
            Some(ListingEntry::Paused(word)) => format!("does not trade now: its status is {word}"),
            Some(ListingEntry::Unlisted) | None => "is not listed (yet)".to_owned(),
        };
        Some(Finding { text: symbol.to_string(), warning: Some(warning), ..Finding::default() })
    };
    let patterns = feed.patterns.iter().map(pattern);
    patterns.chain(feed.exclude.iter().filter_map(exclude)).chain(feed.symbols.iter().filter_map(symbol)).collect()
}

/// A warning when the limit leaves out streams.
fn too_many(feeds: &[Feed], exchange: Exchange, entries: &BTreeMap<String, ListingEntry>) -> Option<Finding> {
    let listed = BTreeMap::from([(exchange, trading(entries).map(Symbol::new).collect())]);
    let count = *Selection::new(feeds, &listed, STREAMS_MAX).left_out.get(&exchange)?;
    let warning = format!("{count} streams more than the {STREAMS_MAX} that are recorded of one exchange");
    Some(Finding { text: "*".to_owned(), warning: Some(warning), ..Finding::default() })
}

fn print(exchange: Exchange, finding: &Finding, format: Format) {
    let Finding { text, matches, warning, error } = finding;
    if format == Format::Json {
        let line = json!({
            "exchange": exchange.as_str(), "pattern": text, "matches": matches, "warning": warning, "error": error,
        });
        print_line!("{line}");
        return;
    }
    print_line!("{exchange:<8} {}", describe(finding));
}

fn describe(finding: &Finding) -> String {
    let Finding { text, matches, warning, error } = finding;
    if let Some(why) = error {
        return format!("{text}: error: {why}");
    }
    if let Some(why) = warning {
        return format!("{text}: warning: {why}");
    }
    let more = matches.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = matches[..matches.len().min(NAMED_MAX)].join(", ");
    format!("{text}: {} symbols: {named}{more}", matches.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Since;
    use crate::market::Channel;

    #[test]
    fn each_pattern_and_each_oddity_is_a_finding() {
        let feed = Feed {
            exchange: Exchange::named("binance"),
            symbols: ["BTCUSDT", "OLDUSDT", "NEWUSDT"].map(Symbol::new).to_vec(),
            patterns: ["ETH*", "SOL*"].map(SymbolPattern::new).to_vec(),
            exclude: ["ETHBTC", "*DOWN*"].map(SymbolPattern::new).to_vec(),
            channels: vec![Channel::Trade],
            since: Since::Now,
            succeeds: None,
            ws_url: None,
            rest_url: None,
        };
        let paused = || ListingEntry::Paused("BREAK".to_owned());
        let entries = [
            ("BTCUSDT", ListingEntry::Trading),
            ("ETHBTC", ListingEntry::Trading),
            ("ETHUSDT", ListingEntry::Trading),
            ("OLDUSDT", paused()),
            ("SOLUSDT", paused()),
        ];
        let entries = entries.map(|(name, entry)| (name.to_owned(), entry)).into();
        let lines: Vec<String> = of_feed(&feed, &entries).iter().map(describe).collect();
        assert_eq!(
            lines,
            [
                "ETH*: 1 symbols: ETHUSDT",
                "SOL*: error: matches no symbol that trades",
                "*DOWN*: warning: excludes nothing",
                "OLDUSDT: warning: does not trade now: its status is BREAK",
                "NEWUSDT: warning: is not listed (yet)",
            ]
        );
        assert_eq!(too_many(&[feed], Exchange::named("binance"), &entries), None);
    }
}
