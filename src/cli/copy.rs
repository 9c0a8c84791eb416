//! `copy`: copies history, gap ledger and run history between the stores of two configurations.
//!
//! It copies only the ranges that the target lacks, so it is idempotent and continues after an interruption.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::{recorded, stores};
use crate::config::{self, Config};
use crate::exit::{CONFIGURATION, Failure, NO, TEMPORARY};
use crate::gap::Range;
use crate::history::{Batch, GapFilter, GapPages, History};
use crate::market::Stream;

use super::epochs::{self, EpochArg};
use super::output::{Format, print_line};
use super::progress_bar;

/// Rows per insert.
const PAGE: usize = 20_000;
/// Missing ranges per query.
const RANGES_MAX: usize = 1_000;
/// Runs copied, newest first.
const RUNS_MAX: usize = 100_000;

/// Arguments of `copy`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The configuration whose history is read
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The configuration whose history is written
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Copies, counts on both sides, and exits 1 when the counts differ.
pub async fn run(args: Args, format: Format, stop: CancellationToken) -> Result<u8, Failure> {
    let (source_config, target_config) = (load(&args.from)?, load(&args.to)?);
    let source = stores::history_to_read(&source_config).await?;
    std::fs::create_dir_all(&target_config.data_dir).context("create the target's state directory")?;
    let target = stores::history(&target_config).await?;
    let mut streams: Vec<Stream> = recorded::known_streams(&source_config);
    streams.retain(|stream| stream.channel.step().is_some());
    let mut equal = true;
    // Before the trades: no row may be stored without its numbering.
    let epochs = source.epochs().await.context("read the source's epochs")?;
    let conflicts = source.conflicts(false, RUNS_MAX).await.context("read the source's conflicts")?;
    let (epoch_count, conflict_count, token) = (epochs.len(), conflicts.len(), "copy:epochs".to_owned());
    target.insert(&Batch { epochs, conflicts, token, ..Batch::default() }).await.context("write the epochs")?;
    for stream in &streams {
        for view in epochs::views(&source, stream, Some(EpochArg::All)).await? {
            let to = view.epoch().map_or_else(|| target.clone(), |epoch| target.at_epoch(epoch));
            equal &= copy_stream(&view, &to, stream, format, &stop).await?;
        }
    }
    if stop.is_cancelled() {
        return Err(Failure::new(TEMPORARY, anyhow::anyhow!("interrupted: run the same command again to continue")));
    }
    let mut gap_count = 0;
    let mut pages = GapPages::new(GapFilter::default());
    while let Some(gaps) = pages.next(&*source).await.context("read the source's ledger")? {
        let token = format!("copy:gaps:{gap_count}");
        gap_count += gaps.len();
        target.insert(&Batch { gaps, token, ..Batch::default() }).await.context("write the ledger")?;
    }
    let letters = source.dead_letters(None, RUNS_MAX).await.context("read the source's dead letters")?;
    let (letter_count, token) = (letters.len(), "copy:letters".to_owned());
    target.insert(&Batch { dead_letters: letters, token, ..Batch::default() }).await.context("write dead letters")?;
    let runs = source.runs(None, None, RUNS_MAX).await.context("read the source's runs")?;
    for run in &runs {
        target.put_run(run).await.context("write a run")?;
    }
    match format {
        Format::Json => {
            print_line!(
                "{}",
                json!({ "epochs": epoch_count, "conflicts": conflict_count, "gaps": gap_count, "dead_letters": letter_count, "runs": runs.len() })
            )
        }
        Format::Human => print_line!("{gap_count} gaps, {letter_count} dead letters and {} runs copied", runs.len()),
    }
    source.close().await.context("close the source")?;
    target.close().await.context("close the target")?;
    Ok(if equal { 0 } else { NO })
}

fn load(path: &std::path::Path) -> Result<Config, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = config::load_all(Some(path), None, &environment);
    loaded.map(|loaded| loaded.config).map_err(|problems| Failure::new(CONFIGURATION, problems))
}

/// Copies one numbering of a stream; returns whether the target has as many rows as the source.
async fn copy_stream(
    source: &Arc<dyn History>,
    target: &Arc<dyn History>,
    stream: &Stream,
    format: Format,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let Some(extent) = source.extent(stream).await.context("read the source")? else { return Ok(true) };
    let total = source.count(stream, extent).await.context("count the source")?.present;
    // An earlier copy may have written rows already.
    let already_copied = target.count(stream, extent).await.context("count the target")?.present;
    let bar = progress_bar::bar(format, u64::try_from(total - already_copied).unwrap_or(0), "rows");
    bar.set_message(stream.to_string());
    copy_rows(source, target, stream, extent, &bar, stop).await?;
    bar.finish_and_clear();
    let copied = target.count(stream, extent).await.context("count the target")?.present;
    match format {
        Format::Json => {
            print_line!(
                "{}",
                json!({ "stream": stream.to_string(), "epoch": source.epoch(), "source": total, "target": copied })
            )
        }
        Format::Human => print_line!("{stream}: {total} rows in the source, {copied} in the target"),
    }
    Ok(copied >= total)
}

/// Copies the rows that the target lacks between the first and last row of the source.
async fn copy_rows(
    source: &Arc<dyn History>,
    target: &Arc<dyn History>,
    stream: &Stream,
    extent: Range,
    bar: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let step = stream.channel.step().context("history does not hold quotes")?;
    let mut from = extent.first;
    while let Some(rest) = Range::new(from, extent.last) {
        let lacking =
            target.missing(stream, rest, RANGES_MAX).await.context("find the ranges that the target lacks")?;
        let Some(last) = lacking.last().map(|range| range.last) else { return Ok(()) };
        for range in lacking {
            copy_range(source, target, stream, range, bar, stop).await?;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
        from = last + step;
    }
    Ok(())
}

async fn copy_range(
    source: &Arc<dyn History>,
    target: &Arc<dyn History>,
    stream: &Stream,
    range: Range,
    bar: &ProgressBar,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut from = range.first;
    while let Some(rest) = Range::new(from, range.last).filter(|_| !stop.is_cancelled()) {
        let token = format!("copy:{stream}:{}:{from}", source.epoch().unwrap_or(0));
        let mut batch = Batch { token, ..Batch::default() };
        let last = if stream.channel.has_trades() {
            batch.trades = source.trades(stream, rest, PAGE).await.context("read the source's trades")?;
            batch.trades.last().map(|row| row.trade.id)
        } else {
            batch.klines = source.klines(stream, rest, PAGE).await.context("read the source's klines")?;
            batch.klines.last().map(|row| row.kline.open_time.micros())
        };
        let Some(last) = last else { return Ok(()) };
        target.insert(&batch).await.context("write to the target")?;
        bar.inc(batch.rows() as u64);
        from = last + 1;
    }
    Ok(())
}
