//! `since` of a feed, and what a killed process missed before its first row: a gap in front of the first row.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::consume::Board;
use crate::exchange::rest::QUESTION_MAX;
use crate::exchange::{Feed, Since};
use crate::gap::{Evidence, Range};
use crate::history::{HistoryError, TradeRow};
use crate::market::{Channel, Stream, Timestamp};
use crate::pulse::Pulse;

use super::{Anchors, Parts};

/// How soon a stream that has no row yet, or whose exchange does not answer, is looked at again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is wanted in front of a stream's first row.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// A feed's `since`.
    Since(Since),
    /// What an earlier process missed, that began then and left no row.
    Owed(Timestamp),
}

/// Opens the gap in front of each feed's trades, once; ends when all are open or `stop` is cancelled. `startup` is when
/// this process began.
pub async fn run(
    parts: Parts,
    board: Arc<Board>,
    feeds: Vec<Feed>,
    anchors: Arc<Anchors>,
    startup: Timestamp,
    pulse: Pulse,
    stop: CancellationToken,
) {
    let owed = anchors.owed().into_iter().map(|(stream, at)| (stream, Wish::Owed(at)));
    let mut todo: Vec<(Stream, Wish)> = feeds
        .iter()
        .filter(|feed| feed.since != Since::Now)
        .flat_map(|feed| feed.streams().into_iter().map(|stream| (stream, Wish::Since(feed.since))))
        .filter(|(stream, _)| stream.channel == Channel::Trade)
        .chain(owed)
        .collect();
    while !todo.is_empty() && !stop.is_cancelled() {
        let mut later = Vec::new();
        for (stream, wish) in todo {
            pulse.beat();
            let opened = pulse.waiting(QUESTION_MAX, open(&parts, &board, &stream, wish, startup, &stop)).await;
            match wish {
                _ if !opened => later.push((stream, wish)),
                Wish::Owed(_) => anchors.settle(&stream),
                Wish::Since(_) => {}
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
async fn open(
    parts: &Parts,
    board: &Board,
    stream: &Stream,
    wish: Wish,
    startup: Timestamp,
    stop: &CancellationToken,
) -> bool {
    let first = match first_row(parts, stream).await {
        Ok(first) => first,
        Err(error) => {
            debug!("cannot look up the first row of {stream}: {error}");
            return false;
        }
    };
    let Some(before) = first.as_ref().map(|row| row.trade.id).or_else(|| board.standing(stream).next) else {
        return false;
    };
    let (at, by) = match wish {
        Wish::Since(Since::Now) => return true,
        Wish::Since(Since::TradeId(id)) => return record(parts, stream, id, before, "since").await,
        Wish::Since(Since::Time(at)) => (at, "since"),
        // It left a row after all: what came before that one was not missed, it was not yet recorded.
        Wish::Owed(_) if first.is_some_and(|row| row.received_at < startup) => return true,
        Wish::Owed(at) => (at, "restart"),
    };
    match parts.rest[&stream.exchange].trade_at(stream.symbol.as_str(), at, stop).await {
        Ok(Some(id)) => record(parts, stream, id, before, by).await,
        // No trade from then on: the first frame was the first trade.
        Ok(None) => true,
        Err(error) => {
            debug!("cannot look up the first trade of {stream} since {at}: {error}");
            false
        }
    }
}

async fn first_row(parts: &Parts, stream: &Stream) -> Result<Option<TradeRow>, HistoryError> {
    let Some(extent) = parts.history().extent(stream).await? else { return Ok(None) };
    let rows = parts.history().trades(stream, Range { first: extent.first, last: extent.first }, 1).await?;
    Ok(rows.into_iter().next())
}

async fn record(parts: &Parts, stream: &Stream, first: i64, before: i64, by: &str) -> bool {
    let Some(range) = Range::new(first, before - 1) else { return true };
    let evidence = Evidence { by: by.to_owned(), next: Some(before), ..Evidence::default() };
    match parts.open(stream, range, &evidence).await {
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
