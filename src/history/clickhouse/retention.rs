//! Retention. Whole days are dropped as partitions, which is cheap; the server rewrites only the day that is cut.

use clickhouse::Row;
use serde::Deserialize;

use super::server::{Server, quote, time};
use crate::history::{ClickhouseOptions, HistoryError};
use crate::market::Timestamp;

#[derive(Debug, Row, Deserialize)]
struct PartitionRecord {
    id: String,
}

/// Removes the rows of `table` whose `column` is before a time; returns the number of keys.
pub(super) async fn remove(server: &Server, table: &str, column: &str, before: Timestamp) -> Result<u64, HistoryError> {
    remove_where(server, table, &format!("{column} < {}", time(before))).await
}

async fn remove_where(server: &Server, table: &str, condition: &str) -> Result<u64, HistoryError> {
    let db = &server.database;
    let old: u64 = server.one(&format!("SELECT count() FROM {db}.{table} FINAL WHERE {condition}")).await?;
    if old > 0 {
        // Waits for the mutation, so that readers do not see removed rows after this returns.
        let sql = format!("ALTER TABLE {db}.{table} DELETE WHERE {condition} SETTINGS mutations_sync = 1");
        server.command(&sql).await?;
    }
    Ok(old)
}

#[derive(Debug, Row, Deserialize)]
struct ExcessRun {
    recorder: String,
    job: String,
    scheduled_at: i64,
    run_id: String,
}

/// Keeps the newest `kept` runs of each job of each recorder and removes the others; returns the number of removed runs.
pub(super) async fn remove_runs(server: &Server, kept: u32) -> Result<u64, HistoryError> {
    // The newest run to remove of each job, in the order of `runs`.
    let sql = format!(
        "SELECT recorder, job, scheduled_at, run_id FROM {}.job_runs FINAL
         ORDER BY recorder, job, scheduled_at DESC, run_id DESC LIMIT {kept}, 1 BY recorder, job",
        server.database
    );
    let condition = |ExcessRun { recorder, job, scheduled_at, run_id }: ExcessRun| {
        let [recorder, job, run_id] = [recorder, job, run_id].map(|text| quote(&text));
        let at = time(Timestamp(scheduled_at));
        format!("(recorder = {recorder} AND job = {job} AND (scheduled_at, run_id) <= ({at}, {run_id}))")
    };
    let conditions: Vec<String> = server.rows(&sql).await?.into_iter().map(condition).collect();
    if conditions.is_empty() {
        return Ok(0);
    }
    remove_where(server, "job_runs", &conditions.join(" OR ")).await
}

/// Removes the rows of `table` whose `column` is before a time, where the day of `column` is the partition; returns the
/// number of keys.
pub(super) async fn remove_days(
    server: &Server,
    options: &ClickhouseOptions,
    table: &str,
    column: &str,
    before: Timestamp,
) -> Result<u64, HistoryError> {
    let (db, cut) = (&server.database, time(before));
    let old: u64 = server.one(&format!("SELECT count() FROM {db}.{table} FINAL WHERE {column} < {cut}")).await?;
    if old == 0 {
        return Ok(0);
    }
    // The partition id of a day is its date, for example 20240808.
    let sql = format!(
        "SELECT DISTINCT partition_id AS id FROM system.parts WHERE active AND database = {} AND table = '{table}'
           AND partition_id < formatDateTime(toDate({cut}), '%Y%m%d') ORDER BY id",
        quote(&options.database)
    );
    let whole: Vec<PartitionRecord> = server.rows(&sql).await?;
    if !whole.is_empty() {
        let drops: Vec<String> =
            whole.iter().map(|partition| format!("DROP PARTITION ID '{}'", partition.id)).collect();
        server.command(&format!("ALTER TABLE {db}.{table} {}", drops.join(", "))).await?;
    }
    remove(server, table, column, before).await?;
    Ok(old)
}
