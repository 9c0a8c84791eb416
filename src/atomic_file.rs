//! Replaces a file atomically and durably: after a crash or a power cut the file holds the old content or the new content,
//! never a part of either. Must not know what the content means.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// New content that is durable beside its file and not yet in its place.
#[must_use = "the file keeps its old content until `commit`"]
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

/// Replaces the content of the file `path`. The parent directory must exist.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    stage(path, content)?.commit()
}

/// Writes the content to a temporary file in the directory of `path` and syncs it. For callers that must do something between
/// this step and [`Staged::commit`]. Two calls for one path must not run at the same time.
pub fn stage(path: &Path, content: &[u8]) -> anyhow::Result<Staged> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary).with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(content).with_context(|| format!("write {}", temporary.display()))?;
    file.sync_all().with_context(|| format!("sync {}", temporary.display()))?;
    Ok(Staged { temporary, path: path.to_owned() })
}

impl Staged {
    /// Renames the temporary file over the file and syncs the directory.
    pub fn commit(self) -> anyhow::Result<()> {
        let Self { temporary, path } = self;
        fs::rename(&temporary, &path).with_context(|| format!("replace {}", path.display()))?;
        // A power cut may undo the rename until the directory is synced.
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let opened = File::open(directory).with_context(|| format!("open {}", directory.display()))?;
        opened.sync_all().with_context(|| format!("sync {}", directory.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_old_content_until_the_commit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        write(&path, b"old").unwrap();
        let staged = stage(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        staged.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_interrupted_write_does_not_disturb_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        drop(stage(&path, b"longer than the next content").unwrap());
        write(&path, b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
    }

    #[test]
    fn an_error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = write(&directory.path().join("missing").join("state.json"), b"").unwrap_err();
        assert!(
            format!("{error:#}").contains("create ") && format!("{error:#}").contains("state.json.tmp"),
            "{error:#}"
        );
    }
}
