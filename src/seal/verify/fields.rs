//! Compares the fields of a manifest with what its file holds.

use std::path::Path;

use serde_json::Value;

use super::super::{Manifest, OlderEpoch, names};
use super::Verified;
use super::file::{Content, EpochTotals, Totals};
use super::lists;
use crate::gap::Range;

/// Adds every difference between a manifest, at this path, and its file.
pub fn compare(path: &Path, directory: &Path, manifest: &Manifest, content: &Content, verified: &mut Verified) {
    let file = directory.join(&manifest.file);
    for problem in &content.problems {
        verified.differ(&file, "", problem.clone());
    }
    if let Some((bytes, sha256)) = &content.bytes {
        differ(path, "bytes", &manifest.bytes, bytes, verified);
        differ(path, "sha256", &manifest.sha256, sha256, verified);
    }
    match &content.statement {
        Some(statement) => of_statement(path, manifest, statement, verified),
        None if content.totals.is_some() => {
            verified.differ(&file, "", "holds no statement of its seal".to_owned());
        }
        None => {}
    }
    let is_complete = manifest.proves_complete();
    differ(path, "complete", &manifest.complete, &is_complete, verified);
    if let Some(totals) = &content.totals {
        of_rows(path, manifest, totals, verified);
        lists::compare(path, manifest, totals, verified);
    }
}

fn differ<T: PartialEq + std::fmt::Display>(path: &Path, field: &str, stated: &T, found: &T, verified: &mut Verified) {
    if stated != found {
        verified.differ(path, field, format!("is {stated}, the file has {found}"));
    }
}

/// Compares with the statement that the file holds: fields that the rows do not prove cannot be changed either.
fn of_statement(path: &Path, manifest: &Manifest, statement: &serde_json::Map<String, Value>, verified: &mut Verified) {
    let Ok(stated) = manifest.statement() else { return };
    for (field, value) in &stated {
        if statement.get(field) != Some(value) {
            let sealed = statement.get(field).map_or_else(|| "nothing".to_owned(), shortened);
            verified.differ(path, field, format!("is {}, it was sealed as {sealed}", shortened(value)));
        }
    }
    for field in statement.keys().filter(|field| !stated.contains_key(*field)) {
        verified.differ(path, field, "was sealed and is missing".to_owned());
    }
}

/// A value for people: long lists are cut.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn of_rows(path: &Path, manifest: &Manifest, totals: &Totals, verified: &mut Verified) {
    let word = |position: Option<i64>| position.map_or("null".to_owned(), |position| position.to_string());
    differ(path, "rows", &manifest.rows, &totals.rows, verified);
    differ(path, "logical_hash", &manifest.logical_hash, &totals.hash.hex(), verified);
    // Without a row there is no numbering to compare with.
    let (newest, older) = totals.epochs.split_last().map_or((None, &[][..]), |(newest, older)| (Some(newest), older));
    if let Some(newest) = newest {
        differ(path, "epoch", &manifest.epoch, &newest.epoch, verified);
    }
    differ(path, "first", &word(manifest.first), &word(newest.map(|newest| newest.first)), verified);
    differ(path, "last", &word(manifest.last), &word(newest.map(|newest| newest.last)), verified);
    let rows = newest.map_or(0, |newest| i64::try_from(newest.rows).unwrap_or(i64::MAX));
    let backfilled = newest.map_or(0, |newest| newest.backfilled);
    let step = names::channel(&manifest.channel).and_then(crate::market::Channel::step).unwrap_or(1);
    let expected = newest.and_then(|newest| Range::new(newest.first, newest.last)).map_or(0, |range| range.len(step));
    differ(path, "expected", &manifest.expected, &expected, verified);
    differ(path, "present", &manifest.present, &rows, verified);
    differ(path, "live", &manifest.live, &(rows - backfilled), verified);
    differ(path, "backfilled", &manifest.backfilled, &backfilled, verified);
    let filled_by = manifest.filled_by.rest.checked_add(manifest.filled_by.archive);
    if filled_by != Some(backfilled) {
        verified.differ(path, "filled_by", format!("adds up to another number than the {backfilled} of the file"));
    }
    let of = |EpochTotals { epoch, first, last, rows, .. }: &EpochTotals| OlderEpoch {
        epoch: *epoch,
        first: *first,
        last: *last,
        rows: *rows,
    };
    if !older.iter().map(of).eq(manifest.older_epochs.iter().copied()) {
        verified.differ(path, "older_epochs", format!("the file has {} older numberings, or others", older.len()));
    }
    if manifest.klines.different > manifest.klines.checked {
        verified.differ(path, "klines", "more differ than were checked".to_owned());
    }
}
