//! Counts each stream's rows in history: first and last position, expected, present and missing ones.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;

use super::missing::{each_missing, never_existed_in};
use crate::gap::{Gap, GapState, Range, RangeSet};
use crate::history::{CoverageDay, GapFilter, History};
use crate::market::{DAY_US, Stream, Timestamp};

/// Most missing ranges listed per stream or day; `expected - present` counts all of them.
const RANGES_MAX: usize = 1_000;

/// The state of a stream or of one of its days; the worst one applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CoverageState {
    /// No row is stored.
    #[default]
    Empty,
    /// Every position is stored, from live frames.
    Complete,
    /// Every position is stored, some from backfill.
    Backfilled,
    /// Missing positions are lost for good; the ledger has the reasons.
    Unrecoverable,
    /// Missing positions may still be filled.
    Open,
}

/// One stream's coverage.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Coverage {
    /// The exchange.
    pub exchange: String,
    /// The symbol.
    pub symbol: String,
    /// `trade` or `kline_1m`...
    pub channel: String,
    /// First stored position; null when no row is stored.
    pub first: Option<i64>,
    /// Last stored position.
    pub last: Option<i64>,
    /// Positions from first to last, without those that never existed.
    pub expected: i64,
    /// Positions stored.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
    /// Missing ranges, inclusive.
    pub missing: Vec<(i64, i64)>,
    /// Gaps in the ledger that are not closed.
    pub open_gaps: usize,
    /// No position is missing and no gap is open.
    pub complete: bool,
    /// The worst state.
    pub state: CoverageState,
    /// The same per UTC day with rows. Positions missing between two days count with the later day, so that the days
    /// add up to the stream.
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
    /// Stored positions plus those missing since the last position of the day before.
    pub expected: i64,
    /// Positions stored.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
    /// Missing ranges, inclusive.
    pub missing: Vec<(i64, i64)>,
    /// The worst state.
    pub state: CoverageState,
}

/// Counts these streams in history: everything, or only from `first_day` on (days since 1970, UTC). Open gaps are
/// counted wherever they lie.
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

/// The first to the last position of these days; `None` without a row.
pub(super) fn extent(days: &[CoverageDay]) -> Option<Range> {
    let (first, last) = (days.iter().map(|day| day.first).min()?, days.iter().map(|day| day.last).max()?);
    Range::new(first, last)
}

/// Missing positions of a stream or day, and their worst state.
#[derive(Default)]
struct MissingCount {
    count: i64,
    ranges: Vec<(i64, i64)>,
    state: CoverageState,
}

impl MissingCount {
    fn add(&mut self, range: Range, step: i64, state: CoverageState) {
        self.count += range.len(step);
        self.state = self.state.max(state);
        if self.ranges.len() < RANGES_MAX {
            self.ranges.push((range.first, range.last));
        }
    }

    /// The state of the missing and the stored rows together.
    fn state(&self, present: i64, backfilled: i64) -> CoverageState {
        let rows = match (present, backfilled) {
            (0, _) => CoverageState::Empty,
            (_, 0) => CoverageState::Complete,
            _ => CoverageState::Backfilled,
        };
        self.state.max(rows)
    }
}

/// The ledger's rows of one stream, by state.
struct LedgerView {
    step: i64,
    never: RangeSet,
    lost: RangeSet,
    open: Vec<Range>,
}

impl LedgerView {
    fn of(gaps: &[&Gap], step: i64) -> Self {
        let mut lost = RangeSet::new(step);
        for gap in gaps.iter().filter(|gap| gap.state == GapState::Unrecoverable) {
            lost.insert(gap.range);
        }
        let open = gaps.iter().filter(|gap| !gap.state.is_closed()).map(|gap| gap.range).collect();
        Self { step, never: never_existed_in(gaps.iter().copied(), step), lost, open }
    }

    /// The state of a missing range.
    fn state(&self, range: Range) -> CoverageState {
        if self.lost.covers(range) { CoverageState::Unrecoverable } else { CoverageState::Open }
    }

    fn is_open_in(&self, range: Range) -> bool {
        self.open.iter().any(|open| open.intersect(range).is_some())
    }
}

async fn of_stream(
    history: &Arc<dyn History>,
    stream: &Stream,
    gaps: &[&Gap],
    days: &[CoverageDay],
) -> anyhow::Result<Coverage> {
    let step = stream.channel.step().context("books are not counted")?;
    let ledger = LedgerView::of(gaps, step);
    let open_gaps = ledger.open.len();
    let mut coverage = Coverage {
        exchange: stream.exchange.to_string(),
        symbol: stream.symbol.to_string(),
        channel: stream.channel.to_string(),
        first: None,
        last: None,
        expected: 0,
        present: days.iter().map(|day| day.present).sum(),
        backfilled: days.iter().map(|day| day.backfilled).sum(),
        missing: Vec::new(),
        open_gaps,
        complete: open_gaps == 0,
        state: if open_gaps == 0 { CoverageState::Empty } else { CoverageState::Open },
        days: Vec::new(),
    };
    let Some(extent) = extent(days) else { return Ok(coverage) };
    let never: i64 = ledger.never.iter().filter_map(|never| never.intersect(extent)).map(|range| range.len(step)).sum();
    coverage.first = Some(extent.first);
    coverage.last = Some(extent.last);
    coverage.expected = extent.len(step) - never;
    let (all, of_days) =
        missing_by_day(history, stream, extent, &ledger, days, coverage.present < coverage.expected).await?;
    coverage.complete = all.count == 0 && open_gaps == 0 && coverage.present >= coverage.expected;
    coverage.state = all.state(coverage.present, coverage.backfilled).max(coverage.state);
    coverage.missing = all.ranges;
    coverage.days = of_days;
    Ok(coverage)
}

/// The missing positions of a stream and of its days. When the store `may_miss` none, it is not queried.
async fn missing_by_day(
    history: &Arc<dyn History>,
    stream: &Stream,
    extent: Range,
    ledger: &LedgerView,
    days: &[CoverageDay],
    may_miss: bool,
) -> anyhow::Result<(MissingCount, Vec<Day>)> {
    let mut sorted: Vec<&CoverageDay> = days.iter().collect();
    sorted.sort_by_key(|day| day.day);
    // The last position of each day. Trades around midnight may be numbered in another order than their times.
    let ends: Vec<i64> = sorted
        .iter()
        .scan(i64::MIN, |end, day| {
            *end = day.last.max(*end);
            Some(*end)
        })
        .collect();
    let mut all = MissingCount::default();
    let mut of_days: Vec<MissingCount> = sorted.iter().map(|_| MissingCount::default()).collect();
    if may_miss {
        each_missing(history, stream, extent, &ledger.never, |range| {
            let state = ledger.state(range);
            all.add(range, ledger.step, state);
            let at = ends.partition_point(|end| *end < range.last);
            if let Some(day) = of_days.get_mut(at) {
                day.add(range, ledger.step, state);
            }
        })
        .await?;
    }
    let mut shown = Vec::new();
    let mut first = extent.first;
    for ((counted, end), mut missing) in sorted.into_iter().zip(ends).zip(of_days) {
        // A gap after the last row counts with the last day.
        let upto = if end == extent.last { i64::MAX } else { end };
        if Range::new(first, upto).is_some_and(|range| ledger.is_open_in(range)) {
            missing.state = CoverageState::Open;
        }
        first = end.saturating_add(ledger.step);
        shown.push(Day {
            date: Timestamp(counted.day * DAY_US).rfc3339()[..10].to_owned(),
            first: counted.first,
            last: counted.last,
            expected: counted.present + missing.count,
            present: counted.present,
            backfilled: counted.backfilled,
            state: missing.state(counted.present, counted.backfilled),
            missing: missing.ranges,
        });
    }
    Ok((all, shown))
}
