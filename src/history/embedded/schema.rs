//! The tables of `history.db`, with the names and encodings of DESIGN.md section 5, "History".
//!
//! Times are microseconds since 1970 UTC, decimals are plain text, booleans are 0 and 1.

use rusqlite::{Connection, OptionalExtension};

use crate::sqlite::{Failure, Schema};

/// `history.db`.
pub(super) const SCHEMA: Schema = Schema {
    name: "history",
    // "TKhi"
    application_id: 0x544b_6869,
    steps: &[
        "CREATE TABLE identity(one INTEGER PRIMARY KEY CHECK (one = 1), uuid TEXT NOT NULL) STRICT;

         CREATE TABLE trades(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           trade_id INTEGER NOT NULL,
           ts INTEGER NOT NULL,
           received_at INTEGER NOT NULL,
           price TEXT NOT NULL,
           quantity TEXT NOT NULL,
           side TEXT NOT NULL,
           is_backfilled INTEGER NOT NULL,
           version INTEGER NOT NULL,
           PRIMARY KEY (exchange, symbol, trade_id)
         ) STRICT, WITHOUT ROWID;

         CREATE TABLE klines(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           interval TEXT NOT NULL,
           open_time INTEGER NOT NULL,
           close_time INTEGER NOT NULL,
           open TEXT NOT NULL,
           high TEXT NOT NULL,
           low TEXT NOT NULL,
           close TEXT NOT NULL,
           volume TEXT NOT NULL,
           quote_volume TEXT NOT NULL,
           trade_count INTEGER NOT NULL,
           first_trade_id INTEGER NOT NULL,
           last_trade_id INTEGER NOT NULL,
           is_backfilled INTEGER NOT NULL,
           version INTEGER NOT NULL,
           PRIMARY KEY (exchange, symbol, interval, open_time)
         ) STRICT, WITHOUT ROWID;

         CREATE TABLE gaps(
           gap_id TEXT PRIMARY KEY,
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           channel TEXT NOT NULL,
           first_missing INTEGER NOT NULL,
           last_missing INTEGER NOT NULL CHECK (last_missing >= first_missing),
           from_ts INTEGER,
           to_ts INTEGER,
           state TEXT NOT NULL,
           detected_at INTEGER NOT NULL,
           closed_at INTEGER,
           filled INTEGER NOT NULL,
           attempts INTEGER NOT NULL,
           reason TEXT NOT NULL,
           version INTEGER NOT NULL,
           evidence TEXT NOT NULL -- JSON
         ) STRICT, WITHOUT ROWID;
         CREATE INDEX gaps_by_time ON gaps(detected_at);
         CREATE INDEX gaps_open ON gaps(detected_at) WHERE closed_at IS NULL;

         CREATE TABLE dead_letters(
           id INTEGER PRIMARY KEY,
           log_partition INTEGER NOT NULL,
           log_offset INTEGER NOT NULL,
           received_at INTEGER NOT NULL,
           stream TEXT NOT NULL,
           reason TEXT NOT NULL,
           payload BLOB NOT NULL,
           UNIQUE (log_partition, log_offset)
         ) STRICT;

         CREATE TABLE job_runs(
           run_id TEXT PRIMARY KEY,
           job TEXT NOT NULL,
           trigger TEXT NOT NULL,
           scheduled_at INTEGER NOT NULL,
           started_at INTEGER,
           finished_at INTEGER,
           attempt INTEGER NOT NULL,
           outcome TEXT NOT NULL,
           reason TEXT NOT NULL,
           window_from INTEGER,
           window_to INTEGER,
           report TEXT NOT NULL -- JSON
         ) STRICT, WITHOUT ROWID;
         CREATE INDEX job_runs_by_time ON job_runs(scheduled_at);
         CREATE INDEX job_runs_by_job ON job_runs(job, scheduled_at);",
        // Columns for the fields of `evidence`, and for the source that filled a gap.
        "ALTER TABLE gaps ADD COLUMN detected_by TEXT NOT NULL DEFAULT '';
         ALTER TABLE gaps ADD COLUMN previous_id INTEGER;
         ALTER TABLE gaps ADD COLUMN next_id INTEGER;
         ALTER TABLE gaps ADD COLUMN log_partition INTEGER;
         ALTER TABLE gaps ADD COLUMN log_offset INTEGER;
         ALTER TABLE gaps ADD COLUMN connection INTEGER;
         ALTER TABLE gaps ADD COLUMN filled_by TEXT NOT NULL DEFAULT '';
         ALTER TABLE gaps ADD COLUMN filled_at INTEGER;
         UPDATE gaps SET detected_by = ifnull(evidence ->> '$.by', ''), previous_id = evidence ->> '$.previous',
           next_id = evidence ->> '$.next', log_partition = evidence ->> '$.partition',
           log_offset = evidence ->> '$.offset', connection = evidence ->> '$.connection';",
        // Several recorders may share a history: dead letters and runs name theirs. A dead letter gets a UUIDv7 as its id.
        // Those that came over REST had partition -1 and a position in place of an offset.
        "CREATE TABLE letters_of_recorders(
           id TEXT PRIMARY KEY,
           recorder TEXT NOT NULL,
           source TEXT NOT NULL CHECK (source IN ('log', 'rest')),
           log_partition INTEGER NOT NULL,
           log_offset INTEGER NOT NULL,
           received_at INTEGER NOT NULL,
           stream TEXT NOT NULL,
           reason TEXT NOT NULL,
           payload BLOB NOT NULL
         ) STRICT;
         INSERT INTO letters_of_recorders
           SELECT printf('%08x-%04x-7%03x-8%03x-%012x', (max(received_at, 0) / 1000) >> 16,
               (max(received_at, 0) / 1000) & 65535, (id >> 24) & 4095, (id >> 12) & 4095, id & 281474976710655),
             '', iif(log_partition < 0, 'rest', 'log'), log_partition, iif(log_partition < 0, -1, log_offset),
             received_at, stream, reason, payload
           FROM dead_letters
           WHERE log_partition >= 0 OR id IN (SELECT min(id) FROM dead_letters GROUP BY log_partition, stream, payload);
         DROP TABLE dead_letters;
         ALTER TABLE letters_of_recorders RENAME TO dead_letters;
         CREATE UNIQUE INDEX dead_letters_of_log ON dead_letters(recorder, log_partition, log_offset)
           WHERE source = 'log';
         CREATE UNIQUE INDEX dead_letters_of_rest ON dead_letters(recorder, stream, payload) WHERE source = 'rest';
         CREATE INDEX dead_letters_by_time ON dead_letters(received_at, log_partition, log_offset);
         ALTER TABLE job_runs ADD COLUMN recorder TEXT NOT NULL DEFAULT '';
         CREATE INDEX job_runs_by_recorder ON job_runs(recorder, job, scheduled_at);",
        // The numbering of a symbol's trades may begin again: its number becomes part of their key.
        "CREATE TABLE trades_of_epochs(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           epoch INTEGER NOT NULL,
           trade_id INTEGER NOT NULL,
           ts INTEGER NOT NULL,
           received_at INTEGER NOT NULL,
           price TEXT NOT NULL,
           quantity TEXT NOT NULL,
           side TEXT NOT NULL,
           is_backfilled INTEGER NOT NULL,
           version INTEGER NOT NULL,
           PRIMARY KEY (exchange, symbol, epoch, trade_id)
         ) STRICT, WITHOUT ROWID;
         INSERT INTO trades_of_epochs
           SELECT exchange, symbol, 0, trade_id, ts, received_at, price, quantity, side, is_backfilled, version
           FROM trades;
         DROP TABLE trades;
         ALTER TABLE trades_of_epochs RENAME TO trades;
         ALTER TABLE gaps ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
         CREATE TABLE epochs(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           epoch INTEGER NOT NULL CHECK (epoch > 0),
           first_id INTEGER NOT NULL,
           began_at INTEGER NOT NULL,
           reason TEXT NOT NULL,
           PRIMARY KEY (exchange, symbol, epoch)
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE conflicts(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           channel TEXT NOT NULL,
           epoch INTEGER NOT NULL,
           position INTEGER NOT NULL,
           stored TEXT NOT NULL, -- JSON
           arrived TEXT NOT NULL, -- JSON
           at INTEGER NOT NULL,
           verdict TEXT NOT NULL CHECK (verdict IN ('pending', 'stored', 'arrived')),
           PRIMARY KEY (exchange, symbol, channel, epoch, position, arrived)
         ) STRICT, WITHOUT ROWID;
         CREATE INDEX conflicts_by_time ON conflicts(at);
         CREATE INDEX conflicts_pending ON conflicts(at) WHERE verdict = 'pending';",
        // Aggregate trades. They have a numbering of their own, which may begin again too.
        "CREATE TABLE agg_trades(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           epoch INTEGER NOT NULL,
           agg_id INTEGER NOT NULL,
           ts INTEGER NOT NULL,
           received_at INTEGER NOT NULL,
           price TEXT NOT NULL,
           quantity TEXT NOT NULL,
           side TEXT NOT NULL,
           first_trade_id INTEGER NOT NULL,
           last_trade_id INTEGER NOT NULL,
           is_backfilled INTEGER NOT NULL,
           version INTEGER NOT NULL,
           PRIMARY KEY (exchange, symbol, epoch, agg_id)
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE epochs_of_channels(
           exchange TEXT NOT NULL,
           symbol TEXT NOT NULL,
           channel TEXT NOT NULL,
           epoch INTEGER NOT NULL CHECK (epoch > 0),
           first_id INTEGER NOT NULL,
           began_at INTEGER NOT NULL,
           reason TEXT NOT NULL,
           PRIMARY KEY (exchange, symbol, channel, epoch)
         ) STRICT, WITHOUT ROWID;
         INSERT INTO epochs_of_channels
           SELECT exchange, symbol, 'trade', epoch, first_id, began_at, reason FROM epochs;
         DROP TABLE epochs;
         ALTER TABLE epochs_of_channels RENAME TO epochs;",
    ],
    // A batch of many symbols changes a page of each one, so small pages write less (measured: a quarter less time).
    page_bytes: 4_096,
};

/// The UUID of the store; a new store gets one.
pub(super) fn identity(connection: &Connection) -> Result<String, Failure> {
    let select = || connection.query_row("SELECT uuid FROM identity", [], |row| row.get(0)).optional();
    if let Some(identity) = select()? {
        return Ok(identity);
    }
    // Two processes may run this at once: the row of the first one stays.
    let made = uuid::Uuid::new_v4().to_string();
    connection.execute("INSERT INTO identity(one, uuid) VALUES (1, ?1) ON CONFLICT DO NOTHING", [&made])?;
    Ok(select()?.unwrap_or(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_of_the_first_schema_is_migrated_with_its_gaps() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        let first = Schema { steps: &SCHEMA.steps[..1], ..SCHEMA };
        first
            .open(&path)
            .unwrap()
            .execute_batch(
                r#"INSERT INTO gaps VALUES ('a', 'binance', 'BTCUSDT', 'trade', 5, 9, NULL, NULL, 'filled', 1, 2, 5, 1,
                   '', 3, '{"by":"neighbour","previous":4,"next":10,"partition":0,"offset":77,"connection":8}')"#,
            )
            .unwrap();
        let upgraded = SCHEMA.open(&path).unwrap();
        let row: (String, i64, i64, i64, i64, i64, String, Option<i64>) = upgraded
            .query_row(
                "SELECT detected_by, previous_id, next_id, log_partition, log_offset, connection, filled_by, filled_at
                 FROM gaps",
                [],
                |row| {
                    Ok((
                        row.get(0)?,
                        row.get(1)?,
                        row.get(2)?,
                        row.get(3)?,
                        row.get(4)?,
                        row.get(5)?,
                        row.get(6)?,
                        row.get(7)?,
                    ))
                },
            )
            .unwrap();
        assert_eq!(row, ("neighbour".to_owned(), 4, 10, 0, 77, 8, String::new(), None));
        let gap = super::super::ledger::gaps(&upgraded, &crate::history::GapFilter::default(), None).unwrap().remove(0);
        assert_eq!((gap.range.first, gap.filled, gap.filled_by.as_str()), (5, 5, ""));
    }

    #[test]
    fn trades_of_older_schemas_are_those_of_the_first_numbering() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        let third = Schema { steps: &SCHEMA.steps[..3], ..SCHEMA };
        third
            .open(&path)
            .unwrap()
            .execute_batch(
                "INSERT INTO trades VALUES ('binance', 'BTCUSDT', 7, 1, 2, '1.5', '2', 'buy', 0, 3),
                   ('binance', 'BTCUSDT', 8, 3, 4, '1.5', '2', 'sell', 1, 2);",
            )
            .unwrap();
        let upgraded = SCHEMA.open(&path).unwrap();
        let rows: Vec<(i64, i64, i64)> = upgraded
            .prepare("SELECT epoch, trade_id, version FROM trades ORDER BY trade_id")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(rows, [(0, 7, 3), (0, 8, 2)]);
    }

    #[test]
    fn dead_letters_and_runs_of_older_schemas_are_those_of_the_recorder_without_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        let second = Schema { steps: &SCHEMA.steps[..2], ..SCHEMA };
        second
            .open(&path)
            .unwrap()
            .execute_batch(
                "INSERT INTO dead_letters(log_partition, log_offset, received_at, stream, reason, payload) VALUES
                   (0, 7, 1790000000123456, 'binance:BTCUSDT', 'not JSON', x'00ff'),
                   (0, 8, 1790000000123456, 'binance:BTCUSDT', 'not JSON', x'00ff'),
                   (-1, 5, 0, 'binance:BTCUSDT:trade', 'too large', x'01'),
                   (-1, 6, 0, 'binance:BTCUSDT:trade', 'too large', x'01');
                 INSERT INTO job_runs VALUES ('r', 'sweep', 'manual', 1, 1, NULL, 1, 'running', '', NULL, NULL, '');",
            )
            .unwrap();
        let upgraded = SCHEMA.open(&path).unwrap();
        let letters = super::super::runs::dead_letters(&upgraded, Some(""), 9).unwrap();
        let places: Vec<_> = letters.iter().map(|letter| (letter.source.as_str(), letter.offset)).collect();
        assert_eq!(places, [("log", 8), ("log", 7), ("rest", -1)], "a row over REST is one letter");
        let id: uuid::Uuid = letters[0].id.parse().unwrap();
        assert_eq!((id.get_version_num(), id.get_timestamp().unwrap().to_unix().0), (7, 1_790_000_000));
        assert_eq!(super::super::runs::runs(&upgraded, None, Some(""), 9).unwrap().len(), 1);
    }
}
