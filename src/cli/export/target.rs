//! The target of an export: stdout, or a file that gets its name only when it is complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes bytes; dropped before [`Target::finish`] it leaves no file behind.
pub enum Target {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file beside the final path, renamed at the end.
    File(Partial),
}

/// A file under a temporary name.
pub struct Partial {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl Target {
    /// Opens this file, or stdout.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout(io::stdout())) };
        let mut partial = path.as_os_str().to_owned();
        // Two exports to one path must not write to one file.
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        Ok(Self::File(Partial { file: File::create(&partial)?, partial, path: path.to_owned() }))
    }

    /// Flushes, syncs the file to disk and gives it its name.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            Self::File(partial) => {
                partial.file.sync_all()?;
                std::fs::rename(&partial.partial, &partial.path)
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(partial) => partial.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(partial) => partial.file.flush(),
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
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_name_only_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trades.csv");
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut given_up = Target::open(Some(&path)).unwrap();
        given_up.write_all(b"half").unwrap();
        assert!(!path.exists() && names() == 1);
        drop(given_up);
        assert_eq!(names(), 0);
        let mut whole = Target::open(Some(&path)).unwrap();
        whole.write_all(b"whole").unwrap();
        whole.finish().unwrap();
        assert_eq!((std::fs::read(&path).unwrap().as_slice(), names()), (&b"whole"[..], 1));
    }
}
