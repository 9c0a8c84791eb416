//! House rules as tests: the direction between modules, banned calls, names and phrases, and that shipped files parse.
//!
//! Each rule has a test on an example that breaks it, which shows that the rule can fail.

mod bans;
mod edges;
mod shipped;
mod source;
mod words;

use std::path::{Path, PathBuf};

/// A file of this repository.
pub struct File {
    /// From the repository's root, with `/`.
    pub path: String,
    /// Its contents.
    pub text: String,
}

impl File {
    /// A file that a test makes up.
    #[cfg(test)]
    pub fn example(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module that it belongs to: the first name below `src`.
    pub fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    /// Whether the file holds only tests, judged by its folder and its name.
    pub fn is_test(&self) -> bool {
        let place = ["/tests/", "_tests.rs", "/captures.rs"];
        place.iter().any(|part| self.path.contains(part)) || !self.path.starts_with("src/")
    }
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of these folders, by path.
pub fn rust_files(folders: &[&str]) -> Vec<File> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let file = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        File { path: path.strip_prefix(root()).unwrap().display().to_string(), text }
    };
    paths.into_iter().map(file).collect()
}

/// Fails with every line of `found`.
#[track_caller]
pub fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}
