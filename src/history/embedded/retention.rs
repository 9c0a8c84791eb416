//! Retention: removes old dead letters and runs, and, if configured, old rows in bounded chunks.
//!
//! Rows have no index on time, because every insert would pay for it. So readers walk the key in chunks, and the writer
//! removes rows only from chunks that contain old ones.

use rusqlite::{Connection, OptionalExtension, params};

use crate::history::Retention;
use crate::market::Timestamp;

/// The largest chunk, in rows: about ten milliseconds of the writer.
const CHUNK_ROWS: i64 = 10_000;

/// The tables whose rows have an exchange time.
const TABLES: [Table; 3] = [
    Table {
        name: "trades",
        columns: "exchange, symbol, CAST(epoch AS TEXT)",
        key: "(exchange, symbol, epoch)",
        series: "(?1, ?2, CAST(?3 AS INTEGER))",
        position: "trade_id",
        time: "ts",
    },
    Table {
        name: "agg_trades",
        columns: "exchange, symbol, CAST(epoch AS TEXT)",
        key: "(exchange, symbol, epoch)",
        series: "(?1, ?2, CAST(?3 AS INTEGER))",
        position: "agg_id",
        time: "ts",
    },
    Table {
        name: "klines",
        columns: "exchange, symbol, interval",
        key: "(exchange, symbol, interval)",
        series: "(?1, ?2, ?3)",
        position: "open_time",
        time: "open_time",
    },
];

#[derive(Debug)]
struct Table {
    name: &'static str,
    /// The columns of a series: exchange, symbol, and the epoch or the interval.
    columns: &'static str,
    key: &'static str,
    series: &'static str,
    position: &'static str,
    time: &'static str,
}

/// How far the walk has come: all rows up to here have been checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    table: usize,
    /// Exchange, symbol, and the epoch or the interval.
    series: [String; 3],
    /// The last checked position; `None` before the first one of the series.
    position: Option<i64>,
}

/// Consecutive rows of one series.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    table: usize,
    series: [String; 3],
    first: i64,
    last: i64,
    /// Whether it contains a row that is older than the limit.
    pub(super) has_old: bool,
}

impl Chunk {
    /// The cursor after this chunk.
    pub(super) fn next_cursor(&self) -> Cursor {
        Cursor { table: self.table, series: self.series.clone(), position: Some(self.last) }
    }
}

/// Removes expired dead letters and runs; returns their number.
pub(super) fn remove_expired(connection: &Connection, retention: &Retention) -> rusqlite::Result<u64> {
    let mut removed = 0;
    if let Some(before) = retention.dead_letters_before {
        removed += connection.execute("DELETE FROM dead_letters WHERE received_at < ?1", [before.micros()])?;
    }
    if let Some(before) = retention.runs_before {
        removed += connection.execute("DELETE FROM job_runs WHERE scheduled_at < ?1", [before.micros()])?;
    }
    if let Some(kept) = retention.runs_per_job {
        removed += remove_excess_runs(connection, kept)?;
    }
    Ok(removed as u64)
}

/// Keeps the newest `kept` runs of each job of each recorder and removes the others; returns their number. Walks the index from the
/// newest run of each job: a window function would sort the whole table on the writer thread, every few minutes.
fn remove_excess_runs(connection: &Connection, kept: u32) -> rusqlite::Result<usize> {
    let mut next_job = connection.prepare_cached(
        "SELECT recorder, job FROM job_runs WHERE (recorder, job) > (?1, ?2) ORDER BY recorder, job LIMIT 1",
    )?;
    // The order of `runs`.
    let mut first_to_go = connection.prepare_cached(
        "SELECT scheduled_at, run_id FROM job_runs WHERE recorder = ?1 AND job = ?2
         ORDER BY scheduled_at DESC, run_id DESC LIMIT 1 OFFSET ?3",
    )?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM job_runs WHERE recorder = ?1 AND job = ?2 AND (scheduled_at, run_id) <= (?3, ?4)",
    )?;
    let (mut recorder, mut job, mut removed) = (String::new(), String::new(), 0);
    loop {
        let next = next_job.query_row([&recorder, &job], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some(next) = next else { break };
        (recorder, job) = next;
        let place = params![recorder, job, kept];
        let first = first_to_go.query_row(place, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((scheduled_at, run_id)): Option<(i64, String)> = first else { continue };
        removed += delete.execute(params![recorder, job, scheduled_at, run_id])?;
    }
    Ok(removed)
}

/// The next chunk after `cursor`; `None` at the end of the last table.
pub(super) fn next_chunk(
    connection: &Connection,
    mut cursor: Cursor,
    before: Timestamp,
) -> rusqlite::Result<Option<Chunk>> {
    while let Some(table) = TABLES.get(cursor.table) {
        if let Some(chunk) = chunk_of(connection, table, &cursor, before)? {
            return Ok(Some(chunk));
        }
        cursor = match next_series(connection, table, &cursor.series)? {
            Some(series) => Cursor { table: cursor.table, series, position: None },
            None => Cursor { table: cursor.table + 1, ..Cursor::default() },
        };
    }
    Ok(None)
}

fn chunk_of(
    connection: &Connection,
    table: &Table,
    cursor: &Cursor,
    before: Timestamp,
) -> rusqlite::Result<Option<Chunk>> {
    let Table { name, key, series, position, time, .. } = table;
    let beyond = if cursor.position.is_some() { "> ?4" } else { "IS NOT ?4" };
    let query = format!(
        "SELECT min(position), max(position), min(time) FROM
           (SELECT {position} AS position, {time} AS time FROM {name}
            WHERE {key} = {series} AND {position} {beyond} ORDER BY {position} LIMIT {CHUNK_ROWS})"
    );
    let [exchange, symbol, interval] = &cursor.series;
    let mut select = connection.prepare_cached(&query)?;
    let found: (Option<i64>, Option<i64>, Option<i64>) = select
        .query_row(params![exchange, symbol, interval, cursor.position], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let (Some(first), Some(last), Some(oldest)) = found else { return Ok(None) };
    let has_old = oldest < before.micros();
    Ok(Some(Chunk { table: cursor.table, series: cursor.series.clone(), first, last, has_old }))
}

fn next_series(connection: &Connection, table: &Table, after: &[String; 3]) -> rusqlite::Result<Option<[String; 3]>> {
    let Table { name, columns, key, series, .. } = table;
    let query = format!(
        "SELECT {columns} FROM {name} WHERE {key} > {series} ORDER BY {} LIMIT 1",
        key.trim_matches(['(', ')'])
    );
    let mut select = connection.prepare_cached(&query)?;
    for (number, name) in (1..=select.parameter_count()).zip(after) {
        select.raw_bind_parameter(number, name)?;
    }
    let mut rows = select.raw_query();
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some([row.get(0)?, row.get(1)?, row.get(2)?]))
}

/// Removes the rows of a chunk that are older than `before`; returns their number.
pub(super) fn remove(connection: &Connection, chunk: &Chunk, before: Timestamp) -> rusqlite::Result<u64> {
    let Table { name, key, series, position, time, .. } = &TABLES[chunk.table];
    let query = format!("DELETE FROM {name} WHERE {key} = {series} AND {position} BETWEEN ?4 AND ?5 AND {time} < ?6");
    let [exchange, symbol, interval] = &chunk.series;
    let mut delete = connection.prepare_cached(&query)?;
    let removed = delete.execute(params![exchange, symbol, interval, chunk.first, chunk.last, before.micros()])?;
    Ok(removed as u64)
}
