//! Opens SQLite files, migrates their schema, classifies SQLite's errors, and reads beside a writer. Must not know
//! about markets, logs or history.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;

/// Other programs may read rows while this one writes: the longest wait for a lock that one of them holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite copies the write-ahead log into the file when it reaches this size. Bigger means fewer copies of a page that
/// changes often, smaller means less to read after a crash.
const CHECKPOINT_BYTES: u32 = 64 << 20;
/// The size to which SQLite truncates the write-ahead log after a burst.
const WAL_BYTES_MAX: u32 = 128 << 20;
/// Readers map this many bytes of the file instead of copying pages.
const READ_MMAP_BYTES: u32 = 256 << 20;

/// An error of SQLite, classified by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// A full disk, a busy file or an I/O error: a retry may work.
    #[error("{0}")]
    Unavailable(String),
    /// SQLite cannot store these rows as they are.
    #[error("{0}")]
    Refused(String),
    /// A damaged file, another program's file, another schema, or no permission: a person must act.
    #[error("{0}")]
    Unusable(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::OperationAborted
                | ErrorCode::FileLockingProtocolFailed => Self::Unavailable(text),
                ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Self::Refused(text),
                _ => Self::Unusable(text),
            },
            rusqlite::Error::ToSqlConversionFailure(_) => Self::Refused(text),
            _ => Self::Unusable(text),
        }
    }
}

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
        let named = |error: Failure| in_file(path, error);
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

/// A small pool of read connections beside the writer, opened as needed.
#[derive(Clone, Debug)]
pub struct Readers {
    path: Arc<Path>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// At most `count` reads run at once.
    pub fn new(path: &Path, count: usize) -> Self {
        Self { path: Arc::from(path), idle: Arc::default(), permits: Arc::new(Semaphore::new(count)) }
    }

    /// Runs a read on a blocking thread and in one transaction, so that all its queries see one state. The read runs to
    /// its end also when the caller drops the future.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let closed = || Failure::Unavailable(format!("{} is closed", self.path.display()));
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let connection = match readers.lock_idle().pop() {
                Some(connection) => connection,
                // The writer has the file open, so a failure here (no file descriptor left) is temporary.
                None => open_reader(&readers.path).map_err(|error| Failure::Unavailable(error.to_string()))?,
            };
            let transaction = connection.unchecked_transaction()?;
            let answer = read(&transaction)?;
            transaction.finish()?;
            // A connection on which anything failed does not return to the pool.
            if !readers.permits.is_closed() {
                readers.lock_idle().push(connection);
            }
            drop(permit);
            Ok(answer)
        });
        match reading.await {
            Ok(answer) => answer.map_err(|error| in_file(&self.path, error)),
            Err(_) => Err(Failure::Unavailable(format!("a read of {} was aborted", self.path.display()))),
        }
    }

    /// Bytes of the file and its write-ahead log on disk.
    pub fn bytes_on_disk(&self) -> u64 {
        let mut wal = self.path.as_os_str().to_owned();
        wal.push("-wal");
        [self.path.to_path_buf(), PathBuf::from(wal)]
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Makes later reads fail; closes each connection as soon as no read uses it.
    pub fn close(&self) {
        self.permits.close();
        self.lock_idle().clear();
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "mmap_size", READ_MMAP_BYTES, |_| Ok(()))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn in_file(path: &Path, error: Failure) -> Failure {
    let named = |text: String| format!("{}: {text}", path.display());
    match error {
        Failure::Unavailable(text) => Failure::Unavailable(named(text)),
        Failure::Refused(text) => Failure::Refused(named(text)),
        Failure::Unusable(text) => Failure::Unusable(named(text)),
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
        std::fs::write(&path, vec![7; 20_000]).unwrap();
        assert!(matches!(ONE.open(&path), Err(Failure::Unusable(_))));
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
