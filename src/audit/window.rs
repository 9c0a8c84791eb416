//! Finds the positions inside a window of time.

use std::sync::Arc;

use crate::gap::Range;
use crate::history::{History, HistoryError};
use crate::market::{Channel, Stream, Timestamp};

/// How late a row may reach history, in microseconds; a window begins that much earlier.
const LATE_US: i64 = 600_000_000;

/// The positions from the first to the last row of `[from, to)`, extended back by the time that rows may be late. So
/// every missing range lies inside one of two adjoining windows. `None` when no row is inside the window.
pub(super) async fn within(
    history: &Arc<dyn History>,
    stream: &Stream,
    extent: Range,
    (from, to): (Timestamp, Timestamp),
) -> Result<Option<Range>, HistoryError> {
    let from = from.plus_micros(-LATE_US);
    let (first, beyond) = match stream.channel {
        Channel::Trade => (
            first_position_at(history, stream, extent, from).await?,
            first_position_at(history, stream, extent, to).await?,
        ),
        // A kline's position is its time.
        _ => (from.micros(), to.micros()),
    };
    let step = stream.channel.step().unwrap_or(1);
    let aligned = |position: i64| {
        let steps = ((position - extent.first).max(0) + step - 1) / step;
        extent.first + steps * step
    };
    Ok(Range::new(aligned(first), aligned(beyond) - step).and_then(|range| range.intersect(extent)))
}

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
