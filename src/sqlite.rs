//! Opens SQLite files, migrates their schema, classifies SQLite's errors, and reads beside a writer. Must not know
//! about markets, logs or history.

mod failure;
mod readers;
mod watch;

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

pub use failure::Failure;
pub use readers::Readers;
pub use watch::FileWatch;

/// Other programs may read rows while this one writes: the longest wait for a lock that one of them holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite copies the write-ahead log into the file when it reaches this size. Bigger means fewer copies of a page that
/// changes often, smaller means less to read after a crash.
const CHECKPOINT_BYTES: u32 = 64 << 20;
/// The size to which SQLite truncates the write-ahead log after a burst.
const WAL_BYTES_MAX: u32 = 128 << 20;

/// A file's schema: how this program recognizes its file and how it migrates an older version.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The name for messages: "log".
    pub name: &'static str,
    /// Marks the file as this program's (`PRAGMA application_id`).
    pub application_id: i32,
    /// Step `n` migrates a file from version `n` to version `n + 1`; the first step creates the tables.
    pub steps: &'static [&'static str],
    /// Page size of a new file in bytes.
    pub page_bytes: u32,
}

impl Schema {
    /// The version this program reads and writes.
    pub fn version(&self) -> i64 {
        self.steps.len() as i64
    }

    /// Opens the file for writing; creates it or migrates it to the present version if needed.
    pub fn open(&self, path: &Path) -> Result<Connection, Failure> {
        let named = |error: Failure| error.in_file(path);
        let mut connection = Connection::open(path).map_err(|error| named(error.into()))?;
        self.prepare(&mut connection).map_err(named)?;
        Ok(connection)
    }

    fn prepare(&self, connection: &mut Connection) -> Result<(), Failure> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // Both take effect only before the first table exists.
        connection.pragma_update(None, "page_size", self.page_bytes)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        self.refuse_foreign_file(connection, version)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        // FULL syncs the write-ahead log at every commit: a commit survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_BYTES / self.page_bytes)?;
        connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_MAX, |_| Ok(()))?;
        connection.pragma_update(None, "cache_size", -65_536)?;
        connection.set_prepared_statement_cache_capacity(64);
        for (done, step) in self.steps.iter().enumerate().skip(version as usize) {
            let step_transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            step_transaction.execute_batch(step)?;
            step_transaction.pragma_update(None, "application_id", self.application_id)?;
            step_transaction.pragma_update(None, "user_version", done as i64 + 1)?;
            step_transaction.commit()?;
        }
        Ok(())
    }

    fn refuse_foreign_file(&self, connection: &Connection, version: i64) -> Result<(), Failure> {
        let application_id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 && application_id != self.application_id {
            return Err(Failure::Unusable(format!(
                "the file is not a tapekeeper {}: move it to another place or choose another data_dir",
                self.name
            )));
        }
        if version > self.version() || version < 0 {
            return Err(Failure::Unusable(format!(
                "the {} has schema version {version}, this program supports up to {}: run the newer tapekeeper",
                self.name,
                self.version()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Schema =
        Schema { name: "shelf", application_id: 7, steps: &["CREATE TABLE a(x) STRICT_"], page_bytes: 4096 };

    fn schema(steps: &'static [&'static str]) -> Schema {
        Schema { steps, ..ONE }
    }

    #[test]
    fn an_older_schema_is_migrated_and_a_newer_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let first = "CREATE TABLE a(x INTEGER) STRICT; INSERT INTO a VALUES (1);";
        let second = "ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 5;";
        let old: &'static [&'static str] = &["CREATE TABLE a(x INTEGER) STRICT; INSERT INTO a VALUES (1);"];
        drop(schema(old).open(&path).unwrap());
        let new: &'static [&'static str] = Box::leak(Box::new([first, second]));
        let connection = schema(new).open(&path).unwrap();
        let row = connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)));
        assert_eq!(row, Ok((1_i64, 5_i64)));
        drop(connection);
        let refusal = schema(old).open(&path).unwrap_err();
        assert!(matches!(&refusal, Failure::Unusable(text) if text.contains("version 2") && text.contains("to 1")));
    }

    #[test]
    fn a_failed_step_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        assert!(ONE.open(&path).is_err());
        drop(schema(&["CREATE TABLE a(x INTEGER) STRICT"]).open(&path).unwrap());
    }

    #[test]
    fn another_programs_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE other(x)").unwrap();
        assert!(matches!(ONE.open(&path), Err(Failure::Unusable(_))));
    }

    #[test]
    fn a_file_that_is_no_database_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        std::fs::write(&path, vec![7; 20_000]).unwrap();
        let refusal = ONE.open(&path).unwrap_err();
        assert!(matches!(&refusal, Failure::Damaged(text) if text.contains("a.db is damaged: ")), "{refusal}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_outage() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(ONE.open(directory.path()), Err(Failure::Unavailable(_))));
    }

    #[test]
    fn a_full_disk_is_unavailable_and_a_broken_constraint_refused() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE a(x BLOB CHECK (length(x) > 1)); PRAGMA max_page_count = 3").unwrap();
        let full = connection.execute("INSERT INTO a VALUES (zeroblob(100000))", []).unwrap_err();
        assert!(matches!(Failure::from(full), Failure::Unavailable(_)));
        let check = connection.execute("INSERT INTO a VALUES (zeroblob(1))", []).unwrap_err();
        assert!(matches!(Failure::from(check), Failure::Refused(_)));
    }
}
