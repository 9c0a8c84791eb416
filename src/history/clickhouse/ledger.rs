//! Reads gaps, dead letters and the runs of jobs.

use std::sync::Arc;

use clickhouse::Row;
use serde::Deserialize;

use super::server::{Server, quote, quote_all, time};
use crate::gap::{Gap, Range};
use crate::history::{ConflictRow, DeadLetter, EpochRow, GapFilter, HistoryError, JobRun};
use crate::market::{Stream, Symbol, Timestamp};

#[derive(Debug, Row, Deserialize)]
struct GapRecord {
    gap_id: String,
    exchange: String,
    symbol: String,
    channel: String,
    first_missing: i64,
    last_missing: i64,
    from_ts: Option<i64>,
    to_ts: Option<i64>,
    state: String,
    detected_at: i64,
    closed_at: Option<i64>,
    filled: i64,
    attempts: i64,
    reason: String,
    revision: i64,
    evidence: String,
    filled_by: String,
    filled_at: Option<i64>,
    numbering: i64,
}

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

/// The gaps that `filter` selects, newest first.
pub(super) async fn gaps(server: &Server, filter: &GapFilter) -> Result<Vec<Gap>, HistoryError> {
    let mut conditions = vec!["1".to_owned()];
    if filter.open_only {
        conditions.push("closed_at IS NULL".to_owned());
    }
    if let Some(symbol) = &filter.symbol {
        conditions.push(format!("symbol = {}", quote(symbol.as_str())));
    }
    if let Some(Stream { exchange, symbol, channel }) = &filter.stream {
        let names = quote_all([exchange.as_str(), symbol.as_str(), channel.as_str()]);
        conditions.push(format!("(exchange, symbol, channel) = ({names})"));
    }
    if let Some(Range { first, last }) = filter.range {
        conditions.push(format!("first_missing <= {last} AND last_missing >= {first}"));
    }
    if !filter.states.is_empty() {
        conditions.push(format!("state IN ({})", quote_all(filter.states.iter().map(|state| state.as_str()))));
    }
    if let Some((at, id)) = &filter.after {
        conditions.push(format!("(detected_at, gap_id) < ({}, {})", time(*at), quote(id)));
    }
    match (filter.of_read_epoch, server.epoch) {
        (false, _) => {}
        (true, Some(epoch)) => conditions.push(format!("(channel != 'trade' OR epoch = {epoch})")),
        (true, None) => conditions.push(format!(
            "(channel != 'trade' OR epoch = 0 OR (exchange, symbol, epoch) IN
               (SELECT exchange, symbol, max(epoch) FROM {db}.epochs GROUP BY exchange, symbol))
             AND NOT (channel = 'trade' AND epoch = 0 AND (exchange, symbol) IN (SELECT exchange, symbol FROM {db}.epochs))",
            db = server.database
        )),
    }
    let conditions = conditions.join(" AND ");
    let limit = if filter.limit == 0 { String::new() } else { format!(" LIMIT {}", super::limit(filter.limit)) };
    let sql = format!(
        "SELECT gap_id, exchange, symbol, channel, first_missing, last_missing, from_ts, to_ts, state, detected_at,
           closed_at, filled, attempts, reason, toInt64(version) AS revision, evidence, filled_by,
           filled_at, toInt64(epoch) AS numbering
         FROM {}.gaps FINAL WHERE {conditions} ORDER BY detected_at DESC, gap_id DESC{limit}",
        server.database
    );
    server.rows::<GapRecord>(&sql).await?.into_iter().map(gap).collect()
}

fn gap(record: GapRecord) -> Result<Gap, HistoryError> {
    let damaged = |column: &str| HistoryError::Data(format!("gap {} has an invalid {column}", record.gap_id));
    let exchange = record.exchange.parse().map_err(|_| damaged("exchange"))?;
    let channel = record.channel.parse().map_err(|()| damaged("channel"))?;
    Ok(Gap {
        stream: Stream::new(exchange, Symbol::new(&record.symbol), channel),
        range: Range { first: record.first_missing, last: record.last_missing },
        from_ts: record.from_ts.map(Timestamp),
        to_ts: record.to_ts.map(Timestamp),
        state: record.state.parse().map_err(|()| damaged("state"))?,
        detected_at: Timestamp(record.detected_at),
        closed_at: record.closed_at.map(Timestamp),
        filled: record.filled,
        attempts: record.attempts,
        evidence: serde_json::from_str(&record.evidence).map_err(|_| damaged("evidence"))?,
        version: record.revision,
        gap_id: record.gap_id,
        reason: record.reason,
        filled_by: record.filled_by,
        filled_at: record.filled_at.map(Timestamp),
        epoch: record.numbering,
    })
}

#[derive(Debug, Row, Deserialize)]
struct EpochRecord {
    exchange: String,
    symbol: String,
    number: i64,
    first: i64,
    began_at: i64,
    reason: String,
}

/// Every numbering that began after another one. Two recorders may have seen one begin: the earlier sight counts.
pub(super) async fn epochs(server: &Server) -> Result<Vec<EpochRow>, HistoryError> {
    let sql = format!(
        "SELECT exchange, symbol, toInt64(epoch) AS number, toInt64(argMin(first_id, e.began_at)) AS first,
           min(e.began_at) AS began_at, argMin(reason, e.began_at) AS reason
         FROM {}.epochs AS e GROUP BY exchange, symbol, epoch ORDER BY exchange, symbol, number",
        server.database
    );
    let row = |record: EpochRecord| {
        let damaged =
            |_| HistoryError::Data(format!("epoch {} of {} has an invalid exchange", record.number, record.symbol));
        Ok(EpochRow {
            exchange: record.exchange.parse().map_err(damaged)?,
            symbol: Symbol::new(&record.symbol),
            epoch: record.number,
            first_id: record.first,
            began_at: Timestamp(record.began_at),
            reason: record.reason,
        })
    };
    server.rows::<EpochRecord>(&sql).await?.into_iter().map(row).collect()
}

#[derive(Debug, Row, Deserialize)]
struct ConflictRecord {
    exchange: String,
    symbol: String,
    channel: String,
    numbering: i64,
    position: i64,
    stored: String,
    arrived: String,
    at: i64,
    verdict: String,
}

/// The conflicts that are not decided yet, or all, newest first.
pub(super) async fn conflicts(
    server: &Server,
    pending_only: bool,
    limit: usize,
) -> Result<Vec<ConflictRow>, HistoryError> {
    let sql = format!(
        "SELECT exchange, symbol, channel, toInt64(epoch) AS numbering, position, stored, arrived, at, verdict
         FROM {}.conflicts FINAL WHERE {} ORDER BY at DESC, position DESC LIMIT {}",
        server.database,
        if pending_only { "verdict = 'pending'" } else { "1" },
        super::limit(limit)
    );
    let row = |record: ConflictRecord| {
        let damaged =
            |column: &str| HistoryError::Data(format!("a conflict of {} has an invalid {column}", record.symbol));
        let exchange = record.exchange.parse().map_err(|_| damaged("exchange"))?;
        let channel = record.channel.parse().map_err(|()| damaged("channel"))?;
        Ok(ConflictRow {
            stream: Stream::new(exchange, Symbol::new(&record.symbol), channel),
            epoch: record.numbering,
            position: record.position,
            verdict: record.verdict.parse().map_err(|()| damaged("verdict"))?,
            stored: record.stored,
            arrived: record.arrived,
            at: Timestamp(record.at),
        })
    };
    server.rows::<ConflictRecord>(&sql).await?.into_iter().map(row).collect()
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
