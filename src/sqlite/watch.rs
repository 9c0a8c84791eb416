//! Notices that an open file lost its name, or that its content is damaged.
//!
//! SQLite writes to an open file also when somebody has removed or replaced it: the rows of such a commit disappear
//! with the process. So a writer asks before and after each commit, and a reader of the health asks once a second. It
//! asks with `stat` alone: opening and closing the file would drop the locks that SQLite holds on it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::Failure;
use super::failure::file_name;

/// The database, its write-ahead log and the log's index: one that is missing makes the others useless.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Watches the files of one open database. Clones share what they have noticed.
#[derive(Clone, Debug)]
pub struct FileWatch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Device and inode of each file, once it was seen.
    files: [Option<(u64, u64)>; SUFFIXES.len()],
    /// The first damage that a read or a write has found.
    damage: Option<String>,
    closed: bool,
}

impl FileWatch {
    /// Watches the database at `path`. The caller has opened it, and keeps it open until [`FileWatch::close`].
    pub fn new(path: &Path) -> Self {
        let watch = Self(Arc::new(Inner { path: path.to_owned(), state: Mutex::default() }));
        let mut state = watch.lock();
        for (known, suffix) in state.files.iter_mut().zip(SUFFIXES) {
            *known = fs::metadata(watch.file(suffix)).ok().map(|found| (found.dev(), found.ino()));
        }
        drop(state);
        watch
    }

    /// Fails with [`Failure::Lost`] when a file was removed, replaced or emptied since it was opened.
    pub fn check(&self) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.closed { Ok(()) } else { self.compare(&mut state) }
    }

    /// Prepares a connection that the caller is about to close. The last one to close removes the write-ahead log by its
    /// name; after a loss that name may belong to another database.
    pub fn before_close(&self, connection: &Connection) {
        if self.compare(&mut self.lock()).is_ok() {
            return;
        }
        if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            tracing::warn!("cannot keep the write-ahead log of {}: {error}", self.0.path.display());
        }
    }

    fn compare(&self, state: &mut State) -> Result<(), Failure> {
        for (known, suffix) in state.files.iter_mut().zip(SUFFIXES) {
            let path = self.file(suffix);
            let lost = |how: &str| Err(Failure::Lost(format!("{} {how} while open", file_name(&path))));
            match fs::metadata(&path) {
                Ok(found) => match known {
                    Some(known) if *known != (found.dev(), found.ino()) => return lost("was replaced"),
                    // Of the three, only the database is never empty.
                    Some(_) if suffix.is_empty() && found.len() == 0 => return lost("was emptied"),
                    Some(_) => {}
                    None => *known = Some((found.dev(), found.ino())),
                },
                Err(error) if error.kind() == ErrorKind::NotFound && known.is_some() => return lost("was removed"),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::Unavailable(format!("look at {}: {error}", path.display()))),
            }
        }
        Ok(())
    }

    /// Adds the file's name to a failure of SQLite, and remembers damage.
    pub fn note(&self, failure: Failure) -> Failure {
        let failure = failure.in_file(&self.0.path);
        if let Failure::Damaged(why) = &failure {
            self.lock().damage.get_or_insert_with(|| why.clone());
        }
        failure
    }

    /// What is wrong with the file now: the damage that was found, else what [`FileWatch::check`] says.
    pub fn trouble(&self) -> Option<Failure> {
        if let Some(why) = &self.lock().damage {
            return Some(Failure::Damaged(why.clone()));
        }
        self.check().err()
    }

    /// Ends the watch: SQLite removes the write-ahead log when the last connection closes.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    fn file(&self, suffix: &str) -> PathBuf {
        let mut path = self.0.path.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (Connection, FileWatch) {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        connection.execute_batch("CREATE TABLE IF NOT EXISTS a(x); INSERT INTO a VALUES (1)").unwrap();
        (connection, FileWatch::new(path))
    }

    fn why(watch: &FileWatch) -> String {
        watch.check().map_or_else(|failure| failure.to_string(), |()| "well".to_owned())
    }

    #[test]
    fn a_removed_replaced_or_emptied_file_is_noticed_and_one_that_comes_back_is_well() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("a.db"), directory.path().join("b.db"));
        let (_connection, watch) = open(&path);
        assert_eq!(why(&watch), "well");
        fs::rename(&path, &other).unwrap();
        assert!(why(&watch).contains("a.db was removed while open"), "{}", why(&watch));
        fs::write(&path, "other").unwrap();
        assert!(why(&watch).contains("a.db was replaced"), "{}", why(&watch));
        fs::rename(&other, &path).unwrap();
        assert_eq!(why(&watch), "well");
        fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert!(why(&watch).contains("a.db was emptied"), "{}", why(&watch));
        watch.close();
        assert_eq!(why(&watch), "well");
    }

    #[test]
    fn a_removed_write_ahead_log_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let (_connection, watch) = open(&path);
        fs::remove_file(directory.path().join("a.db-wal")).unwrap();
        assert!(why(&watch).contains("a.db-wal was removed"), "{}", why(&watch));
    }

    #[test]
    fn the_write_ahead_log_of_a_new_file_survives_the_close_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let (old, watch) = open(&path);
        for suffix in SUFFIXES {
            fs::remove_file(watch.file(suffix)).unwrap();
        }
        let (_new, _watch) = open(&path);
        watch.before_close(&old);
        drop(old);
        assert!(watch.file("-wal").exists());
    }

    #[test]
    fn damage_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let (_connection, watch) = open(&directory.path().join("a.db"));
        assert_eq!(watch.trouble(), None);
        watch.note(Failure::Unavailable("busy".to_owned()));
        assert_eq!(watch.trouble(), None);
        let damaged = watch.note(Failure::Damaged("malformed".to_owned()));
        assert!(damaged.to_string().contains("a.db is damaged: malformed"));
        assert_eq!(watch.trouble(), Some(damaged));
    }
}
