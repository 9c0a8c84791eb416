//! Creates and migrates the tables of DESIGN.md section 5 in ClickHouse, in numbered steps.
//!
//! Every statement is idempotent, and another recorder may run it at the same time.

use super::encode;
use super::server::{Server, quote};
use crate::history::HistoryError;

/// The settings of all tables: an insert is on disk when the server responds. These are off by default, and an insert
/// cannot turn them on, because they are settings of the table.
const DURABLE: &str = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";
/// The number of insert tokens that the server remembers: more than are in flight at any time.
const WINDOW: &str = "non_replicated_deduplication_window = 1000";
/// The oldest server that supports these tables and settings.
const OLDEST_SERVER: (u32, u32) = (24, 8);
/// The schema version of this program.
pub(super) const VERSION: u32 = 5;

/// The statements of each migration; step n creates schema version n. `{db}` is the quoted database.
const STEPS: [&[&str]; VERSION as usize] = [FIRST, EVIDENCE, RECORDERS, EPOCHS, AGG_TRADES];

/// Columns for the fields of `evidence` (also of older rows), and for the source that filled a gap.
const EVIDENCE: &[&str] = &["ALTER TABLE {db}.gaps
     ADD COLUMN IF NOT EXISTS detected_by String DEFAULT JSONExtractString(evidence, 'by'),
     ADD COLUMN IF NOT EXISTS previous_id Nullable(Int64) DEFAULT JSONExtract(evidence, 'previous', 'Nullable(Int64)'),
     ADD COLUMN IF NOT EXISTS next_id Nullable(Int64) DEFAULT JSONExtract(evidence, 'next', 'Nullable(Int64)'),
     ADD COLUMN IF NOT EXISTS log_partition Nullable(Int32) DEFAULT JSONExtract(evidence, 'partition', 'Nullable(Int32)'),
     ADD COLUMN IF NOT EXISTS log_offset Nullable(Int64) DEFAULT JSONExtract(evidence, 'offset', 'Nullable(Int64)'),
     ADD COLUMN IF NOT EXISTS connection Nullable(Int64) DEFAULT JSONExtract(evidence, 'connection', 'Nullable(Int64)'),
     ADD COLUMN IF NOT EXISTS filled_by String,
     ADD COLUMN IF NOT EXISTS filled_at Nullable(DateTime64(6, 'UTC'))"];

/// Several recorders may share a history: dead letters and runs name theirs. `content` tells two letters over REST apart,
/// whose partition and offset are -1; it is part of the key, so it has no default. A letter's id was made of partition
/// and offset; those of older letters become UUIDv7s of their time and place.
const RECORDERS: &[&str] = &[
    "ALTER TABLE {db}.dead_letters
     ADD COLUMN IF NOT EXISTS recorder String,
     ADD COLUMN IF NOT EXISTS content UInt64,
     ADD COLUMN IF NOT EXISTS source LowCardinality(String) DEFAULT if(log_partition < 0, 'rest', 'log'),
     MODIFY ORDER BY (log_partition, log_offset, recorder, content)",
    "ALTER TABLE {db}.dead_letters MODIFY COLUMN id String DEFAULT lower(concat(
       substring(leftPad(hex(greatest(toUnixTimestamp64Milli(received_at), 0)), 16, '0'), 5, 8), '-',
       substring(leftPad(hex(greatest(toUnixTimestamp64Milli(received_at), 0)), 16, '0'), 13, 4), '-7',
       substring(leftPad(hex(log_partition), 8, '0'), 6, 3), '-8',
       substring(leftPad(hex(log_offset), 16, '0'), 2, 3), '-',
       substring(leftPad(hex(log_offset), 16, '0'), 5, 12)))",
    "ALTER TABLE {db}.job_runs ADD COLUMN IF NOT EXISTS recorder String",
];

/// The numbering of a symbol's trades may begin again: its number becomes part of their key. A key cannot change, so the
/// rows move to a new table. Each statement may be repeated after a crash.
const EPOCHS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS {db}.trades_of_epochs (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       epoch UInt32 CODEC(Delta, ZSTD(1)),
       trade_id UInt64 CODEC(Delta, ZSTD(1)),
       ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       received_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       price Decimal(38, 18) CODEC(ZSTD(1)),
       quantity Decimal(38, 18) CODEC(ZSTD(1)),
       side Enum8('buy' = 1, 'sell' = 2),
       is_backfilled UInt8,
       version UInt64 CODEC(Delta, ZSTD(1))
     ) ENGINE = ReplacingMergeTree(version) PARTITION BY toDate(ts) ORDER BY (exchange, symbol, epoch, trade_id)
     {durable}, {window}",
    "INSERT INTO {db}.trades_of_epochs
       (exchange, symbol, epoch, trade_id, ts, received_at, price, quantity, side, is_backfilled, version)
     SELECT exchange, symbol, 0, trade_id, ts, received_at, price, quantity, side, is_backfilled, version FROM {db}.trades
     SETTINGS max_partitions_per_insert_block = 0",
    "DROP TABLE IF EXISTS {db}.trades_without_epochs SYNC",
    "RENAME TABLE {db}.trades TO {db}.trades_without_epochs, {db}.trades_of_epochs TO {db}.trades",
    "DROP TABLE {db}.trades_without_epochs SYNC",
    "ALTER TABLE {db}.gaps ADD COLUMN IF NOT EXISTS epoch UInt32",
    "CREATE TABLE IF NOT EXISTS {db}.epochs (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       epoch UInt32,
       first_id UInt64,
       began_at DateTime64(6, 'UTC'),
       reason String
     ) ENGINE = ReplacingMergeTree ORDER BY (exchange, symbol, epoch) {durable}, {window}",
    "CREATE TABLE IF NOT EXISTS {db}.conflicts (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       channel LowCardinality(String),
       epoch UInt32,
       position Int64,
       stored String COMMENT 'JSON',
       arrived String COMMENT 'JSON',
       at DateTime64(6, 'UTC'),
       verdict LowCardinality(String),
       decided UInt8 DEFAULT verdict != 'pending'
     ) ENGINE = ReplacingMergeTree(decided) ORDER BY (exchange, symbol, channel, epoch, position, arrived)
     {durable}, {window}",
];

/// Aggregate trades have a numbering of their own, which may begin again too: an epoch names its channel.
const AGG_TRADES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS {db}.agg_trades (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       epoch UInt32 CODEC(Delta, ZSTD(1)),
       agg_id UInt64 CODEC(Delta, ZSTD(1)),
       ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       received_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       price Decimal(38, 18) CODEC(ZSTD(1)),
       quantity Decimal(38, 18) CODEC(ZSTD(1)),
       side Enum8('buy' = 1, 'sell' = 2),
       is_backfilled UInt8,
       version UInt64 CODEC(Delta, ZSTD(1)),
       first_trade_id Int64 CODEC(Delta, ZSTD(1)),
       last_trade_id Int64 CODEC(Delta, ZSTD(1))
     ) ENGINE = ReplacingMergeTree(version) PARTITION BY toDate(ts) ORDER BY (exchange, symbol, epoch, agg_id)
     {durable}, {window}",
    "CREATE TABLE IF NOT EXISTS {db}.epochs_of_channels (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       channel LowCardinality(String),
       epoch UInt32,
       first_id UInt64,
       began_at DateTime64(6, 'UTC'),
       reason String
     ) ENGINE = ReplacingMergeTree ORDER BY (exchange, symbol, channel, epoch) {durable}, {window}",
    // After a crash that followed the renaming, `epochs` is the new table, and this copies it onto itself.
    "INSERT INTO {db}.epochs_of_channels (exchange, symbol, channel, epoch, first_id, began_at, reason)
     SELECT exchange, symbol, 'trade', epoch, first_id, began_at, reason FROM {db}.epochs",
    "DROP TABLE IF EXISTS {db}.epochs_without_channels SYNC",
    "RENAME TABLE {db}.epochs TO {db}.epochs_without_channels, {db}.epochs_of_channels TO {db}.epochs",
    "DROP TABLE {db}.epochs_without_channels SYNC",
];

const FIRST: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS {db}.identity (
       uuid String
     ) ENGINE = MergeTree ORDER BY uuid {durable}, {window}",
    "CREATE TABLE IF NOT EXISTS {db}.trades (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       trade_id UInt64 CODEC(Delta, ZSTD(1)),
       ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       received_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       price Decimal(38, 18) CODEC(ZSTD(1)),
       quantity Decimal(38, 18) CODEC(ZSTD(1)),
       side Enum8('buy' = 1, 'sell' = 2),
       is_backfilled UInt8,
       version UInt64 CODEC(Delta, ZSTD(1))
     ) ENGINE = ReplacingMergeTree(version) PARTITION BY toDate(ts) ORDER BY (exchange, symbol, trade_id) {durable}, {window}",
    "CREATE TABLE IF NOT EXISTS {db}.klines (
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       interval LowCardinality(String),
       open_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       close_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
       open Decimal(38, 18) CODEC(ZSTD(1)),
       high Decimal(38, 18) CODEC(ZSTD(1)),
       low Decimal(38, 18) CODEC(ZSTD(1)),
       close Decimal(38, 18) CODEC(ZSTD(1)),
       volume Decimal(38, 18) CODEC(ZSTD(1)),
       quote_volume Decimal(38, 18) CODEC(ZSTD(1)),
       trade_count UInt64 CODEC(ZSTD(1)),
       first_trade_id Int64 CODEC(Delta, ZSTD(1)),
       last_trade_id Int64 CODEC(Delta, ZSTD(1)),
       is_backfilled UInt8,
       version UInt64 CODEC(Delta, ZSTD(1))
     ) ENGINE = ReplacingMergeTree(version) PARTITION BY toDate(open_time)
       ORDER BY (exchange, symbol, interval, open_time) {durable}, {window}",
    "CREATE TABLE IF NOT EXISTS {db}.gaps (
       gap_id String,
       exchange LowCardinality(String),
       symbol LowCardinality(String),
       channel LowCardinality(String),
       first_missing Int64,
       last_missing Int64,
       from_ts Nullable(DateTime64(6, 'UTC')),
       to_ts Nullable(DateTime64(6, 'UTC')),
       state LowCardinality(String),
       detected_at DateTime64(6, 'UTC'),
       closed_at Nullable(DateTime64(6, 'UTC')),
       filled Int64,
       attempts Int64,
       reason String,
       version UInt64,
       evidence String COMMENT 'JSON'
     ) ENGINE = ReplacingMergeTree(version) ORDER BY gap_id {durable}, {window}",
    // No version: after the log was recreated, the newer frame at an offset replaces the older one.
    "CREATE TABLE IF NOT EXISTS {db}.dead_letters (
       id String ALIAS concat(toString(log_partition), ':', toString(log_offset)),
       log_partition Int32,
       log_offset Int64,
       received_at DateTime64(6, 'UTC'),
       stream LowCardinality(String),
       reason String,
       payload String
     ) ENGINE = ReplacingMergeTree ORDER BY (log_partition, log_offset) {durable}, {window}",
    // No version: the last write of a run replaces the earlier ones.
    "CREATE TABLE IF NOT EXISTS {db}.job_runs (
       run_id String,
       job LowCardinality(String),
       trigger LowCardinality(String),
       scheduled_at DateTime64(6, 'UTC'),
       started_at Nullable(DateTime64(6, 'UTC')),
       finished_at Nullable(DateTime64(6, 'UTC')),
       attempt Int64,
       outcome LowCardinality(String),
       reason String,
       window_from Nullable(DateTime64(6, 'UTC')),
       window_to Nullable(DateTime64(6, 'UTC')),
       report String COMMENT 'JSON'
     ) ENGINE = ReplacingMergeTree ORDER BY run_id {durable}",
];

/// Returns the version of the server, and a line for each thing that [`prepare`] would create.
pub(super) async fn inspect(server: &Server) -> Result<(String, Vec<String>), HistoryError> {
    let text: String = server.one("SELECT version()").await?;
    refuse_older(&text)?;
    let database = quote(server.plain_database());
    let known = format!(
        "SELECT countIf(name = 'schema_migrations') + count() * 2 FROM system.tables WHERE database = {database}"
    );
    let tables: u64 = server.one(&known).await?;
    let missing = match tables {
        0 => vec![format!("{} has no tables: the first start creates them", server.name())],
        found if found % 2 == 0 => {
            vec![format!("{} has only foreign tables: the first start creates ours", server.name())]
        }
        _ => {
            let found: u32 =
                server.one(&format!("SELECT max(version) FROM {}.schema_migrations", server.database)).await?;
            refuse_newer(server, found)?;
            if found == VERSION {
                refuse_changed(server).await?;
            }
            let outdated =
                format!("{} has schema version {found}: the next start migrates it to {VERSION}", server.name());
            if found < VERSION { vec![outdated] } else { Vec::new() }
        }
    };
    Ok((format!("ClickHouse {text}"), missing))
}

/// Fails when a table or column that the recorder writes was dropped, renamed or got another type.
async fn refuse_changed(server: &Server) -> Result<(), HistoryError> {
    let sql = format!(
        "SELECT table, name, type FROM system.columns WHERE database = {} ORDER BY table, name",
        quote(server.plain_database())
    );
    let found: Vec<(String, String, String)> = server.rows(&sql).await?;
    let plain = |type_name: &str| type_name.replace(' ', "");
    let mut problems = Vec::new();
    for (table, columns) in encode::TABLES {
        if !found.iter().any(|(of, ..)| of == table) {
            problems.push(format!("table {table} is missing"));
            continue;
        }
        for (name, type_name) in *columns {
            match found.iter().find(|(of, column, _)| of == table && column == name) {
                None => problems.push(format!("column {name} of table {table} is missing")),
                Some((.., other)) if plain(other) != plain(type_name) => {
                    problems.push(format!("column {name} of table {table} is {other} in place of {type_name}"));
                }
                Some(_) => {}
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(HistoryError::Unavailable(format!("{}: {}", server.name(), problems.join("; "))))
}

/// Whether the tables exist.
pub(super) async fn exists(server: &Server) -> Result<bool, HistoryError> {
    let database = quote(server.plain_database());
    let sql = format!("SELECT count() FROM system.tables WHERE database = {database} AND name = 'schema_migrations'");
    Ok(server.one::<u64>(&sql).await? > 0)
}

/// Refuses a schema that is newer than this program.
fn refuse_newer(server: &Server, found: u32) -> Result<(), HistoryError> {
    if found > VERSION {
        return Err(HistoryError::Schema(format!(
            "{} has schema version {found}, this program knows up to {VERSION}: use a newer tapekeeper",
            server.name()
        )));
    }
    Ok(())
}

/// Refuses an unsupported server or schema, creates and migrates the tables, and returns the identity of the store.
pub(super) async fn prepare(server: &Server) -> Result<String, HistoryError> {
    let text: String = server.one("SELECT version()").await?;
    refuse_older(&text)?;
    let db = &server.database;
    server.command(&format!("CREATE DATABASE IF NOT EXISTS {db}")).await?;
    server
        .command(&format!(
            "CREATE TABLE IF NOT EXISTS {db}.schema_migrations (
               version UInt32,
               applied_at DateTime64(6, 'UTC') DEFAULT now64(6)
             ) ENGINE = ReplacingMergeTree ORDER BY version {DURABLE}"
        ))
        .await?;
    let found: u32 = server.one(&format!("SELECT max(version) FROM {db}.schema_migrations")).await?;
    refuse_newer(server, found)?;
    for (number, statements) in (1..).zip(STEPS) {
        if number <= found {
            continue;
        }
        for statement in statements {
            server
                .migrate(&statement.replace("{db}", db).replace("{durable}", DURABLE).replace("{window}", WINDOW))
                .await?;
        }
        server.command(&format!("INSERT INTO {db}.schema_migrations (version) VALUES ({number})")).await?;
    }
    let reached: u32 = server.one(&format!("SELECT max(version) FROM {db}.schema_migrations")).await?;
    if reached < VERSION {
        // Something answered the statements in place of the server.
        let name = server.name();
        return Err(HistoryError::Unavailable(format!("{name} has schema version {reached} after its migration")));
    }
    identity(server).await
}

/// The UUID of the store; a new store gets one.
async fn identity(server: &Server) -> Result<String, HistoryError> {
    let db = &server.database;
    let select = format!("SELECT min(uuid) FROM {db}.identity");
    let found: String = server.one(&select).await?;
    if !found.is_empty() {
        return Ok(found);
    }
    // Two recorders may run this at once: both use one token, so the server keeps only the first row.
    let made = uuid::Uuid::new_v4();
    server
        .command(&format!(
            "INSERT INTO {db}.identity (uuid) SETTINGS async_insert = 0, insert_deduplicate = 1,
               insert_deduplication_token = 'identity'
             VALUES ('{made}')"
        ))
        .await?;
    server.one(&select).await
}

fn refuse_older(version: &str) -> Result<(), HistoryError> {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(HistoryError::Schema(format!("cannot parse the server's version {version:?}")));
    };
    if (major, minor) < OLDEST_SERVER {
        let (major, minor) = OLDEST_SERVER;
        return Err(HistoryError::Schema(format!(
            "the server is ClickHouse {version}: {major}.{minor} or newer is needed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_server_is_refused() {
        for version in ["24.8.1.2684", "24.10.1.1", "26.9.2.1", "25.1"] {
            assert!(refuse_older(version).is_ok(), "{version}");
        }
        for version in ["23.8.16.16", "24.7.9.1", "18.16.1", "soon"] {
            let refusal = refuse_older(version).unwrap_err();
            assert!(matches!(&refusal, HistoryError::Schema(text) if text.contains(version)), "{refusal}");
        }
        assert!(refuse_older("23.8.1").unwrap_err().to_string().contains("24.8"));
    }
}
