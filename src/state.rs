//! The service's snapshot: saved atomically to a file and to the cache, restored at start.
//!
//! A save keeps the current file as the previous generation and then replaces it atomically. So a power cut leaves at
//! least one of the two whole, and the checksum shows which: it covers the bytes of the document, also those that this
//! version of the program does not read. Must not know what the numbers mean to the recording path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::atomic_file;

/// The current generation.
pub const FILE: &str = "service_state.json";
/// The generation before it.
pub const PREVIOUS_FILE: &str = "service_state.previous.json";
/// What is before the checksum in the document.
const CHECKSUM_FIELD: &str = "\"checksum\": \"";

/// What is saved. Streams are written `binance:BTCUSDT:trade`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The exchange's time of each stream's newest durable row, milliseconds since 1970.
    pub last_processed_timestamps: BTreeMap<String, i64>,
    /// Streams that are recorded.
    pub active_subscriptions: Vec<String>,
    /// Symbols that are recorded and have ended, written `binance:OLDUSDT`: no alarm, also before the exchange has said so
    /// once more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ended: BTreeSet<String>,
    /// The next offset to consume of each log partition.
    pub consumer_offsets: BTreeMap<String, i64>,
    /// The log to which the offsets belong: they are meaningless for another log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// When the process started, RFC 3339.
    pub startup_time: String,
    /// When the process stopped in order, RFC 3339; null while it runs and after a crash.
    pub shutdown_time: Option<String>,
    /// The highest durable position of each stream: trade id, or open time in microseconds.
    pub watermarks: BTreeMap<String, i64>,
    /// The numbering of each watermark above the first one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub epochs: BTreeMap<String, i64>,
    /// The history the watermarks were written against.
    pub history_identity: Option<String>,
    /// Streams whose first trade or closed kline is not yet stored, each with the time since which it is recorded,
    /// milliseconds since 1970. Only this time shows what a stream misses before its first row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub anchors: BTreeMap<String, i64>,
    /// Per exchange, until when it bans this address, milliseconds since 1970.
    #[serde(default)]
    pub ban_until: BTreeMap<String, i64>,
    /// Per exchange, until when it limits this address, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limit_until: BTreeMap<String, i64>,
    /// Per exchange, until when it accepts no WebSocket of this address, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connect_after: BTreeMap<String, i64>,
    /// When the deadlines above were saved, milliseconds since 1970; absent without any. A clock that was set back since
    /// then does not extend them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadlines_saved_at: Option<i64>,
    /// What an earlier history held and the present one lacks, until its rows are back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_history: Option<LostHistory>,
    /// Grows by one with every save.
    pub generation: u64,
    /// CRC-32 of the bytes of this document with an empty checksum, eight hexadecimal digits.
    pub checksum: String,
}

/// A history that was recorded and is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostHistory {
    /// When the recorder noticed it, milliseconds since 1970.
    pub noticed_at: i64,
    /// The highest position that it held of each stream.
    pub positions: BTreeMap<String, i64>,
    /// When the last frame of it was received, microseconds since 1970, where no snapshot has the positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_before: Option<i64>,
}

impl Snapshot {
    /// The JSON document with its checksum.
    pub fn encode(&self) -> anyhow::Result<String> {
        let mut unsigned = self.clone();
        unsigned.checksum = String::new();
        let body = serde_json::to_string_pretty(&unsigned).context("encode the state")?;
        unsigned.checksum = format!("{:08x}", crc32fast::hash(body.as_bytes()));
        serde_json::to_string_pretty(&unsigned).context("encode the state")
    }

    /// Reads a document. Returns an error when it is torn or was edited by hand, in whatever byte.
    pub fn decode(text: &str) -> anyhow::Result<Self> {
        let snapshot: Self = serde_json::from_str(text).context("read the state's JSON")?;
        // The checksum is the last field, and a quote inside a text is escaped: this is the field and no other text.
        let begin = text.rfind(CHECKSUM_FIELD).context("the document has no checksum")? + CHECKSUM_FIELD.len();
        let end = begin + text[begin..].find('"').context("the checksum has no end")?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&text.as_bytes()[..begin]);
        crc.update(&text.as_bytes()[end..]);
        let (found, expected) = (&text[begin..end], format!("{:08x}", crc.finalize()));
        anyhow::ensure!(found == expected && snapshot.checksum == expected, "checksum {found} is not {expected}");
        Ok(snapshot)
    }
}

/// The two generations on disk.
#[derive(Clone, Debug)]
pub struct StateFile {
    directory: PathBuf,
}

impl StateFile {
    /// In this directory.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Saves a document durably; the one before becomes the previous generation.
    pub fn save(&self, document: &str) -> anyhow::Result<()> {
        let current = self.directory.join(FILE);
        let staged = atomic_file::stage(&current, document.as_bytes())?;
        // Only a whole document becomes the previous generation: a corrupt current file must not replace the last good
        // one.
        if fs::read_to_string(&current).is_ok_and(|text| Snapshot::decode(&text).is_ok()) {
            let previous = self.directory.join(PREVIOUS_FILE);
            fs::rename(&current, &previous).with_context(|| format!("keep {}", previous.display()))?;
        }
        staged.commit()
    }

    /// The newest whole generation, and a warning for each generation that is unreadable or corrupt. Never an error:
    /// the caller reads the cache and history next.
    pub fn load(&self) -> (Option<Snapshot>, Vec<String>) {
        let mut warnings = Vec::new();
        for name in [FILE, PREVIOUS_FILE] {
            let path = self.directory.join(name);
            match fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => warnings.push(format!("cannot read {}: {error}", path.display())),
                Ok(text) => match Snapshot::decode(&text) {
                    Ok(snapshot) => return (Some(snapshot), warnings),
                    Err(error) => warnings.push(format!("{} is corrupt: {error:#}", path.display())),
                },
            }
        }
        (None, warnings)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(generation: u64) -> Snapshot {
        let watermarks = BTreeMap::from([("binance:BTCUSDT:trade".to_owned(), 7)]);
        Snapshot { generation, watermarks, ..Snapshot::default() }
    }

    fn saved(file: &StateFile, generation: u64) {
        file.save(&snapshot(generation).encode().unwrap()).unwrap();
    }

    #[test]
    fn the_newest_saved_generation_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        assert_eq!(file.load(), (None, vec![]));
        saved(&file, 1);
        saved(&file, 2);
        let (loaded, warnings) = file.load();
        assert_eq!((loaded.unwrap().generation, warnings), (2, vec![]));
    }

    #[test]
    fn a_torn_file_falls_back_to_the_previous_generation() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        saved(&file, 1);
        saved(&file, 2);
        let path = directory.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let (loaded, warnings) = file.load();
        assert_eq!((loaded.unwrap().generation, warnings.len()), (1, 1));
        // The next save must not replace the last good generation with the torn one.
        saved(&file, 3);
        fs::write(&path, "{}").unwrap();
        assert_eq!(file.load().0.unwrap().generation, 1);
    }

    #[test]
    fn a_document_of_the_first_release_and_one_with_unknown_fields_are_read() {
        // As version 0.1.0 writes it.
        let old = include_str!("../tests/it/program/service_state.0.1.0.json");
        assert_eq!(Snapshot::decode(old).unwrap().generation, 1);
        let newer = old.replacen("{\n", "{\n  \"later\": [1],\n", 1);
        assert!(Snapshot::decode(&newer).is_err(), "the checksum covers what this version does not read");
        let unsigned = newer.replace(&Snapshot::decode(old).unwrap().checksum, "");
        let crc = format!("{:08x}", crc32fast::hash(unsigned.as_bytes()));
        let signed = unsigned.replace("\"checksum\": \"\"", &format!("\"checksum\": \"{crc}\""));
        assert_eq!(Snapshot::decode(&signed).unwrap().generation, 1);
    }

    #[test]
    fn a_failed_save_leaves_no_temporary_file_and_keeps_the_generation() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        saved(&file, 1);
        saved(&file, 2);
        fs::remove_file(directory.path().join(PREVIOUS_FILE)).unwrap();
        // A directory in the place of the previous generation cannot be replaced.
        fs::create_dir_all(directory.path().join(PREVIOUS_FILE).join("full")).unwrap();
        assert!(file.save(&snapshot(3).encode().unwrap()).is_err());
        assert_eq!(file.load().0.unwrap().generation, 2);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in 0_usize..200, bit in 0_u8..8) {
            let mut bytes = snapshot(5).encode().unwrap().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(Snapshot::decode(&text).is_err(), "{text}");
            }
        }
    }
}
