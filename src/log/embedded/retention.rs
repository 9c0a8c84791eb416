//! What the log forgets: consumed frames that are old, or beyond the size, a bounded portion at a time.

use rusqlite::{Connection, TransactionBehavior};

use super::rows;
use super::writer::RetainStep;
use crate::market::Timestamp;
use crate::sqlite::Failure;

/// Frames removed in one transaction: some ten milliseconds, in which appends wait.
const STEP_FRAMES_MAX: i64 = 10_000;
/// Free pages given back to the file system in one transaction.
const STEP_PAGES_MAX: i64 = 1_000;

/// One step. A file that is mostly free pages (after a long outage of the consumer) shrinks again; short
/// of that free pages are used for what comes next.
pub(super) fn step(
    connection: &mut Connection,
    committed: Option<i64>,
    older_than: Timestamp,
    bytes: u64,
) -> Result<RetainStep, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let first = rows::first(&transaction)?;
    let mut step = RetainStep::default();
    if let (Some(first), Some(committed)) = (first, committed)
        && first < committed
    {
        let limit = committed.min(first + STEP_FRAMES_MAX);
        let old = rows::first_since(&transaction, first, limit, older_than)?.unwrap_or(limit);
        let beyond = limit.min(first + frames_beyond(&transaction, first, bytes)?);
        let keep_from = old.max(beyond);
        step.removed = rows::remove_below(&transaction, keep_from)?;
        step.keep_from = keep_from;
        // The average size is an estimate: what is left may still be too big.
        step.more = keep_from < committed && (keep_from == limit || frames_beyond(&transaction, keep_from, bytes)? > 0);
    }
    if step.removed == 0 && is_mostly_free(&transaction)? {
        let mut vacuum = transaction.prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES_MAX})"))?;
        let mut freed = vacuum.query([])?;
        while freed.next()?.is_some() {}
        drop(freed);
        drop(vacuum);
        step.more = is_mostly_free(&transaction)?;
    } else if !step.more {
        step.more = is_mostly_free(&transaction)?;
    }
    transaction.commit()?;
    Ok(step)
}

/// How many of the oldest frames must go so that the used pages fit into `bytes`, by the average size.
fn frames_beyond(connection: &Connection, first: i64, bytes: u64) -> rusqlite::Result<i64> {
    let pages = pragma(connection, "page_count")? - pragma(connection, "freelist_count")?;
    let used = pages * pragma(connection, "page_size")?;
    let excess = used - i64::try_from(bytes).unwrap_or(i64::MAX);
    let frames = rows::last(connection)?.map_or(0, |last| last + 1 - first);
    if excess <= 0 || frames == 0 {
        return Ok(0);
    }
    Ok(excess.div_euclid((used / frames).max(1)) + 1)
}

/// Whether more than half of a file that is worth shrinking (64 MiB) is free.
fn is_mostly_free(connection: &Connection) -> rusqlite::Result<bool> {
    let pages = pragma(connection, "page_count")?;
    let free = pragma(connection, "freelist_count")?;
    Ok(free > pages / 2 && pages * pragma(connection, "page_size")? > 64 << 20)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
