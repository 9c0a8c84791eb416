//! The rows of each stream within a window of time. There is no index on time: a search by position finds the ends.

use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::coverage;
use crate::gap::Range;
use crate::history::WindowCount;
use crate::history::trade_table::TradeTable;
use crate::market::{Channel, Stream, Timestamp};

/// The rows of each stream with exchange times in `[from, to)`; only streams that have some.
pub(super) fn windows(
    connection: &Connection,
    streams: &[Stream],
    from: Timestamp,
    to: Timestamp,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<(Stream, WindowCount)>> {
    let mut all = Vec::new();
    for stream in streams {
        let Some(step) = stream.channel.step() else { continue };
        // Klines have no epochs.
        let epoch = coverage::epoch_of(connection, stream, epoch)?;
        let Some(extent) = coverage::extent(connection, stream, Some(epoch))? else { continue };
        let (first, beyond) = match stream.channel {
            Channel::Trade | Channel::AggTrade => {
                let at = |time| first_trade_at(connection, stream, epoch, extent, time);
                (at(from)?, at(to)?)
            }
            _ => (
                last_before(connection, stream, epoch, from.micros())?
                    .map_or(extent.first, |last| last.saturating_add(step)),
                to.micros(),
            ),
        };
        let last = last_before(connection, stream, epoch, beyond)?;
        let Some(range) = last.and_then(|last| Range::new(first.max(extent.first), last)) else { continue };
        let present = coverage::count(connection, stream, range, Some(epoch))?.present;
        all.push((stream.clone(), WindowCount { range, present }));
    }
    Ok(all)
}

/// The missing ranges of each stream in its range, at most `limit` of each.
pub(super) fn missing_each(
    connection: &Connection,
    ranges: &[(Stream, Range)],
    limit: usize,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<(Stream, Range)>> {
    let mut all = Vec::new();
    for (stream, range) in ranges {
        let found = coverage::missing(connection, stream, *range, limit, epoch)?;
        all.extend(found.into_iter().map(|range| (stream.clone(), range)));
    }
    Ok(all)
}

/// The position after the last trade before `at`. Trades are numbered in order of time.
fn first_trade_at(
    connection: &Connection,
    stream: &Stream,
    epoch: i64,
    extent: Range,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    let Some(TradeTable { name, id, .. }) = TradeTable::of(stream.channel) else { return Ok(extent.first) };
    let mut select = connection.prepare_cached(&format!(
        "SELECT {id}, ts FROM {name} WHERE exchange = ?1 AND symbol = ?2 AND epoch = ?3 AND {id} >= ?4
         ORDER BY {id} LIMIT 1"
    ))?;
    let (mut low, mut high) = (extent.first, extent.last.saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        let key = params![stream.exchange.as_str(), stream.symbol.as_str(), epoch, middle];
        let row = select.query_row(key, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        match row {
            Some((id, ts)) if ts < at.micros() => low = id.saturating_add(1),
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The last stored position below `position`.
fn last_before(connection: &Connection, stream: &Stream, epoch: i64, position: i64) -> rusqlite::Result<Option<i64>> {
    let (exchange, symbol) = (stream.exchange.as_str(), stream.symbol.as_str());
    let (query, third): (_, &dyn ToSql) = match (&stream.channel, TradeTable::of(stream.channel)) {
        (_, Some(TradeTable { name, id, .. })) => (
            format!("SELECT max({id}) FROM {name} WHERE exchange = ?1 AND symbol = ?2 AND epoch = ?3 AND {id} < ?4"),
            &epoch,
        ),
        (Channel::Kline(interval), None) => (
            "SELECT max(open_time) FROM klines
             WHERE exchange = ?1 AND symbol = ?2 AND interval = ?3 AND open_time < ?4"
                .to_owned(),
            &interval.as_str(),
        ),
        (_, None) => return Ok(None),
    };
    connection.prepare_cached(&query)?.query_row(params![exchange, symbol, third, position], |row| row.get(0))
}
