//! Recounts what is stored of every stream: rows that are gone although nobody lost them are found.

use std::sync::Arc;

use anyhow::Context;

use crate::backfill::Parts;
use crate::gap::Evidence;
use crate::history::History;
use crate::market::Stream;

/// Ranges of one stream found by one sweep; the next one finds the rest.
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

/// Recounts each stream between its first and last row, and opens a gap for what the ledger does not know.
pub async fn sweep(history: &Arc<dyn History>, backfill: &Parts, streams: &[Stream]) -> anyhow::Result<SweepReport> {
    let mut report = SweepReport::default();
    for stream in streams {
        let Some(step) = stream.channel.step() else { continue };
        report.streams += 1;
        let Some(extent) = history.extent(stream).await.context("read a stream's extent")? else { continue };
        let counted = history.count(stream, extent).await.context("count a stream's rows")?;
        report.present += counted.present;
        let missing = extent.len(step) - counted.present;
        report.missing += missing;
        if missing == 0 {
            continue;
        }
        for range in history.missing(stream, extent, RANGES_MAX).await.context("look for missing rows")? {
            let evidence = Evidence {
                by: "sweep".to_owned(),
                previous: Some(range.first - step),
                next: Some(range.last + step),
                ..Evidence::default()
            };
            report.opened += backfill.open(stream, range, &evidence).await.context("record the gap")?.len();
        }
    }
    Ok(report)
}
