//! Counts each stream's rows in history: first and last position, expected, present and missing ones.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;

use super::missing::each_missing;
use super::proof::is_proven;
use crate::gap::{Gap, GapState, Range, RangeSet};
use crate::history::{CoverageDay, GapFilter, History, each_gap};
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
    /// No position is known to be missing, but the exchange's numbers do not prove it.
    Unproven,
    /// The exchange does not serve missing positions; the recorder asks again.
    Unconfirmed,
    /// Missing positions are lost for good; the ledger has the reasons.
    Unrecoverable,
    /// History cannot hold the rows of missing positions; dead letters hold their bytes.
    Refused,
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
    /// The numbering that is counted: 0, or the number of one that began again. 0 for klines.
    pub epoch: i64,
    /// First stored position; null when no row is stored.
    pub first: Option<i64>,
    /// Last stored position.
    pub last: Option<i64>,
    /// Positions stored or missing from first to last: all without those that never existed.
    pub expected: i64,
    /// Positions stored.
    pub present: i64,
    /// Of these, how many came over REST.
    pub backfilled: i64,
    /// Missing ranges, inclusive.
    pub missing: Vec<(i64, i64)>,
    /// Ranges that the exchange does not serve, inclusive; the recorder asks again for hours.
    pub unconfirmed: Vec<(i64, i64)>,
    /// Ranges that the exchange never used, inclusive.
    pub never_existed: Vec<(i64, i64)>,
    /// Ranges that the exchange no longer serves, inclusive.
    pub unrecoverable: Vec<(i64, i64)>,
    /// Ranges whose rows history cannot hold, inclusive.
    pub refused: Vec<(i64, i64)>,
    /// Gaps in the ledger that are not closed.
    pub open_gaps: usize,
    /// No position is missing, no gap is open, in doubt, or closed without its rows, and the numbers prove it.
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
    let epochs = history.epochs().await.context("read the epochs")?;
    let epoch_of = |stream: &Stream| {
        let of_stream = epochs.iter().filter(|row| row.stream() == *stream);
        let newest = of_stream.map(|row| row.epoch).max().unwrap_or(0);
        if stream.channel.has_trades() { history.epoch().unwrap_or(newest) } else { 0 }
    };
    let numbered: Vec<Stream> = streams.iter().filter(|stream| stream.channel.step().is_some()).cloned().collect();
    let mut ledgers: HashMap<Stream, LedgerView> =
        numbered.iter().filter_map(|stream| Some((stream.clone(), LedgerView::new(stream.channel.step()?)))).collect();
    let add = |gap: Gap| {
        if let Some(ledger) = ledgers.get_mut(&gap.stream) {
            ledger.add(&gap);
        }
    };
    // The filled rows, nearly all of a ledger, say nothing about what is missing.
    each_gap(&**history, GapFilter::unfilled(), add).await.context("read the gap ledger")?;
    let mut days: HashMap<Stream, Vec<CoverageDay>> = HashMap::new();
    for (stream, day) in history.days(&numbered, first_day).await.context("count the streams' rows")? {
        days.entry(stream).or_default().push(day);
    }
    let mut all = Vec::new();
    for stream in &numbered {
        let Some(ledger) = ledgers.get(stream) else { continue };
        let mut counted = of_stream(history, stream, ledger, &days.remove(stream).unwrap_or_default()).await?;
        counted.epoch = epoch_of(stream);
        all.push(counted);
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
    in_doubt: RangeSet,
    lost: RangeSet,
    refused: RangeSet,
    open: Vec<Range>,
}

impl LedgerView {
    fn new(step: i64) -> Self {
        let none = || RangeSet::new(step);
        Self { step, never: none(), in_doubt: none(), lost: none(), refused: none(), open: Vec::new() }
    }

    fn add(&mut self, gap: &Gap) {
        match gap.state {
            GapState::NeverExisted => self.never.insert(gap.range),
            GapState::Unconfirmed => self.in_doubt.insert(gap.range),
            GapState::Unrecoverable => self.lost.insert(gap.range),
            GapState::Refused => self.refused.insert(gap.range),
            GapState::Open | GapState::Filling | GapState::Filled | GapState::Superseded => {}
        }
        if !gap.state.is_closed() {
            self.open.push(gap.range);
        }
    }

    /// The state of a missing range.
    fn state(&self, range: Range) -> CoverageState {
        let states = [
            (&self.in_doubt, CoverageState::Unconfirmed),
            (&self.lost, CoverageState::Unrecoverable),
            (&self.refused, CoverageState::Refused),
        ];
        let known = states.into_iter().find(|(ranges, _)| ranges.covers(range));
        known.map_or(CoverageState::Open, |(_, state)| state)
    }

    /// The worst state that its own rows give a stream, also before the stream's first row.
    fn worst(&self) -> CoverageState {
        let in_doubt = self.in_doubt.iter().count();
        if self.open.len() > in_doubt {
            CoverageState::Open
        } else if !self.refused.is_empty() {
            CoverageState::Refused
        } else if !self.lost.is_empty() {
            CoverageState::Unrecoverable
        } else if in_doubt > 0 {
            CoverageState::Unconfirmed
        } else {
            CoverageState::Empty
        }
    }

    /// The worst state of the gaps in a range that are not closed.
    fn open_in(&self, range: Range) -> Option<CoverageState> {
        let open = self.open.iter().filter(|open| open.intersect(range).is_some());
        open.map(|open| self.state(*open).max(CoverageState::Unconfirmed)).max()
    }
}

fn listed(ranges: &RangeSet) -> Vec<(i64, i64)> {
    ranges.iter().take(RANGES_MAX).map(|range| (range.first, range.last)).collect()
}

async fn of_stream(
    history: &Arc<dyn History>,
    stream: &Stream,
    ledger: &LedgerView,
    days: &[CoverageDay],
) -> anyhow::Result<Coverage> {
    let open_gaps = ledger.open.len();
    let mut coverage = Coverage {
        exchange: stream.exchange.to_string(),
        symbol: stream.symbol.to_string(),
        channel: stream.channel.to_string(),
        epoch: 0,
        first: None,
        last: None,
        expected: 0,
        present: days.iter().map(|day| day.present).sum(),
        backfilled: days.iter().map(|day| day.backfilled).sum(),
        missing: Vec::new(),
        unconfirmed: listed(&ledger.in_doubt),
        never_existed: listed(&ledger.never),
        unrecoverable: listed(&ledger.lost),
        refused: listed(&ledger.refused),
        open_gaps,
        complete: ledger.worst() == CoverageState::Empty,
        state: ledger.worst(),
        days: Vec::new(),
    };
    let Some(extent) = extent(days) else { return Ok(coverage) };
    coverage.first = Some(extent.first);
    coverage.last = Some(extent.last);
    // A position that never existed may have arrived after all, so only a full range proves that none is missing.
    let may_miss = coverage.present < extent.len(ledger.step);
    let (all, of_days) = missing_by_day(history, stream, extent, ledger, days, may_miss).await?;
    coverage.expected = coverage.present + all.count;
    coverage.complete &= all.count == 0;
    coverage.state = all.state(coverage.present, coverage.backfilled).max(coverage.state);
    coverage.missing = all.ranges;
    coverage.days = of_days;
    let holes = coverage.missing.len() + coverage.never_existed.len();
    if !is_proven(stream, coverage.present, holes, !coverage.never_existed.is_empty()) {
        coverage.complete = false;
        coverage.state = coverage.state.max(CoverageState::Unproven);
        for day in coverage.days.iter_mut().filter(|day| day.present > 0) {
            day.state = day.state.max(CoverageState::Unproven);
        }
    }
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
        if let Some(open) = Range::new(first, upto).and_then(|range| ledger.open_in(range)) {
            missing.state = missing.state.max(open);
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
