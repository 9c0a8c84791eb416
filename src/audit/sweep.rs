//! Recounts the stored rows of every stream, and finds rows that are missing without an open gap.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;

use crate::backfill::Deps;
use crate::gap::{Evidence, Range};
use crate::history::{CoverageDay, History};
use crate::market::{Stream, Timestamp};

use super::window::within;

/// Missing ranges per query.
const RANGES_MAX: usize = 1_000;

/// The outcome of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// Streams recounted.
    pub streams: usize,
    /// Positions stored.
    pub present: i64,
    /// Positions missing between the first and the last stored one.
    pub missing: i64,
    /// Ledger rows opened for positions that were not known to be missing.
    pub opened: usize,
}

/// Recounts each stream between its first and last row, or inside `window` (`[from, to)`), and opens a gap for missing
/// positions that the ledger does not know. A whole recount needs one query per kind for all streams. Fails when
/// `cancel` is cancelled; gaps opened until then stay.
pub async fn sweep(
    history: &Arc<dyn History>,
    backfill: &Deps,
    streams: &[Stream],
    window: Option<(Timestamp, Timestamp)>,
    cancel: &CancellationToken,
) -> anyhow::Result<SweepReport> {
    let mut report = SweepReport::default();
    let numbered: Vec<Stream> = streams.iter().filter(|stream| stream.channel.step().is_some()).cloned().collect();
    let mut days: HashMap<Stream, Vec<CoverageDay>> = HashMap::new();
    if window.is_none() {
        for (stream, day) in history.days(&numbered, None).await.context("recount the streams")? {
            days.entry(stream).or_default().push(day);
        }
    }
    for stream in &numbered {
        let Some(step) = stream.channel.step() else { continue };
        ensure!(!cancel.is_cancelled(), "cancelled after {} streams", report.streams);
        report.streams += 1;
        let counted = match window {
            None => days.get(stream).and_then(|days| totals(days)),
            Some(window) => count_within(history, stream, window).await?,
        };
        let Some((extent, present)) = counted else { continue };
        report.present += present;
        let missing = (extent.len(step) - present).max(0);
        report.missing += missing;
        // Reads all ranges, not only the first thousand, because settled ranges could hide the others.
        let mut rest = (missing > 0).then_some(extent);
        while let Some(part) = rest {
            ensure!(!cancel.is_cancelled(), "cancelled within {stream}");
            let ranges = history.missing(stream, part, RANGES_MAX).await.context("look for missing rows")?;
            for range in &ranges {
                report.opened += open_gap(backfill, stream, step, *range).await?;
            }
            let last = ranges.last().filter(|_| ranges.len() == RANGES_MAX);
            rest = last.and_then(|range| Range::new(range.last + step, part.last));
        }
    }
    Ok(report)
}

/// The first to the last position, and the number of rows.
fn totals(days: &[CoverageDay]) -> Option<(Range, i64)> {
    Some((super::coverage::extent(days)?, days.iter().map(|day| day.present).sum()))
}

/// The same inside a window of time.
async fn count_within(
    history: &Arc<dyn History>,
    stream: &Stream,
    window: (Timestamp, Timestamp),
) -> anyhow::Result<Option<(Range, i64)>> {
    let Some(extent) = history.extent(stream).await.context("read a stream's extent")? else { return Ok(None) };
    let range = within(history, stream, extent, window).await.context("look for a window's rows")?;
    let Some(range) = range else { return Ok(None) };
    let counted = history.count(stream, range).await.context("count a stream's rows")?;
    Ok(Some((range, counted.present)))
}

async fn open_gap(backfill: &Deps, stream: &Stream, step: i64, range: Range) -> anyhow::Result<usize> {
    let evidence = Evidence {
        by: "sweep".to_owned(),
        previous: Some(range.first - step),
        next: Some(range.last + step),
        ..Evidence::default()
    };
    Ok(backfill.open(stream, range, &evidence).await.context("record the gap")?.len())
}
