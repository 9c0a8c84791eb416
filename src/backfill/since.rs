//! `since` of a feed, and what was missed before the first row since a stream is recorded: a gap in front of that row.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::exchange::rest::QUERY_TIME_MAX;
use crate::exchange::{Feed, Since};
use crate::gap::{Evidence, Range};
use crate::heartbeat::Heartbeat;
use crate::history::{HistoryError, TradeRow};
use crate::market::{Channel, Stream, Timestamp};
use crate::progress::Progress;

use super::Deps;
use super::recording_starts::{PendingStart, RecordingStarts};

/// How soon a stream that has no row yet, or whose exchange does not answer, is looked at again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is wanted in front of a stream's first row.
#[derive(Clone, Copy, Debug)]
enum StartPoint {
    /// A feed's `since`.
    Since(Since),
    /// What came since the stream is recorded, by our clock, and what says so.
    RecordingSince(Timestamp, &'static str),
}

/// Opens the gap in front of each stream's trades, once, until `stop`: what a feed's `since` asks for, also when a reload
/// has brought it, and what was missed between a stream's subscription and its first row.
pub async fn run(
    deps: Deps,
    progress: Arc<Progress>,
    mut feeds: watch::Receiver<Vec<Feed>>,
    recording_starts: Arc<RecordingStarts>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let mut done: Vec<(Stream, Since)> = Vec::new();
    while !stop.is_cancelled() {
        let configured = configured_starts(&feeds.borrow_and_update());
        done.retain(|start| configured.contains(start));
        for (stream, since) in configured {
            heartbeat.beat();
            let is_done = done.contains(&(stream.clone(), since));
            let opening = open_leading_gap(&deps, &progress, &stream, StartPoint::Since(since), &stop);
            if !is_done && heartbeat.beat_while(QUERY_TIME_MAX, opening).await {
                done.push((stream, since));
            }
        }
        for PendingStart { stream, since, by } in recording_starts.pending() {
            heartbeat.beat();
            let opening = open_leading_gap(&deps, &progress, &stream, StartPoint::RecordingSince(since, by), &stop);
            if heartbeat.beat_while(QUERY_TIME_MAX, opening).await {
                recording_starts.settle(&stream);
            }
        }
        for _ in 0..RETRY_AFTER.as_secs() {
            heartbeat.beat();
            if stop.is_cancelled() || feeds.has_changed().unwrap_or(false) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    heartbeat.retire();
}

fn configured_starts(feeds: &[Feed]) -> Vec<(Stream, Since)> {
    feeds
        .iter()
        .filter(|feed| feed.since != Since::Now)
        .flat_map(|feed| feed.streams().into_iter().map(|stream| (stream, feed.since)))
        .filter(|(stream, _)| stream.channel == Channel::Trade)
        .collect()
}

/// Whether the stream is done with.
async fn open_leading_gap(
    deps: &Deps,
    progress: &Progress,
    stream: &Stream,
    start: StartPoint,
    stop: &CancellationToken,
) -> bool {
    // Nothing of it has come, nor is it known that nothing has.
    let Some(next) = progress.stream(stream).next else { return false };
    let first = match first_row(deps, stream).await {
        Ok(first) => first,
        Err(error) => {
            debug!("cannot look up the first row of {stream}: {error}");
            return false;
        }
    };
    let before = first.as_ref().map_or(next, |row| row.trade.id);
    let rest = &deps.rest[&stream.exchange];
    let (at, by) = match start {
        StartPoint::Since(Since::Now) => return true,
        StartPoint::Since(Since::TradeId(id)) => return open_gap_before(deps, stream, id, before, "since").await,
        StartPoint::Since(Since::Time(at)) => (at, "since"),
        StartPoint::RecordingSince(at, by) => {
            // Trades bear the exchange's time, which may be hours from ours.
            if rest.clock_offset().is_none() && rest.measure_clock(stop).await.is_err() {
                return false;
            }
            let theirs = at.plus_micros(rest.clock_offset().unwrap_or(0));
            // How far apart the clocks were when another process began, nobody knows: rather too much than too little.
            (if by == "restart" { theirs.min(at) } else { theirs }, by)
        }
    };
    let first_ts = first.map(|row| row.trade.ts);
    if first_ts.is_some_and(|ts| ts < at) {
        // What came later is followed by its number.
        return true;
    }
    match rest.trade_at(stream.symbol.as_str(), at, stop).await {
        Ok(Some(id)) => open_gap_before(deps, stream, id, before, by).await,
        // No trade from then on; when there is a first row, that is one: the exchange's database lags.
        Ok(None) => first_ts.is_none(),
        Err(error) => {
            debug!("cannot look up the first trade of {stream} since {at}: {error}");
            false
        }
    }
}

async fn first_row(deps: &Deps, stream: &Stream) -> Result<Option<TradeRow>, HistoryError> {
    let Some(extent) = deps.history().extent(stream).await? else { return Ok(None) };
    let rows = deps.history().trades(stream, Range { first: extent.first, last: extent.first }, 1).await?;
    Ok(rows.into_iter().next())
}

async fn open_gap_before(deps: &Deps, stream: &Stream, first: i64, before: i64, by: &str) -> bool {
    let Some(range) = Range::new(first, before - 1) else { return true };
    let evidence = Evidence { by: by.to_owned(), next: Some(before), ..Evidence::default() };
    match deps.open(stream, range, &evidence).await {
        Ok(rows) if rows.is_empty() => true,
        Ok(_) => {
            info!("{stream} is backfilled from {} on ({by}): {} trades", range.first, range.len(1));
            true
        }
        Err(error) => {
            debug!("cannot record the gap in front of {stream}: {error}");
            false
        }
    }
}

#[cfg(test)]
#[path = "since_tests.rs"]
mod tests;
