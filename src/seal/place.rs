//! The port of the place that holds sealed days: a directory, or an object store. It knows names and bytes, and not
//! what they mean.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ring::digest;

use super::logical_hash::hex;

/// Whether a name in a directory, among these names, is of a file that no manifest states.
pub type IsUnfinished<'a> = &'a (dyn Fn(&str, &[String]) -> bool + Sync);

/// A place of sealed days. Paths are relative and use `/`.
#[async_trait]
pub trait Place: Send + Sync {
    /// Its name for people.
    fn name(&self) -> String;

    /// The content of a small file; `None` when there is none.
    async fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// The size of a file; `None` when there is none.
    async fn size(&self, path: &str) -> io::Result<Option<u64>>;

    /// The names in a directory, in any order; none when there is no such directory.
    async fn names(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Keeps other recorders from writing in a directory until it is dropped, as far as the place can, and removes
    /// files that a writer left unfinished. `is_unfinished` says which ones besides its own temporary files.
    async fn lock(&self, directory: &str, is_unfinished: IsUnfinished<'_>) -> io::Result<Lock>;

    /// A local file for the content of `path`, which gets its place with [`Place::create`].
    fn spool(&self, path: &str) -> io::Result<(SpoolWriter, Spool)>;

    /// Makes the content durable and gives it its place. It changes nothing when something is there.
    async fn create(&self, path: &str, content: File, spool: Spool) -> io::Result<Created>;

    /// Replaces a small file; a reader sees the old content or the new one.
    async fn replace(&self, path: &str, content: &[u8]) -> io::Result<()>;
}

/// Whether something was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was.
    New,
    /// Something was there before.
    Exists,
}

/// Locks a directory while it lives.
#[derive(Debug)]
pub struct Lock {
    /// A lock of the operating system, which ends with the process.
    _file: Option<File>,
}

impl Lock {
    /// A lock that this open file holds.
    pub fn of(file: File) -> Self {
        Self { _file: Some(file) }
    }
}

/// Writes a local file and hashes what it writes.
pub struct SpoolWriter {
    file: BufWriter<File>,
    hash: digest::Context,
    bytes: u64,
}

/// What was written to a [`SpoolWriter`].
#[derive(Debug)]
pub struct Content {
    /// The file, not yet synced.
    pub file: File,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in small hexadecimal digits.
    pub sha256: String,
}

impl SpoolWriter {
    /// Writes to this empty file.
    pub fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), hash: digest::Context::new(&digest::SHA256), bytes: 0 }
    }

    /// Writes the rest.
    pub fn finish(self) -> io::Result<Content> {
        let Self { file, hash, bytes } = self;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Content { file, bytes, sha256: hex(hash.finish().as_ref()) })
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A local file; dropped before [`Place::create`] it leaves no file behind.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
}

impl Spool {
    /// The file at this path.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // After the rename no file has this name. A file that stays is removed by the next lock.
        std::fs::remove_file(&self.path).ok();
    }
}
