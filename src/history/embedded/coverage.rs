//! Which positions of a stream are stored: counts, extent, missing ranges, days.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, ToSql};

use super::lookup::epoch_sql;
use super::per_minute::first_since;
use crate::gap::Range;
use crate::history::trade_table::TradeTable;
use crate::history::{Count, CoverageDay, DISORDER_MAX};
use crate::market::{Channel, DAY_US, Stream, Timestamp};

/// The parts of a query that depend on the channel of the stream.
struct Series<'a> {
    /// The table, and the condition on the key without the position.
    rows: String,
    /// The column of the position.
    position: &'static str,
    /// The column of the exchange's time.
    time: &'static str,
    key: Vec<&'a dyn ToSql>,
}

/// The number of stored positions in `range`.
pub(super) fn count(
    connection: &Connection,
    stream: &Stream,
    range: Range,
    epoch: Option<i64>,
) -> rusqlite::Result<Count> {
    let names = names(connection, stream, epoch)?;
    let Some(mut series) = series(&names) else { return Ok(Count::default()) };
    let query = format!(
        "SELECT count(*), ifnull(sum(is_backfilled), 0) FROM {} AND {} BETWEEN ?4 AND ?5",
        series.rows, series.position
    );
    series.key.extend([&range.first as &dyn ToSql, &range.last]);
    let mut select = connection.prepare_cached(&query)?;
    bind(&mut select, &series.key)?;
    let mut rows = select.raw_query();
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok(Count { present: row.get(0)?, backfilled: row.get(1)? })
}

/// The first and last stored position.
pub(super) fn extent(connection: &Connection, stream: &Stream, epoch: Option<i64>) -> rusqlite::Result<Option<Range>> {
    let names = names(connection, stream, epoch)?;
    let Some(series) = series(&names) else { return Ok(None) };
    // Two queries, each of which reads one end of the index: one query with min and max would read the whole index.
    let end = |function: &str| -> rusqlite::Result<Option<i64>> {
        let query = format!("SELECT {function}({}) FROM {}", series.position, series.rows);
        let mut select = connection.prepare_cached(&query)?;
        bind(&mut select, &series.key)?;
        let mut rows = select.raw_query();
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        row.get(0)
    };
    Ok(end("min")?.zip(end("max")?).map(|(first, last)| Range { first, last }))
}

/// The ranges inside `range` that are not stored, ascending, at most `limit`. Reads the keys once, in order.
pub(super) fn missing(
    connection: &Connection,
    stream: &Stream,
    range: Range,
    limit: usize,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<Range>> {
    let names = names(connection, stream, epoch)?;
    let (Some(mut series), Some(step)) = (series(&names), stream.channel.step()) else { return Ok(Vec::new()) };
    let query = format!(
        "SELECT {position} FROM {rows} AND {position} BETWEEN ?4 AND ?5 ORDER BY {position}",
        position = series.position,
        rows = series.rows
    );
    series.key.extend([&range.first as &dyn ToSql, &range.last]);
    let mut select = connection.prepare_cached(&query)?;
    bind(&mut select, &series.key)?;
    let mut rows = select.raw_query();
    let mut ranges = Vec::new();
    // The next position to expect; `None` after the highest possible one.
    let mut expected = Some(range.first);
    while ranges.len() < limit
        && let Some(row) = rows.next()?
    {
        let position: i64 = row.get(0)?;
        if let Some(first) = expected
            && first < position
        {
            ranges.push(Range { first, last: position - step });
        }
        expected = position.checked_add(step);
    }
    if ranges.len() < limit
        && let Some(first) = expected
    {
        ranges.extend(Range::new(first, range.last));
    }
    Ok(ranges)
}

/// Rows per stream and UTC day, from `first_day`. Reads the keys once, in order.
pub(super) fn days(
    connection: &Connection,
    streams: &[Stream],
    first_day: Option<i64>,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<(Stream, CoverageDay)>> {
    let since = first_day.map(|day| Timestamp(day.saturating_mul(DAY_US)));
    let mut all = Vec::new();
    for stream in streams {
        all.extend(days_of(connection, stream, since, epoch)?.into_iter().map(|day| (stream.clone(), day)));
    }
    Ok(all)
}

fn days_of(
    connection: &Connection,
    stream: &Stream,
    since: Option<Timestamp>,
    epoch: Option<i64>,
) -> rusqlite::Result<Vec<CoverageDay>> {
    let names = names(connection, stream, epoch)?;
    let Some(mut series) = series(&names) else { return Ok(Vec::new()) };
    let mut query = format!("SELECT {}, {}, is_backfilled FROM {}", series.position, series.time, series.rows);
    // Declared here because the key borrows them.
    let (first, since_us);
    if let Some(since) = since {
        // The position of a kline is its time. Trades have no index on time, so a search by id finds the first one.
        let begin = match stream.channel {
            Channel::Trade | Channel::AggTrade => {
                first_since(connection, stream, since.plus_micros(-(DISORDER_MAX.as_micros() as i64)), epoch)?
            }
            _ => Some(since.micros()),
        };
        let Some(begin) = begin else { return Ok(Vec::new()) };
        (first, since_us) = (begin, since.micros());
        query.push_str(&format!(" AND {} >= ?4 AND {} >= ?5", series.position, series.time));
        series.key.extend([&first as &dyn ToSql, &since_us]);
    }
    let mut select = connection.prepare_cached(&query)?;
    bind(&mut select, &series.key)?;
    let mut rows = select.raw_query();
    let mut days: BTreeMap<i64, CoverageDay> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let position: i64 = row.get(0)?;
        let day = row.get::<_, i64>(1)?.div_euclid(DAY_US);
        let backfilled: i64 = row.get(2)?;
        let entry =
            days.entry(day).or_insert(CoverageDay { day, first: position, last: position, present: 0, backfilled: 0 });
        entry.first = entry.first.min(position);
        entry.last = entry.last.max(position);
        entry.present += 1;
        entry.backfilled += backfilled;
    }
    Ok(days.into_values().collect())
}

/// The channel of a stream, and the key of its rows: exchange, symbol, and the epoch or the interval.
type Names<'a> = (Channel, &'a str, &'a str, Value);

fn names<'a>(connection: &Connection, stream: &'a Stream, epoch: Option<i64>) -> rusqlite::Result<Option<Names<'a>>> {
    let third = match stream.channel {
        Channel::Trade | Channel::AggTrade => Value::Integer(epoch_of(connection, stream, epoch)?),
        Channel::Kline(interval) => Value::Text(interval.as_str().to_owned()),
        Channel::BookTicker => return Ok(None),
    };
    Ok(Some((stream.channel, stream.exchange.as_str(), stream.symbol.as_str(), third)))
}

/// The epoch to read of a stream.
pub(super) fn epoch_of(connection: &Connection, stream: &Stream, epoch: Option<i64>) -> rusqlite::Result<i64> {
    let query = format!("SELECT {}", epoch_sql(epoch, "?1", "?2", "?3"));
    let mut select = connection.prepare_cached(&query)?;
    bind(&mut select, &[&stream.exchange.as_str(), &stream.symbol.as_str(), &stream.channel.as_str()])?;
    let mut rows = select.raw_query();
    rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)
}

fn series<'a>(names: &'a Option<Names<'a>>) -> Option<Series<'a>> {
    let (channel, exchange, symbol, third) = names.as_ref()?;
    let key: Vec<&dyn ToSql> = vec![exchange, symbol, third];
    Some(match TradeTable::of(*channel) {
        Some(table) => {
            let rows = format!("{} WHERE exchange = ?1 AND symbol = ?2 AND epoch = ?3", table.name);
            Series { rows, position: table.id, time: "ts", key }
        }
        None => {
            let rows = "klines WHERE exchange = ?1 AND symbol = ?2 AND interval = ?3".to_owned();
            Series { rows, position: "open_time", time: "open_time", key }
        }
    })
}

/// Binds the values by number, as many as the query has parameters.
fn bind(select: &mut rusqlite::Statement<'_>, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
    for (number, value) in (1..=select.parameter_count()).zip(values) {
        select.raw_bind_parameter(number, value)?;
    }
    Ok(())
}
