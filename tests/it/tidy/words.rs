//! Words that must not come back: private names in code, and phrases that are not plain English in comments, messages
//! and documents. `tests/it/tidy/words/tables.rs` lists them.

mod tables;

use std::path::{Path, PathBuf};

use super::source::{code, prose};
use super::{File, assert_none, root, rust_files};
use tables::{OLD_FILES, OLD_NAMES, PHRASES, Phrase};

/// The tables and the examples of this test.
const OWN_FILES: &str = "tests/it/tidy/words";
/// Documents and shipped files, whose whole text people read.
const DOCUMENTS: [&str; 5] = ["README.md", "docs", "jobs.toml", "packaging", "systemd"];

/// Every text file of these files and folders, by path.
fn text_files(names: &[&str]) -> Vec<File> {
    let mut paths: Vec<PathBuf> = names.iter().map(|name| root().join(name)).filter(|path| path.exists()).collect();
    let mut files = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            files.push(File { path: path.strip_prefix(root()).unwrap().display().to_string(), text });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether `code` contains `name`, not as a part of a longer name.
fn has_name(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let starts = !name.starts_with(is_name) || !code[..at].ends_with(is_name);
        let ends = !name.ends_with(is_name) || !code[at + name.len()..].starts_with(is_name);
        starts && ends
    })
}

fn old_names(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with(OWN_FILES)) {
        let code = code(&file.text);
        let applies = |place: &str| file.path == place || (place.ends_with('/') && file.path.starts_with(place));
        for (_, names) in OLD_NAMES.iter().filter(|(places, _)| places.split(' ').any(applies)) {
            for (number, line) in code.lines().enumerate() {
                let old = names.split(' ').filter(|name| has_name(line, name));
                found.extend(old.map(|name| format!("{}:{}: the old name `{name}`", file.path, number + 1)));
            }
        }
    }
    found
}

/// A word with its line, or `None` for the end of a sentence or a text.
type Token = Option<(usize, String)>;

/// The words of a text in lower case. A sentence may continue on the next line, after the mark of a comment.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line =
            line.trim_start_matches(|character: char| character.is_whitespace() || "#/!*>|-;".contains(character));
        if line.is_empty() {
            tokens.push(None);
        }
        let mut word = String::new();
        for character in line.chars().chain([' ']) {
            if is_name(character) || "'-".contains(character) {
                word.extend(character.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                tokens.push(Some((number + 1, std::mem::take(&mut word))));
            }
            if !character.is_whitespace() {
                tokens.push(None);
            }
        }
    }
    tokens
}

/// The lines in which a phrase begins, except where words follow that make it fine.
fn places(tokens: &[Token], phrase: &Phrase) -> Vec<usize> {
    let words: Vec<&str> = phrase.words.split(' ').collect();
    let is_word = |token: &Token, word: &str| token.as_ref().is_some_and(|(_, found)| found == word);
    let follows = |rest: &[Token], allowed: &str| {
        let allowed: Vec<&str> = allowed.split(' ').collect();
        rest.len() >= allowed.len() && rest.iter().zip(&allowed).all(|(token, word)| is_word(token, word))
    };
    let mut found = Vec::new();
    for (at, window) in tokens.windows(words.len()).enumerate() {
        let rest = &tokens[at + words.len()..];
        if window.iter().zip(&words).all(|(token, word)| is_word(token, word))
            && !phrase.fine_before.iter().any(|allowed| follows(rest, allowed))
            && let Some((line, _)) = &window[0]
        {
            found.push(*line);
        }
    }
    found
}

/// The phrases in texts that people read: of Rust files the comments and quoted texts, of others everything.
fn phrases(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with(OWN_FILES)) {
        let tokens = match file.path.ends_with(".rs") {
            true => tokens(&prose(&file.text)),
            false => tokens(&file.text),
        };
        for phrase in PHRASES {
            for line in places(&tokens, phrase) {
                found.push(format!("{}:{line}: `{}`; write: {}", file.path, phrase.words, phrase.instead));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn no_old_name_comes_back() {
    let mut found = old_names(&rust_files(&["src", "tests", "benches"]));
    let exists = |name: &&&str| Path::new(root()).join(name).exists();
    found.extend(OLD_FILES.iter().filter(exists).map(|name| format!("{name}: an old name of a file")));
    assert_none(&found);
}

#[test]
fn texts_are_plain_english() {
    let mut files = rust_files(&["src", "tests", "benches"]);
    files.extend(text_files(&DOCUMENTS));
    assert_none(&phrases(&files));
}

#[test]
fn the_rules_find_old_names() {
    let see = |path: &str, text: &str| old_names(&[File::example(path, text)]).len();
    assert_eq!(see("src/admin/mod.rs", "struct Desk;"), 1);
    assert_eq!(see("src/admin/page/press.rs", "fn f(desk: &Desk) {}"), 2);
    assert_eq!(see("src/admin/mod.rs", "struct Desktop; // Desk\nlet a = \"Desk\";"), 0);
    assert_eq!(see("src/market/mod.rs", "struct Desk;"), 0);
    assert_eq!(see("src/app/x.rs", "use crate::consume::Board; use crate::pulse;"), 2);
    assert_eq!(see("src/ingest.rs", "struct Heard;"), 1);
}

#[test]
fn the_rules_find_phrases() {
    let see = |path: &str, text: &str| phrases(&[File::example(path, text)]).len();
    assert_eq!(see("src/a.rs", "/// It goes on all the same."), 2);
    assert_eq!(see("src/a.rs", "/// It goes\n/// on."), 1, "over the end of a line");
    assert_eq!(see("src/a.rs", "//! The store is\n//! away."), 1);
    assert_eq!(see("src/a.rs", "/// It goes.\n/// On Sundays it does not."), 0, "two sentences");
    assert_eq!(see("src/a.rs", "error!(\"so\"); error!(\"many\");"), 0, "two texts");
    assert_eq!(see("src/a.rs", "bail!(\"so many \\\n         frames\")"), 1);
    assert_eq!(see("src/a.rs", "fn so(many: i64) { goes(on) }"), 0, "code");
    assert_eq!(see("docs/a.md", "`E` stands for the event time. It stands."), 1);
    assert_eq!(see("jobs.toml", "# Nobody can\n# say."), 1);
    assert_eq!(see("tests/it/a.rs", "// The upper end; recommend, amend, straightaway."), 0);
}
