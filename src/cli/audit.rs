//! `audit`: counts what history holds, with or without the service; exit 1 when it is not complete.

use std::sync::Arc;

use anyhow::Context;
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use serde_json::json;

use crate::app::{recorded, stores};
use crate::audit;
use crate::config::Config;
use crate::exchange::catalog;
use crate::exit::{Failure, NO, USAGE};
use crate::gap::{Gap, GapState, Range};
use crate::history::{GapFilter, History, each_gap};
use crate::market::Stream;

use super::bounds::{self, Bound};
use super::epochs::{self, EpochArg};
use super::output::{Format, print_line};
use super::progress_bar;

/// Missing ranges listed per stream; all are counted.
const RANGES_MAX: usize = 1_000;
/// Missing ranges, and unrecoverable ones, printed for people per stream.
const RANGES_PRINTED_MAX: usize = 20;
/// Positions counted by one query.
const BLOCK: i64 = 1_000_000;
/// Queries per stream: ids that jump by 10^15 must not cause a query per million.
const BLOCKS_MAX: i64 = 10_000;

/// Arguments of `audit`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Only this exchange
    #[arg(long)]
    exchange: Option<String>,
    /// Only this symbol
    #[arg(long)]
    symbol: Option<String>,
    /// The numbering of the trades: a number from 0, or `all`; default: each symbol's newest
    #[arg(long, value_name = "N|all")]
    epoch: Option<EpochArg>,
    /// First trade id (kline: open time in microseconds), RFC 3339 time or day; default: where history begins
    #[arg(long)]
    from: Option<String>,
    /// Last id, time or day, inclusive; default: where history ends
    #[arg(long)]
    to: Option<String>,
}

/// What history holds of a stream, counted.
#[derive(Debug, Default)]
struct StreamCount {
    range: Option<Range>,
    backfilled: i64,
    missing: audit::MissingPositions,
    open_gaps: usize,
    /// Gaps whose rows the exchange does not serve; the recorder asks again.
    in_doubt: Vec<Gap>,
    /// Gaps that closed without rows that existed, also before the first row.
    lost: Vec<Gap>,
    /// The exchange's numbers do not prove that nothing is missing.
    unproven: bool,
}

impl StreamCount {
    fn is_complete(&self) -> bool {
        let is_whole = self.missing.count == 0 && self.open_gaps == 0;
        is_whole && self.in_doubt.is_empty() && self.lost.is_empty() && !self.unproven
    }
}

/// Counts, and prints one line per stream.
pub async fn run(args: Args, config: &Config, format: Format) -> Result<u8, Failure> {
    let streams = streams(&args, config)?;
    let from = args.from.as_deref().map(|text| Bound::parse(text, false)).transpose()?;
    let to = args.to.as_deref().map(|text| Bound::parse(text, true)).transpose()?;
    let history = stores::history_to_read(config).await?;
    let mut selected = Vec::new();
    let mut positions = 0;
    for stream in &streams {
        for view in epochs::views(&history, stream, args.epoch).await? {
            let range = match view.extent(stream).await.context("find the first and last row")? {
                Some(extent) => bounds::resolve(&view, stream, extent, from, to).await?.range,
                None => None,
            };
            positions += range.map_or(0, |range| range.len(stream.channel.step().unwrap_or(1)));
            selected.push((stream, view, range));
        }
    }
    let bar = progress_bar::bar(format, u64::try_from(positions).unwrap_or(0), "positions");
    let is_bounded = from.is_some() || to.is_some();
    let (mut complete, mut any) = (true, false);
    for (stream, view, range) in selected {
        bar.set_message(stream.to_string());
        let mut stream_count = match range {
            Some(range) => count(&view, stream, range, &bar).await?,
            None => StreamCount::default(),
        };
        // A bounded audit reports only the gaps in its range.
        let is_selected = |gap: &Gap| !is_bounded || range.is_some_and(|range| gap.range.intersect(range).is_some());
        let mut filter = GapFilter { stream: Some(stream.clone()), ..GapFilter::unfilled() };
        filter.states.retain(|state| *state != GapState::NeverExisted);
        let add = |gap: Gap| match gap.state {
            _ if !is_selected(&gap) => {}
            GapState::Unconfirmed => stream_count.in_doubt.push(gap),
            GapState::Open | GapState::Filling => stream_count.open_gaps += 1,
            _ => stream_count.lost.push(gap),
        };
        each_gap(&*view, filter, add).await.context("read the gap ledger")?;
        // A stream without rows misses nothing. A history without any row proves nothing.
        complete &= stream_count.is_complete();
        any |= range.is_some();
        bar.suspend(|| report(stream, view.epoch(), &stream_count, format));
    }
    bar.finish_and_clear();
    history.close().await.context("close the history")?;
    Ok(if complete && any { 0 } else { NO })
}

/// The configured streams that the arguments select.
fn streams(args: &Args, config: &Config) -> Result<Vec<Stream>, Failure> {
    if let Some(exchange) = &args.exchange
        && catalog::find(exchange).is_none()
    {
        return Err(Failure::new(USAGE, anyhow::anyhow!("unknown exchange `{exchange}`")));
    }
    let mut streams: Vec<Stream> = recorded::known_streams(config);
    streams.retain(|stream| {
        stream.channel.step().is_some()
            && args.symbol.as_ref().is_none_or(|symbol| stream.symbol.as_str() == symbol)
            && args.exchange.as_ref().is_none_or(|exchange| stream.exchange.as_str() == exchange)
    });
    if streams.is_empty() {
        return Err(Failure::new(USAGE, anyhow::anyhow!("no configured stream matches --exchange and --symbol")));
    }
    Ok(streams)
}

fn ranges_of(gaps: &[Gap], state: GapState) -> Vec<(i64, i64)> {
    gaps.iter().filter(|gap| gap.state == state).map(|gap| (gap.range.first, gap.range.last)).collect()
}

/// Counts a range block by block, for the progress bar, and searches only blocks that lack rows.
async fn count(
    history: &Arc<dyn History>,
    stream: &Stream,
    range: Range,
    bar: &ProgressBar,
) -> anyhow::Result<StreamCount> {
    let step = stream.channel.step().context("only numbered streams are in history")?;
    let never_existed = audit::never_existed(history, stream).await?;
    let block = BLOCK.max(range.len(step) / BLOCKS_MAX) * step;
    let mut stream_count = StreamCount { range: Some(range), ..StreamCount::default() };
    let (mut from, mut present) = (range.first, 0);
    while let Some(rest) = Range::new(from, range.last) {
        let part = Range { first: from, last: rest.last.min(from.saturating_add(block - step)) };
        let stored = history.count(stream, part).await.context("count the rows")?;
        stream_count.backfilled += stored.backfilled;
        present += stored.present;
        if stored.present < part.len(step) {
            let ranges_left = RANGES_MAX - stream_count.missing.ranges.len();
            let mut absent = audit::missing_positions(history, stream, part, &never_existed, ranges_left).await?;
            stream_count.missing.count += absent.count;
            stream_count.missing.ranges.append(&mut absent.ranges);
        }
        bar.inc(u64::try_from(part.len(step)).unwrap_or(0));
        from = part.last.saturating_add(step);
    }
    let holes = stream_count.missing.ranges.len() + never_existed.iter().count();
    stream_count.unproven = !audit::is_proven(stream, present, holes, !never_existed.is_empty());
    Ok(stream_count)
}

fn report(stream: &Stream, epoch: Option<i64>, stream_count: &StreamCount, format: Format) {
    let StreamCount { range, backfilled, missing, open_gaps, in_doubt, lost, unproven } = stream_count;
    let complete = stream_count.is_complete();
    if format == Format::Json {
        let ranges: Vec<(i64, i64)> = missing.ranges.iter().map(|range| (range.first, range.last)).collect();
        print_line!(
            "{}",
            json!({
                "exchange": stream.exchange.as_str(), "symbol": stream.symbol.as_str(),
                "channel": stream.channel.as_str(), "epoch": epoch, "first": range.map(|range| range.first),
                "last": range.map(|range| range.last), "missing_count": missing.count, "missing": ranges,
                "backfilled": backfilled, "open_gaps": open_gaps, "complete": complete, "unproven": unproven,
                "unconfirmed": ranges_of(in_doubt, GapState::Unconfirmed),
                "unrecoverable": ranges_of(lost, GapState::Unrecoverable),
                "refused": ranges_of(lost, GapState::Refused),
            })
        );
        return;
    }
    let epoch = epoch.map_or_else(String::new, |epoch| format!(" epoch {epoch}"));
    let Some(Range { first, last }) = range else {
        return print_line!("{} {} {}{epoch}: nothing stored", stream.exchange, stream.symbol, stream.channel);
    };
    let verdict = if complete { "complete" } else { "NOT complete" };
    let doubt = if in_doubt.is_empty() { String::new() } else { format!(", {} in doubt", in_doubt.len()) };
    print_line!(
        "{} {} {}{epoch} {}: {verdict}, {} missing, {backfilled} backfilled, {open_gaps} gaps open{doubt}",
        stream.exchange,
        stream.symbol,
        stream.channel,
        stream.channel.span(*first, *last),
        missing.count
    );
    if *unproven {
        let neighbours = audit::NEIGHBOURS_MIN;
        print_line!(
            "  unproven: {} is not known to number without holes; {neighbours} neighbours would show it",
            stream.exchange
        );
    }
    for Range { first, last } in missing.ranges.iter().take(RANGES_PRINTED_MAX) {
        print_line!("  missing {}", stream.channel.span(*first, *last));
    }
    for gap in in_doubt.iter().chain(lost).take(RANGES_PRINTED_MAX) {
        print_line!("  {} {}: {}", gap.state, gap.span(), gap.reason);
    }
}
