//! Rows per minute of a stream's last hours, found without an index on time: positions grow with it.

use rusqlite::{Connection, OptionalExtension, params};

use crate::history::MinuteCount;
use crate::market::{Channel, Interval, Stream, Timestamp};

/// Rows per stream and UTC minute from `since` on: reads the keys from there on once, in order.
pub(super) fn per_minute(
    connection: &Connection,
    streams: &[Stream],
    since: Timestamp,
) -> rusqlite::Result<Vec<(Stream, MinuteCount)>> {
    let mut all = Vec::new();
    for stream in streams {
        let minutes = match stream.channel {
            Channel::Trade => trades(connection, stream, since)?,
            Channel::Kline(interval) => klines(connection, stream, interval, since)?,
            Channel::BookTicker => Vec::new(),
        };
        all.extend(minutes.into_iter().map(|minute| (stream.clone(), minute)));
    }
    Ok(all)
}

fn trades(connection: &Connection, stream: &Stream, since: Timestamp) -> rusqlite::Result<Vec<MinuteCount>> {
    let Some(first) = first_since(connection, stream, since)? else { return Ok(Vec::new()) };
    let query = "SELECT ts, is_backfilled FROM trades
                 WHERE exchange = ?1 AND symbol = ?2 AND trade_id >= ?3 AND ts >= ?4";
    let mut select = connection.prepare_cached(query)?;
    let rows = select.query(params![stream.exchange.as_str(), stream.symbol.as_str(), first, since.micros()])?;
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

/// A place in the ids from which on every trade of `since` or later is found, by halving: a day of a busy market is
/// millions of rows, and what came before it many times that. Where ids do not grow with time it finds one of the places
/// at which an older trade is followed by one that is not.
pub(super) fn first_since(connection: &Connection, stream: &Stream, since: Timestamp) -> rusqlite::Result<Option<i64>> {
    let key = params![stream.exchange.as_str(), stream.symbol.as_str()];
    let end = |function: &str| -> rusqlite::Result<Option<i64>> {
        let query = format!("SELECT {function}(trade_id) FROM trades WHERE exchange = ?1 AND symbol = ?2");
        connection.prepare_cached(&query)?.query_row(key, |row| row.get(0))
    };
    let Some((mut low, mut high)) = end("min")?.zip(end("max")?) else { return Ok(None) };
    let query = "SELECT trade_id, ts FROM trades WHERE exchange = ?1 AND symbol = ?2 AND trade_id >= ?3
                 ORDER BY trade_id LIMIT 1";
    let mut select = connection.prepare_cached(query)?;
    while low < high {
        let middle = low + (high - low) / 2;
        let key = params![stream.exchange.as_str(), stream.symbol.as_str(), middle];
        let at = select.query_row(key, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
        match at {
            Some((id, ts)) if ts < since.micros() => low = id.saturating_add(1),
            // Nothing at or after `middle`: what was the last row went meanwhile.
            Some(_) | None => high = middle,
        }
    }
    Ok(Some(low))
}

/// Rows of a time and a flag, nearly in the order of time, counted by minute.
fn count_by_minute(mut rows: rusqlite::Rows<'_>) -> rusqlite::Result<Vec<MinuteCount>> {
    let mut minutes: Vec<MinuteCount> = Vec::new();
    while let Some(row) = rows.next()? {
        let minute = row.get::<_, i64>(0)?.div_euclid(Interval::M1.micros());
        let backfilled: i64 = row.get(1)?;
        // The newest minute is nearly always the one; a row out of order is sought from there.
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
