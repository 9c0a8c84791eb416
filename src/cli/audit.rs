//! `audit`: recounts history itself, with or without the service; exit 1 when it is not complete.

use clap::Args as ClapArgs;
use serde_json::json;

use crate::app::stores;
use crate::config::Config;
use crate::exit::{Failure, NO, USAGE};
use crate::gap::Range;
use crate::market::{Channel, Exchange, Stream, Timestamp};

use super::service::Format;

/// Most rows looked at to find where a time lies.
const MISSING_MAX: usize = 1_000;

/// Arguments of `audit`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Only of this exchange
    #[arg(long)]
    exchange: Option<String>,
    /// Only of this symbol
    #[arg(long)]
    symbol: Option<String>,
    /// From this trade id or day on
    #[arg(long)]
    from: Option<String>,
    /// Up to this trade id or day, included
    #[arg(long)]
    to: Option<String>,
}

/// Counts and prints one line a stream.
pub async fn run(args: Args, config: &Config, format: Format) -> Result<u8, Failure> {
    if let Some(exchange) = &args.exchange
        && exchange.parse::<Exchange>().is_err()
    {
        return Err(Failure::new(USAGE, anyhow::anyhow!("unknown exchange `{exchange}`")));
    }
    let history = stores::history(config).await?;
    let mut streams: Vec<Stream> = config.feeds.iter().flat_map(|feed| feed.streams()).collect();
    streams.retain(|stream| {
        stream.channel.step().is_some()
            && args.symbol.as_ref().is_none_or(|symbol| stream.symbol.as_str() == symbol)
            && args.exchange.as_ref().is_none_or(|exchange| stream.exchange.as_str() == exchange)
    });
    if streams.is_empty() {
        return Err(Failure::new(USAGE, anyhow::anyhow!("no configured stream is meant")));
    }
    let (mut complete, mut any) = (true, false);
    for stream in &streams {
        let coverage = crate::audit::coverage(&history, std::slice::from_ref(stream)).await?;
        let Some(whole) = coverage.first() else { continue };
        let step = stream.channel.step().unwrap_or(1);
        let (Some(first), Some(last)) = (whole.first, whole.last) else {
            // A stream of which nothing has come yet misses nothing; a history without any row proves nothing.
            complete &= whole.open_gaps == 0;
            report(stream, None, 0, 0, &[], whole.open_gaps, format);
            continue;
        };
        any = true;
        let bound = |text: &Option<String>, end: bool| text.as_deref().map(|text| position(stream, text, end, whole));
        let from = bound(&args.from, false).transpose()?.flatten().unwrap_or(first);
        let to = bound(&args.to, true).transpose()?.flatten().unwrap_or(last);
        let Some(range) = Range::new(from, to) else { continue };
        let counted = history.count(stream, range).await.map_err(anyhow::Error::from)?;
        let mut missing = whole.missing.clone();
        if (from, to) != (first, last) {
            let found = history.missing(stream, range, MISSING_MAX).await.map_err(anyhow::Error::from)?;
            missing = found.into_iter().map(|range| (range.first, range.last)).collect();
        }
        let absent: i64 = missing.iter().map(|(first, last)| (last - first) / step + 1).sum();
        complete &= absent == 0 && whole.open_gaps == 0;
        report(stream, Some(range), absent, counted.backfilled, &missing, whole.open_gaps, format);
    }
    history.close().await.map_err(anyhow::Error::from)?;
    Ok(if complete && any { 0 } else { NO })
}

/// A trade id as it is; a day by the first or last row stored of it.
fn position(stream: &Stream, text: &str, end: bool, coverage: &crate::audit::Coverage) -> Result<Option<i64>, Failure> {
    if let Ok(id) = text.parse::<i64>() {
        return Ok(Some(id));
    }
    let Some(at) = Timestamp::parse(text) else {
        return Err(Failure::new(USAGE, anyhow::anyhow!("`{text}` is neither a trade id nor a day")));
    };
    if let Channel::Kline(interval) = stream.channel {
        return Ok(Some(at.micros().div_euclid(interval.micros()) * interval.micros()));
    }
    let date = at.rfc3339()[..10].to_owned();
    let day = if end {
        coverage.days.iter().rev().find(|day| day.date <= date).map(|day| day.last)
    } else {
        coverage.days.iter().find(|day| day.date >= date).map(|day| day.first)
    };
    Ok(day)
}

fn report(
    stream: &Stream,
    range: Option<Range>,
    missing: i64,
    backfilled: i64,
    ranges: &[(i64, i64)],
    open_gaps: usize,
    format: Format,
) {
    let complete = missing == 0 && open_gaps == 0;
    if format == Format::Json {
        println!(
            "{}",
            json!({
                "exchange": stream.exchange.as_str(), "symbol": stream.symbol.as_str(),
                "channel": stream.channel.as_str(), "first": range.map(|range| range.first),
                "last": range.map(|range| range.last), "missing_count": missing, "missing": ranges,
                "backfilled": backfilled, "open_gaps": open_gaps, "complete": complete,
            })
        );
        return;
    }
    let Range { first, last } = match range {
        Some(range) => range,
        None => return println!("{} {} {}: nothing stored", stream.exchange, stream.symbol, stream.channel),
    };
    let verdict = if complete { "complete" } else { "NOT complete" };
    println!(
        "{} {} {} {first}..{last}: {verdict}, {missing} missing, {backfilled} backfilled, {open_gaps} gaps open",
        stream.exchange, stream.symbol, stream.channel
    );
    for (first, last) in ranges.iter().take(20) {
        println!("  missing {first}..{last}");
    }
}
