//! The unix socket for the command line. The permissions of the file decide who may use it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tracing::warn;

/// Owner and group may connect. systemd's UMask of 0027 would remove the group's write permission.
const MODE: u32 = 0o660;

/// A listening socket that removes its file when it is dropped.
pub struct AdminSocket {
    /// The listener.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that the drop does not remove another process' socket at the same path.
    identity: (u64, u64),
}

impl AdminSocket {
    /// Listens at `path`. Replaces the file of a process that has ended.
    ///
    /// # Errors
    /// Another process serves `path`, it is not a socket, or its directory is missing or locked.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let directory = lock_directory(path)?;
        if let Ok(found) = fs::symlink_metadata(path) {
            check_stale(path, &found)?;
        }
        // Created under another name and then renamed: nobody sees the socket with wrong permissions or not listening.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        remove(&fresh).context("remove the socket that an earlier start left")?;
        let listener = UnixListener::bind(&fresh).with_context(|| format!("listen on {}", fresh.display()))?;
        let placed = fs::set_permissions(&fresh, Permissions::from_mode(MODE)).and_then(|()| fs::rename(&fresh, path));
        if let Err(error) = placed {
            remove(&fresh).context("remove the socket that cannot be renamed")?;
            return Err(error).with_context(|| format!("rename the socket to {}", path.display()));
        }
        let found = fs::symlink_metadata(path).with_context(|| format!("read the attributes of {}", path.display()))?;
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

/// Locks the directory until the file is dropped: when two processes find the same stale socket, the second one must
/// not remove the first one's new socket. It does not wait for the lock: every reader of the directory can hold it.
fn lock_directory(path: &Path) -> anyhow::Result<File> {
    let directory = path.parent().with_context(|| format!("{} has no parent directory", path.display()))?;
    let held = File::open(directory).with_context(|| format!("open the directory {}", directory.display()))?;
    let lock = flock(&held, FlockOperation::NonBlockingLockExclusive);
    lock.with_context(|| format!("lock {} to create the socket", directory.display()))?;
    Ok(held)
}

/// Fails unless the file is a socket that no process serves.
fn check_stale(path: &Path, found: &fs::Metadata) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !found.file_type().is_socket() {
        bail!("{} exists and is not a socket: remove it, or configure another path", path.display());
    }
    match UnixStream::connect(path) {
        Ok(_somebody) => bail!("another process serves {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).with_context(|| format!("connect to {}", path.display())),
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
    async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        // A killed process closes its listener and leaves the file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = AdminSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = AdminSocket::bind(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("another process serves"), "{refused:#}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file is left");
    }

    #[tokio::test]
    async fn a_locked_directory_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let held = lock_directory(&path).unwrap();
        let refused = AdminSocket::bind(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("lock"), "{refused:#}");
        drop(held);
        AdminSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn the_drop_removes_only_its_own_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = AdminSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = AdminSocket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_stays_and_the_error_names_a_missing_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        fs::write(&path, "mine").unwrap();
        let refused = AdminSocket::bind(&path).err().unwrap();
        assert!(format!("{refused:#}").contains("is not a socket"), "{refused:#}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let refused = AdminSocket::bind(&directory.path().join("none/admin.sock")).err().unwrap();
        assert!(format!("{refused:#}").contains("open the directory"), "{refused:#}");
    }
}
