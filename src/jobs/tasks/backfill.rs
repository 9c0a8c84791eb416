//! Opens gaps for what history lacks of a range; backfill then fetches it within the exchange's budget.
//!
//! A run is done when its gaps are durable in the ledger: from there on they are filled or accounted for.

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::super::spec::{BackfillArgs, Place};
use super::{Context, Report};
use crate::gap::{Evidence, Range};
use crate::market::{Channel, Timestamp};

/// Missing ranges asked for at a time.
const RANGES_MAX: usize = 1_000;

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, cancel, .. } = context;
    let args = args.backfill.as_ref().context("the job does not say what to fetch")?;
    let stream = &args.stream;
    ensure!(services.streams.borrow().contains(stream), "{stream} is not recorded: add it to a feed");
    let Some(step) = stream.channel.step() else { bail!("no exchange gives an old {} back", stream.channel) };
    let extent = services.history.extent(stream).await.context("read the stream's extent")?;
    let extent = extent.with_context(|| format!("nothing of {stream} is stored yet"))?;
    let Some(wanted) = range(context, args, step, extent).await? else {
        return Report::new(format!("{stream}: nothing exists in that range"), &json!({ "gaps_opened": 0 }));
    };
    let (mut missing, mut opened) = (0, 0);
    let mut rest = Some(wanted);
    while let Some(part) = rest {
        ensure!(!cancel.is_cancelled(), "cancelled at {} of {stream}", part.first);
        let ranges = services.history.missing(stream, part, RANGES_MAX).await.context("look for missing rows")?;
        for range in &ranges {
            missing += range.len(step);
            let evidence = Evidence { by: "job".to_owned(), ..Evidence::default() };
            let rows = services.backfill.open(stream, *range, &evidence).await.context("record the gap")?;
            opened += rows.len();
        }
        let last = ranges.last().filter(|_| ranges.len() == RANGES_MAX);
        rest = last.and_then(|range| Range::new(range.last + step, part.last));
    }
    let Range { first, last } = wanted;
    let data = json!({
        "stream": stream.to_string(), "first": first, "last": last, "missing": missing, "gaps_opened": opened,
    });
    Report::new(format!("{stream} {first}..{last}: {missing} missing, {opened} gaps opened"), &data)
}

/// The positions that are meant, none beyond the newest that is stored: what does not exist yet is no gap.
async fn range(context: &Context, args: &BackfillArgs, step: i64, extent: Range) -> anyhow::Result<Option<Range>> {
    let (from, to) = match (args.from, context.run.window) {
        (Some(from), _) => (from, args.to),
        (None, Some((from, to))) => (Place::At(from), Some(Place::At(to))),
        (None, None) => bail!("it has neither `from` nor a window"),
    };
    let Some(first) = first_from(context, args, step, from).await? else { return Ok(None) };
    let last = match to {
        Some(Place::Id(id)) => id,
        // The first position at or after `to` is the first one that is not wanted.
        Some(to) => match first_from(context, args, step, to).await? {
            Some(beyond) => beyond - step,
            None => extent.last,
        },
        None => extent.last,
    };
    Ok(Range::new(first, last.min(extent.last)))
}

/// The first position at or after a place.
async fn first_from(context: &Context, args: &BackfillArgs, step: i64, place: Place) -> anyhow::Result<Option<i64>> {
    let stream = &args.stream;
    match (place, stream.channel) {
        (Place::Id(id), _) => Ok(Some(id)),
        (Place::At(at), Channel::Trade) => {
            let rest = context.services.backfill.rest.get(&stream.exchange);
            let rest = rest.context("no client speaks to this exchange")?;
            let found = rest.trade_at(stream.symbol.as_str(), at, &context.cancel).await;
            found.with_context(|| format!("ask {} for its first trade after {at}", stream.exchange))
        }
        (Place::At(Timestamp(at)), _) => {
            Ok(Some(at.div_euclid(step) * step + if at.rem_euclid(step) == 0 { 0 } else { step }))
        }
    }
}
