//! Translates a requested range (ids or times) into positions, and opens gaps for the rows that history lacks.
//!
//! Jobs, API and command line use this module, so a range means the same everywhere.

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::deps::Deps;
use crate::gap::{Evidence, Range};
use crate::market::{Stream, Timestamp};

/// A bound of a range: an id or an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeBound {
    /// A trade id.
    Id(i64),
    /// An instant.
    At(Timestamp),
}

/// The outcome of [`Deps::open_missing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingReport {
    /// Positions that history lacks.
    pub missing: i64,
    /// New rows in the ledger; 0 when it knows the positions already.
    pub gaps: usize,
    /// Open rows in the range that are asked for at once, because an operator requested it.
    pub asked_again: usize,
    /// The part that was not checked, because the range has more missing ranges than the limit.
    pub rest: Option<Range>,
}

impl Deps {
    /// The positions from `from` to `to`. An id as `to` is included, an instant is not. The range ends at `newest`,
    /// because positions that do not exist yet are no gap. `None` when it is empty.
    pub async fn positions(
        &self,
        stream: &Stream,
        (from, to): (RangeBound, Option<RangeBound>),
        newest: i64,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Range>> {
        let step = stream.channel.step().context("books have no positions")?;
        let Some(first) = self.first_from(stream, step, from, stop).await? else { return Ok(None) };
        let last = match to {
            None => newest,
            Some(RangeBound::Id(id)) => id,
            // The first position at or after `to` is the first one outside the range.
            Some(to) => self.first_from(stream, step, to, stop).await?.map_or(newest, |beyond| beyond - step),
        };
        Ok(Range::new(first, last.min(newest)))
    }

    /// The first position at or after a bound; `None` when there is none.
    async fn first_from(
        &self,
        stream: &Stream,
        step: i64,
        bound: RangeBound,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<i64>> {
        match (bound, stream.channel) {
            (RangeBound::Id(id), _) => Ok(Some(id)),
            (RangeBound::At(at), channel) if channel.has_trades() => {
                let rest = self.rest.get(&stream.exchange).context("no client speaks to this exchange")?;
                let found = rest.trade_at(stream, at, stop).await;
                found.with_context(|| format!("ask {} for its first trade after {at}", stream.exchange))
            }
            (RangeBound::At(Timestamp(at)), _) => {
                Ok(Some(at.div_euclid(step) * step + if at.rem_euclid(step) == 0 { 0 } else { step }))
            }
        }
    }

    /// Opens a gap for each of the first `ranges_max` ranges that history lacks in `range`. When an operator requests it
    /// (`by` is `manual`), positions that closed without their rows open again, and open gaps are asked for at once.
    pub async fn open_missing(
        &self,
        stream: &Stream,
        range: Range,
        by: &str,
        ranges_max: usize,
    ) -> anyhow::Result<MissingReport> {
        let step = stream.channel.step().context("books have no positions")?;
        let ranges = self.history().missing(stream, range, ranges_max).await.context("look for missing rows")?;
        let mut opened = MissingReport { missing: 0, gaps: 0, asked_again: 0, rest: None };
        for found in &ranges {
            opened.missing += found.len(step);
            let evidence = Evidence { by: by.to_owned(), ..Evidence::default() };
            if evidence.is_appeal() {
                opened.asked_again += self.ledger.with(|ledger| ledger.ask_again(stream, *found));
            }
            opened.gaps += self.open(stream, *found, &evidence).await.context("record the gap")?.len();
        }
        let last = ranges.last().filter(|_| ranges.len() == ranges_max);
        opened.rest = last.and_then(|found| Range::new(found.last + step, range.last));
        Ok(opened)
    }
}
