//! Histories of older and newer schemas in ClickHouse.

use tapekeeper::history::clickhouse::ClickhouseHistory;
use tapekeeper::history::{Batch, DeadLetter, History, HistoryError, LedgerStore, RowStore, RunStore};

use super::all_trades;
use super::clickhouse::query;
use crate::servers::clickhouse::Clickhouse;

/// Promise 6.
#[tokio::test]
async fn a_newer_schema_is_refused_naming_both_versions() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    ClickhouseHistory::new(&options).identity().await.unwrap();
    query(&options, "INSERT INTO {db}.schema_migrations (version) VALUES (41)");
    let refusal = ClickhouseHistory::new(&options).identity().await.unwrap_err();
    assert!(
        matches!(&refusal, HistoryError::Schema(text) if text.contains("41") && text.contains("up to 5")),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_history_of_the_first_schema_is_migrated_with_its_gaps() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    ClickhouseHistory::new(&options).identity().await.unwrap();
    for column in
        ["detected_by", "previous_id", "next_id", "log_partition", "log_offset", "connection", "filled_by", "filled_at"]
    {
        query(&options, &format!("ALTER TABLE {{db}}.gaps DROP COLUMN {column}"));
    }
    query(&options, "TRUNCATE TABLE {db}.schema_migrations");
    query(&options, "INSERT INTO {db}.schema_migrations (version) VALUES (1)");
    query(
        &options,
        r#"INSERT INTO {db}.gaps (gap_id, exchange, symbol, channel, first_missing, last_missing, state, detected_at,
           filled, attempts, reason, version, evidence)
           VALUES ('a', 'binance', 'BTCUSDT', 'trade', 5, 9, 'open', now64(6), 0, 0, '', 1,
           '{"by":"neighbour","previous":4,"next":null,"partition":0,"offset":77,"connection":8}')"#,
    );
    let history = ClickhouseHistory::new(&options);
    let gaps = history.gaps(&tapekeeper::history::GapFilter::default()).await.unwrap();
    assert_eq!((gaps.len(), gaps[0].evidence.previous, gaps[0].filled_at), (1, Some(4), None));
    let columns = "detected_by, previous_id, next_id, log_partition, log_offset, connection, filled_by, filled_at";
    let row = query(&options, &format!("SELECT {columns} FROM {{db}}.gaps FINAL"));
    assert_eq!(row, "neighbour\t4\t\\N\t0\t77\t8\t\t\\N");
}

#[tokio::test]
async fn dead_letters_and_runs_of_older_schemas_are_those_of_the_recorder_without_a_name() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    ClickhouseHistory::new(&options).identity().await.unwrap();
    for statement in [
        "DROP TABLE {db}.dead_letters SYNC",
        "CREATE TABLE {db}.dead_letters (
           id String ALIAS concat(toString(log_partition), ':', toString(log_offset)), log_partition Int32,
           log_offset Int64, received_at DateTime64(6, 'UTC'), stream LowCardinality(String), reason String,
           payload String
         ) ENGINE = ReplacingMergeTree ORDER BY (log_partition, log_offset)",
        "INSERT INTO {db}.dead_letters (log_partition, log_offset, received_at, stream, reason, payload) VALUES
           (0, 7, '2026-09-21 12:00:00.123456', 'binance:BTCUSDT', 'not JSON', 'x')",
        "ALTER TABLE {db}.job_runs DROP COLUMN recorder",
        "INSERT INTO {db}.job_runs (run_id, job, outcome) VALUES ('r', 'sweep', 'running')",
        "TRUNCATE TABLE {db}.schema_migrations",
        "INSERT INTO {db}.schema_migrations (version) VALUES (2)",
    ] {
        query(&options, statement);
    }
    let history = ClickhouseHistory::new(&options);
    let letters = history.dead_letters(Some(""), 9).await.unwrap();
    let uuid = "01a0c3d6-5a7b-7000-8000-000000000007";
    assert_eq!((letters.len(), letters[0].id.as_str(), letters[0].source.as_str()), (1, uuid, "log"));
    assert_eq!(history.runs(None, Some(""), 9).await.unwrap().len(), 1);
    // The same place in the log of a recorder with a name is another letter.
    let mut mine = DeadLetter { offset: 7, ..letters[0].clone() };
    mine.identify(&"north".into());
    history.insert(&Batch { dead_letters: vec![mine.clone()], ..Batch::default() }).await.unwrap();
    assert_eq!(history.dead_letter_count(None).await.unwrap(), 2);
    assert_eq!(history.dead_letters(Some("north"), 9).await.unwrap(), [mine]);
}

#[tokio::test]
async fn trades_of_older_schemas_are_those_of_the_first_numbering() {
    let Some(clickhouse) = Clickhouse::shared() else { return };
    let options = clickhouse.database();
    ClickhouseHistory::new(&options).identity().await.unwrap();
    for statement in [
        "DROP TABLE {db}.trades SYNC",
        "CREATE TABLE {db}.trades (
            exchange LowCardinality(String), symbol LowCardinality(String), trade_id UInt64,
            ts DateTime64(6, 'UTC'), received_at DateTime64(6, 'UTC'), price Decimal(38, 18), quantity Decimal(38, 18),
            side Enum8('buy' = 1, 'sell' = 2), is_backfilled UInt8, version UInt64
          ) ENGINE = ReplacingMergeTree(version) PARTITION BY toDate(ts) ORDER BY (exchange, symbol, trade_id)",
        "INSERT INTO {db}.trades SELECT 'binance', 'BTCUSDT', number, toDateTime64('2026-01-01', 6, 'UTC') +
            toIntervalHour(number), now64(6), 1.5, 2, 'buy', 0, 3 FROM numbers(500)",
        "TRUNCATE TABLE {db}.schema_migrations",
        "INSERT INTO {db}.schema_migrations (version) VALUES (3)",
    ] {
        query(&options, statement);
    }
    let history = ClickhouseHistory::new(&options);
    let rows = all_trades(&history, "BTCUSDT").await;
    assert!(rows.len() == 500 && rows.iter().all(|row| row.epoch == 0 && row.version == 3), "{}", rows.len());
    // A crash between two statements repeats all of them.
    query(&options, "TRUNCATE TABLE {db}.schema_migrations");
    query(&options, "INSERT INTO {db}.schema_migrations (version) VALUES (3)");
    assert_eq!(all_trades(&ClickhouseHistory::new(&options), "BTCUSDT").await, rows);
}
