//! Tests of [`super`]: what is at a path before an export, and after it.

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

fn export(path: &Path) -> io::Result<()> {
    let mut target = Target::open(Some(path))?;
    target.write_all(b"whole")?;
    target.finish()
}

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn a_file_gets_its_name_only_when_it_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trades.csv");
    let mut given_up = Target::open(Some(&path)).unwrap();
    given_up.write_all(b"half").unwrap();
    assert!(!path.exists() && names(directory.path()) == 1);
    drop(given_up);
    assert_eq!(names(directory.path()), 0);
    export(&path).unwrap();
    assert_eq!((fs::read(&path).unwrap().as_slice(), names(directory.path())), (&b"whole"[..], 1));
}

#[test]
fn a_replaced_file_keeps_its_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trades.csv");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    export(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_link_stays_and_what_it_names_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    symlink("second", &first).unwrap();
    symlink("other/target.csv", &second).unwrap();
    for _ in ["a target that does not exist yet", "one that does"] {
        export(&first).unwrap();
        assert_eq!(fs::read(other.join("target.csv")).unwrap(), b"whole");
        assert!(first.is_symlink() && second.is_symlink());
    }
    assert_eq!((names(directory.path()), names(&other)), (3, 1));
    symlink("around", directory.path().join("around")).unwrap();
    assert!(Target::open(Some(&directory.path().join("around"))).is_err());
}

#[test]
fn a_pipe_and_a_socket_are_written_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reading = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    export(&pipe).unwrap();
    assert_eq!(reading.join().unwrap(), b"whole");
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

    let path = directory.path().join("socket");
    let socket = UnixListener::bind(&path).unwrap();
    export(&path).unwrap();
    let mut read = Vec::new();
    socket.accept().unwrap().0.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"whole");
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
}

/// Opens the device and writes to it; its node is never replaced, because nothing is renamed.
#[test]
fn a_full_device_is_an_error_of_its_write() {
    let full = export(Path::new("/dev/full")).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    export(Path::new("/dev/null")).unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(Target::open(Some(Path::new("/"))).is_err());
}
