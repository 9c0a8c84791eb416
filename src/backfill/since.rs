//! `since` of a feed: older trades are a gap in front of the first row, last in line.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::consume::Board;
use crate::exchange::rest::QUESTION_MAX;
use crate::exchange::{Feed, Since};
use crate::gap::{Evidence, Range};
use crate::market::{Channel, Stream};
use crate::pulse::Pulse;

use super::Parts;

/// How soon a stream that has no row yet, or whose exchange does not answer, is looked at again.
const AGAIN: Duration = Duration::from_secs(5);

/// Opens the gap in front of each feed's trades, once; ends when all are open or `stop` is cancelled.
pub async fn run(parts: Parts, board: Arc<Board>, feeds: Vec<Feed>, pulse: Pulse, stop: CancellationToken) {
    let mut todo: Vec<(Stream, Since)> = feeds
        .iter()
        .filter(|feed| feed.since != Since::Now)
        .flat_map(|feed| feed.streams().into_iter().map(|stream| (stream, feed.since)))
        .filter(|(stream, _)| stream.channel == Channel::Trade)
        .collect();
    while !todo.is_empty() && !stop.is_cancelled() {
        let mut later = Vec::new();
        for (stream, since) in todo {
            pulse.beat();
            if !pulse.waiting(QUESTION_MAX, open(&parts, &board, &stream, since, &stop)).await {
                later.push((stream, since));
            }
        }
        todo = later;
        for _ in 0..AGAIN.as_secs() {
            pulse.beat();
            if todo.is_empty() || stop.is_cancelled() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    pulse.retire();
}

/// Whether the stream is done with.
async fn open(parts: &Parts, board: &Board, stream: &Stream, since: Since, stop: &CancellationToken) -> bool {
    let extent = match parts.history().extent(stream).await {
        Ok(extent) => extent,
        Err(error) => {
            debug!("cannot look up the first row of {stream}: {error}");
            return false;
        }
    };
    let Some(before) = extent.map(|range| range.first).or_else(|| board.standing(stream).next) else { return false };
    let first = match since {
        Since::Now => return true,
        Since::TradeId(id) => id,
        Since::Time(at) => {
            match parts.rest[&stream.exchange].trade_at(stream.symbol.as_str(), at, stop).await {
                Ok(Some(id)) => id,
                // No trade from then on: the first frame was the first trade.
                Ok(None) => return true,
                Err(error) => {
                    debug!("cannot look up the first trade of {stream} since {at}: {error}");
                    return false;
                }
            }
        }
    };
    let Some(range) = Range::new(first, before - 1) else { return true };
    let evidence = Evidence { by: "since".to_owned(), next: Some(before), ..Evidence::default() };
    match parts.open(stream, range, &evidence).await {
        Ok(rows) if rows.is_empty() => true,
        Ok(_) => {
            info!("{stream} is backfilled since {}: {} trades", range.first, range.len(1));
            true
        }
        Err(error) => {
            debug!("cannot record the gap in front of {stream}: {error}");
            false
        }
    }
}
