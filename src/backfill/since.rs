//! Opens the gap before a stream's first row: back to a feed's `since`, or to the start of the recording.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::exchange::rest::{QUERY_TIME_MAX, Rest};
use crate::exchange::{Feed, Since};
use crate::gap::{Evidence, Range};
use crate::heartbeat::Heartbeat;
use crate::history::{HistoryError, TradeRow};
use crate::market::{Channel, Stream, Timestamp};
use crate::progress::Progress;
use crate::retry::{Paused, Pauses};

use super::deps::Deps;
use super::first_klines::open_gaps_before_first;
use super::recording_starts::{PendingStart, RecordingStarts};

/// Wait between two checks of a stream without a row, or whose exchange does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Longest wait before the exchange is asked again about the start of a recording: a check costs 4 of weight, and a symbol
/// without a trade may stay so for days.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

/// The result of checking one stream's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The stream needs no further check.
    Finished,
    /// The first row is not due yet, or history does not answer. The exchange was not asked.
    NotYet,
    /// The exchange was asked, and its answer settles nothing: ask again after a growing pause.
    Asked,
}

/// Pauses between two checks of a start that ask the exchange.
const ASK_AGAIN: Pauses = Pauses { min: RETRY_AFTER, max: ASK_AGAIN_MAX };

/// When to check each pending start again.
#[derive(Debug, Default)]
struct PausedChecks(HashMap<Stream, Option<Paused>>);

/// When each recording began, by the exchange's clock.
#[derive(Debug, Default)]
struct ExchangeStarts(HashMap<Stream, Timestamp>);

impl ExchangeStarts {
    /// The earliest of all measurements: a later one may say that the exchange's clock is ahead of what an earlier one said,
    /// and the earliest start asks for the most.
    fn earliest(&mut self, stream: &Stream, measured: Timestamp) -> Timestamp {
        let known = self.0.entry(stream.clone()).or_insert(measured);
        *known = measured.min(*known);
        *known
    }

    fn forget(&mut self, stream: &Stream) {
        self.0.remove(stream);
    }
}

impl PausedChecks {
    fn is_over(&self, stream: &Stream, now: Instant) -> bool {
        self.0.get(stream).copied().flatten().is_none_or(|paused| paused.is_over(now))
    }

    fn checked(&mut self, stream: &Stream, check: Check, now: Instant) {
        match check {
            Check::Finished => drop(self.0.remove(stream)),
            Check::NotYet => {}
            Check::Asked => ASK_AGAIN.begin(self.0.entry(stream.clone()).or_default(), now),
        }
    }
}

/// From where rows are required before a stream's first row.
#[derive(Clone, Copy, Debug)]
pub(super) enum StartPoint {
    /// A feed's `since`.
    Since(Since),
    /// The start of the recording, by the exchange's clock, and the `by` of the gap's evidence.
    RecordingSince(Timestamp, &'static str),
}

/// Opens the gap before each stream's first row, once per stream, until `stop`: for a feed's `since` (also one that a
/// reload adds), and for trades and klines missed between the subscription and the first row.
pub async fn run(
    deps: Deps,
    progress: Arc<Progress>,
    mut feeds: watch::Receiver<Vec<Feed>>,
    recording_starts: Arc<RecordingStarts>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let mut done: Vec<(Stream, Since)> = Vec::new();
    let mut pauses = PausedChecks::default();
    let mut starts = ExchangeStarts::default();
    while !stop.is_cancelled() {
        let configured = configured_starts(&feeds.borrow_and_update());
        done.retain(|start| configured.contains(start));
        for (stream, since) in configured {
            heartbeat.beat();
            let is_done = done.contains(&(stream.clone(), since));
            let opening = open_leading_gap(&deps, &progress, &stream, StartPoint::Since(since), &stop);
            if !is_done && heartbeat.beat_while(QUERY_TIME_MAX, opening).await == Check::Finished {
                done.push((stream, since));
            }
        }
        for PendingStart { stream, since, by } in recording_starts.pending(deps.clock.read()) {
            heartbeat.beat();
            if !pauses.is_over(&stream, Instant::now()) {
                continue;
            }
            let measuring = exchange_time(&deps.rest[&stream.exchange], since, by, &stop);
            let Some(theirs) = heartbeat.beat_while(QUERY_TIME_MAX, measuring).await else {
                pauses.checked(&stream, Check::Asked, Instant::now());
                continue;
            };
            let since = starts.earliest(&stream, theirs);
            let opening = open_leading_gap(&deps, &progress, &stream, StartPoint::RecordingSince(since, by), &stop);
            let check = heartbeat.beat_while(QUERY_TIME_MAX, opening).await;
            pauses.checked(&stream, check, Instant::now());
            if check == Check::Finished {
                recording_starts.settle(&stream);
                starts.forget(&stream);
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
        .filter(|(stream, _)| stream.channel.has_trades())
        .collect()
}

/// The exchange's time at `at` by our clock: trades and klines carry it, and it may differ from ours by hours. `None` while
/// it cannot be measured.
pub(super) async fn exchange_time(rest: &Rest, at: Timestamp, by: &str, stop: &CancellationToken) -> Option<Timestamp> {
    if rest.clock_offset().is_none() {
        rest.measure_clock(stop).await.ok()?;
    }
    let theirs = at.plus_micros(rest.clock_offset()?);
    // The clock offset at the start of an earlier process is unknown, so take the earlier of both times.
    Some(if by == "restart" { theirs.min(at) } else { theirs })
}

/// Checks the start of one stream, and opens the gap before its first row.
pub(super) async fn open_leading_gap(
    deps: &Deps,
    progress: &Progress,
    stream: &Stream,
    start: StartPoint,
    stop: &CancellationToken,
) -> Check {
    if let Channel::Kline(interval) = stream.channel {
        let StartPoint::RecordingSince(at, by) = start else { return Check::Finished };
        return open_gaps_before_first(deps, progress, (stream, interval), (at, by), stop).await;
    }
    // No frame has arrived, and the exchange has not confirmed that there is no trade.
    let Some(next) = progress.stream(stream).next else { return Check::NotYet };
    let first = match first_row(deps, stream).await {
        Ok(first) => first,
        Err(error) => {
            debug!("cannot look up the first row of {stream}: {error}");
            return Check::NotYet;
        }
    };
    let before = first.as_ref().map_or(next, |row| row.trade.id);
    let (at, by) = match start {
        StartPoint::Since(Since::Now) => return Check::Finished,
        StartPoint::Since(Since::TradeId(id)) => return open_gap_before(deps, stream, id, before, "since").await,
        StartPoint::Since(Since::Time(at)) => (at, "since"),
        StartPoint::RecordingSince(at, by) => (at, by),
    };
    let rest = &deps.rest[&stream.exchange];
    let first_ts = first.map(|row| row.trade.ts);
    if first_ts.is_some_and(|ts| ts < at) {
        // The tracker follows later trades by id.
        return Check::Finished;
    }
    match rest.trade_at(stream, at, stop).await {
        Ok(Some(id)) => open_gap_before(deps, stream, id, before, by).await,
        // The exchange knows no trade since then, and the configuration keeps the `since` of a feed over a restart.
        Ok(None) if first_ts.is_none() && by == "since" => Check::Finished,
        // If a first row exists, the exchange's database lags. If none does, a kill before the first row would lose the
        // trades until the next start: only a row outlives this process.
        Ok(None) => Check::Asked,
        Err(error) => {
            debug!("cannot look up the first trade of {stream} since {at}: {error}");
            Check::Asked
        }
    }
}

async fn first_row(deps: &Deps, stream: &Stream) -> Result<Option<TradeRow>, HistoryError> {
    let Some(extent) = deps.history().extent(stream).await? else { return Ok(None) };
    let rows = deps.history().trades(stream, Range { first: extent.first, last: extent.first }, 1).await?;
    Ok(rows.into_iter().next())
}

async fn open_gap_before(deps: &Deps, stream: &Stream, first: i64, before: i64, by: &str) -> Check {
    let Some(range) = Range::new(first, before - 1) else { return Check::Finished };
    let evidence = Evidence { by: by.to_owned(), next: Some(before), ..Evidence::default() };
    match deps.open(stream, range, &evidence).await {
        Ok(rows) if rows.is_empty() => Check::Finished,
        Ok(_) => {
            info!("{stream} is backfilled from {} on ({by}): {} trades", range.first, range.len(1));
            Check::Finished
        }
        Err(error) => {
            debug!("cannot open the gap before the first row of {stream}: {error}");
            Check::NotYet
        }
    }
}

#[cfg(test)]
#[path = "since_tests.rs"]
mod tests;
