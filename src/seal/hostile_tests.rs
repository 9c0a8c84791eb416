//! Files and manifests that were changed, damaged or made to deceive: each is named, and nothing panics.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rust_decimal::Decimal;

use super::fixture_tests::{Fixture, Quiet, assert_verified, check, fields, runtime};
use super::*;
use crate::market::{Channel, Timestamp};

/// Replaces the manifest of the only revision.
fn write_manifest(fixture: &Fixture, manifest: &Manifest) {
    fs::write(fixture.day_directory().join("manifest.r1.json"), manifest.to_text().unwrap()).unwrap();
}

#[tokio::test]
async fn each_changed_field_of_a_manifest_is_named() {
    let fixture = Fixture::with_trades(&[20]).await;
    let manifest = fixture.seal_day().await.manifest;
    let serde_json::Value::Object(all_fields) = serde_json::to_value(&manifest).unwrap() else { panic!() };
    for (field, value) in all_fields.clone() {
        use serde_json::{Value, json};
        let changed = match (field.as_str(), &value) {
            ("unrecoverable", _) => json!([[20, 20, "gone"]]),
            ("older_epochs", _) => json!([{ "epoch": 0, "first": 1, "last": 1, "rows": 1 }]),
            (_, Value::Null) => json!("00".repeat(32)),
            (_, Value::Bool(flag)) => json!(!flag),
            (_, Value::Number(number)) => json!(number.as_i64().unwrap() + 1),
            (_, Value::String(text)) => json!(format!("{text}x")),
            (_, Value::Array(_)) => json!([[11, 12]]),
            (_, Value::Object(object)) => {
                let mut object = object.clone();
                object.values_mut().for_each(|value| *value = json!(value.as_i64().unwrap() + 1));
                json!(object)
            }
        };
        let mut all = all_fields.clone();
        all.insert(field.clone(), changed);
        write_manifest(&fixture, &serde_json::from_value(Value::Object(all)).unwrap());
        let verified = check(&fixture.root());
        assert!(fields(&verified).contains(&field.as_str()), "{field}: {:?}", verified.differences);
    }
    write_manifest(&fixture, &manifest);
    assert_verified(&fixture.root(), 1);
}

#[tokio::test]
async fn a_removed_row_is_named_even_when_hash_and_size_are_made_to_fit() {
    let (fixture, other) = (Fixture::with_trades(&[]).await, Fixture::with_trades(&[33]).await);
    let (manifest, without) = (fixture.seal_day().await.manifest, other.seal_day().await.manifest);
    let file = other.day_directory().join("trades.r1.parquet");
    fs::copy(file, fixture.day_directory().join("trades.r1.parquet")).unwrap();
    let verified = check(&fixture.root());
    for field in ["sha256", "rows", "present", "logical_hash", "missing"] {
        assert!(fields(&verified).contains(&field), "{field}: {:?}", verified.differences);
    }
    write_manifest(&fixture, &Manifest { bytes: without.bytes, sha256: without.sha256, ..manifest });
    let verified = check(&fixture.root());
    for field in ["rows", "present", "logical_hash", "missing"] {
        assert!(fields(&verified).contains(&field), "{field}: {:?}", verified.differences);
    }
}

#[tokio::test]
async fn files_that_are_missing_or_too_many_are_named() {
    let fixture = Fixture::with_trades(&[]).await;
    fixture.seal_day().await;
    let directory = fixture.day_directory();
    let names_file = |name: &str| {
        let verified = check(&fixture.root());
        assert!(verified.differences.iter().any(|known| known.file.ends_with(name)), "{name}: {verified:?}");
    };
    for name in ["trades.r1.parquet", "manifest.r1.json", "current.json"] {
        let kept = fs::read(directory.join(name)).unwrap();
        fs::remove_file(directory.join(name)).unwrap();
        names_file(name);
        fs::write(directory.join(name), kept).unwrap();
    }
    fs::write(directory.join("copy of trades.parquet"), "x").unwrap();
    names_file("copy of trades.parquet");
    fs::remove_file(directory.join("copy of trades.parquet")).unwrap();
    fs::write(directory.join("current.json"), "{\"revision\": 2}\n").unwrap();
    names_file("current.json");
    fs::write(directory.join("current.json"), "{\"revision\": 1}\n").unwrap();
    assert_verified(&fixture.root(), 1);
    // What a process left that was killed is no revision.
    fs::copy(directory.join("trades.r1.parquet"), directory.join("trades.r2.parquet")).unwrap();
    fs::write(directory.join(".manifest.r2.json.77.tmp"), "{").unwrap();
    let verified = check(&fixture.root());
    assert_eq!((verified.differences.len(), verified.revisions, verified.notes.len()), (0, 1, 1));
    assert!(verify(&fixture.root().join("nowhere"), &Quiet).is_err());
}

/// The files of a sealed day, by name.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn a_flipped_bit_anywhere_is_named() {
    let (fixture, files) = runtime().block_on(async {
        let fixture = Fixture::with_trades(&[20, 21]).await;
        fixture.seal_day().await;
        let files = contents(&fixture.day_directory());
        (fixture, files)
    });
    quiet_panics();
    for (name, bytes) in files {
        let path = fixture.day_directory().join(&name);
        // Every byte of the small files, and a part of the large one.
        let step = bytes.len() / 300 + 1;
        for at in (0..bytes.len()).step_by(step) {
            for bit in [0x01, 0x20, 0x80] {
                let mut flipped = bytes.clone();
                flipped[at] ^= bit;
                fs::write(&path, flipped).unwrap();
                let verified = check(&fixture.root());
                assert!(!verified.differences.is_empty(), "bit {bit:#x} of byte {at} of {name}");
            }
        }
        fs::write(&path, bytes).unwrap();
    }
    assert_verified(&fixture.root(), 1);
}

#[test]
fn a_hostile_file_is_named_and_nothing_panics() {
    let (fixture, manifest) = runtime().block_on(async {
        let fixture = Fixture::with_trades(&[]).await;
        let manifest = fixture.seal_day().await.manifest;
        (fixture, manifest)
    });
    quiet_panics();
    let path = fixture.day_directory().join("trades.r1.parquet");
    let bytes = fs::read(&path).unwrap();
    let mut hostile: Vec<Vec<u8>> = (0..bytes.len()).step_by(61).map(|end| bytes[..end].to_vec()).collect();
    // A footer that is longer than the file, and one that is huge.
    for length in [0_u32, 7, 1 << 20, u32::MAX, i32::MAX as u32] {
        let mut file = bytes.clone();
        let at = file.len() - 8;
        file[at..at + 4].copy_from_slice(&length.to_le_bytes());
        hostile.push(file);
    }
    // Damage whose hash and size the manifest states, so that the reader meets it.
    for at in (4..bytes.len() - 8).step_by(7) {
        let mut file = bytes.clone();
        file[at] ^= 0xff;
        hostile.push(file);
    }
    for file in hostile {
        fs::write(&path, &file).unwrap();
        let sha256 = logical_hash::sha256(&file);
        write_manifest(&fixture, &Manifest { bytes: file.len() as u64, sha256, ..manifest.clone() });
        check(&fixture.root());
    }
    let texts = ["", "{", "null", "[]", "{\"revision\": 99999999999}", "{\"rows\": -1}", "\u{0}"];
    for text in texts {
        fs::write(fixture.day_directory().join("manifest.r1.json"), text).unwrap();
        assert!(!check(&fixture.root()).differences.is_empty(), "{text}");
    }
    let far = Manifest {
        missing: vec![(i64::MIN, i64::MAX)],
        never_existed: vec![(i64::MAX, i64::MIN)],
        first: Some(i64::MIN),
        expected: i64::MIN,
        filled_by: FilledBy { rest: i64::MAX, archive: i64::MAX },
        file: "../../../../../etc/passwd".to_owned(),
        ..manifest.clone()
    };
    fs::write(&path, &bytes).unwrap();
    write_manifest(&fixture, &far);
    assert!(fields(&check(&fixture.root())).contains(&"file"));
    write_manifest(&fixture, &Manifest { file: manifest.file.clone(), ..far });
    let verified = check(&fixture.root());
    for field in ["missing", "never_existed", "first", "expected", "filled_by"] {
        assert!(fields(&verified).contains(&field), "{field}: {:?}", verified.differences);
    }
}

/// A file of other columns in place of the sealed one, which the manifest states.
fn verify_columns(
    fixture: &Fixture,
    manifest: &Manifest,
    columns: &[(&'static str, crate::parquet_file::Kind)],
) -> Verified {
    use crate::parquet_file::{Cell, Kind, Options, ParquetFile};
    let options = Options { sorted_by: &[], group_rows: 10, remedy: "" };
    let mut file = ParquetFile::begin(Vec::new(), columns, options).unwrap();
    let cells: Vec<Cell<'_>> = columns
        .iter()
        .map(|(_, kind)| match kind {
            Kind::Text => Cell::Text("sideways"),
            Kind::Integer => Cell::Integer(i64::MAX),
            Kind::Timestamp => Cell::Timestamp(Timestamp(i64::MIN)),
            Kind::Decimal(_) => Cell::Decimal(Decimal::ONE),
            Kind::Boolean => Cell::Boolean(true),
        })
        .collect();
    for _ in 0..15 {
        file.put(&cells).unwrap();
    }
    let bytes = file.finish(&[]).unwrap();
    fs::write(fixture.day_directory().join(&manifest.file), &bytes).unwrap();
    let sha256 = logical_hash::sha256(&bytes);
    write_manifest(fixture, &Manifest { bytes: bytes.len() as u64, sha256, ..manifest.clone() });
    check(&fixture.root())
}

#[tokio::test]
async fn a_file_with_other_columns_is_named() {
    let fixture = Fixture::with_trades(&[]).await;
    let manifest = fixture.seal_day().await.manifest;
    let columns = rows::columns(Channel::Trade, &rows::Scales::default());
    let mut more = columns.clone();
    more.push(("extra", crate::parquet_file::Kind::Integer));
    let mut other = columns.clone();
    other[1].1 = crate::parquet_file::Kind::Boolean;
    for (columns, words) in [
        (columns[..8].to_vec(), "column version is missing"),
        (more, "it has 10 columns, not 9"),
        (other, "column trade_id has another type"),
        (columns[1..].to_vec(), "column 1 is"),
        (columns, "row group 0 has 10 rows"),
    ] {
        let verified = verify_columns(&fixture, &manifest, &columns);
        assert!(verified.differences.iter().any(|known| known.words.contains(words)), "{words}: {verified:?}");
    }
}
