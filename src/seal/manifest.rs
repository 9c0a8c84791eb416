//! The manifest of a revision: what the file holds, and what of the day it lacks.

use std::io;

use serde::Serialize;
use serde::ser::Error as _;
use serde_json::ser::{CompactFormatter, Formatter};

/// What one revision of a sealed day states. Positions are trade ids, or open times in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The exchange.
    pub exchange: String,
    /// The symbol, as the exchange spells it.
    pub symbol: String,
    /// `trades`, `agg_trades` or `klines_1m`...
    pub channel: String,
    /// `2026-11-27`, in UTC.
    pub date: String,
    /// The newest numbering with rows of the day; the counts and lists speak of it.
    pub epoch: i64,
    /// From 1.
    pub revision: u32,
    /// The name of the file, beside the manifest.
    pub file: String,
    /// The size of the file.
    pub bytes: u64,
    /// The SHA-256 of the file, in small hexadecimal digits.
    pub sha256: String,
    /// Rows in the file, of every numbering.
    pub rows: u64,
    /// The first recorded position of the day; null without a row.
    pub first: Option<i64>,
    /// The last recorded position of the day.
    pub last: Option<i64>,
    /// Positions from `first` to `last`.
    pub expected: i64,
    /// Rows from `first` to `last`.
    pub present: i64,
    /// Of these, how many came from live frames.
    pub live: i64,
    /// Of these, how many backfill fetched.
    pub backfilled: i64,
    /// Where the backfilled ones came from.
    pub filled_by: FilledBy,
    /// Positions that the exchange never used, as inclusive ranges.
    pub never_existed: Vec<(i64, i64)>,
    /// Positions that the exchange does not serve; the recorder asks again for hours.
    pub unconfirmed: Vec<(i64, i64)>,
    /// Positions that are lost, with the reasons.
    pub unrecoverable: Vec<(i64, i64, String)>,
    /// Positions that may still be filled.
    pub missing: Vec<(i64, i64)>,
    /// Positions between `first` and `last` whose rows belong to the day before or after, by the exchange's own time.
    pub other_day: Vec<(i64, i64)>,
    /// Numberings that ended, oldest first.
    pub older_epochs: Vec<OlderEpoch>,
    /// Nothing after the day is recorded, so nothing shows that the day's last row is its last.
    pub open_end: bool,
    /// The exchange's numbers do not prove that nothing is missing.
    pub unproven: bool,
    /// No position is unconfirmed, unrecoverable or missing, the end is known, and the numbers prove it.
    pub complete: bool,
    /// The hash of the rows: see [`super::LogicalHash`].
    pub logical_hash: String,
    /// One-minute klines of the day that were compared with the trades of this file.
    pub klines: KlineCheck,
    /// The SHA-256 of the manifest of the day before that was current when this one was sealed; null when that day was
    /// not sealed.
    pub previous: Option<String>,
    /// When the rows were read, RFC 3339 in UTC.
    pub sealed_at: String,
    /// The `instance` of the recorder.
    pub recorder: String,
    /// The version of the program.
    pub version: String,
}

/// How many rows came from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilledBy {
    /// From the exchange's REST.
    pub rest: i64,
    /// From the exchange's published files.
    pub archive: i64,
}

/// The rows of a numbering that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OlderEpoch {
    /// Its number.
    pub epoch: i64,
    /// Its first recorded id of the day.
    pub first: i64,
    /// Its last recorded id of the day.
    pub last: i64,
    /// Its rows of the day.
    pub rows: u64,
}

/// A comparison of klines with trades.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlineCheck {
    /// Klines whose trades are all in the file.
    pub checked: u64,
    /// Of these, how many differ from what their trades make.
    pub different: u64,
}

/// The fields that depend on the bytes of the file; the file itself holds the others.
pub const OF_FILE: [&str; 3] = ["file", "bytes", "sha256"];

impl Manifest {
    /// The document: one field a line, always the same bytes for the same content.
    pub fn to_text(&self) -> serde_json::Result<String> {
        let mut bytes = Vec::new();
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, FieldPerLine::default()))?;
        bytes.push(b'\n');
        String::from_utf8(bytes).map_err(serde_json::Error::custom)
    }

    /// The statement that the file itself holds: every field that does not depend on the bytes of the file.
    pub fn statement(&self) -> serde_json::Result<serde_json::Map<String, serde_json::Value>> {
        let serde_json::Value::Object(mut fields) = serde_json::to_value(self)? else {
            return Err(serde_json::Error::custom("a manifest is an object"));
        };
        for field in OF_FILE {
            fields.remove(field);
        }
        Ok(fields)
    }

    /// Whether nothing that the exchange had of the day is known to be absent, and the rows prove it.
    pub fn proves_complete(&self) -> bool {
        let is_whole = self.unconfirmed.is_empty() && self.unrecoverable.is_empty() && self.missing.is_empty();
        is_whole && !self.open_end && !self.unproven
    }

    /// Whether another manifest says the same of the exchange's day. Which recorder received a row live, and which by
    /// backfill, is no part of it: two recorders that hold the same rows seal once.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let of_day = |manifest: &Self| Self {
            revision: 0,
            file: String::new(),
            bytes: 0,
            sha256: String::new(),
            live: 0,
            backfilled: 0,
            filled_by: FilledBy::default(),
            klines: KlineCheck::default(),
            previous: None,
            sealed_at: String::new(),
            recorder: String::new(),
            version: String::new(),
            // A reason may be worded anew by each recorder.
            unrecoverable: manifest
                .unrecoverable
                .iter()
                .map(|(first, last, _)| (*first, *last, String::new()))
                .collect(),
            ..manifest.clone()
        };
        of_day(self) == of_day(other)
    }

    /// What it lacks, for people: empty when it is complete.
    pub fn shortfalls(&self) -> Vec<String> {
        let step = super::names::channel(&self.channel).and_then(crate::market::Channel::step).unwrap_or(1);
        let count = |ranges: &mut dyn Iterator<Item = (i64, i64)>| -> i128 {
            ranges.map(|(first, last)| (i128::from(last) - i128::from(first)) / i128::from(step) + 1).sum()
        };
        let mut words = Vec::new();
        let counts = [
            (count(&mut self.missing.iter().copied()), "missing"),
            (count(&mut self.unconfirmed.iter().copied()), "unconfirmed"),
            (count(&mut self.unrecoverable.iter().map(|(first, last, _)| (*first, *last))), "unrecoverable"),
        ];
        words.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")));
        if self.open_end {
            words.push("nothing after the day is recorded".to_owned());
        }
        if self.unproven {
            words.push("the exchange's numbers prove nothing".to_owned());
        }
        words
    }
}

/// Writes each field of the outermost object on a line of its own, and everything in it on that line: a list of ranges
/// stays readable.
#[derive(Default)]
struct FieldPerLine {
    depth: usize,
}

impl Formatter for FieldPerLine {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(if self.depth == 0 { b"\n}" } else { b"}" })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        match (self.depth, first) {
            (1, true) => writer.write_all(b"\n  "),
            (1, false) => writer.write_all(b",\n  "),
            (_, true) => Ok(()),
            (_, false) => writer.write_all(b", "),
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        CompactFormatter.begin_array_value(writer, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::fixture_tests::manifest;

    #[test]
    fn a_manifest_reads_back_from_its_own_text_which_has_a_field_per_line() {
        let manifest = manifest();
        let text = manifest.to_text().unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap().to_text().unwrap(), text);
        assert!(text.contains("\n  \"missing\": [[7,9],[12,12]],\n"), "{text}");
        assert!(text.contains("\n  \"filled_by\": {\"rest\": 2, \"archive\": 0},\n"), "{text}");
        assert!(text.starts_with("{\n  \"exchange\": \"binance\",\n") && text.ends_with("\"\n}\n"), "{text}");
        assert!(serde_json::from_str::<Manifest>(&text.replace("\"rows\"", "\"rouws\"")).is_err());
    }

    #[test]
    fn who_received_the_rows_is_no_difference() {
        let one = manifest();
        let other = Manifest {
            revision: 4,
            live: 0,
            recorder: "south".to_owned(),
            unrecoverable: vec![(20, 21, "in other words".to_owned())],
            ..one.clone()
        };
        assert!(one.says_the_same(&other));
        assert!(!one.says_the_same(&Manifest { missing: vec![(7, 9)], ..one.clone() }));
        assert!(!one.says_the_same(&Manifest { logical_hash: "0".to_owned(), ..one.clone() }));
        assert_eq!(one.shortfalls(), ["4 missing", "2 unrecoverable", "nothing after the day is recorded"]);
    }
}
