//! Opens gaps for the rows of a range that history lacks; backfill then fetches them within the exchange's budget.
//!
//! A run is done when its gaps are durable in the ledger: from then on each is filled or closed with a reason.

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::super::spec::{BackfillArgs, RangeBound};
use super::{Context, Report};
use crate::gap::Range;

/// Missing ranges found in one step.
const RANGES_MAX: usize = 1_000;

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, cancel, .. } = context;
    let args = args.backfill.as_ref().context("the job has no backfill arguments")?;
    let stream = &args.stream;
    ensure!(services.streams.borrow().contains(stream), "{stream} is not recorded: add it to a feed");
    ensure!(stream.channel.step().is_some(), "no exchange returns an old {}", stream.channel);
    let extent = services.history.extent(stream).await.context("read the stream's extent")?;
    let extent = extent.with_context(|| format!("history has no row of {stream} yet"))?;
    let range = range(context, args)?;
    let Some(Range { first, last }) = services.backfill.positions(stream, range, extent.last, cancel).await? else {
        return Report::new(format!("{stream}: the range has no rows yet"), &json!({ "gaps_opened": 0 }));
    };
    let (mut missing, mut opened) = (0, 0);
    let mut rest = Range::new(first, last);
    while let Some(part) = rest {
        ensure!(!cancel.is_cancelled(), "cancelled at {} of {stream}", part.first);
        let found = services.backfill.open_missing(stream, part, "job", RANGES_MAX).await?;
        missing += found.missing;
        opened += found.gaps;
        rest = found.rest;
    }
    let data = json!({
        "stream": stream.to_string(), "first": first, "last": last, "missing": missing, "gaps_opened": opened,
    });
    Report::new(format!("{stream} {first}..{last}: {missing} missing, {opened} gaps opened"), &data)
}

/// The range in the job's arguments, else the run's window.
fn range(context: &Context, args: &BackfillArgs) -> anyhow::Result<(RangeBound, Option<RangeBound>)> {
    match (args.from, context.run.window) {
        (Some(from), _) => Ok((from, args.to)),
        (None, Some((from, to))) => Ok((RangeBound::At(from), Some(RangeBound::At(to)))),
        (None, None) => bail!("the job has neither `from` nor a window"),
    }
}
