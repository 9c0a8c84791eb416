//! Reads gaps, epochs and conflicts.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::lookup::{epoch_sql, read};
use crate::gap::{Gap, Range};
use crate::history::{ConflictRow, EpochRow, GapFilter};
use crate::market::{Stream, Symbol, Timestamp};

/// The gaps that `filter` selects, newest first.
pub(super) fn gaps(connection: &Connection, filter: &GapFilter, epoch: Option<i64>) -> rusqlite::Result<Vec<Gap>> {
    let mut query = "SELECT gap_id, exchange, symbol, channel, first_missing, last_missing, from_ts, to_ts, state,
        detected_at, closed_at, filled, attempts, reason, evidence, version, filled_by, filled_at, epoch FROM gaps
        WHERE 1"
        .to_owned();
    let mut values: Vec<Value> = Vec::new();
    // Adds a condition; each `?` takes the next value.
    let mut only = |condition: &str, with: Vec<Value>| {
        query.push_str(" AND ");
        query.push_str(condition);
        values.extend(with);
    };
    let text = |text: &str| Value::Text(text.to_owned());
    if filter.open_only {
        only("closed_at IS NULL", vec![]);
    }
    if let Some(symbol) = &filter.symbol {
        only("symbol = ?", vec![text(symbol.as_str())]);
    }
    if let Some(Stream { exchange, symbol, channel }) = &filter.stream {
        let names = [exchange.as_str(), symbol.as_str(), channel.as_str()];
        only("(exchange, symbol, channel) = (?, ?, ?)", names.into_iter().map(text).collect());
    }
    if let Some(Range { first, last }) = filter.range {
        only("first_missing <= ? AND last_missing >= ?", vec![last.into(), first.into()]);
    }
    if !filter.states.is_empty() {
        let places = vec!["?"; filter.states.len()].join(", ");
        only(&format!("state IN ({places})"), filter.states.iter().map(|state| text(state.as_str())).collect());
    }
    if let Some((at, id)) = &filter.after {
        only("(detected_at, gap_id) < (?, ?)", vec![at.micros().into(), text(id)]);
    }
    if filter.of_read_epoch {
        let epoch = epoch_sql(epoch, "gaps.exchange", "gaps.symbol", "gaps.channel");
        only(&format!("(channel NOT IN ('trade', 'agg_trade') OR epoch = {epoch})"), vec![]);
    }
    query.push_str(" ORDER BY detected_at DESC, gap_id DESC LIMIT ?");
    values.push(if filter.limit == 0 { -1 } else { i64::try_from(filter.limit).unwrap_or(i64::MAX) }.into());
    let mut select = connection.prepare_cached(&query)?;
    let rows = select.query_map(params_from_iter(values), gap_row)?;
    rows.collect()
}

fn gap_row(row: &Row<'_>) -> rusqlite::Result<Gap> {
    let exchange = read(row, 1, |text| text.parse().ok())?;
    let symbol = Symbol::new(row.get_ref(2)?.as_str()?);
    let channel = read(row, 3, |text| text.parse().ok())?;
    Ok(Gap {
        gap_id: row.get(0)?,
        stream: Stream::new(exchange, symbol, channel),
        range: Range { first: row.get(4)?, last: row.get(5)? },
        from_ts: row.get::<_, Option<i64>>(6)?.map(Timestamp),
        to_ts: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        state: read(row, 8, |text| text.parse().ok())?,
        detected_at: Timestamp(row.get(9)?),
        closed_at: row.get::<_, Option<i64>>(10)?.map(Timestamp),
        filled: row.get(11)?,
        attempts: row.get(12)?,
        reason: row.get(13)?,
        evidence: read(row, 14, |text| serde_json::from_str(text).ok())?,
        version: row.get(15)?,
        filled_by: row.get(16)?,
        filled_at: row.get::<_, Option<i64>>(17)?.map(Timestamp),
        epoch: row.get(18)?,
    })
}

/// Every numbering that began after another one.
pub(super) fn epochs(connection: &Connection) -> rusqlite::Result<Vec<EpochRow>> {
    let mut select = connection.prepare_cached(
        "SELECT exchange, symbol, epoch, first_id, began_at, reason, channel FROM epochs
         ORDER BY exchange, symbol, channel, epoch",
    )?;
    let rows = select.query_map([], |row| {
        Ok(EpochRow {
            exchange: read(row, 0, |text| text.parse().ok())?,
            symbol: Symbol::new(row.get_ref(1)?.as_str()?),
            channel: read(row, 6, |text| text.parse().ok())?,
            epoch: row.get(2)?,
            first_id: row.get(3)?,
            began_at: Timestamp(row.get(4)?),
            reason: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// The conflicts that are not decided yet, or all, newest first.
pub(super) fn conflicts(
    connection: &Connection,
    pending_only: bool,
    limit: usize,
) -> rusqlite::Result<Vec<ConflictRow>> {
    let pending = if pending_only { "WHERE verdict = 'pending'" } else { "" };
    let mut select = connection.prepare_cached(&format!(
        "SELECT exchange, symbol, channel, epoch, position, stored, arrived, at, verdict FROM conflicts {pending}
         ORDER BY at DESC, position DESC LIMIT ?1"
    ))?;
    let rows = select.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let exchange = read(row, 0, |text| text.parse().ok())?;
        let channel = read(row, 2, |text| text.parse().ok())?;
        Ok(ConflictRow {
            stream: Stream::new(exchange, Symbol::new(row.get_ref(1)?.as_str()?), channel),
            epoch: row.get(3)?,
            position: row.get(4)?,
            stored: row.get(5)?,
            arrived: row.get(6)?,
            at: Timestamp(row.get(7)?),
            verdict: read(row, 8, |text| text.parse().ok())?,
        })
    })?;
    rows.collect()
}
