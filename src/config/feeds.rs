//! Reads the feeds of `tapekeeper.toml`: what to record of which exchange.

use std::collections::HashSet;

use crate::exchange::spec::Spec;
use crate::exchange::{Dialect, Feed, Since, catalog};
use crate::market::{Channel, Exchange, Stream, Timestamp};

use super::feed_symbols::FeedSymbols;
use super::problem::did_you_mean;
use super::reader::{Table, type_name};
use super::service::missing;

/// Reads every `[[feed]]`.
pub(super) fn feeds(root: &Table<'_>) -> Vec<Feed> {
    let mut feeds: Vec<Feed> = Vec::new();
    let mut seen: HashSet<Stream> = HashSet::new();
    let tables = root.tables("feed");
    let empty = root.value("feed").is_none_or(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty()));
    if empty {
        let help = "add a table `[[feed]]` with at least `exchange`, `symbols` and `channels`".to_owned();
        root.diagnostics().missing(0..0, "there is no `[[feed]]`: nothing would be recorded", help);
    }
    for table in tables {
        let exchange = exchange(&table);
        let dialect = exchange.and_then(catalog::dialect);
        let symbols = FeedSymbols::read(&table, dialect.as_deref());
        let undocumented = table.boolean("undocumented").unwrap_or(false);
        let channels = channels(&table, dialect.as_deref(), undocumented);
        let since = since(&table);
        let ws_url = url(&table, "ws_url", &["ws", "wss"]);
        let rest_url = url(&table, "rest_url", &["http", "https"]);
        let span = table.span();
        if let (Some(exchange), Some(symbols), Some(channels)) = (exchange, symbols, channels) {
            let FeedSymbols { exact, patterns, exclude, succeeds } = symbols;
            let symbols = exact;
            let feed = Feed { exchange, symbols, patterns, exclude, channels, since, succeeds, ws_url, rest_url };
            check_streams(&table, &feed, &mut seen);
            if let Some(other) = feeds.iter().find(|other| other.exchange == exchange)
                && other.rest_url != feed.rest_url
            {
                let message = format!("the feeds of {exchange} have different `rest_url`s");
                let help = "an exchange has one REST budget: write the same `rest_url` in each of its feeds".to_owned();
                let span = if table.has("rest_url") { table.key_span("rest_url") } else { span };
                table.diagnostics().error(span, message, Some(help));
            }
            feeds.push(feed);
        }
        table.finish();
    }
    feeds
}

fn check_streams(table: &Table<'_>, feed: &Feed, seen: &mut HashSet<Stream>) {
    let twice: Vec<String> =
        feed.streams().into_iter().filter(|stream| !seen.insert(stream.clone())).map(|s| s.to_string()).collect();
    if let Some(first) = twice.first() {
        let more = if twice.len() > 1 { format!(" and {} more", twice.len() - 1) } else { String::new() };
        let help = "each stream is recorded once: remove the symbol or the channel from one feed".to_owned();
        table.diagnostics().error(
            table.key_span("symbols"),
            format!("duplicate feed: {first}{more} is named twice"),
            Some(help),
        );
    }
}

fn exchange(table: &Table<'_>) -> Option<Exchange> {
    if !table.has("exchange") {
        missing(table, "exchange", "\"binance\"");
    }
    let (text, span) = table.text("exchange")?;
    if let Some(exchange) = catalog::find(&text) {
        return Some(exchange);
    }
    let known: Vec<&str> = catalog::names().map(Exchange::as_str).collect();
    let help = did_you_mean(&text, known.iter().copied()).unwrap_or_else(|| format!("known: {}", known.join(", ")));
    table.diagnostics().error(span, format!("unknown exchange `{text}`"), Some(help));
    None
}

fn channels(table: &Table<'_>, dialect: Option<&dyn Dialect>, undocumented: bool) -> Option<Vec<Channel>> {
    if !table.has("channels") {
        missing(table, "channels", "[\"trade\", \"kline_1m\"]");
    }
    let written = table.texts("channels")?;
    let sent = |channel: &Channel| dialect.is_none_or(|dialect| dialect.spec().channel(*channel).is_some());
    let known: Vec<&str> = Channel::ALL.into_iter().filter(sent).map(Channel::as_str).collect();
    let mut channels = Vec::new();
    for (text, span) in written {
        match text.parse::<Channel>() {
            Ok(channel) if sent(&channel) => {
                if !undocumented && let Some(dialect) = dialect {
                    refuse_undocumented(table, dialect.spec(), channel, &span);
                }
                channels.push(channel);
            }
            Ok(channel) => {
                let title = dialect.map_or("the exchange", |dialect| dialect.spec().title);
                let message = format!("{title} does not send `{channel}`");
                table.diagnostics().error(span, message, Some(format!("it sends: {}", known.join(", "))));
            }
            Err(()) => {
                let help = did_you_mean(&text, known.iter().copied())
                    .unwrap_or_else(|| format!("known: {}", known.join(", ")));
                table.diagnostics().error(span, format!("unknown channel `{text}`"), Some(help));
            }
        }
    }
    Some(channels)
}

/// Reports a channel that the exchange sends and does not document, with the one to record in its place.
fn refuse_undocumented(table: &Table<'_>, spec: &Spec, channel: Channel, span: &std::ops::Range<usize>) {
    if !spec.channel(channel).is_some_and(|channel| channel.undocumented) {
        return;
    }
    let message = format!("{} sends `{channel}` without documenting it: it may end without notice", spec.title);
    let documented = spec.trades_channel().filter(|_| channel.has_trades());
    let allow = "write `undocumented = true` in this feed to record it anyway";
    let help = match documented {
        Some(other) => format!("record `{other}`, or {allow}"),
        None => allow.to_owned(),
    };
    table.diagnostics().error(span.clone(), message, Some(help));
}

fn since(table: &Table<'_>) -> Since {
    let Some(value) = table.value("since") else { return Since::Now };
    let (text, span) = match value.get_ref() {
        toml::de::DeValue::Integer(_) => {
            return table.integer("since", 0, i64::MAX).map_or(Since::Now, Since::TradeId);
        }
        toml::de::DeValue::Datetime(at) => (at.to_string(), value.span()),
        toml::de::DeValue::String(text) => (text.to_string(), value.span()),
        other => {
            let message = format!("`feed.since` must be \"now\", a date or a trade id, not {}", type_name(other));
            let help = "write `since = \"now\"`, `since = \"2026-01-31\"` or `since = 12345`".to_owned();
            table.diagnostics().error(value.span(), message, Some(help));
            return Since::Now;
        }
    };
    if text == "now" {
        return Since::Now;
    }
    if let Ok(id) = text.parse::<i64>()
        && id >= 0
    {
        return Since::TradeId(id);
    }
    match Timestamp::parse(&text) {
        Some(at) => Since::Time(at),
        None => {
            let help = "write \"now\", \"2026-01-31\", \"2026-01-31T12:00:00Z\" or a trade id".to_owned();
            table.diagnostics().error(span, format!("`{text}` is not a point in time"), Some(help));
            Since::Now
        }
    }
}

/// A base URL without a path: scheme, host and port.
pub(super) fn url(table: &Table<'_>, key: &'static str, schemes: &[&str]) -> Option<String> {
    let (text, span) = table.text(key)?;
    let expected = schemes.join(":// or ");
    let Some((scheme, rest)) = text.split_once("://") else {
        table.diagnostics().error(span, format!("`{text}` is not a URL"), Some(format!("begin with {expected}://")));
        return None;
    };
    if !schemes.contains(&scheme) {
        let message = format!("`{}` cannot use `{scheme}://`", table.name(key));
        table.diagnostics().error(span, message, Some(format!("use {expected}://")));
        return None;
    }
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty()
        || host.contains(['/', '?', '#', '@', ' '])
        || format!("{scheme}://{host}").parse::<reqwest::Url>().is_err()
    {
        let help = format!("write only the base URL: `{scheme}://host:port`");
        let message = format!("`{}` must be a base URL: scheme, host and port only", table.name(key));
        table.diagnostics().error(span, message, Some(help));
        return None;
    }
    Some(format!("{scheme}://{host}"))
}
