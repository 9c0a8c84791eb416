//! A stream as history holds it: its numberings, and where the rows of a day are in them.

use std::sync::Arc;

use anyhow::Context;

use crate::audit;
use crate::gap::{Gap, Range};
use crate::history::{DISORDER_MAX, EpochRow, GapFilter, History, each_gap};
use crate::market::{Channel, Stream, Timestamp};

use super::rows::{Row, Rows};
use super::{Day, RANGES_MAX};

/// Trades at either end whose times are compared.
const ENDS_MAX: usize = 1_000;

/// One numbering of a stream that has rows.
#[derive(Clone)]
pub struct EpochView {
    history: Arc<dyn History>,
    stream: Stream,
    /// Its number; 0 for klines.
    pub epoch: i64,
    /// Its first and last stored position.
    pub extent: Range,
    /// The exchange's times of these.
    pub times: (Timestamp, Timestamp),
}

/// Where the rows of a day are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayRange {
    /// Positions that contain all rows of the day; `None` when there can be none.
    pub range: Option<Range>,
    /// The last stored position before them.
    pub previous: Option<i64>,
    /// The first stored position after them.
    pub next: Option<i64>,
}

/// The numberings of a stream that have rows, oldest first.
pub async fn views(history: &Arc<dyn History>, stream: &Stream, epochs: &[EpochRow]) -> anyhow::Result<Vec<EpochView>> {
    let newest = epochs.iter().filter(|row| row.stream() == *stream).map(|row| row.epoch).max().unwrap_or(0);
    let newest = if stream.channel.has_trades() { newest } else { 0 };
    let mut found = Vec::new();
    for epoch in 0..=newest {
        let view = if stream.channel.has_trades() { history.at_epoch(epoch) } else { history.clone() };
        let Some(extent) = view.extent(stream).await.context("find the first and last row")? else { continue };
        let mut view = EpochView {
            history: view,
            stream: stream.clone(),
            epoch,
            extent,
            times: (Timestamp(extent.first), Timestamp(extent.last)),
        };
        if stream.channel.has_trades() {
            view.times = view.first_and_last_time().await?;
        }
        found.push(view);
    }
    Ok(found)
}

impl EpochView {
    /// The rows of `range`, ascending, at most `limit`.
    pub async fn rows(&self, range: Range, limit: usize) -> anyhow::Result<Rows> {
        Ok(if self.stream.channel.has_trades() {
            Rows::Trades(self.history.trades(&self.stream, range, limit).await.context("read trades")?)
        } else {
            Rows::Klines(self.history.klines(&self.stream, range, limit).await.context("read klines")?)
        })
    }

    /// The earliest time of the first trades and the latest of the last ones: trades may be numbered in another order than
    /// they happened.
    async fn first_and_last_time(&self) -> anyhow::Result<(Timestamp, Timestamp)> {
        let Range { first, last } = self.extent;
        let begin = self.rows(self.extent, ENDS_MAX).await?;
        let end = Range { first: last.saturating_sub(ENDS_MAX as i64).max(first), last };
        let end = self.rows(end, ENDS_MAX + 1).await?;
        let first = begin.iter().map(Row::ts).min();
        // Retention may have removed them meanwhile: the next run sees what is left.
        first.zip(end.iter().map(Row::ts).max()).context("rows were removed while they were read")
    }

    /// The first stored position at `from` or later.
    async fn next_stored(&self, from: i64) -> anyhow::Result<Option<i64>> {
        let Some(range) = Range::new(from, self.extent.last) else { return Ok(None) };
        Ok(self.rows(range, 1).await?.last_position())
    }

    /// Where the rows of a day are. Trades may be numbered in another order than they happened: it tolerates
    /// [`DISORDER_MAX`].
    pub async fn day_range(&self, day: Day) -> anyhow::Result<DayRange> {
        let disorder = i64::try_from(DISORDER_MAX.as_micros()).unwrap_or(i64::MAX);
        self.range_between(day, disorder).await
    }

    /// The positions that may be of the day, with the first one after it: a gap that overlaps them may be of the day.
    pub async fn positions(&self, day: Day) -> anyhow::Result<Range> {
        if let Channel::Kline(interval) = self.stream.channel {
            return Ok(Range { first: day.start().micros(), last: day.end().micros() - interval.micros() });
        }
        let DayRange { range, previous, next } = self.range_between(day, 0).await?;
        let first = previous.or(range.map(|range| range.first)).unwrap_or(self.extent.first);
        let last = next.or(range.map(|range| range.last)).unwrap_or(self.extent.last);
        // A gap may be directly before or after all that is stored.
        Ok(Range { first: first - 1, last: last.max(first) + 1 })
    }

    async fn range_between(&self, day: Day, disorder: i64) -> anyhow::Result<DayRange> {
        let extent = self.extent;
        if let Channel::Kline(interval) = self.stream.channel {
            let step = interval.micros();
            let (start, end) = (day.start().micros(), day.end().micros());
            return Ok(DayRange {
                range: Range::new(start, end - step),
                previous: (extent.first < start).then_some(start - step),
                next: (extent.last >= end).then_some(end),
            });
        }
        let find = |at: Timestamp| audit::first_position_at(&self.history, &self.stream, extent, at);
        let first = find(day.start().plus_micros(-disorder)).await.context("find the day's first trade")?;
        let end = find(day.end().plus_micros(disorder)).await.context("find the day's last trade")?;
        Ok(DayRange {
            range: Range::new(first, end - 1),
            // The search ends after the last stored trade before its time.
            previous: (first > extent.first).then_some(first - 1),
            next: self.next_stored(end).await?,
        })
    }

    /// Whether something after the day is recorded; of klines the day's last one is enough.
    pub fn is_past(&self, day: Day) -> bool {
        match self.stream.channel {
            Channel::Kline(interval) => self.extent.last >= day.end().micros() - interval.micros(),
            _ => self.times.1 >= day.end(),
        }
    }

    /// The gaps that `filter` selects of this numbering and range.
    pub async fn gaps(&self, filter: GapFilter, range: Range) -> anyhow::Result<Vec<Gap>> {
        let (stream, range) = (Some(self.stream.clone()), Some(range));
        let filter = GapFilter { stream, range, of_read_epoch: true, ..filter };
        let mut gaps = Vec::new();
        let mut too_many = false;
        each_gap(&*self.history, filter, |gap| {
            too_many |= gaps.len() >= RANGES_MAX;
            if !too_many {
                gaps.push(gap);
            }
        })
        .await
        .context("read the gap ledger")?;
        anyhow::ensure!(!too_many, "more than {RANGES_MAX} gaps in one day");
        Ok(gaps)
    }

    /// How many rows are stored.
    pub async fn count(&self) -> anyhow::Result<i64> {
        Ok(self.history.count(&self.stream, self.extent).await.context("count the rows")?.present)
    }
}
