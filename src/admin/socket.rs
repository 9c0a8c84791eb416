//! The unix socket for the command line: who may open the file may change things.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tracing::warn;

/// The owner and the group; as systemd's UMask of 0027 would not let it.
const MODE: u32 = 0o660;

/// A listening socket whose file is removed when it ends.
pub struct AdminSocket {
    /// Accepts.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode: another process' socket at the same path is not ours to remove.
    identity: (u64, u64),
}

impl AdminSocket {
    /// Listens at `path`. The file of a process that is gone is replaced, one that somebody serves is not.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let directory = lock_directory(path)?;
        if let Ok(found) = fs::symlink_metadata(path) {
            check_stale(path, &found)?;
        }
        // Made under another name: at no time does anybody find it with more permissions than meant, or not listening.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        remove(&fresh).context("remove what an earlier start left")?;
        let listener = UnixListener::bind(&fresh).with_context(|| format!("listen on {}", fresh.display()))?;
        let placed = fs::set_permissions(&fresh, Permissions::from_mode(MODE)).and_then(|()| fs::rename(&fresh, path));
        if let Err(error) = placed {
            remove(&fresh).context("remove the socket that cannot be put in place")?;
            return Err(error).with_context(|| format!("put the socket at {}", path.display()));
        }
        let found = fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
        drop(directory);
        Ok(Self { listener, path: path.to_owned(), identity: (found.dev(), found.ino()) })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let removed = lock_directory(&self.path).and_then(|_directory| match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(remove(&self.path)?),
            _ => Ok(()),
        });
        if let Err(error) = removed {
            warn!("cannot remove {}: {error:#}", self.path.display());
        }
    }
}

/// Holds the directory while this lives: of two processes that find the same left-over file, the second one must not
/// remove what the first one has put there. Never waited for: whoever may read the directory may hold it.
fn lock_directory(path: &Path) -> anyhow::Result<File> {
    let directory = path.parent().with_context(|| format!("{} is in no directory", path.display()))?;
    let held = File::open(directory).with_context(|| format!("open the directory {}", directory.display()))?;
    let lock = flock(&held, FlockOperation::NonBlockingLockExclusive);
    lock.with_context(|| format!("hold {} while the socket is put there", directory.display()))?;
    Ok(held)
}

/// An error unless it is a socket that nobody serves.
fn check_stale(path: &Path, found: &fs::Metadata) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !found.file_type().is_socket() {
        bail!("{} is there and is no socket: remove it, or name another path", path.display());
    }
    match UnixStream::connect(path) {
        Ok(_somebody) => bail!("another process serves {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).with_context(|| format!("see who serves {}", path.display())),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_over_file_is_replaced_and_a_served_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        // A killed process closes its listener and removes no file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = AdminSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = AdminSocket::bind(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("another process serves"), "{refused:#}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn who_holds_the_directory_makes_nobody_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let held = lock_directory(&path).unwrap();
        let refused = AdminSocket::bind(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("hold"), "{refused:#}");
        drop(held);
        AdminSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn only_ones_own_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = AdminSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = AdminSocket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_and_a_directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        fs::write(&path, "mine").unwrap();
        let refused = AdminSocket::bind(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("is no socket"), "{refused:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let refused = AdminSocket::bind(&directory.path().join("none/admin.sock")).err().unwrap();
        assert!(format!("{refused:#}").contains("open the directory"), "{refused:#}");
    }
}
