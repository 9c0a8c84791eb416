//! Counts rows per minute without an index on time: it relies on positions that increase with time.

use rusqlite::{Connection, OptionalExtension, params};

use super::coverage::epoch_of;
use crate::history::MinuteCount;
use crate::history::trade_table::TradeTable;
use crate::market::{Channel, Interval, Stream, Timestamp};

/// Rows per stream and UTC minute, for exchange times at `since` or later. Reads the keys once, in order.
pub(super) fn per_minute(
    connection: &Connection,
    streams: &[Stream],
    since: Timestamp,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<(Stream, MinuteCount)>> {
    let mut all = Vec::new();
    for stream in streams {
        let minutes = match stream.channel {
            Channel::Trade | Channel::AggTrade => trades(connection, stream, since, epoch)?,
            Channel::Kline(interval) => klines(connection, stream, interval, since)?,
            Channel::BookTicker => Vec::new(),
        };
        all.extend(minutes.into_iter().map(|minute| (stream.clone(), minute)));
    }
    Ok(all)
}

fn trades(
    connection: &Connection,
    stream: &Stream,
    since: Timestamp,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<MinuteCount>> {
    let epoch = epoch_of(connection, stream, epoch)?;
    let Some(first) = first_since(connection, stream, since, Some(epoch))? else { return Ok(Vec::new()) };
    let Some(table) = TradeTable::of(stream.channel) else { return Ok(Vec::new()) };
    let query = format!(
        "SELECT ts, is_backfilled FROM {} WHERE exchange = ?1 AND symbol = ?2 AND {} >= ?3 AND ts >= ?4 AND epoch = ?5",
        table.name, table.id
    );
    let mut select = connection.prepare_cached(&query)?;
    let rows = select.query(params![stream.exchange.as_str(), stream.symbol.as_str(), first, since.micros(), epoch])?;
    count_by_minute(rows)
}

fn klines(
    connection: &Connection,
    stream: &Stream,
    interval: Interval,
    since: Timestamp,
) -> rusqlite::Result<Vec<MinuteCount>> {
    let query = "SELECT open_time, is_backfilled FROM klines
                 WHERE exchange = ?1 AND symbol = ?2 AND interval = ?3 AND open_time >= ?4";
    let mut select = connection.prepare_cached(query)?;
    let (exchange, symbol) = (stream.exchange.as_str(), stream.symbol.as_str());
    let rows = select.query(params![exchange, symbol, interval.as_str(), since.micros()])?;
    count_by_minute(rows)
}

/// The first trade id at `since` or later, found by binary search, because a busy market has millions of rows per day.
/// Where ids do not increase with time it returns one of the ids whose predecessor is older than `since`. `None`
/// without a trade.
pub(super) fn first_since(
    connection: &Connection,
    stream: &Stream,
    since: Timestamp,
    epoch: Option<i64>,
) -> rusqlite::Result<Option<i64>> {
    let Some(TradeTable { name, id, .. }) = TradeTable::of(stream.channel) else { return Ok(None) };
    let epoch = epoch_of(connection, stream, epoch)?;
    let key = params![stream.exchange.as_str(), stream.symbol.as_str(), epoch];
    let end = |function: &str| -> rusqlite::Result<Option<i64>> {
        let query = format!("SELECT {function}({id}) FROM {name} WHERE exchange = ?1 AND symbol = ?2 AND epoch = ?3");
        connection.prepare_cached(&query)?.query_row(key, |row| row.get(0))
    };
    let Some((mut low, mut high)) = end("min")?.zip(end("max")?) else { return Ok(None) };
    let query = format!(
        "SELECT {id}, ts FROM {name} WHERE exchange = ?1 AND symbol = ?2 AND epoch = ?4 AND {id} >= ?3
         ORDER BY {id} LIMIT 1"
    );
    let mut select = connection.prepare_cached(&query)?;
    while low < high {
        let middle = low + (high - low) / 2;
        let key = params![stream.exchange.as_str(), stream.symbol.as_str(), middle, epoch];
        let at = select.query_row(key, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        match at {
            Some((id, ts)) if ts < since.micros() => low = id.saturating_add(1),
            // No row at or after `middle`: retention has removed the last row meanwhile.
            Some(_) | None => high = middle,
        }
    }
    Ok(Some(low))
}

/// Counts rows of (time, is_backfilled) by minute. The rows are nearly in the order of time.
fn count_by_minute(mut rows: rusqlite::Rows<'_>) -> rusqlite::Result<Vec<MinuteCount>> {
    let mut minutes: Vec<MinuteCount> = Vec::new();
    while let Some(row) = rows.next()? {
        let minute = row.get::<_, i64>(0)?.div_euclid(Interval::M1.micros());
        let backfilled: i64 = row.get(1)?;
        // The row nearly always belongs to the newest minute; only a row out of order needs the search.
        let at = match minutes.last() {
            Some(last) if last.minute == minute => Ok(minutes.len() - 1),
            _ => minutes.binary_search_by_key(&minute, |count| count.minute),
        };
        let at = at.unwrap_or_else(|at| {
            minutes.insert(at, MinuteCount { minute, present: 0, backfilled: 0 });
            at
        });
        minutes[at].present += 1;
        minutes[at].backfilled += backfilled;
    }
    Ok(minutes)
}
