//! The part of history that holds trades and klines: writes, reads and counts them.

use async_trait::async_trait;

use super::{Batch, Count, CoverageDay, HistoryError, KlineRow, MinuteCount, TradeRow, Watermark, WindowCount};
use crate::gap::Range;
use crate::market::{Channel, Exchange, Interval, Stream, Symbol, Timestamp};

/// Trades and klines.
#[async_trait]
pub trait RowStore: Send + Sync {
    /// Stores a batch; it is durable when this returns `Ok` (promise 1).
    async fn insert(&self, batch: &Batch) -> Result<(), HistoryError>;

    /// The highest stored position of each stream that has rows, in any order. Runs one query for each table.
    async fn watermarks(&self, streams: &[Stream]) -> Result<Vec<Watermark>, HistoryError>;

    /// The trade with the highest id of each symbol that has trades of the channel, in any order. Runs one query.
    async fn latest_trades(
        &self,
        exchange: Exchange,
        channel: Channel,
        symbols: &[Symbol],
    ) -> Result<Vec<TradeRow>, HistoryError>;

    /// The latest closed kline of each symbol and interval that has klines, in any order. Runs one query.
    async fn latest_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        intervals: &[Interval],
    ) -> Result<Vec<KlineRow>, HistoryError>;

    /// The stored trades of a channel with exactly these ids, in any order; other ids are skipped. Runs one query.
    async fn trades_by_id(
        &self,
        exchange: Exchange,
        channel: Channel,
        keys: &[(Symbol, i64)],
    ) -> Result<Vec<TradeRow>, HistoryError>;

    /// The stored klines with exactly these open times, in any order; other times are skipped. Runs one query.
    async fn klines_by_time(
        &self,
        exchange: Exchange,
        keys: &[(Symbol, Interval, Timestamp)],
    ) -> Result<Vec<KlineRow>, HistoryError>;

    /// The stored trades of a stream with ids in `range`, ascending, at most `limit`.
    async fn trades(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<TradeRow>, HistoryError>;

    /// The stored klines of a stream with open times in `range`, ascending, at most `limit`. Empty for a stream of
    /// trades.
    async fn klines(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<KlineRow>, HistoryError>;

    /// The stored one-minute klines of these symbols that opened at `since` or later, ascending within a symbol. Runs
    /// one query.
    async fn minute_klines(
        &self,
        exchange: Exchange,
        symbols: &[Symbol],
        since: Timestamp,
    ) -> Result<Vec<KlineRow>, HistoryError>;

    /// The number of stored positions in `range`; `range.len(step) - present` are missing.
    async fn count(&self, stream: &Stream, range: Range) -> Result<Count, HistoryError>;

    /// The first and last stored position; `None` if the stream has no row.
    async fn extent(&self, stream: &Stream) -> Result<Option<Range>, HistoryError>;

    /// The ranges inside `range` that are not stored, ascending, at most `limit`.
    async fn missing(&self, stream: &Stream, range: Range, limit: usize) -> Result<Vec<Range>, HistoryError>;

    /// Counts the rows of each stream with exchange times in `[from, to)`; only streams that have some, in any order.
    /// Runs a few queries for any number of streams. It relies on positions that increase with time, and counts each
    /// row of the window: use it for hours, not for years.
    async fn windows(
        &self,
        streams: &[Stream],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Stream, WindowCount)>, HistoryError>;

    /// The ranges inside each stream's range that are not stored, ascending within a stream, at most `limit` of each
    /// stream. Runs one query for trades and one for the klines of each interval.
    async fn missing_each(
        &self,
        ranges: &[(Stream, Range)],
        limit: usize,
    ) -> Result<Vec<(Stream, Range)>, HistoryError>;

    /// Counts the rows of each stream and UTC day in the store, ascending within a stream. Runs one query for trades
    /// and one for klines. With `first_day` ([`CoverageDay::day`]) it returns only that day and later ones and does not
    /// read older rows. That relies on positions that increase with time, out of order by at most [`super::DISORDER_MAX`].
    async fn days(
        &self,
        streams: &[Stream],
        first_day: Option<i64>,
    ) -> Result<Vec<(Stream, CoverageDay)>, HistoryError>;

    /// Counts the rows of each stream and UTC minute in the store, for exchange times at `since` or later, ascending
    /// within a stream, streams in any order. Runs one query for trades and one for klines. Use it for about the last
    /// day: it relies on positions that increase with time, and may miss rows that are out of order around `since`.
    async fn per_minute(
        &self,
        streams: &[Stream],
        since: Timestamp,
    ) -> Result<Vec<(Stream, MinuteCount)>, HistoryError>;
}
