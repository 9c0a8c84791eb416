//! Replaces a file atomically and durably: after a crash or a power cut the file holds the old content or the new content,
//! never a part of either. Must not know what the content means.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// New content that is durable beside its file and not yet in its place. Dropped before [`Staged::commit`] it leaves no
/// file behind.
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
    let mut file = create(&temporary).with_context(|| format!("create {}", temporary.display()))?;
    let staged = Staged { temporary, path: path.to_owned() };
    let temporary = &staged.temporary;
    file.write_all(content).with_context(|| format!("write {}", temporary.display()))?;
    file.sync_all().with_context(|| format!("sync {}", temporary.display()))?;
    Ok(staged)
}

/// Creates a file that nobody else has made: an earlier process may have left one, and somebody who may write to the
/// directory may have planted a link to a file of ours.
fn create(temporary: &Path) -> io::Result<File> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("open flags are small");
    File::options().write(true).create_new(true).custom_flags(no_follow).open(temporary)
}

impl Staged {
    /// Renames the temporary file over the file and syncs the directory.
    pub fn commit(self) -> anyhow::Result<()> {
        let Self { temporary, path } = &self;
        fs::rename(temporary, path).with_context(|| format!("replace {}", path.display()))?;
        // A power cut may undo the rename until the directory is synced.
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let opened = File::open(directory).with_context(|| format!("open {}", directory.display()))?;
        opened.sync_all().with_context(|| format!("sync {}", directory.display()))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename no file has this name. A file that stays is removed by the next call.
        fs::remove_file(&self.temporary).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
        fs::write(directory.path().join("state.json.tmp"), "of a process that was killed").unwrap();
        write(&path, b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
    }

    #[test]
    fn a_write_that_fails_or_is_given_up_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        drop(stage(&directory.path().join("state.json"), b"new").unwrap());
        // A directory cannot be replaced by a file.
        let path = directory.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        assert!(write(&path, b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_planted_link_is_removed_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("state.json"), directory.path().join("precious"));
        for target in [&target, &directory.path().join("missing")] {
            fs::write(directory.path().join("precious"), "precious").unwrap();
            symlink(target, directory.path().join("state.json.tmp")).unwrap();
            write(&path, b"state").unwrap();
            assert!(!path.is_symlink());
            assert_eq!(fs::read(&path).unwrap(), b"state");
        }
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
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
