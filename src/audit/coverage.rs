//! What history holds of a stream, counted there: first and last, expected, present, missing.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;

use super::absent::{absent, never_of};
use crate::gap::{Gap, Range};
use crate::history::{CoverageDay, GapFilter, History};
use crate::market::{DAY_US, Stream, Timestamp};

/// Missing ranges shown of one stream; `expected - present` counts all of them.
const RANGES_MAX: usize = 1_000;

/// One stream's coverage.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Coverage {
    /// Whose.
    pub exchange: String,
    /// Which symbol.
    pub symbol: String,
    /// `trade` or `kline_1m`...
    pub channel: String,
    /// First stored position; null when nothing is stored.
    pub first: Option<i64>,
    /// Last stored position.
    pub last: Option<i64>,
    /// Positions from first to last that exist: those that never existed are not among them.
    pub expected: i64,
    /// Positions stored.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
    /// Missing ranges, inclusive.
    pub missing: Vec<(i64, i64)>,
    /// Gaps in the ledger that are not closed.
    pub open_gaps: usize,
    /// Nothing is missing and no gap is open.
    pub complete: bool,
    /// The same per UTC day, for days with rows.
    pub days: Vec<Day>,
}

/// One stream's UTC day.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Day {
    /// `2026-01-31`.
    pub date: String,
    /// First stored position of the day.
    pub first: i64,
    /// Last stored position of the day.
    pub last: i64,
    /// Positions from first to last.
    pub expected: i64,
    /// Positions stored.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
}

/// Counts these streams in history: all of it, or as if it began with `first_day` (days since 1970, of UTC). Open gaps
/// are counted wherever they are.
pub async fn coverage(
    history: &Arc<dyn History>,
    streams: &[Stream],
    first_day: Option<i64>,
) -> anyhow::Result<Vec<Coverage>> {
    let rows = history.gaps(&GapFilter::default()).await.context("read the gap ledger")?;
    let mut gaps: HashMap<&Stream, Vec<&Gap>> = HashMap::new();
    for gap in &rows {
        gaps.entry(&gap.stream).or_default().push(gap);
    }
    let numbered: Vec<Stream> = streams.iter().filter(|stream| stream.channel.step().is_some()).cloned().collect();
    let mut days: HashMap<Stream, Vec<CoverageDay>> = HashMap::new();
    for (stream, day) in history.days(&numbered, first_day).await.context("count the streams' rows")? {
        days.entry(stream).or_default().push(day);
    }
    let mut all = Vec::new();
    for stream in &numbered {
        let gaps = gaps.get(stream).map_or(&[][..], Vec::as_slice);
        all.push(of_stream(history, stream, gaps, &days.remove(stream).unwrap_or_default()).await?);
    }
    Ok(all)
}

/// From the first to the last position of these days; `None` when there is no row.
pub(super) fn extent(days: &[CoverageDay]) -> Option<Range> {
    let (first, last) = (days.iter().map(|day| day.first).min()?, days.iter().map(|day| day.last).max()?);
    Range::new(first, last)
}

async fn of_stream(
    history: &Arc<dyn History>,
    stream: &Stream,
    gaps: &[&Gap],
    days: &[CoverageDay],
) -> anyhow::Result<Coverage> {
    let step = stream.channel.step().context("books are not counted")?;
    let open_gaps = gaps.iter().filter(|gap| !gap.state.is_closed()).count();
    let mut coverage = Coverage {
        exchange: stream.exchange.to_string(),
        symbol: stream.symbol.to_string(),
        channel: stream.channel.to_string(),
        first: None,
        last: None,
        expected: 0,
        present: 0,
        backfilled: 0,
        missing: Vec::new(),
        open_gaps,
        complete: open_gaps == 0,
        days: Vec::new(),
    };
    let Some(extent) = extent(days) else { return Ok(coverage) };
    let never = never_of(gaps.iter().copied(), step);
    let never_in = |range: Range| -> i64 {
        never.iter().filter_map(|never| never.intersect(range)).map(|range| range.len(step)).sum()
    };
    coverage.first = Some(extent.first);
    coverage.last = Some(extent.last);
    coverage.expected = extent.len(step) - never_in(extent);
    coverage.present = days.iter().map(|day| day.present).sum();
    coverage.backfilled = days.iter().map(|day| day.backfilled).sum();
    if coverage.present < coverage.expected {
        let missing = absent(history, stream, extent, &never, RANGES_MAX).await?;
        coverage.missing = missing.ranges.into_iter().map(|range| (range.first, range.last)).collect();
    }
    coverage.complete = coverage.missing.is_empty() && open_gaps == 0 && coverage.present >= coverage.expected;
    for day in days {
        let range = Range { first: day.first, last: day.last };
        coverage.days.push(Day {
            date: Timestamp(day.day * DAY_US).rfc3339()[..10].to_owned(),
            first: day.first,
            last: day.last,
            expected: range.len(step) - never_in(range),
            present: day.present,
            backfilled: day.backfilled,
        });
    }
    Ok(coverage)
}
