//! Opens the gap before a stream's first row: back to a feed's `since`, or to the start of the recording.

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

use super::deps::Deps;
use super::recording_starts::{PendingStart, RecordingStarts};

/// Wait between two checks of a stream without a row, or whose exchange does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// From where rows are required before a stream's first row.
#[derive(Clone, Copy, Debug)]
enum StartPoint {
    /// A feed's `since`.
    Since(Since),
    /// The start of the recording, by our clock, and the `by` of the gap's evidence.
    RecordingSince(Timestamp, &'static str),
}

/// Opens the gap before each stream's first trade, once per stream, until `stop`: for a feed's `since` (also one that a
/// reload adds), and for trades missed between the subscription and the first row.
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

/// Returns whether the stream needs no further check.
async fn open_leading_gap(
    deps: &Deps,
    progress: &Progress,
    stream: &Stream,
    start: StartPoint,
    stop: &CancellationToken,
) -> bool {
    // No frame has arrived, and the exchange has not confirmed that there is no trade.
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
            // Trades carry the exchange's time, which may differ from ours by hours.
            if rest.clock_offset().is_none() && rest.measure_clock(stop).await.is_err() {
                return false;
            }
            let theirs = at.plus_micros(rest.clock_offset().unwrap_or(0));
            // The clock offset at the start of an earlier process is unknown, so take the earlier of both times.
            (if by == "restart" { theirs.min(at) } else { theirs }, by)
        }
    };
    let first_ts = first.map(|row| row.trade.ts);
    if first_ts.is_some_and(|ts| ts < at) {
        // The tracker follows later trades by id.
        return true;
    }
    match rest.trade_at(stream.symbol.as_str(), at, stop).await {
        Ok(Some(id)) => open_gap_before(deps, stream, id, before, by).await,
        // The exchange knows no trade since then. If a first row exists, the exchange's database lags.
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
            debug!("cannot open the gap before the first row of {stream}: {error}");
            false
        }
    }
}

#[cfg(test)]
#[path = "since_tests.rs"]
mod tests;
