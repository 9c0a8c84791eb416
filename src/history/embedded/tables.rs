//! Writes the rows of a batch. Of two copies the one with the higher version stays.

use rusqlite::{Connection, params};

use super::decimal_text::DecimalText;
use crate::gap::Gap;
use crate::history::trade_table::TradeTable;
use crate::history::{Batch, ConflictRow, DeadLetter, EpochRow, JobRun, KlineRow, TradeRow};

const INSERT_TRADE: &str = "INSERT INTO trades(exchange, symbol, trade_id, ts, received_at, price, quantity, side,
    is_backfilled, version, epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
  ON CONFLICT DO UPDATE SET ts = excluded.ts, received_at = excluded.received_at, price = excluded.price,
    quantity = excluded.quantity, side = excluded.side, is_backfilled = excluded.is_backfilled,
    version = excluded.version
  WHERE excluded.version > version";

const INSERT_AGG_TRADE: &str =
    "INSERT INTO agg_trades(exchange, symbol, agg_id, ts, received_at, price, quantity, side,
    is_backfilled, version, epoch, first_trade_id, last_trade_id)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
  ON CONFLICT DO UPDATE SET ts = excluded.ts, received_at = excluded.received_at, price = excluded.price,
    quantity = excluded.quantity, side = excluded.side, is_backfilled = excluded.is_backfilled,
    first_trade_id = excluded.first_trade_id, last_trade_id = excluded.last_trade_id, version = excluded.version
  WHERE excluded.version > version";

const INSERT_KLINE: &str =
    "INSERT INTO klines(exchange, symbol, interval, open_time, close_time, open, high, low, close,
    volume, quote_volume, trade_count, first_trade_id, last_trade_id, is_backfilled, version)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
  ON CONFLICT DO UPDATE SET close_time = excluded.close_time, open = excluded.open, high = excluded.high,
    low = excluded.low, close = excluded.close, volume = excluded.volume, quote_volume = excluded.quote_volume,
    trade_count = excluded.trade_count, first_trade_id = excluded.first_trade_id,
    last_trade_id = excluded.last_trade_id, is_backfilled = excluded.is_backfilled, version = excluded.version
  WHERE excluded.version > version";

const INSERT_GAP: &str =
    "INSERT INTO gaps(gap_id, exchange, symbol, channel, first_missing, last_missing, from_ts, to_ts,
    state, detected_at, closed_at, filled, attempts, reason, version, evidence, detected_by, previous_id, next_id,
    log_partition, log_offset, connection, filled_by, filled_at, epoch)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)
  ON CONFLICT DO UPDATE SET exchange = excluded.exchange, symbol = excluded.symbol, channel = excluded.channel,
    first_missing = excluded.first_missing, last_missing = excluded.last_missing, from_ts = excluded.from_ts,
    to_ts = excluded.to_ts, state = excluded.state, detected_at = excluded.detected_at,
    closed_at = excluded.closed_at, filled = excluded.filled, attempts = excluded.attempts,
    reason = excluded.reason, version = excluded.version, evidence = excluded.evidence,
    detected_by = excluded.detected_by, previous_id = excluded.previous_id, next_id = excluded.next_id,
    log_partition = excluded.log_partition, log_offset = excluded.log_offset, connection = excluded.connection,
    filled_by = excluded.filled_by, filled_at = excluded.filled_at, epoch = excluded.epoch
  WHERE excluded.version > version";

// After the log was recreated, the newer frame at an offset replaces the older one.
const INSERT_DEAD_LETTER: &str =
    "INSERT INTO dead_letters(log_partition, log_offset, received_at, stream, reason, payload, id, recorder, source)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
  ON CONFLICT (recorder, log_partition, log_offset) WHERE source = 'log' DO UPDATE SET id = excluded.id,
    received_at = excluded.received_at, stream = excluded.stream, reason = excluded.reason, payload = excluded.payload
  ON CONFLICT (recorder, stream, payload) WHERE source = 'rest' DO UPDATE SET id = excluded.id,
    received_at = excluded.received_at, reason = excluded.reason
  ON CONFLICT (id) DO UPDATE SET reason = excluded.reason";

// Another recorder may have seen the numbering begin earlier.
const INSERT_EPOCH: &str = "INSERT INTO epochs(exchange, symbol, epoch, first_id, began_at, reason, channel)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
  ON CONFLICT DO UPDATE SET first_id = excluded.first_id, began_at = excluded.began_at, reason = excluded.reason
  WHERE excluded.began_at < began_at";

const INSERT_CONFLICT: &str =
    "INSERT INTO conflicts(exchange, symbol, channel, epoch, position, stored, arrived, at, verdict)
  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
  ON CONFLICT DO UPDATE SET stored = excluded.stored, verdict = excluded.verdict
  WHERE excluded.verdict <> 'pending'";

/// Writes a batch.
pub(super) fn insert(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    insert_epochs(connection, &batch.epochs)?;
    insert_gaps(connection, &batch.gaps)?;
    for table in TradeTable::ALL {
        insert_trades(connection, &batch.trades, table)?;
    }
    insert_klines(connection, &batch.klines)?;
    insert_conflicts(connection, &batch.conflicts)?;
    insert_dead_letters(connection, &batch.dead_letters)
}

fn insert_gaps(connection: &Connection, gaps: &[Gap]) -> rusqlite::Result<()> {
    if gaps.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(INSERT_GAP)?;
    for gap in gaps {
        let evidence = serde_json::to_string(&gap.evidence)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        insert.execute(params![
            gap.gap_id,
            gap.stream.exchange.as_str(),
            gap.stream.symbol.as_str(),
            gap.stream.channel.as_str(),
            gap.range.first,
            gap.range.last,
            gap.from_ts.map(|ts| ts.micros()),
            gap.to_ts.map(|ts| ts.micros()),
            gap.state.as_str(),
            gap.detected_at.micros(),
            gap.closed_at.map(|ts| ts.micros()),
            gap.filled,
            gap.attempts,
            gap.reason,
            gap.version,
            evidence,
            gap.evidence.by,
            gap.evidence.previous,
            gap.evidence.next,
            gap.evidence.partition,
            gap.evidence.offset,
            gap.evidence.connection,
            gap.filled_by,
            gap.filled_at.map(|ts| ts.micros()),
            gap.epoch,
        ])?;
    }
    Ok(())
}

fn insert_epochs(connection: &Connection, epochs: &[EpochRow]) -> rusqlite::Result<()> {
    for row in epochs {
        connection.prepare_cached(INSERT_EPOCH)?.execute(params![
            row.exchange.as_str(),
            row.symbol.as_str(),
            row.epoch,
            row.first_id,
            row.began_at.micros(),
            row.reason,
            row.channel.as_str(),
        ])?;
    }
    Ok(())
}

fn insert_conflicts(connection: &Connection, conflicts: &[ConflictRow]) -> rusqlite::Result<()> {
    for row in conflicts {
        connection.prepare_cached(INSERT_CONFLICT)?.execute(params![
            row.stream.exchange.as_str(),
            row.stream.symbol.as_str(),
            row.stream.channel.as_str(),
            row.epoch,
            row.position,
            row.stored,
            row.arrived,
            row.at.micros(),
            row.verdict.as_str(),
        ])?;
    }
    Ok(())
}

fn insert_trades(connection: &Connection, trades: &[TradeRow], table: &TradeTable) -> rusqlite::Result<()> {
    let mut rows = trades.iter().filter(|row| row.trade.channel() == table.channel).peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(if table.has_trade_ids() { INSERT_AGG_TRADE } else { INSERT_TRADE })?;
    let mut text = DecimalText::new();
    for row in rows {
        insert.raw_bind_parameter(1, row.exchange.as_str())?;
        insert.raw_bind_parameter(2, row.symbol.as_str())?;
        insert.raw_bind_parameter(3, row.trade.id)?;
        insert.raw_bind_parameter(4, row.trade.ts.micros())?;
        insert.raw_bind_parameter(5, row.received_at.micros())?;
        insert.raw_bind_parameter(6, text.plain(row.trade.price))?;
        insert.raw_bind_parameter(7, text.plain(row.trade.quantity))?;
        insert.raw_bind_parameter(8, row.trade.side.as_str())?;
        insert.raw_bind_parameter(9, row.is_backfilled)?;
        insert.raw_bind_parameter(10, row.version)?;
        insert.raw_bind_parameter(11, row.epoch)?;
        if let Some((first, last)) = row.trade.trade_ids {
            insert.raw_bind_parameter(12, first)?;
            insert.raw_bind_parameter(13, last)?;
        }
        insert.raw_execute()?;
    }
    Ok(())
}

fn insert_klines(connection: &Connection, klines: &[KlineRow]) -> rusqlite::Result<()> {
    if klines.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(INSERT_KLINE)?;
    let mut text = DecimalText::new();
    for row in klines {
        let kline = &row.kline;
        insert.raw_bind_parameter(1, row.exchange.as_str())?;
        insert.raw_bind_parameter(2, row.symbol.as_str())?;
        insert.raw_bind_parameter(3, kline.interval.as_str())?;
        insert.raw_bind_parameter(4, kline.open_time.micros())?;
        insert.raw_bind_parameter(5, kline.close_time.micros())?;
        let decimals = [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume];
        for (column, value) in (6..).zip(decimals) {
            insert.raw_bind_parameter(column, text.plain(value))?;
        }
        insert.raw_bind_parameter(12, kline.trade_count)?;
        insert.raw_bind_parameter(13, kline.first_trade_id)?;
        insert.raw_bind_parameter(14, kline.last_trade_id)?;
        insert.raw_bind_parameter(15, row.is_backfilled)?;
        insert.raw_bind_parameter(16, row.version)?;
        insert.raw_execute()?;
    }
    Ok(())
}

fn insert_dead_letters(connection: &Connection, letters: &[DeadLetter]) -> rusqlite::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached(INSERT_DEAD_LETTER)?;
    for letter in letters {
        insert.execute(params![
            letter.partition,
            letter.offset,
            letter.received_at.micros(),
            &*letter.stream,
            letter.reason,
            &letter.payload[..],
            letter.id,
            &*letter.recorder,
            letter.source.as_str(),
        ])?;
    }
    Ok(())
}

/// Writes a run; replaces the run with the same `run_id`.
pub(super) fn put_run(connection: &Connection, run: &JobRun) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO job_runs(run_id, job, trigger, scheduled_at, started_at, finished_at, attempt, outcome,
           reason, window_from, window_to, report, recorder)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    insert.execute(params![
        run.run_id,
        run.job,
        run.trigger,
        run.scheduled_at,
        run.started_at,
        run.finished_at,
        run.attempt,
        run.outcome,
        run.reason,
        run.window.map(|window| window.0),
        run.window.map(|window| window.1),
        run.report,
        run.recorder,
    ])?;
    Ok(())
}
