//! Finds positions by time.

use std::sync::Arc;

use crate::gap::Range;
use crate::history::{History, HistoryError};
use crate::market::{Stream, Timestamp};

/// The position after the last stored trade of `extent` before `at`. Trades are numbered in order of time.
pub async fn first_position_at(
    history: &Arc<dyn History>,
    stream: &Stream,
    extent: Range,
    at: Timestamp,
) -> Result<i64, HistoryError> {
    let (mut low, mut high) = (extent.first, extent.last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let range = Range { first: middle, last: extent.last };
        match history.trades(stream, range, 1).await?.first() {
            Some(row) if row.trade.ts < at => low = row.trade.id + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
