//! `export`: writes what history holds of a stream, row by row, and says when that is not all there was.
//!
//! What is missing is told of the rows as they were written, not of a count beside them: a gap that is filled while
//! the export runs is in the file or in the list.

mod bounds;
mod target;
pub(super) mod text;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use crate::app::stores;
use crate::config::Config;
use crate::exit::{CANNOT_CREATE, Failure, IO, NO, TEMPORARY, USAGE};
use crate::gap::{GapState, Range, RangeSet};
use crate::history::{GapFilter, History};
use crate::market::{Channel, Exchange, Stream, Symbol};
use bounds::{Asked, Bound};
use target::Target;

use super::format::{self, FormatFlag, RowFormat};
use super::progress;

/// Rows in memory at a time.
const PAGE: usize = 10_000;
/// Missing ranges named; the others are only counted.
const RANGES_MAX: usize = 1_000;

/// Arguments of `export`.
#[derive(Clone, Debug, ClapArgs)]
#[command(
    after_help = "Rows go to stdout or to FILE, what is missing to stderr. Decimals are exact text. Instants are in \
    two columns:\nRFC 3339 in UTC with microseconds, and microseconds since 1970 (`_us`).\n\n\
    Examples:\n  tapekeeper export --symbol BTCUSDT --from 2026-01-31 --to 2026-01-31 -o trades.csv\n  \
    tapekeeper export --symbol BTCUSDT --channel kline_1m --format jsonl | head"
)]
pub struct Args {
    /// Of this symbol, as the exchange spells it
    #[arg(long)]
    symbol: String,
    /// Of this exchange
    #[arg(long, default_value = "binance")]
    exchange: String,
    /// `trade`, or `kline_1m` and the other intervals
    #[arg(long, default_value = "trade")]
    channel: String,
    /// From this trade id (kline: open time in microseconds), RFC 3339 time or day on; default: all that is stored
    #[arg(long)]
    from: Option<String>,
    /// Up to this id, time or day, included
    #[arg(long)]
    to: Option<String>,
    /// How rows are written
    #[arg(long, value_parser = format::rows_parser(), default_value = "csv")]
    pub(super) format: FormatFlag,
    /// Where they are written; the file appears when it is whole. Default: stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes; exit 1 when something of the range is missing.
pub async fn run(args: Args, config: &Config, stop: CancellationToken) -> Result<u8, Failure> {
    let stream = stream(&args)?;
    let from = args.from.as_deref().map(|text| Bound::parse(text, false)).transpose()?;
    let to = args.to.as_deref().map(|text| Bound::parse(text, true)).transpose()?;
    let history = stores::history(config).await?;
    let extent = history.extent(&stream).await.context("look for the stream's rows")?;
    let asked = match extent {
        Some(extent) => bounds::find(&history, &stream, extent, from, to).await?,
        None => Asked { range: None, short: vec!["nothing is stored of it".to_owned()] },
    };
    let target = Target::open(args.output.as_deref()).context("create the file");
    let target = target.map_err(|error| Failure::new(CANNOT_CREATE, error))?;
    let total = match asked.range {
        Some(range) => history.count(&stream, range).await.context("count the rows")?.present,
        None => 0,
    };
    let bar = progress::bar(u64::try_from(total).unwrap_or(0), "rows");
    bar.set_message(stream.to_string());
    let mut export = Export {
        seen: Seen::new(&history, &stream, asked.range).await?,
        history,
        stream,
        format: args.format.rows(),
        target,
        bar,
    };
    if let Some(range) = asked.range {
        export.rows(range, &stop).await?;
    } else {
        export.head()?;
    }
    export.bar.finish_and_clear();
    let Export { seen, history, stream, target, .. } = export;
    target.finish().context("finish the file").map_err(|error| Failure::new(IO, error))?;
    let mut short = asked.short;
    short.extend(open_beside(&history, &stream, asked.range, (from.is_none(), to.is_none())).await?);
    history.close().await.context("close the history")?;
    eprintln!("{stream}: {} rows written", seen.rows);
    seen.tell();
    for words in &short {
        eprintln!("{stream}: NOT complete: {words}");
    }
    Ok(if seen.missing == 0 && short.is_empty() { 0 } else { NO })
}

fn stream(args: &Args) -> Result<Stream, Failure> {
    let usage = |why: String| Failure::new(USAGE, anyhow!(why));
    let exchange: Exchange =
        args.exchange.parse().map_err(|()| usage(format!("unknown exchange `{}`", args.exchange)))?;
    let channel: Channel = args.channel.parse().map_err(|()| usage(format!("unknown channel `{}`", args.channel)))?;
    if channel.step().is_none() {
        return Err(usage(format!("{channel} is not in history: it goes to the log and the cache only")));
    }
    Ok(Stream::new(exchange, Symbol::new(&args.symbol), channel))
}

/// What a stream as a whole still waits for before its first row and after its last one, when no bound cuts it off.
async fn open_beside(
    history: &Arc<dyn History>,
    stream: &Stream,
    range: Option<Range>,
    (is_from_start, is_to_end): (bool, bool),
) -> anyhow::Result<Vec<String>> {
    let filter = GapFilter { open_only: true, symbol: Some(stream.symbol.clone()), limit: 0 };
    let gaps = history.gaps(&filter).await.context("read the gap ledger")?;
    let beside = gaps.into_iter().filter(|gap| {
        gap.stream == *stream
            && range.is_none_or(|range| {
                (is_from_start && gap.range.first < range.first) || (is_to_end && gap.range.last > range.last)
            })
    });
    Ok(beside.map(|gap| format!("gap {}..{} is open", gap.range.first, gap.range.last)).collect())
}

struct Export {
    history: Arc<dyn History>,
    stream: Stream,
    format: RowFormat,
    target: Target,
    bar: ProgressBar,
    seen: Seen,
}

impl Export {
    fn head(&mut self) -> Result<(), Failure> {
        let columns: &[&str] = match self.stream.channel {
            Channel::Trade => &text::TRADE_COLUMNS,
            _ => &text::KLINE_COLUMNS,
        };
        self.write(&text::head(columns, self.format))
    }

    async fn rows(&mut self, range: Range, stop: &CancellationToken) -> Result<(), Failure> {
        self.head()?;
        let mut from = range.first;
        while let Some(rest) = Range::new(from, range.last) {
            if stop.is_cancelled() {
                return Err(Failure::new(TEMPORARY, anyhow!("interrupted before the end")));
            }
            let (lines, rows, last) = self.page(rest).await?;
            let Some(last) = last else { break };
            self.write(&lines)?;
            self.bar.inc(rows);
            from = last + 1;
        }
        self.seen.end(range);
        Ok(())
    }

    /// The next rows as lines, how many they are, and the last one's position.
    async fn page(&mut self, rest: Range) -> anyhow::Result<(String, u64, Option<i64>)> {
        let mut lines = String::new();
        let before = self.seen.rows;
        let mut last = None;
        if self.stream.channel == Channel::Trade {
            for row in self.history.trades(&self.stream, rest, PAGE).await.context("read trades")? {
                text::push_trade(&mut lines, &row, self.format);
                self.seen.row(row.trade.id);
                last = Some(row.trade.id);
            }
        } else {
            for row in self.history.klines(&self.stream, rest, PAGE).await.context("read klines")? {
                let position = row.kline.open_time.micros();
                text::push_kline(&mut lines, &row, self.format);
                self.seen.row(position);
                last = Some(position);
            }
        }
        Ok((lines, self.seen.rows - before, last))
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let written = self.target.write(text.as_bytes()).context("write the rows");
        written.map_err(|error| Failure::new(IO, error))
    }
}

/// What was written, and what between was not.
struct Seen {
    stream: Stream,
    step: i64,
    /// Positions that the exchange itself does not have.
    never: RangeSet,
    /// The position that should come next.
    next: i64,
    rows: u64,
    missing: i64,
    ranges: Vec<Range>,
    range_count: usize,
}

impl Seen {
    async fn new(history: &Arc<dyn History>, stream: &Stream, range: Option<Range>) -> anyhow::Result<Self> {
        let step = stream.channel.step().context("only numbered streams are in history")?;
        let filter = GapFilter { symbol: Some(stream.symbol.clone()), ..GapFilter::default() };
        let mut never = RangeSet::new(step);
        for gap in history.gaps(&filter).await.context("read the gap ledger")? {
            if gap.stream == *stream && gap.state == GapState::NeverExisted {
                never.insert(gap.range);
            }
        }
        let next = range.map_or(0, |range| range.first);
        let ranges = Vec::new();
        Ok(Self { stream: stream.clone(), step, never, next, rows: 0, missing: 0, ranges, range_count: 0 })
    }

    fn row(&mut self, position: i64) {
        self.hole_before(position);
        self.next = position + self.step;
        self.rows += 1;
    }

    fn end(&mut self, range: Range) {
        self.hole_before(range.last + self.step);
    }

    fn hole_before(&mut self, position: i64) {
        let Some(hole) = Range::new(self.next, position - self.step) else { return };
        for absent in self.never.absent(hole) {
            self.missing += absent.len(self.step);
            self.range_count += 1;
            if self.ranges.len() < RANGES_MAX {
                self.ranges.push(absent);
            }
        }
    }

    fn tell(&self) {
        if self.missing == 0 {
            return;
        }
        eprintln!("{}: NOT complete: {} missing", self.stream, self.missing);
        for Range { first, last } in &self.ranges {
            eprintln!("  missing {first}..{last}");
        }
        if self.range_count > self.ranges.len() {
            eprintln!("  and {} more ranges", self.range_count - self.ranges.len());
        }
    }
}
