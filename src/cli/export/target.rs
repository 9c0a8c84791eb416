//! The target of an export: stdout, a file that gets its name only when it is complete, or what is at the path already
//! and is no file: a pipe, a device or a socket.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Most symbolic links between a path and its target, as in the kernel.
const LINKS_MAX: usize = 40;

/// Writes bytes; dropped before [`Target::finish`] it leaves no file behind.
pub enum Target {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file beside the final path, renamed at the end.
    File(Partial),
    /// A pipe or a device, written as the rows come.
    Stream(File),
    /// A socket, written as the rows come.
    Socket(UnixStream),
}

/// A file under a temporary name.
pub struct Partial {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl Target {
    /// Opens this path, or stdout. Follows symbolic links: what a link names is written, and the link stays.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path.filter(|path| !is_stdout(path)) else { return Ok(Self::Stdout(io::stdout())) };
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if found.file_type().is_socket() => Ok(Self::Socket(UnixStream::connect(path)?)),
            // Opening a pipe waits for its reader, as in a shell.
            Ok(found) if !found.is_file() => Ok(Self::Stream(File::options().write(true).open(path)?)),
            Ok(found) => Ok(Self::File(Partial::create(follow(path)?, Some(&found))?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::File(Partial::create(follow(path)?, None)?))
            }
            Err(error) => Err(error),
        }
    }

    /// Flushes; syncs a file to disk and gives it its name.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            // Neither has a buffer here, nor can it be synced.
            Self::Stream(_) | Self::Socket(_) => Ok(()),
            Self::File(partial) => partial.finish(),
        }
    }
}

impl Partial {
    fn create(path: PathBuf, replaced: Option<&Metadata>) -> io::Result<Self> {
        let mut partial = path.as_os_str().to_owned();
        // Two exports to one path must not write to one file.
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        // A leftover of an earlier process with this number.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(0o666).open(&partial)?;
        let created = Self { file, partial, path };
        if let Some(replaced) = replaced {
            created.file.set_permissions(replaced.permissions())?;
        }
        Ok(created)
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // A power cut may undo the rename until the directory is synced.
        File::open(directory)?.sync_all()
    }
}

/// Whether a path names what stdout already writes to, as `/dev/stdout` does: replacing that file would cut off what was
/// written before.
fn is_stdout(path: &Path) -> bool {
    match (fs::metadata(path), rustix::fs::fstat(io::stdout())) {
        (Ok(path), Ok(stdout)) => (path.dev(), path.ino()) == (stdout.st_dev, stdout.st_ino),
        _ => false,
    }
}

/// The path behind the symbolic links at its end; the last one may name nothing yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(&path)?;
                // A relative target begins in the directory of the link.
                path = path.parent().unwrap_or(Path::new("")).join(target);
            }
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(partial) => partial.file.write(bytes),
            Self::Stream(file) => file.write(bytes),
            Self::Socket(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(partial) => partial.file.flush(),
            Self::Stream(file) => file.flush(),
            Self::Socket(socket) => socket.flush(),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename no file has this name.
        if let Err(error) = std::fs::remove_file(&self.partial)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("cannot remove {}: {error}", self.partial.display());
        }
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
