//! Recomputes what manifests state from the files alone: without configuration, service or history.
//!
//! The files may come from anywhere. Whatever is in them, a difference is named and nothing panics: panics of the
//! Parquet reader are caught, every size is checked before memory is used for it, and rows are read a batch at a time.

mod day_directory;
mod fields;
mod file;
mod lists;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{Manifest, names};

pub use file::quiet_panics;

/// Most directories below each other. A sealed day is five deep.
const DEPTH_MAX: usize = 16;
/// Most differences that are named.
const DIFFERENCES_MAX: usize = 10_000;

/// Something that is not as a manifest states it, or not as a sealed day is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The file.
    pub file: PathBuf,
    /// The field of the manifest; empty when it is about the whole file.
    pub field: String,
    /// What differs.
    pub words: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, field, words } = self;
        match field.as_str() {
            "" => write!(f, "{}: {words}", file.display()),
            _ => write!(f, "{}: {field}: {words}", file.display()),
        }
    }
}

/// What was verified.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Days with at least one revision.
    pub days: usize,
    /// Revisions.
    pub revisions: usize,
    /// Rows that were read.
    pub rows: u64,
    /// Everything that differs.
    pub differences: Vec<Difference>,
    /// What could not be compared and is no difference.
    pub notes: Vec<String>,
    /// The current manifest of each day, with its path.
    pub current: Vec<(PathBuf, Manifest)>,
}

/// What a verification tells while it runs, and whether it should end.
pub trait Watch {
    /// This number of rows was read.
    fn rows(&self, rows: u64);
    /// Whether to end now.
    fn is_cancelled(&self) -> bool;
}

/// Verifies the sealed days at and below a path: a directory, or a file of a sealed day. An error means that the path
/// itself cannot be read, or that `watch` ended the run.
pub fn verify(path: &Path, watch: &dyn Watch) -> io::Result<Verified> {
    let mut verified = Verified::default();
    let mut directories = vec![(start(path)?, 0)];
    while let Some((directory, depth)) = directories.pop() {
        if watch.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (mut files, mut below) = (Vec::new(), Vec::new());
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                verified.differ(&directory, "", format!("cannot be listed: {error}"));
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A link to a directory may lead in a circle.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => below.push(entry.path()),
                Ok(_) => files.push(name),
                Err(error) => verified.differ(&entry.path(), "", format!("cannot be read: {error}")),
            }
        }
        files.sort();
        below.sort_by(|one, other| other.cmp(one));
        day_directory::verify(&directory, &files, watch, &mut verified)?;
        // Raw frames have manifests of another kind.
        let is_raw = |path: &PathBuf| path.file_name().is_some_and(|name| name == "raw");
        if depth < DEPTH_MAX {
            directories.extend(below.into_iter().filter(|path| !is_raw(path)).map(|path| (path, depth + 1)));
        }
    }
    Ok(verified)
}

/// The directory to begin in.
fn start(path: &Path) -> io::Result<PathBuf> {
    if std::fs::metadata(path)?.is_dir() {
        return Ok(path.to_owned());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(parent.unwrap_or(Path::new(".")).to_owned())
}

/// Whether a file makes its directory one of a sealed day.
fn is_of_sealed_day(name: &str) -> bool {
    name == names::CURRENT || names::manifest_revision(name).is_some() || is_parquet(name)
}

fn is_parquet(name: &str) -> bool {
    name.ends_with(".parquet")
}

impl Verified {
    fn differ(&mut self, file: &Path, field: &str, words: String) {
        let is_known = self
            .differences
            .iter()
            .rev()
            .take(100)
            .any(|known| known.file == file && known.field == field && !field.is_empty());
        if !is_known && self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(Difference { file: file.to_owned(), field: field.to_owned(), words });
        }
    }
}
