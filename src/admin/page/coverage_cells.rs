//! Counts today's minutes in history: all of them once, and then only the newest, until backfill adds rows to older ones.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use crate::admin::AppState;
use crate::gap::Gap;
use crate::history::{GapFilter, MinuteCount};
use crate::market::{DAY_US, Interval, Stream, Timestamp};

/// Newest ledger rows that the calendar uses, besides all open ones.
const LEDGER_MAX: usize = 10_000;
/// The most by which rows arrive out of the order of time: the exchange's clock is not ours, and frames overtake each other.
const DISORDER_US: i64 = 180_000_000;
/// All minutes are counted again after this time, in any case.
const FULL_COUNT_EVERY_US: i64 = 600_000_000;

/// What a count was based on; the next count reuses it when little has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    day: i64,
    streams: Vec<Stream>,
    /// Rows that had been backfilled by then.
    backfilled: u64,
    /// Receive time of the newest frame that had become a row by then.
    newest_received: Option<Timestamp>,
    /// The last count of all minutes.
    full_count_at: Timestamp,
}

/// Today's counts, stream by stream.
#[derive(Clone, Debug, Default)]
pub struct TodayCounts {
    /// Rows of each minute of the day.
    pub minutes: HashMap<Stream, Vec<MinuteCount>>,
    /// The newest rows of the ledger, and all open ones.
    pub gaps: Vec<Gap>,
    /// What the counts were based on.
    pub basis: Basis,
}

/// Counts today for these streams; reuses the part of `before` that cannot have changed.
pub async fn today(state: &AppState, streams: Vec<Stream>, before: &TodayCounts) -> anyhow::Result<TodayCounts> {
    let now = state.clock.now();
    // Read before the rows are: rows that arrive in between are counted now and again next time.
    let backfilled = state.backfill.rows.load(Relaxed);
    let mut basis = Basis {
        day: now.day(),
        streams,
        backfilled,
        newest_received: state.progress.last_received(),
        full_count_at: now,
    };
    let mut minutes = HashMap::new();
    let mut since = Timestamp(now.day() * DAY_US);
    if let Some(unchanged) = unchanged_until(&before.basis, &basis).filter(|unchanged| *unchanged > since) {
        let first = unchanged.micros().div_euclid(Interval::M1.micros());
        since = Timestamp(first * Interval::M1.micros());
        basis.full_count_at = before.basis.full_count_at;
        minutes.clone_from(&before.minutes);
        for counts in minutes.values_mut() {
            counts.retain(|count| count.minute < first);
        }
    }
    for (stream, count) in state.history.per_minute(&basis.streams, since).await? {
        minutes.entry(stream).or_default().push(count);
    }
    Ok(TodayCounts { minutes, gaps: ledger(state).await?, basis })
}

/// The instant before which nothing can have changed since `before`; `None` when all must be counted.
fn unchanged_until(before: &Basis, now: &Basis) -> Option<Timestamp> {
    let is_incremental = before.day == now.day
        && before.streams == now.streams
        && before.backfilled == now.backfilled
        && now.full_count_at.since(before.full_count_at) < FULL_COUNT_EVERY_US;
    before.newest_received.filter(|_| is_incremental).map(|newest_received| newest_received.plus_micros(-DISORDER_US))
}

async fn ledger(state: &AppState) -> anyhow::Result<Vec<Gap>> {
    let newest = GapFilter { limit: LEDGER_MAX, ..GapFilter::default() };
    let mut gaps = state.history.gaps(&newest).await?;
    if gaps.len() == LEDGER_MAX {
        let open = state.history.gaps(&GapFilter { open_only: true, ..GapFilter::default() }).await?;
        gaps.retain(|gap| gap.state.is_closed());
        gaps.extend(open);
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::{NOW, Served, trade};
    use crate::history::Batch;

    /// Stores a trade from `minutes_ago` minutes before now.
    async fn store(served: &Served, stream: &Stream, id: i64, minutes_ago: i64) {
        let mut row = trade(&stream.symbol, id);
        row.trade.ts = NOW.plus_micros(-minutes_ago * Interval::M1.micros());
        let batch = Batch { trades: vec![row], token: format!("{id}"), ..Batch::default() };
        served.history.insert(&batch).await.unwrap();
    }

    async fn count(served: &Served, stream: &Stream, before: &TodayCounts) -> (TodayCounts, Vec<(i64, i64)>) {
        let today = today(&served.state, vec![stream.clone()], before).await.unwrap();
        let ago = |count: &MinuteCount| (NOW.micros() / Interval::M1.micros() - count.minute, count.present);
        let counts = today.minutes.get(stream).map(|counts| counts.iter().map(ago).collect());
        (today, counts.unwrap_or_default())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_newest_minutes_are_counted_again_until_backfill_adds_rows() {
        let served = Served::start().await;
        let stream: Stream = "binance:BTCUSDT:trade".parse().unwrap();
        // Sets the progress to a frame of a moment ago.
        served.store(&stream.to_string(), [1_000]).await;
        store(&served, &stream, 100, 60).await;
        store(&served, &stream, 300, 1).await;
        let (first, counts) = count(&served, &stream, &TodayCounts::default()).await;
        assert_eq!(counts, [(60, 1), (1, 1), (0, 1)]);
        store(&served, &stream, 301, 1).await;
        store(&served, &stream, 101, 60).await;
        let (second, counts) = count(&served, &stream, &first).await;
        assert_eq!(counts, [(60, 1), (1, 2), (0, 1)], "the old minute is not read");
        served.state.backfill.rows.fetch_add(1, Relaxed);
        let (third, counts) = count(&served, &stream, &second).await;
        assert_eq!(counts, [(60, 2), (1, 2), (0, 1)], "backfill added a row");
        store(&served, &stream, 102, 60).await;
        let mut yesterdays = third.clone();
        yesterdays.basis.day -= 1;
        assert_eq!(count(&served, &stream, &yesterdays).await.1[0], (60, 3));
        let mut long_ago = third;
        long_ago.basis.full_count_at = NOW.plus_micros(-FULL_COUNT_EVERY_US);
        assert_eq!(count(&served, &stream, &long_ago).await.1[0], (60, 3));
    }
}
