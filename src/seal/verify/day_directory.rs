//! The directory of one sealed day: its revisions, the one that is current, and the day before.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::super::directory::is_temporary;
use super::super::logical_hash::sha256;
use super::super::{Day, Manifest, names};
use super::{Verified, Watch, fields, file, is_of_sealed_day, is_parquet};

/// Larger files are no manifests.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Most revisions of a day that are looked for between the first and the last.
const REVISIONS_MAX: u32 = 100_000;

/// Verifies a directory with these files, if it is one of a sealed day.
pub fn verify(directory: &Path, files: &[String], watch: &dyn Watch, verified: &mut Verified) -> io::Result<()> {
    let files: Vec<&str> = files.iter().map(String::as_str).filter(|name| !is_temporary(name)).collect();
    if !files.iter().any(|name| is_of_sealed_day(name)) {
        return Ok(());
    }
    let revisions: BTreeSet<u32> = files.iter().filter_map(|name| names::manifest_revision(name)).collect();
    let newest = revisions.last().copied().unwrap_or(0);
    let current = current(directory, &files, newest, verified);
    let (mut known, mut stated) = (BTreeSet::new(), None);
    for revision in 1..=newest.max(current).min(REVISIONS_MAX) {
        let path = directory.join(names::manifest(revision));
        if !revisions.contains(&revision) {
            verified.differ(&path, "", "is missing".to_owned());
            continue;
        }
        verified.revisions += 1;
        let Some(manifest) = read_manifest(&path, verified) else { continue };
        known.insert(manifest.file.clone());
        of_path(directory, &path, &manifest, revision, verified);
        of_day_before(directory, &path, &manifest, verified);
        let content = file::read(&directory.join(&manifest.file), &manifest, watch)?;
        fields::compare(&path, directory, &manifest, &content, verified);
        verified.rows += content.totals.as_ref().map_or(0, |totals| totals.rows);
        if revision == newest {
            stated = Some(manifest);
        }
    }
    if newest > 0 {
        verified.days += 1;
    }
    for name in files.iter().filter(|name| is_parquet(name) && !known.contains(**name)) {
        let path = directory.join(name);
        let channel = name.split('.').next().unwrap_or_default();
        match names::file_revision(name, channel) {
            Some(revision) if revision == newest + 1 => {
                verified.notes.push(format!("{}: has no manifest yet: its seal is unfinished", path.display()));
            }
            _ => verified.differ(&path, "", "no manifest states this file".to_owned()),
        }
    }
    if let Some(manifest) = stated {
        verified.current.push((directory.join(names::manifest(newest)), manifest));
    }
    Ok(())
}

/// The revision that `current.json` names; 0 when it names none.
fn current(directory: &Path, files: &[&str], newest: u32, verified: &mut Verified) -> u32 {
    let path = directory.join(names::CURRENT);
    let again = "a seal was interrupted, or the file was changed: seal the day again";
    if !files.contains(&names::CURRENT) {
        if newest > 0 {
            verified.differ(&path, "", format!("is missing: {again}"));
        }
        return 0;
    }
    let named = read_small(&path).map(|text| names::parse_current(&text));
    match named {
        Ok(Some(revision)) if revision == newest => {}
        Ok(Some(revision)) => {
            verified.differ(&path, "revision", format!("names {revision}, the newest manifest is r{newest}: {again}"));
            return revision;
        }
        Ok(None) => verified.differ(&path, "revision", format!("is not spelled {}", names::current(newest).trim_end())),
        Err(error) => verified.differ(&path, "", format!("cannot be read: {error}")),
    }
    0
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if found.len() > MANIFEST_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read(path)
}

fn read_manifest(path: &Path, verified: &mut Verified) -> Option<Manifest> {
    let text = match read_small(path) {
        Ok(text) => text,
        Err(error) => {
            verified.differ(path, "", format!("cannot be read: {error}"));
            return None;
        }
    };
    let manifest = match serde_json::from_slice::<Manifest>(&text) {
        Ok(manifest) => manifest,
        Err(error) => {
            // The message names the field and the place.
            verified.differ(path, "", format!("is no manifest of this version: {error}"));
            return None;
        }
    };
    if manifest.to_text().is_ok_and(|canonical| canonical.as_bytes() != text) {
        verified.differ(path, "", "its bytes are not those that a seal writes for these fields".to_owned());
    }
    Some(manifest)
}

/// Compares a manifest with the names around it, as far as these are of sealed days.
fn of_path(directory: &Path, path: &Path, manifest: &Manifest, revision: u32, verified: &mut Verified) {
    if manifest.revision != revision {
        verified.differ(path, "revision", format!("is {}, the name says {revision}", manifest.revision));
    }
    let expected = names::file(&manifest.channel, revision);
    if manifest.file != expected {
        verified.differ(path, "file", format!("is {:?}, not {expected:?}", manifest.file));
    }
    if names::channel(&manifest.channel).is_none() {
        verified.differ(path, "channel", format!("{:?} is not a channel of sealed days", manifest.channel));
    }
    if Day::parse(&manifest.date).is_none() {
        verified.differ(path, "date", format!("{:?} is not a date", manifest.date));
    }
    if chrono::DateTime::parse_from_rfc3339(&manifest.sealed_at).is_err() {
        verified.differ(path, "sealed_at", format!("{:?} is not an RFC 3339 time", manifest.sealed_at));
    }
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if manifest.previous.as_ref().is_some_and(|previous| !is_hash(previous)) {
        verified.differ(path, "previous", "is not 64 small hexadecimal digits".to_owned());
    }
    // The path as it is in the file system, however it was given.
    let absolute = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mut parts = absolute.iter().rev().map(|part| part.to_string_lossy().into_owned());
    let symbol = names::of_symbol(&manifest.symbol);
    for (field, prefix, stated) in [
        ("date", "date=", &manifest.date),
        ("symbol", "symbol=", &symbol),
        ("exchange", "exchange=", &manifest.exchange),
    ] {
        let Some(part) = parts.next() else { return };
        let Some(named) = part.strip_prefix(prefix) else { return };
        if named != stated {
            verified.differ(path, field, format!("is {stated:?}, the directory says {named:?}"));
        }
    }
    if let Some(named) = parts.next().filter(|named| names::channel(named).is_some() && *named != manifest.channel) {
        verified.differ(path, "channel", format!("is {:?}, the directory says {named:?}", manifest.channel));
    }
}

/// Compares `previous` with the manifests of the day before, if that is here.
fn of_day_before(directory: &Path, path: &Path, manifest: &Manifest, verified: &mut Verified) {
    let (Some(previous), Some(day)) = (&manifest.previous, Day::parse(&manifest.date)) else { return };
    let absolute = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let before = absolute.with_file_name(names::day_directory(day.previous()));
    let entries = match std::fs::read_dir(&before) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let day = day.previous();
            verified.notes.push(format!("{}: previous: {day} is not here, so it is not compared", path.display()));
            return;
        }
        Err(error) => {
            verified.differ(&before, "", format!("cannot be listed: {error}"));
            return;
        }
    };
    let manifests = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_str().and_then(names::manifest_revision).is_some()
    });
    let is_known =
        manifests.into_iter().any(|entry| read_small(&entry.path()).is_ok_and(|text| sha256(&text) == *previous));
    if !is_known {
        let words = format!("is the SHA-256 of no manifest of {}", day.previous());
        verified.differ(path, "previous", words);
    }
}
