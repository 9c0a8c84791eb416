//! Where an export goes: stdout, or a file that has its name only when it is whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Takes bytes; dropped before [`Target::finish`] it leaves nothing behind.
pub enum Target {
    /// The next program's.
    Stdout(io::Stdout),
    /// Written beside its place, then renamed.
    File(Partial),
}

/// A file under another name.
pub struct Partial {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl Target {
    /// Stdout, or this file.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout(io::stdout())) };
        let mut partial = path.as_os_str().to_owned();
        // Two exports to one place must not write into each other.
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        Ok(Self::File(Partial { file: File::create(&partial)?, partial, path: path.to_owned() }))
    }

    /// Everything is written: flushes, and gives the file its name.
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
        // After the rename there is nothing under this name, which is as it should be.
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
    fn a_file_has_its_name_only_when_it_is_whole() {
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
