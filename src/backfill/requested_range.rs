//! What somebody asks to have of a stream, as positions, and gaps for what history lacks of it.
//!
//! Jobs, API and command line all come here: a range means the same whoever asks for it.

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::Deps;
use crate::gap::{Evidence, Range};
use crate::market::{Channel, Stream, Timestamp};

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeBound {
    /// A trade id.
    Id(i64),
    /// An instant.
    At(Timestamp),
}

/// The gaps that were opened for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingReport {
    /// Positions that history lacks.
    pub missing: i64,
    /// New rows of the ledger; none for what it knows already.
    pub gaps: usize,
    /// What was not looked at, because the range has more holes than were asked for.
    pub rest: Option<Range>,
}

impl Deps {
    /// The positions from `from` to `to`: an id that is the last one, or the instant before which rows are wanted; none
    /// of them beyond `newest`, because what does not exist yet is no gap. `None` when nothing exists there.
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
            // The first position at or after `to` is the first one that is not wanted.
            Some(to) => self.first_from(stream, step, to, stop).await?.map_or(newest, |beyond| beyond - step),
        };
        Ok(Range::new(first, last.min(newest)))
    }

    /// The first position at or after a place; `None` when there is none.
    async fn first_from(
        &self,
        stream: &Stream,
        step: i64,
        bound: RangeBound,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<i64>> {
        match (bound, stream.channel) {
            (RangeBound::Id(id), _) => Ok(Some(id)),
            (RangeBound::At(at), Channel::Trade) => {
                let rest = self.rest.get(&stream.exchange).context("no client speaks to this exchange")?;
                let found = rest.trade_at(stream.symbol.as_str(), at, stop).await;
                found.with_context(|| format!("ask {} for its first trade after {at}", stream.exchange))
            }
            (RangeBound::At(Timestamp(at)), _) => {
                Ok(Some(at.div_euclid(step) * step + if at.rem_euclid(step) == 0 { 0 } else { step }))
            }
        }
    }

    /// Opens a gap for each of the first `ranges_max` holes that history has in `range`; what it has costs nothing.
    pub async fn open_missing(
        &self,
        stream: &Stream,
        range: Range,
        by: &str,
        ranges_max: usize,
    ) -> anyhow::Result<MissingReport> {
        let step = stream.channel.step().context("books have no positions")?;
        let ranges = self.history().missing(stream, range, ranges_max).await.context("look for missing rows")?;
        let mut opened = MissingReport { missing: 0, gaps: 0, rest: None };
        for found in &ranges {
            opened.missing += found.len(step);
            let evidence = Evidence { by: by.to_owned(), ..Evidence::default() };
            opened.gaps += self.open(stream, *found, &evidence).await.context("record the gap")?.len();
        }
        let last = ranges.last().filter(|_| ranges.len() == ranges_max);
        opened.rest = last.and_then(|found| Range::new(found.last + step, range.last));
        Ok(opened)
    }
}
