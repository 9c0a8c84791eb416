//! Reads dead letters and the runs of jobs.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::lookup::read;
use crate::history::{DeadLetter, JobRun};
use crate::market::Timestamp;

/// The newest dead letters of one recorder or of all, newest first.
pub(super) fn dead_letters(
    connection: &Connection,
    recorder: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut select = connection.prepare_cached(
        "SELECT log_partition, log_offset, received_at, stream, reason, payload, id, recorder, source FROM dead_letters
         WHERE ?1 IS NULL OR recorder = ?1
         ORDER BY received_at DESC, log_partition DESC, log_offset DESC LIMIT ?2",
    )?;
    let rows = select.query_map(params![recorder, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok(DeadLetter {
            id: row.get(6)?,
            recorder: Arc::from(row.get_ref(7)?.as_str()?),
            source: read(row, 8, |text| text.parse().ok())?,
            partition: row.get(0)?,
            offset: row.get(1)?,
            received_at: Timestamp(row.get(2)?),
            stream: Arc::from(row.get_ref(3)?.as_str()?),
            reason: row.get(4)?,
            payload: Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
        })
    })?;
    rows.collect()
}

/// The number of dead letters of one recorder or of all.
pub(super) fn dead_letter_count(connection: &Connection, recorder: Option<&str>) -> rusqlite::Result<u64> {
    let count: i64 = connection.query_row(
        "SELECT count(*) FROM dead_letters WHERE ?1 IS NULL OR recorder = ?1",
        params![recorder],
        |row| row.get(0),
    )?;
    Ok(count.unsigned_abs())
}

/// The newest runs of one job or of all, of one recorder or of all, newest first.
pub(super) fn runs(
    connection: &Connection,
    job: Option<&str>,
    recorder: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<JobRun>> {
    let of_job = if job.is_some() { "job = ?1" } else { "?1 IS NULL" };
    let mut select = connection.prepare_cached(&format!(
        "SELECT run_id, job, trigger, scheduled_at, started_at, finished_at, attempt, outcome, reason, window_from,
           window_to, report, recorder FROM job_runs WHERE {of_job} AND (?2 IS NULL OR recorder = ?2)
         ORDER BY scheduled_at DESC, run_id DESC LIMIT ?3"
    ))?;
    let rows = select.query_map(params![job, recorder, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok(JobRun {
            run_id: row.get(0)?,
            job: row.get(1)?,
            trigger: row.get(2)?,
            scheduled_at: row.get(3)?,
            started_at: row.get(4)?,
            finished_at: row.get(5)?,
            attempt: row.get(6)?,
            outcome: row.get(7)?,
            reason: row.get(8)?,
            window: row.get::<_, Option<i64>>(9)?.zip(row.get(10)?),
            report: row.get(11)?,
            recorder: row.get(12)?,
        })
    })?;
    rows.collect()
}
