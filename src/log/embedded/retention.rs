//! Retention of the log: removes consumed frames by age and by size, in bounded steps.

use rusqlite::{Connection, TransactionBehavior};

use super::rows;
use super::writer::RetainStep;
use crate::market::Timestamp;
use crate::sqlite::Failure;

/// Frames that one transaction removes: about ten milliseconds, while appends wait.
const STEP_FRAMES_MAX: i64 = 10_000;
/// Free pages that one transaction returns to the file system.
const STEP_PAGES_MAX: i64 = 1_000;

/// Runs one step. A file of mostly free pages (after a long outage of the consumer) shrinks; otherwise later frames
/// reuse the free pages.
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
        // The average size is an estimate: the remaining frames may still exceed the limit.
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

/// The number of oldest frames to remove so that the used pages fit into `bytes`, by the average size of a frame.
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

/// Whether more than half of the pages are free in a file that is larger than 64 MiB; a smaller file need not shrink.
fn is_mostly_free(connection: &Connection) -> rusqlite::Result<bool> {
    let pages = pragma(connection, "page_count")?;
    let free = pragma(connection, "freelist_count")?;
    Ok(free > pages / 2 && pages * pragma(connection, "page_size")? > 64 << 20)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
