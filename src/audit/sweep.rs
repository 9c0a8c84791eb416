//! Recounts the stored rows of every stream, and finds rows that are missing without an open gap.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;

use crate::backfill::Deps;
use crate::gap::{Evidence, Range};
use crate::history::History;
use crate::market::{Stream, Timestamp};

/// Missing ranges per query.
const RANGES_MAX: usize = 1_000;
/// A window that ended this long ago at most reaches to the newest row, in microseconds.
const RECENT_US: i64 = 600_000_000;
/// Later than any row, in microseconds from now.
const FUTURE_US: i64 = 10 * 365 * 86_400_000_000;
/// How late a row may reach history, in microseconds; a window begins that much earlier.
const LATE_US: i64 = 600_000_000;
/// The longest part of a window that one query counts, in microseconds.
const PART_US: i64 = 3_600_000_000;
/// Positions counted per query: a store counts them in some tens of milliseconds.
const PIECE: i64 = 500_000;

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

/// What a sweep recounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepScope {
    /// Everything between the first and the last row of each stream.
    All,
    /// The rows of `[from, to)`.
    Window(Timestamp, Timestamp),
    /// One of `of` equal parts of each stream, counted from 0.
    Share {
        /// Which part.
        index: i64,
        /// The number of parts.
        of: i64,
    },
}

/// Recounts each stream within `scope`, and opens a gap for missing positions that the ledger does not know. Counts a
/// bounded number of rows per query, so no other read waits long. Fails when `cancel` is cancelled; gaps opened until
/// then stay.
pub async fn sweep(
    history: &Arc<dyn History>,
    backfill: &Deps,
    streams: &[Stream],
    scope: SweepScope,
    cancel: &CancellationToken,
) -> anyhow::Result<SweepReport> {
    if let SweepScope::Window(from, to) = scope {
        return sweep_window(history, backfill, streams, (from, to), cancel).await;
    }
    let mut report = SweepReport::default();
    for stream in streams {
        let Some(step) = stream.channel.step() else { continue };
        report.streams += 1;
        let Some(extent) = history.extent(stream).await.context("read a stream's extent")? else { continue };
        let range = match scope {
            SweepScope::All => Some(extent),
            SweepScope::Window(..) => None,
            SweepScope::Share { index, of } => share(extent, step, index, of),
        };
        if let Some(range) = range {
            sweep_range(history, backfill, (stream, step), range, &mut report, cancel).await?;
        }
    }
    Ok(report)
}

/// Recounts the rows of a window, extended back by the time that rows may be late. The number of queries depends on the
/// window's length, not on the number of streams.
async fn sweep_window(
    history: &Arc<dyn History>,
    backfill: &Deps,
    streams: &[Stream],
    (from, to): (Timestamp, Timestamp),
    cancel: &CancellationToken,
) -> anyhow::Result<SweepReport> {
    let numbered: Vec<Stream> = streams.iter().filter(|stream| stream.channel.step().is_some()).cloned().collect();
    let mut report = SweepReport { streams: numbered.len(), ..SweepReport::default() };
    // A window up to now ends with the newest row, also where the exchange's clock is ahead of ours.
    let is_open = backfill.clock.now().since(to) < RECENT_US;
    let mut part_from = from.plus_micros(-LATE_US);
    while part_from < to {
        ensure!(!cancel.is_cancelled(), "cancelled at {}", part_from.rfc3339());
        let next = part_from.plus_micros(PART_US).min(to);
        let part_to = if next == to && is_open { to.plus_micros(FUTURE_US) } else { next };
        let counts = history.windows(&numbered, part_from, part_to).await.context("count a window's rows")?;
        let mut incomplete = Vec::new();
        for (stream, count) in counts {
            report.present += count.present;
            if stream.channel.step().is_some_and(|step| count.range.len(step) > count.present) {
                incomplete.push((stream, count.range));
            }
        }
        open_missing_each(history, backfill, &incomplete, &mut report, cancel).await?;
        part_from = next;
    }
    Ok(report)
}

/// Opens every missing range of these streams that the ledger does not know.
async fn open_missing_each(
    history: &Arc<dyn History>,
    backfill: &Deps,
    incomplete: &[(Stream, Range)],
    report: &mut SweepReport,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    // A stream that returns as many ranges as it may is asked again from there on: settled ranges could hide the others.
    let mut rest = incomplete.to_vec();
    while !rest.is_empty() {
        let found = history.missing_each(&rest, RANGES_MAX).await.context("look for missing rows")?;
        let mut of_streams: HashMap<Stream, Vec<Range>> = HashMap::new();
        for (stream, range) in found {
            of_streams.entry(stream).or_default().push(range);
        }
        let asked = std::mem::take(&mut rest);
        for (stream, part) in asked {
            ensure!(!cancel.is_cancelled(), "cancelled within {stream}");
            let Some((ranges, step)) = of_streams.remove(&stream).zip(stream.channel.step()) else { continue };
            for range in &ranges {
                report.missing += range.len(step);
                report.opened += open_gap(backfill, &stream, step, *range).await?;
            }
            let last = ranges.last().filter(|_| ranges.len() == RANGES_MAX);
            let more = last.and_then(|range| Range::new(range.last.saturating_add(step), part.last));
            rest.extend(more.map(|more| (stream, more)));
        }
    }
    Ok(())
}

/// One of `of` equal parts. Each part begins at the last position of the one before, so that no range between two parts
/// is missed.
fn share(extent: Range, step: i64, index: i64, of: i64) -> Option<Range> {
    let len = i128::from(extent.len(step));
    let at = |index: i64| i64::try_from(len * i128::from(index) / i128::from(of)).unwrap_or(i64::MAX);
    let first = extent.first + (at(index) - 1).max(0) * step;
    Range::new(first, extent.first + (at(index + 1) - 1) * step)
}

/// Recounts one range in pieces. A piece grows where rows are sparse, so that a few rows far apart cost few queries.
async fn sweep_range(
    history: &Arc<dyn History>,
    backfill: &Deps,
    (stream, step): (&Stream, i64),
    range: Range,
    report: &mut SweepReport,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut positions = PIECE;
    let mut rest = Some(range);
    while let Some(Range { first, last }) = rest {
        ensure!(!cancel.is_cancelled(), "cancelled within {stream}");
        let span = positions.saturating_sub(1).saturating_mul(step);
        let piece = Range { first, last: last.min(first.saturating_add(span)) };
        let present = history.count(stream, piece).await.context("count a stream's rows")?.present;
        report.present += present;
        let missing = (piece.len(step) - present).max(0);
        report.missing += missing;
        if missing > 0 {
            report.opened += open_missing(history, backfill, (stream, step), piece, cancel).await?;
        }
        if present < PIECE / 4 {
            positions = positions.saturating_mul(4);
        } else if present > PIECE {
            positions = PIECE;
        }
        rest = piece.last.checked_add(step).and_then(|next| Range::new(next, last));
    }
    Ok(())
}

/// Opens every missing range of a piece that the ledger does not know; returns how many rows were opened.
async fn open_missing(
    history: &Arc<dyn History>,
    backfill: &Deps,
    (stream, step): (&Stream, i64),
    piece: Range,
    cancel: &CancellationToken,
) -> anyhow::Result<usize> {
    let mut opened = 0;
    // Reads all ranges, not only the first thousand, because settled ranges could hide the others.
    let mut rest = Some(piece);
    while let Some(part) = rest {
        ensure!(!cancel.is_cancelled(), "cancelled within {stream}");
        let ranges = history.missing(stream, part, RANGES_MAX).await.context("look for missing rows")?;
        for range in &ranges {
            opened += open_gap(backfill, stream, step, *range).await?;
        }
        let last = ranges.last().filter(|_| ranges.len() == RANGES_MAX);
        rest = last.and_then(|range| Range::new(range.last + step, part.last));
    }
    Ok(opened)
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
