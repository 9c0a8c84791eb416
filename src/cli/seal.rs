//! `seal`: writes finished days as Parquet files with manifests, with or without the service.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::{recorded, stores};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::exchange::catalog;
use crate::exit::{DATA, Failure, NO, USAGE};
use crate::market::{Channel, Stream};
use crate::seal::{Day, DayReader, Event, Outcome, SealedDay, Sealer, Selection, Summary};

use super::output::{Format, print_line};
use super::progress_bar;

/// Arguments of `seal`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Without a day it seals every finished day that is not sealed, and those whose gaps changed since. A day \
    is settled when\nsomething after it is recorded and none of its gaps is open; once the grace is over it is sealed as it is, \
    with what it\nlacks. Sealing unchanged rows writes nothing.\n\n\
    Examples:\n  tapekeeper seal --output /srv/tape\n  tapekeeper seal --symbol BTCUSDT --date 2026-11-27\n  \
    tapekeeper seal --from 2026-11-01 --to 2026-11-27 --format json"
)]
pub struct Args {
    /// Only this exchange
    #[arg(long)]
    exchange: Option<String>,
    /// Only this symbol
    #[arg(long)]
    symbol: Option<String>,
    /// Only this channel: `trade`, `agg_trade`, or `kline_1m` and the other intervals
    #[arg(long)]
    channel: Option<String>,
    /// Only this day, in UTC
    #[arg(long, value_name = "DATE", value_parser = parse_day, conflicts_with_all = ["from", "to"])]
    date: Option<Day>,
    /// The first day, in UTC; default: where history begins
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    from: Option<Day>,
    /// The last day, inclusive; default: yesterday
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    to: Option<Day>,
    /// The directory of sealed days, in place of `[seal] to`
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How long after its end a day may stay unsettled
    #[arg(long, default_value = "30m", value_parser = parse_grace)]
    grace: Duration,
}

fn parse_day(text: &str) -> Result<Day, String> {
    Day::parse(text).ok_or_else(|| format!("`{text}` is not a date such as 2026-11-27"))
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).ok_or_else(|| format!("`{text}` is not a duration such as 30m"))
}

/// Seals; exit 1 when a day is not complete.
pub async fn run(args: Args, config: &Config, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    let clock = Clock::system();
    let today = Day::of(clock.now());
    let selection = selection(&args, today)?;
    let streams = streams(&args, config)?;
    let place = stores::sealed_days(config, args.output.as_deref())?;
    let history = stores::history_to_read(config).await?;
    let reader = DayReader { history: history.clone(), clock, recorder: config.instance.clone() };
    let sealer = Sealer { reader, place, grace: args.grace };
    let bar = progress_bar::bar(format, 0, "rows");
    let on = |event: Event<'_>| match event {
        Event::Reading(stream, day, rows) => {
            bar.set_message(format!("{} {} {day}", stream.symbol, stream.channel));
            // A new day is read twice.
            bar.set_length(bar.position() + 2 * rows);
        }
        Event::Rows(rows) => bar.inc(rows),
        Event::Waiting(stream, day, why) => bar.set_message(format!("waiting: {stream} {day}: {why}")),
        Event::Done(done) => {
            bar.set_length(bar.position());
            bar.suspend(|| report(done, &sealer.place.name(), format));
        }
    };
    let summary = sealer.run(&streams, selection, &stop, &on).await?;
    bar.finish_and_clear();
    history.close().await.context("close the history")?;
    Ok(conclude(&summary, selection, format))
}

fn selection(args: &Args, today: Day) -> Result<Selection, Failure> {
    let selection = match (args.date, args.from, args.to) {
        (Some(day), ..) => Selection::Days(day, day),
        (None, None, None) => Selection::All,
        (None, from, to) => {
            let epoch = Day::of(crate::market::Timestamp(0));
            Selection::Days(from.unwrap_or(epoch), to.unwrap_or(today.previous()))
        }
    };
    match selection {
        Selection::Days(_, last) if last >= today => {
            Err(Failure::new(USAGE, anyhow!("{last} is not over: only finished UTC days are sealed")))
        }
        Selection::Days(first, last) if first > last => {
            Err(Failure::new(USAGE, anyhow!("--from {first} is later than --to {last}")))
        }
        selection => Ok(selection),
    }
}

/// The configured streams that the arguments select.
fn streams(args: &Args, config: &Config) -> Result<Vec<Stream>, Failure> {
    let usage = |why: String| Failure::new(USAGE, anyhow!(why));
    if let Some(exchange) = &args.exchange
        && catalog::find(exchange).is_none()
    {
        return Err(usage(format!("unknown exchange `{exchange}`")));
    }
    let channel = match &args.channel {
        None => None,
        Some(text) => {
            let channel: Channel = text.parse().map_err(|()| usage(format!("unknown channel `{text}`")))?;
            if channel.step().is_none() {
                return Err(usage(format!("history does not hold {channel}: it goes to the log and the cache only")));
            }
            Some(channel)
        }
    };
    let mut streams: Vec<Stream> = recorded::known_streams(config);
    let symbols: Vec<String> = streams.iter().map(|stream| stream.symbol.to_string()).collect();
    streams.retain(|stream| {
        stream.channel.step().is_some()
            && channel.is_none_or(|channel| stream.channel == channel)
            && args.symbol.as_ref().is_none_or(|symbol| stream.symbol.as_str() == symbol)
            && args.exchange.as_ref().is_none_or(|exchange| stream.exchange.as_str() == exchange)
    });
    if streams.is_empty() {
        let written = args.symbol.as_deref().unwrap_or_default();
        let help = config::did_you_mean(written, symbols.iter().map(String::as_str));
        let help = help.filter(|_| args.symbol.is_some()).map_or(String::new(), |help| format!(": {help}"));
        return Err(usage(format!("no configured stream matches --exchange, --symbol and --channel{help}")));
    }
    Ok(streams)
}

fn report(done: &SealedDay, place: &str, format: Format) {
    let SealedDay { stream, day, outcome, manifest, directory } = done;
    let word = match outcome {
        Outcome::Sealed => "sealed",
        Outcome::Unchanged => "unchanged",
        Outcome::Kept(_) => "kept",
    };
    if format == Format::Json {
        print_line!(
            "{}",
            json!({
                "exchange": stream.exchange.as_str(), "symbol": stream.symbol.as_str(),
                "channel": stream.channel.as_str(), "date": day.to_string(), "outcome": word,
                "revision": manifest.revision, "rows": manifest.rows, "complete": manifest.complete,
                "logical_hash": manifest.logical_hash, "file": format!("{place}/{directory}/{}", manifest.file),
            })
        );
        return;
    }
    let verdict = match &manifest.shortfalls()[..] {
        [] => "complete".to_owned(),
        words => format!("NOT complete: {}", words.join(", ")),
    };
    let kept = match outcome {
        Outcome::Kept(fewer) => format!("; history has {fewer} rows fewer, so the sealed ones stay"),
        _ => String::new(),
    };
    let Stream { exchange, symbol, channel } = stream;
    let (revision, rows) = (manifest.revision, manifest.rows);
    print_line!("{exchange} {symbol} {channel} {day} r{revision} {word}: {rows} rows, {verdict}{kept}");
}

fn conclude(summary: &Summary, selection: Selection, format: Format) -> u8 {
    let Summary { sealed, unchanged, incomplete, failed, .. } = summary;
    for words in failed {
        eprintln!("cannot seal {words}");
    }
    let is_empty = sealed + unchanged + failed.len() == 0;
    if format == Format::Human {
        match selection {
            Selection::Days(..) if is_empty => eprintln!("history has no row of these days"),
            _ if is_empty => eprintln!("every finished day is sealed and unchanged"),
            _ => eprintln!("{sealed} days sealed, {unchanged} unchanged, {incomplete} not complete"),
        }
    }
    let is_nothing = is_empty && matches!(selection, Selection::Days(..));
    match failed.is_empty() {
        false => DATA,
        true if *incomplete > 0 || is_nothing => NO,
        true => 0,
    }
}
