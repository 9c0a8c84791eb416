//! Recounts what is stored of every stream: rows that are gone although nobody lost them are found.

use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;

use crate::backfill::Parts;
use crate::gap::{Evidence, Range};
use crate::history::History;
use crate::market::{Stream, Timestamp};

use super::window::within;

/// Missing ranges asked for at a time.
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
    /// Ledger rows opened for what nobody knew of.
    pub opened: usize,
}

/// Recounts each stream between its first and last row, or what of it lies in `window` (`[from, to)`), and opens a gap for what the ledger does not know. It ends
/// early, in error, when `cancel` says so; what it opened until then stays.
pub async fn sweep(
    history: &Arc<dyn History>,
    backfill: &Parts,
    streams: &[Stream],
    window: Option<(Timestamp, Timestamp)>,
    cancel: &CancellationToken,
) -> anyhow::Result<SweepReport> {
    let mut report = SweepReport::default();
    for stream in streams {
        let Some(step) = stream.channel.step() else { continue };
        ensure!(!cancel.is_cancelled(), "cancelled after {} streams", report.streams);
        report.streams += 1;
        let Some(mut extent) = history.extent(stream).await.context("read a stream's extent")? else { continue };
        if let Some(window) = window {
            let range = within(history, stream, extent, window).await.context("look for a window's rows")?;
            let Some(range) = range else { continue };
            extent = range;
        }
        let counted = history.count(stream, extent).await.context("count a stream's rows")?;
        report.present += counted.present;
        let missing = (extent.len(step) - counted.present).max(0);
        report.missing += missing;
        // All of them, not the first thousand only: those that will never come back would hide the others for ever.
        let mut rest = (missing > 0).then_some(extent);
        while let Some(part) = rest {
            ensure!(!cancel.is_cancelled(), "cancelled within {stream}");
            let ranges = history.missing(stream, part, RANGES_MAX).await.context("look for missing rows")?;
            for range in &ranges {
                report.opened += open(backfill, stream, step, *range).await?;
            }
            let last = ranges.last().filter(|_| ranges.len() == RANGES_MAX);
            rest = last.and_then(|range| Range::new(range.last + step, part.last));
        }
    }
    Ok(report)
}

async fn open(backfill: &Parts, stream: &Stream, step: i64, range: Range) -> anyhow::Result<usize> {
    let evidence = Evidence {
        by: "sweep".to_owned(),
        previous: Some(range.first - step),
        next: Some(range.last + step),
        ..Evidence::default()
    };
    Ok(backfill.open(stream, range, &evidence).await.context("record the gap")?.len())
}
