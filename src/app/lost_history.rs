//! Reminds the operator that an earlier history is gone, until its rows are back.
//!
//! A history that somebody removed begins anew at the newest frame, and nothing in it shows that older rows existed. The
//! snapshot knows: it was written against another history. The log still holds the frames, so `tapekeeper replay` brings
//! the rows back. A stream ends the reminder when the new history has a row at or before the highest position of the
//! old one. The reminder also ends when the log no longer holds those frames, and when the feed is removed.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::gap::Range;
use crate::history::HistoryError;
use crate::log::LogError;
use crate::market::{Origin, Stream};
use crate::retry;
use crate::state::LostHistory;

use super::Service;

/// Time between two looks for the rows.
const INTERVAL: Duration = Duration::from_secs(10);
/// Streams that one look asks for: each is a query.
const STREAMS_MAX: usize = 50;
/// Oldest records of the log in which a frame of a symbol is looked for: markers come before it.
const RECORDS: usize = 1_000;

/// The degraded part.
const PART: &str = "replay";

/// Waits until history is known (`resumed`), then reminds until the rows are back or `stop`.
pub async fn watch(service: Service, resumed: CancellationToken, stop: CancellationToken) -> anyhow::Result<()> {
    if stop.run_until_cancelled(resumed.cancelled()).await.is_none() {
        return Ok(());
    }
    let mut warned = false;
    while let Some(mut lost) = service.saver.lost_history() {
        match look(&service, &mut lost).await {
            Ok(true) => {
                service.saver.set_lost_history(None);
                if service.health.restored(PART) {
                    info!("history holds the rows of the earlier one again, or the log no longer does");
                }
                return Ok(());
            }
            Ok(false) => {
                service.saver.set_lost_history(Some(lost.clone()));
                let why = reminder(&lost);
                if !std::mem::replace(&mut warned, true) {
                    warn!("{why}");
                }
                service.health.degraded(PART, &why);
            }
            Err(error) => tracing::debug!("cannot look for the rows of the earlier history yet: {error:#}"),
        }
        if !retry::wait(INTERVAL, &stop).await {
            return Ok(());
        }
    }
    Ok(())
}

fn reminder(lost: &LostHistory) -> String {
    let streams = match lost.positions.len() {
        0 => "the frames that were consumed before".to_owned(),
        1 => "the older rows of 1 stream".to_owned(),
        streams => format!("the older rows of {streams} streams"),
    };
    format!(
        "run `tapekeeper replay`: history lacks {streams}, because an earlier history is gone; what the log no longer \
         holds comes back with `tapekeeper backfill`"
    )
}

/// Removes the streams whose rows are back; returns whether there is nothing left to remind of.
async fn look(service: &Service, lost: &mut LostHistory) -> anyhow::Result<bool> {
    let retention = i64::try_from(service.config.log.retention.as_millis()).unwrap_or(i64::MAX);
    if service.clock.now().millis() > lost.noticed_at.saturating_add(retention) {
        return Ok(true);
    }
    let streams = service.streams.borrow().clone();
    if lost.positions.is_empty() {
        return look_without_positions(service, lost, &streams).await;
    }
    lost.positions.retain(|name, _| streams.iter().any(|stream| stream.to_string() == *name));
    for stream in streams.iter().take(STREAMS_MAX) {
        let name = stream.to_string();
        let Some(&position) = lost.positions.get(&name) else { continue };
        if has_row_up_to(service, stream, position).await? {
            lost.positions.remove(&name);
        }
    }
    Ok(lost.positions.is_empty())
}

async fn has_row_up_to(service: &Service, stream: &Stream, position: i64) -> Result<bool, HistoryError> {
    let range = Range { first: i64::MIN, last: position };
    Ok(match stream.channel {
        channel if channel.has_trades() => !service.history.trades(stream, range, 1).await?.is_empty(),
        _ => !service.history.klines(stream, range, 1).await?.is_empty(),
    })
}

/// Without a snapshot only the log shows that frames were consumed: the last of them tells old rows from new ones.
async fn look_without_positions(service: &Service, lost: &mut LostHistory, streams: &[Stream]) -> anyhow::Result<bool> {
    let before = match lost.received_before {
        Some(before) => before,
        None => match last_consumed(service, streams).await? {
            Some(before) => *lost.received_before.insert(before),
            None => return Ok(true),
        },
    };
    for stream in streams.iter().filter(|stream| stream.channel.has_trades()).take(STREAMS_MAX) {
        let first = service.history.trades(stream, Range { first: i64::MIN, last: i64::MAX }, 1).await?;
        if first.iter().any(|row| row.received_at.micros() <= before) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When the last consumed frame was received; `None` when the log holds no consumed frame of a symbol with trades.
async fn last_consumed(service: &Service, streams: &[Stream]) -> Result<Option<i64>, LogError> {
    let trades = streams.iter().filter(|stream| stream.channel.has_trades());
    let keys: Vec<String> = trades.map(Stream::log_key).collect();
    let usage = service.log.usage().await?;
    let mut last = None;
    for (&partition, &committed) in &usage.committed {
        let first = usage.first.get(&partition).copied().unwrap_or(0);
        let oldest = service.log.read(partition, first, RECORDS).await?;
        let is_consumed_frame = |record: &crate::log::Record| {
            record.offset < committed
                && record.frame.origin == Origin::Socket
                && keys.iter().any(|key| **key == *record.frame.key)
        };
        if !oldest.iter().any(is_consumed_frame) {
            continue;
        }
        let newest = service.log.read(partition, committed - 1, 1).await?;
        last = last.max(newest.first().map(|record| record.frame.received_at.micros()));
    }
    Ok(last)
}
