//! Missing positions: ranges that history lacks, without the positions that the exchange does not have.

use std::sync::Arc;

use anyhow::Context;

use crate::gap::{GapState, Range, RangeSet};
use crate::history::{GapFilter, History, each_gap};
use crate::market::Stream;

/// Missing ranges per query.
const RANGES_MAX: usize = 10_000;

/// Positions that should be stored but are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingPositions {
    /// How many.
    pub count: i64,
    /// The ranges, ascending; limited, so there may be more.
    pub ranges: Vec<Range>,
}

/// The positions of a stream that the exchange does not have, according to the ledger.
pub async fn never_existed(history: &Arc<dyn History>, stream: &Stream) -> anyhow::Result<RangeSet> {
    let step = stream.channel.step().context("only numbered streams are in history")?;
    let states = vec![GapState::NeverExisted];
    let filter = GapFilter { stream: Some(stream.clone()), states, of_read_epoch: true, ..GapFilter::default() };
    let mut never = RangeSet::new(step);
    each_gap(&**history, filter, |gap| never.insert(gap.range)).await.context("read the gap ledger")?;
    Ok(never)
}

/// The missing positions of `range`; lists at most `ranges_max` ranges.
pub async fn missing_positions(
    history: &Arc<dyn History>,
    stream: &Stream,
    range: Range,
    never: &RangeSet,
    ranges_max: usize,
) -> anyhow::Result<MissingPositions> {
    let step = stream.channel.step().context("only numbered streams are in history")?;
    let mut missing = MissingPositions::default();
    each_missing(history, stream, range, never, |range| {
        missing.count += range.len(step);
        if missing.ranges.len() < ranges_max {
            missing.ranges.push(range);
        }
    })
    .await?;
    Ok(missing)
}

/// Calls `visit` with each missing range of `range`, ascending; reads a bounded number of ranges at a time.
pub(super) async fn each_missing(
    history: &Arc<dyn History>,
    stream: &Stream,
    range: Range,
    never: &RangeSet,
    mut visit: impl FnMut(Range),
) -> anyhow::Result<()> {
    let step = stream.channel.step().context("only numbered streams are in history")?;
    let mut rest = Some(range);
    while let Some(part) = rest {
        let ranges = history.missing(stream, part, RANGES_MAX).await.context("look for missing rows")?;
        ranges.iter().flat_map(|range| never.uncovered(*range)).for_each(&mut visit);
        let last = ranges.last().filter(|_| ranges.len() == RANGES_MAX);
        rest = last.and_then(|range| Range::new(range.last + step, part.last));
    }
    Ok(())
}
