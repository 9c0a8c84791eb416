//! Reads dead letters and the runs of jobs.

use std::sync::Arc;

use clickhouse::Row;
use serde::Deserialize;

use super::server::{Server, quote};
use crate::history::{DeadLetter, HistoryError, JobRun};
use crate::market::Timestamp;

#[derive(Debug, Row, Deserialize)]
struct LetterRecord {
    log_partition: i32,
    log_offset: i64,
    received_at: i64,
    stream: String,
    reason: String,
    #[serde(with = "bytes_of")]
    payload: Vec<u8>,
    id: String,
    recorder: String,
    source: String,
}

#[derive(Debug, Row, Deserialize)]
struct RunRecord {
    run_id: String,
    job: String,
    trigger: String,
    scheduled_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    attempt: i64,
    outcome: String,
    reason: String,
    window_from: Option<i64>,
    window_to: Option<i64>,
    report: String,
    recorder: String,
}

/// Reads a String column as bytes, because a payload may not be valid UTF-8.
mod bytes_of {
    use serde::Deserializer;
    use serde::de::{Error, Visitor};

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(Bytes)
    }
}

/// The newest dead letters of one recorder or of all, newest first.
pub(super) async fn dead_letters(
    server: &Server,
    recorder: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>, HistoryError> {
    let sql = format!(
        "SELECT log_partition, log_offset, received_at, stream, reason, payload, id, recorder, source
         FROM {}.dead_letters FINAL WHERE {}
         ORDER BY received_at DESC, log_partition DESC, log_offset DESC LIMIT {}",
        server.database,
        of_recorder(recorder),
        super::limit(limit)
    );
    let letter = |record: LetterRecord| {
        let damaged = || HistoryError::Data(format!("dead letter {} has an invalid source", record.id));
        Ok(DeadLetter {
            recorder: Arc::from(record.recorder),
            source: record.source.parse().map_err(|()| damaged())?,
            partition: record.log_partition,
            offset: record.log_offset,
            received_at: Timestamp(record.received_at),
            stream: Arc::from(record.stream),
            reason: record.reason,
            payload: record.payload.into(),
            id: record.id,
        })
    };
    server.rows(&sql).await?.into_iter().map(letter).collect()
}

/// The number of dead letters of one recorder or of all.
pub(super) async fn dead_letter_count(server: &Server, recorder: Option<&str>) -> Result<u64, HistoryError> {
    let (db, condition) = (&server.database, of_recorder(recorder));
    server.one(&format!("SELECT count() FROM {db}.dead_letters FINAL WHERE {condition}")).await
}

fn of_recorder(recorder: Option<&str>) -> String {
    recorder.map_or_else(|| "1".to_owned(), |recorder| format!("recorder = {}", quote(recorder)))
}

/// The newest runs of one job or of all, of one recorder or of all, newest first.
pub(super) async fn runs(
    server: &Server,
    job: Option<&str>,
    recorder: Option<&str>,
    limit: usize,
) -> Result<Vec<JobRun>, HistoryError> {
    let of_job = job.map(|job| format!(" AND job = {}", quote(job))).unwrap_or_default();
    let sql = format!(
        "SELECT run_id, job, trigger, scheduled_at, started_at, finished_at, attempt, outcome, reason, window_from,
           window_to, report, recorder FROM {}.job_runs FINAL WHERE {}{of_job}
         ORDER BY scheduled_at DESC, run_id DESC LIMIT {}",
        server.database,
        of_recorder(recorder),
        super::limit(limit)
    );
    let run = |record: RunRecord| JobRun {
        run_id: record.run_id,
        job: record.job,
        trigger: record.trigger,
        scheduled_at: record.scheduled_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        attempt: record.attempt,
        outcome: record.outcome,
        reason: record.reason,
        window: record.window_from.zip(record.window_to),
        report: record.report,
        recorder: record.recorder,
    };
    Ok(server.rows(&sql).await?.into_iter().map(run).collect())
}
