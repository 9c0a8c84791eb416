//! Finds the recorded bytes for tests. They are not part of this repository.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The bytes of a capture, unpacked. Without captures on this machine it prints that it skips, and returns `None`.
pub(super) fn read(name: &str) -> Option<Vec<u8>> {
    let path = directory()?.join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    if !name.ends_with(".gz") {
        return Some(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
    Some(plain)
}

fn directory() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures");
    let found =
        std::env::var_os("TAPEKEEPER_CAPTURES").map(PathBuf::from).or_else(|| beside.is_dir().then_some(beside));
    if found.is_none() {
        println!("SKIPPED: no captures: set TAPEKEEPER_CAPTURES or put them at ../shared/captures");
    }
    found
}
