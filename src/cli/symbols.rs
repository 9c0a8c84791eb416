//! `symbols`: what an exchange lists, with its states; `--venues`: what each venue can do.

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::app::exchange_runtime;
use crate::clock::Clock;
use crate::config::{Config, did_you_mean};
use crate::exchange::spec::{ChannelKind, ChannelSpec, ChannelWords, Spec};
use crate::exchange::{ListingEntry, SymbolPattern, catalog};
use crate::exit::{Failure, UNAVAILABLE, USAGE};

use super::output::{Format, print_line, print_rows};

/// Arguments of `symbols`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Only symbols like this: `*` stands for any characters (`*USDT`)
    #[arg(conflicts_with = "venues")]
    pattern: Option<String>,
    /// The exchange to ask
    #[arg(long, required_unless_present = "venues")]
    exchange: Option<String>,
    /// Print what each venue can do: how its channels are numbered and how lost rows come back. Asks nobody
    #[arg(long, conflicts_with = "exchange")]
    venues: bool,
}

/// Prints; returns the exit code.
pub async fn run(args: Args, config: &Config, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    if args.venues {
        venues(format);
        return Ok(0);
    }
    let name = args.exchange.unwrap_or_default();
    let Some(exchange) = catalog::find(&name) else {
        let known: Vec<&str> = catalog::names().map(|exchange| exchange.as_str()).collect();
        let hint = did_you_mean(&name, known.iter().copied());
        let hint = hint.unwrap_or_else(|| format!("known: {}", known.join(", ")));
        return Err(Failure::new(USAGE, anyhow::anyhow!("unknown exchange `{name}`: {hint}")));
    };
    let pattern = SymbolPattern::new(args.pattern.as_deref().unwrap_or("*"));
    let rest = exchange_runtime::rest(exchange, &config.feeds, 100, Clock::system(), None)?;
    let info = rest.info(&[], &stop).await.map_err(|error| {
        Failure::new(UNAVAILABLE, anyhow::anyhow!(error).context(format!("ask {exchange} what it lists")))
    })?;
    let mut rows: Vec<(String, String)> = info
        .symbols
        .into_iter()
        .filter(|(symbol, _)| pattern.matches(symbol))
        .map(|(symbol, entry)| (symbol, state(entry)))
        .collect();
    rows.sort();
    let count = rows.len();
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|(symbol, state)| json!({"exchange": exchange.as_str(), "symbol": symbol, "state": state}))
        .collect();
    print_rows(&json!(rows), &["symbol", "state"], format);
    if format != Format::Json {
        print_line!("{count} symbols of {exchange}");
        for why in &info.unreadable {
            eprintln!("{exchange}: {why}");
        }
    }
    Ok(0)
}

fn state(entry: ListingEntry) -> String {
    match entry {
        ListingEntry::Trading => "trading".to_owned(),
        ListingEntry::Paused(word) => format!("paused ({word})"),
        ListingEntry::Unlisted => "not listed".to_owned(),
    }
}

fn venues(format: Format) {
    let rows: Vec<Value> = catalog::dialects()
        .iter()
        .flat_map(|dialect| {
            let spec = dialect.spec();
            spec.channels.iter().map(|channel| row(spec, channel))
        })
        .collect();
    let columns = ["exchange", "channel", "numbering", "refill", "reach", "on_subscribe", "closes", "note"];
    print_rows(&json!(rows), &columns, format);
}

/// A channel of a venue, in the words of docs/exchanges.md.
fn row(spec: &Spec, channel: &ChannelSpec) -> Value {
    let intervals: Vec<&str> = match channel.kind {
        ChannelKind::Kline { intervals, .. } => intervals.iter().map(|interval| interval.as_str()).collect(),
        _ => Vec::new(),
    };
    let ChannelWords { reach, on_subscribe, closes, note } = channel.words();
    json!({
        "exchange": spec.exchange.as_str(), "title": spec.title, "channel": channel.kind.as_str(),
        "intervals": intervals, "numbering": channel.numbering.as_str(), "refill": channel.refill.words(),
        "reach": reach, "on_subscribe": on_subscribe, "closes": closes, "note": note, "rows_per_request": match channel.kind {
            ChannelKind::Kline { .. } => spec.rest.klines_page,
            _ => spec.rest.trades_page,
        },
    })
}
