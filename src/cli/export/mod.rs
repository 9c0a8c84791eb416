//! `export`: writes the rows of a stream, and reports what is missing between them.
//!
//! It finds missing ranges in the rows that it wrote, not by a separate count: rows that backfill adds while the export
//! runs are either in the file or in the list.

pub(super) mod columns;
mod completeness;
mod csv;
pub(super) mod jsonl;
mod sink;
mod target;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use crate::app::stores;
use crate::audit;
use crate::config::Config;
use crate::exchange::catalog;
use crate::exit::{CANNOT_CREATE, Failure, NO, TEMPORARY, USAGE};
use crate::gap::Range;
use crate::history::{GapFilter, History};
use crate::market::{Channel, Stream, Symbol};
use completeness::Completeness;
use serde_json::json;
use sink::Sink;
use target::Target;

use super::bounds::{self, Bound, Selection};
use super::epochs::{self, EpochArg};
use super::format::{self, FormatFlag, RowFormat};
use super::output::Format;
use super::progress_bar;

/// Rows per query.
const PAGE: usize = 10_000;

/// Arguments of `export`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "Rows go to stdout or to FILE, missing ranges to stderr. Decimals are exact: text, in Parquet \
    DECIMAL(38,18).\nTimes have two columns: in UTC with microseconds, and microseconds since 1970 (`_us`). The metadata \
    of a\nParquet file states whether anything is missing, under `tapekeeper.complete` and others.\n\n\
    Examples:\n  tapekeeper export --symbol BTCUSDT --from 2026-01-31 --to 2026-01-31 -o trades.csv\n  \
    tapekeeper export --symbol BTCUSDT --format parquet -o trades.parquet\n  \
    tapekeeper export --symbol BTCUSDT --channel kline_1m --format jsonl | head")]
pub struct Args {
    /// The symbol, as the exchange spells it
    #[arg(long)]
    symbol: String,
    /// The exchange
    #[arg(long, default_value = "binance")]
    exchange: String,
    /// `trade`, or `kline_1m` and the other intervals
    #[arg(long, default_value = "trade")]
    channel: String,
    /// The numbering of the trades: a number from 0, or `all`, oldest first; default: the symbol's newest
    #[arg(long, value_name = "N|all")]
    epoch: Option<EpochArg>,
    /// First trade id (kline: open time in microseconds), RFC 3339 time or day; default: where history begins
    #[arg(long)]
    from: Option<String>,
    /// Last id, time or day, inclusive; default: where history ends
    #[arg(long)]
    to: Option<String>,
    /// The format of the rows
    #[arg(long, value_parser = format::rows_parser(), default_value = "csv")]
    pub(super) format: FormatFlag,
    /// The file to write; it appears when it is complete. A pipe or a device is written as the rows come, and a link is
    /// followed. Default: stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes the rows; exit 1 when something of the range is missing.
pub async fn run(args: Args, config: &Config, stop: CancellationToken) -> Result<u8, Failure> {
    let stream = stream(&args)?;
    let format = args.format.rows();
    if format == RowFormat::Parquet && args.output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::new(USAGE, anyhow!("Parquet is binary: name a file with -o")));
    }
    let from = args.from.as_deref().map(|text| Bound::parse(text, false)).transpose()?;
    let to = args.to.as_deref().map(|text| Bound::parse(text, true)).transpose()?;
    let all = stores::history_to_read(config).await?;
    let mut views = epochs::views(&all, &stream, args.epoch).await?;
    let history = views.pop().context("a stream has at least one numbering")?;
    let extent = history.extent(&stream).await.context("find the first and last row")?;
    let selection = match extent {
        Some(extent) => bounds::resolve(&history, &stream, extent, from, to).await?,
        None => Selection { range: None, shortfalls: vec!["history holds no row".to_owned()] },
    };
    let target = Target::open(args.output.as_deref()).context("create the file");
    let target = target.map_err(|error| Failure::new(CANNOT_CREATE, error))?;
    let total = match selection.range {
        Some(range) => history.count(&stream, range).await.context("count the rows")?.present,
        None => 0,
    };
    let bar = if args.output.is_none() && io::stdout().is_terminal() {
        // A bar would draw over rows on the terminal.
        ProgressBar::hidden()
    } else {
        progress_bar::bar(Format::Human, u64::try_from(total).unwrap_or(0), "rows")
    };
    bar.set_message(stream.to_string());
    let never_existed = audit::never_existed(&history, &stream).await?;
    let step = stream.channel.step().context("only numbered streams are in history")?;
    let completeness = Completeness::new(&stream, step, never_existed, selection.range.map_or(0, |range| range.first));
    let sink = Sink::begin(format, target, stream.channel)?;
    let mut export = Export { history, stream, sink, bar, completeness };
    let mut missing = 0;
    for view in views {
        missing += export.ended_epoch(view, (from, to), &stop).await?;
    }
    if let Some(range) = selection.range {
        export.rows(range, &stop).await?;
    }
    export.bar.finish_and_clear();
    let Export { completeness, history, stream, sink, .. } = export;
    let mut shortfalls = selection.shortfalls;
    shortfalls.extend(open_gaps_outside(&history, &stream, selection.range, (from.is_none(), to.is_none())).await?);
    sink.finish(&metadata(&stream, selection.range, &completeness, &shortfalls))?;
    all.close().await.context("close the history")?;
    eprintln!("{stream}: {} rows written", completeness.rows);
    completeness.report();
    for words in &shortfalls {
        eprintln!("{stream}: NOT complete: {words}");
    }
    Ok(if missing + completeness.missing == 0 && shortfalls.is_empty() { 0 } else { NO })
}

fn stream(args: &Args) -> Result<Stream, Failure> {
    let usage = |why: String| Failure::new(USAGE, anyhow!(why));
    let exchange =
        catalog::find(&args.exchange).ok_or_else(|| usage(format!("unknown exchange `{}`", args.exchange)))?;
    let channel: Channel = args.channel.parse().map_err(|()| usage(format!("unknown channel `{}`", args.channel)))?;
    if channel.step().is_none() {
        return Err(usage(format!("history does not hold {channel}: it goes to the log and the cache only")));
    }
    Ok(Stream::new(exchange, Symbol::new(&args.symbol), channel))
}

/// Open gaps before the first row, unless `--from` is given, and after the last row, unless `--to` is given.
async fn open_gaps_outside(
    history: &Arc<dyn History>,
    stream: &Stream,
    range: Option<Range>,
    (is_from_start, is_to_end): (bool, bool),
) -> anyhow::Result<Vec<String>> {
    let filter =
        GapFilter { open_only: true, of_read_epoch: true, stream: Some(stream.clone()), ..GapFilter::default() };
    let gaps = history.gaps(&filter).await.context("read the gap ledger")?;
    let outside = gaps.into_iter().filter(|gap| {
        range.is_none_or(|range| {
            (is_from_start && gap.range.first < range.first) || (is_to_end && gap.range.last > range.last)
        })
    });
    Ok(outside.map(|gap| format!("gap {} is open", gap.span())).collect())
}

struct Export {
    history: Arc<dyn History>,
    stream: Stream,
    sink: Sink,
    bar: ProgressBar,
    completeness: Completeness,
}

impl Export {
    /// Writes the rows of a numbering that ended; returns how many are missing between them.
    async fn ended_epoch(
        &mut self,
        view: Arc<dyn History>,
        (from, to): (Option<Bound>, Option<Bound>),
        stop: &CancellationToken,
    ) -> Result<i64, Failure> {
        let Some(extent) = view.extent(&self.stream).await.context("find the first and last row")? else {
            return Ok(0);
        };
        let Some(range) = bounds::resolve(&view, &self.stream, extent, from, to).await?.range else { return Ok(0) };
        let never_existed = audit::never_existed(&view, &self.stream).await?;
        let step = self.stream.channel.step().context("only numbered streams are in history")?;
        let epoch = view.epoch().unwrap_or(0);
        let newest = std::mem::replace(&mut self.history, view);
        let completeness = Completeness::new(&self.stream, step, never_existed, range.first);
        let completeness = std::mem::replace(&mut self.completeness, completeness);
        self.rows(range, stop).await?;
        self.history = newest;
        let ended = std::mem::replace(&mut self.completeness, completeness);
        eprintln!("{} epoch {epoch}: {} rows written", self.stream, ended.rows);
        ended.report();
        Ok(ended.missing)
    }

    async fn rows(&mut self, range: Range, stop: &CancellationToken) -> Result<(), Failure> {
        let mut from = range.first;
        while let Some(rest) = Range::new(from, range.last) {
            if stop.is_cancelled() {
                return Err(Failure::new(TEMPORARY, anyhow!("interrupted: no file is left")));
            }
            let before = self.completeness.rows;
            let Some(last) = self.page(rest).await? else { break };
            self.bar.inc(self.completeness.rows - before);
            from = last + 1;
        }
        self.completeness.end(range);
        Ok(())
    }

    /// Writes the next page of rows; returns the position of the last one.
    async fn page(&mut self, rest: Range) -> Result<Option<i64>, Failure> {
        let mut last = None;
        if self.stream.channel.has_trades() {
            for row in self.history.trades(&self.stream, rest, PAGE).await.context("read trades")? {
                self.sink.trade(&row)?;
                self.completeness.row(row.trade.id);
                last = Some(row.trade.id);
            }
        } else {
            for row in self.history.klines(&self.stream, rest, PAGE).await.context("read klines")? {
                let position = row.kline.open_time.micros();
                self.sink.kline(&row)?;
                self.completeness.row(position);
                last = Some(position);
            }
        }
        Ok(last)
    }
}

/// The metadata of the file, for formats that hold metadata.
fn metadata(
    stream: &Stream,
    range: Option<Range>,
    completeness: &Completeness,
    shortfalls: &[String],
) -> Vec<(&'static str, String)> {
    let ranges: Vec<(i64, i64)> = completeness.ranges.iter().map(|range| (range.first, range.last)).collect();
    let mut metadata = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("stream", stream.to_string()),
        ("complete", (completeness.missing == 0 && shortfalls.is_empty()).to_string()),
        ("missing", completeness.missing.to_string()),
        ("missing_ranges", json!(ranges).to_string()),
        ("not_complete", json!(shortfalls).to_string()),
    ];
    if let Some(Range { first, last }) = range {
        metadata.extend([("first", first.to_string()), ("last", last.to_string())]);
    }
    metadata
}

#[cfg(test)]
mod parquet_tests;
