//! What no file may contain: calls that bypass the house's own ways (wall clock, sleeping threads, unbounded queues,
//! unwrap, println), too many lines, no purpose, a vague name.

use super::source::{code, without_tests};
use super::{File, assert_none, rust_files};

const LINES_MAX: usize = 500;

/// Names that fit everything and therefore tell nothing.
const VAGUE_NAMES: &[&str] = &[
    "core",
    "common",
    "util",
    "utils",
    "domain",
    "infrastructure",
    "services",
    "types",
    "traits",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "shared",
];
/// A text, where it is allowed, whether tests may use it, and what to use instead.
const BANNED: &[(&str, &str, bool, &str)] = &[
    ("SystemTime::now", "src/clock.rs", false, "clock::Clock"),
    ("Utc::now", "src/clock.rs", false, "clock::Clock"),
    ("Local::now", "src/clock.rs", false, "clock::Clock"),
    ("thread::sleep", "", false, "a wait for a condition, with a deadline"),
    ("unbounded_channel", "", false, "a bounded channel: overload becomes back-pressure"),
    (".unwrap()", "", true, "expect(\"why this cannot fail\")"),
    (" println!(", "", true, "cli's print_line!, which does not panic when the reader of a pipe has gone"),
    ("#[allow", "", false, "#[expect(lint, reason = \"...\")]"),
    ("#![allow", "", false, "#![expect(lint, reason = \"...\")]"),
];

fn banned(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let all = code(&file.text);
        let without = without_tests(&all);
        for (text, allowed, in_tests, instead) in BANNED.iter().filter(|(_, allowed, ..)| *allowed != file.path) {
            if *in_tests && file.is_test() {
                continue;
            }
            let read = if *in_tests { &without } else { &all };
            for (number, _) in read.lines().enumerate().filter(|(_, line)| line.contains(text)) {
                let only = if allowed.is_empty() { String::new() } else { format!(" (only {allowed} may)") };
                found.push(format!("{}:{}: `{text}`{only}; use {instead}", file.path, number + 1));
            }
        }
    }
    found
}

fn without_purpose_or_too_long(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        if !file.text.starts_with("//!") {
            found.push(format!("{}: does not open with `//!` and its purpose", file.path));
        }
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{}: {lines} lines; above {LINES_MAX} it is two modules", file.path));
        }
    }
    found
}

fn vague_names(files: &[File]) -> Vec<String> {
    let is_vague = |file: &&File| {
        let path = file.path.trim_end_matches(".rs");
        path.split('/').any(|name| VAGUE_NAMES.contains(&name))
    };
    files.iter().filter(is_vague).map(|file| format!("{}: a vague name", file.path)).collect()
}

#[test]
fn no_file_uses_a_banned_call() {
    assert_none(&banned(&rust_files(&["src", "tests", "benches"])));
}

#[test]
fn files_state_their_purpose_and_stay_within_the_limit_of_lines() {
    assert_none(&without_purpose_or_too_long(&rust_files(&["src", "tests", "benches"])));
}

#[test]
fn no_name_is_vague() {
    assert_none(&vague_names(&rust_files(&["src", "tests", "benches"])));
}

#[test]
fn the_rules_find_what_is_forbidden() {
    let see = |path: &str, text: &str| banned(&[File::example(path, text)]).len();
    assert_eq!(see("src/ingest.rs", "let now = std::time::SystemTime::now();"), 1);
    assert_eq!(see("src/ingest.rs", "let now = chrono::Utc::now();"), 1);
    assert_eq!(see("src/clock.rs", "let now = chrono::Utc::now();"), 0);
    assert_eq!(see("src/ingest.rs", "fn f() { std::thread::sleep(x); }"), 1);
    assert_eq!(see("tests/it/x.rs", "fn f() { std::thread::sleep(x); }"), 1);
    assert_eq!(see("src/ingest.rs", "let (a, b) = mpsc::unbounded_channel();"), 1);
    assert_eq!(see("src/ingest.rs", "x.unwrap(); // y.unwrap()"), 1);
    assert_eq!(see("src/ingest.rs", "#[cfg(test)] mod tests { fn f() { x.unwrap(); } }"), 0);
    assert_eq!(see("tests/it/x.rs", "x.unwrap();"), 0);
    assert_eq!(see("src/cli/x.rs", "fn f() { println!(\"x\"); eprintln!(\"y\"); }"), 1);
    assert_eq!(see("src/ingest.rs", "#[allow(dead_code)]\nfn f() {}\n#![allow(x)]"), 2);
    assert_eq!(see("src/ingest.rs", "\"thread::sleep\" // #[allow"), 0);
}

#[test]
fn the_rules_find_shapes_and_names() {
    assert_eq!(without_purpose_or_too_long(&[File::example("src/a.rs", "use b;")]).len(), 1);
    let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(LINES_MAX));
    assert_eq!(without_purpose_or_too_long(&[File::example("src/a.rs", &long)]).len(), 1);
    assert_eq!(without_purpose_or_too_long(&[File::example("src/a.rs", "//! Short.\n")]).len(), 0);
    assert_eq!(vague_names(&[File::example("src/utils/x.rs", ""), File::example("src/log/helpers.rs", "")]).len(), 2);
    assert_eq!(vague_names(&[File::example("src/log/embedded.rs", "")]).len(), 0);
}
