//! Reads a file beside its writer, on blocking threads; a read that nobody waits for any more ends.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, InterruptHandle, OpenFlags};
use tokio::sync::Semaphore;

use super::{BUSY_TIMEOUT, Failure, FileWatch};

/// Memory for pages of each read connection, in KiB. Pages are copied and not mapped: a file that somebody truncates
/// would end the process with SIGBUS.
const CACHE_KIB: i32 = 8_192;
/// Steps of SQLite's virtual machine between two looks at whether the caller is gone: less than a millisecond.
const STEPS: i32 = 10_000;

/// A small pool of read connections beside the writer, opened as needed.
#[derive(Clone, Debug)]
pub struct Readers {
    path: Arc<Path>,
    watch: FileWatch,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// At most `count` reads run at once. `watch` remembers the damage that a read finds.
    pub fn new(path: &Path, count: usize, watch: FileWatch) -> Self {
        Self { path: Arc::from(path), watch, idle: Arc::default(), permits: Arc::new(Semaphore::new(count)) }
    }

    /// Runs a read on a blocking thread and in one transaction, so that all its queries see one state. When the caller
    /// drops the future, the read ends within milliseconds: a read that stays prevents the reuse of the write-ahead
    /// log, and takes the place of another.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let closed = || Failure::Unavailable(format!("{} is closed", self.path.display()));
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        let cancel = Arc::new(Cancel::default());
        let _interrupts = InterruptOnDrop(cancel.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let answer = readers.run(&cancel, read);
            drop(permit);
            answer
        });
        match reading.await {
            Ok(answer) => answer.map_err(|failure| self.watch.note(failure)),
            Err(_) => Err(Failure::Unavailable(format!("a read of {} was aborted", self.path.display()))),
        }
    }

    fn run<T>(
        &self,
        cancel: &Arc<Cancel>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        let idle = self.lock_idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                // A path that names another file now must not mix its rows with ours.
                self.watch.check()?;
                open_reader(&self.path)?
            }
        };
        // The handle ends one long step, for example a count of a whole table. The look between steps covers the time
        // between two statements, when the handle does nothing.
        cancel.begin(connection.get_interrupt_handle());
        let dropped = cancel.clone();
        connection.progress_handler(STEPS, Some(move || dropped.is_dropped()))?;
        let transaction = connection.unchecked_transaction()?;
        let answer = read(&transaction);
        cancel.end();
        let answer = answer?;
        transaction.finish()?;
        // A connection on which anything failed does not return to the pool.
        if !self.permits.is_closed() {
            self.lock_idle().push(connection);
        }
        Ok(answer)
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

    /// Looks for pages that SQLite cannot read: the first problem is [`Failure::Damaged`]. It reads the whole file, so
    /// a caller limits its time.
    pub async fn find_damage(&self) -> Result<(), Failure> {
        let check =
            |connection: &Connection| connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
        let found = self.read(check).await?;
        if found == "ok" { Ok(()) } else { Err(self.watch.note(Failure::Damaged(found))) }
    }

    /// Makes later reads fail; closes each connection as soon as no read uses it.
    pub fn close(&self) {
        self.permits.close();
        self.lock_idle().clear();
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller that is gone and its read share.
#[derive(Default)]
struct Cancel {
    dropped: AtomicBool,
    /// The read that runs now. An interrupt must never hit the next read of the connection.
    running: Mutex<Option<InterruptHandle>>,
}

impl Cancel {
    fn begin(&self, handle: InterruptHandle) {
        *self.lock() = Some(handle);
    }

    fn end(&self) {
        self.lock().take();
    }

    fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<InterruptHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Interrupts the read when the caller's future ends before it.
struct InterruptOnDrop(Arc<Cancel>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::Relaxed);
        if let Some(handle) = self.0.lock().take() {
            handle.interrupt();
        }
    }
}

fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn readers(directory: &Path, rows: u32) -> (Connection, Readers) {
        let path = directory.join("a.db");
        let writer = Connection::open(&path).unwrap();
        writer.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        let fill = format!(
            "CREATE TABLE a(x INTEGER PRIMARY KEY, y BLOB);
             WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {rows})
             INSERT INTO a SELECT x, zeroblob(64) FROM n;"
        );
        writer.execute_batch(&fill).unwrap();
        let watch = FileWatch::new(&path);
        (writer, Readers::new(&path, 1, watch))
    }

    /// Drops a read as soon as it runs, and returns how long the next one waits for its place.
    async fn wait_behind(readers: &Readers, endless: &'static str) -> Duration {
        let (started, running) = tokio::sync::oneshot::channel();
        let long = readers.read(move |connection| {
            started.send(()).ok();
            connection.query_row(endless, [], |row| row.get::<_, i64>(0))
        });
        tokio::select! {
            answer = long => panic!("the read ended by itself: {answer:?}"),
            begun = running => begun.unwrap(),
        }
        let dropped = Instant::now();
        let next = readers.read(|connection| connection.query_row("SELECT max(x) FROM a", [], |row| row.get(0)));
        assert_eq!(next.await, Ok(100_i64));
        dropped.elapsed()
    }

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_is_interrupted_and_the_next_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (_writer, readers) = readers(directory.path(), 100);
        // Without an interrupt it takes hours.
        let join = "SELECT count(*) FROM a a1, a a2, a a3, a a4, a a5, a a6 WHERE a1.x + a6.x < 0";
        for _ in 0..3 {
            let waited = wait_behind(&readers, join).await;
            assert!(waited < Duration::from_secs(10), "{waited:?}");
        }
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_before_it_begins_ends_too() {
        let directory = tempfile::tempdir().unwrap();
        let (_writer, readers) = readers(directory.path(), 100);
        let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT count(*) FROM n";
        for _ in 0..20 {
            let read = readers.read(|connection| connection.query_row(endless, [], |row| row.get::<_, i64>(0)));
            tokio::time::timeout(Duration::ZERO, read).await.unwrap_err();
        }
        let next = readers.read(|connection| connection.query_row("SELECT max(x) FROM a", [], |row| row.get(0)));
        assert_eq!(tokio::time::timeout(Duration::from_secs(30), next).await.unwrap(), Ok(100_i64));
    }

    #[tokio::test]
    async fn a_damaged_page_is_found_and_remembered() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::tempdir().unwrap();
        let (writer, readers) = readers(directory.path(), 5_000);
        assert_eq!(readers.find_damage().await, Ok(()));
        writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(writer);
        // Connections that are idle keep their pages.
        readers.lock_idle().clear();
        let path = directory.path().join("a.db");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let middle = file.metadata().unwrap().len() / 2 / 4_096 * 4_096;
        file.write_all_at(&[0xa5; 4_096], middle).unwrap();
        let damaged = readers.find_damage().await.unwrap_err();
        assert!(matches!(&damaged, Failure::Damaged(text) if text.contains("a.db is damaged: ")), "{damaged}");
        assert_eq!(readers.watch.trouble(), Some(damaged));
        let read =
            readers.read(|connection| connection.query_row("SELECT sum(length(y)) FROM a", [], |row| row.get(0)));
        let read: Result<i64, _> = read.await;
        assert!(matches!(read, Err(Failure::Damaged(_))), "{read:?}");
    }
}
