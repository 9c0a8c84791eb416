//! Sealed days in a directory of this machine.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio::time::Instant;

use super::place::{Created, IsUnfinished, Lock, Place, Spool, SpoolWriter};
use crate::atomic_file;

/// Longest wait for another recorder that seals the same day.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(600);
/// Time between two attempts to lock.
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// Manifests are small; a larger file is none.
const READ_BYTES_MAX: u64 = 256 << 20;

/// A directory; created when something is written to it.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The directory at this path.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

/// Whether a file is one that a writer has not finished.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".tmp")
}

#[async_trait]
impl Place for Directory {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    async fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.root.join(path);
        blocking(move || match fs::metadata(&path) {
            Ok(found) if found.len() > READ_BYTES_MAX => Err(io::ErrorKind::FileTooLarge.into()),
            Ok(_) => fs::read(&path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn size(&self, path: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.root.join(path)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn names(&self, directory: &str) -> io::Result<Vec<String>> {
        let directory = self.root.join(directory);
        blocking(move || names(&directory)).await
    }

    async fn lock(&self, directory: &str, is_unfinished: IsUnfinished<'_>) -> io::Result<Lock> {
        create_directories(&self.root, directory)?;
        let directory = self.root.join(directory);
        let file = File::open(&directory)?;
        let until = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => tokio::time::sleep(LOCK_RETRY).await,
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        // Nobody else writes here now, so what is unfinished was left by a process that was killed.
        let all = names(&directory)?;
        for name in all.iter().filter(|name| is_temporary(name) || is_unfinished(name, &all)) {
            fs::remove_file(directory.join(name))?;
        }
        Ok(Lock::of(file))
    }

    fn spool(&self, path: &str) -> io::Result<(SpoolWriter, Spool)> {
        let path = self.root.join(path);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        let path = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("open flags are small");
        let file = File::options().write(true).create_new(true).custom_flags(no_follow).open(&path)?;
        Ok((SpoolWriter::new(file), Spool::new(path)))
    }

    async fn create(&self, path: &str, content: File, spool: Spool) -> io::Result<Created> {
        let path = self.root.join(path);
        blocking(move || {
            content.sync_all()?;
            let created = rename_if_absent(spool.path(), &path)?;
            sync_parent(&path)?;
            Ok(created)
        })
        .await
    }

    async fn replace(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let (path, content) = (self.root.join(path), content.to_vec());
        blocking(move || {
            atomic_file::write(&path, &content).map_err(|error| {
                let kind = error.root_cause().downcast_ref::<io::Error>().map_or(io::ErrorKind::Other, io::Error::kind);
                io::Error::new(kind, error)
            })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Gives a file its name unless something has that name.
fn rename_if_absent(from: &Path, to: &Path) -> io::Result<Created> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Created::New),
        Err(Errno::EXIST) => Ok(Created::Exists),
        // A filesystem that cannot do that has hard links, which never replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::hard_link(from, to) {
            Ok(()) => fs::remove_file(from).map(|()| Created::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

/// A power cut may undo a new name until its directory is synced.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Creates a directory below `root` with every one above it, durably.
fn create_directories(root: &Path, directory: &str) -> io::Result<()> {
    let mut path = root.to_owned();
    if !path.is_dir() {
        fs::create_dir_all(&path)?;
        sync_parent(&path)?;
    }
    for part in directory.split('/') {
        path.push(part);
        match fs::create_dir(&path) {
            Ok(()) => sync_parent(&path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn create(place: &Directory, path: &str, text: &str) -> io::Result<Created> {
        let (mut writer, spool) = place.spool(path)?;
        writer.write_all(text.as_bytes())?;
        let content = writer.finish()?;
        assert_eq!(content.bytes, text.len() as u64);
        place.create(path, content.file, spool).await
    }

    #[tokio::test]
    async fn a_file_is_created_only_if_it_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::new(&directory.path().join("sealed"));
        assert_eq!(place.names("a/b").await.unwrap(), Vec::<String>::new());
        let lock = place.lock("a/b", &|_, _| false).await.unwrap();
        assert_eq!(create(&place, "a/b/one", "first").await.unwrap(), Created::New);
        assert_eq!(create(&place, "a/b/one", "second").await.unwrap(), Created::Exists);
        assert_eq!(place.read("a/b/one").await.unwrap().as_deref(), Some(&b"first"[..]));
        place.replace("a/b/current", b"1").await.unwrap();
        place.replace("a/b/current", b"2").await.unwrap();
        assert_eq!(place.read("a/b/current").await.unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(place.names("a/b").await.unwrap().len(), 2, "no temporary file is left");
        drop(lock);
    }

    #[tokio::test]
    async fn the_next_lock_removes_what_a_killed_writer_left() {
        let directory = tempfile::tempdir().unwrap();
        let place = Directory::new(directory.path());
        drop(place.lock("day", &|_, _| false).await.unwrap());
        for name in [".trades.r1.parquet.1.tmp", "current.json.tmp", "orphan", "kept"] {
            fs::write(directory.path().join("day").join(name), "x").unwrap();
        }
        let lock = place.lock("day", &|name, _| name == "orphan").await.unwrap();
        assert_eq!(place.names("day").await.unwrap(), ["kept"]);
        let second = tokio::time::timeout(Duration::from_millis(300), place.lock("day", &|_, _| false));
        assert!(second.await.is_err(), "the directory is locked");
        drop(lock);
        place.lock("day", &|_, _| false).await.unwrap();
    }
}
