//! The current revision of a day, as it is in its place.

use std::collections::BTreeMap;

use anyhow::anyhow;

use super::changed::SealedRange;
use super::logical_hash::sha256;
use super::sealer::{Outcome, Sealer};
use super::{Day, Manifest, names};
use crate::exit::{DATA, Failure};
use crate::market::Stream;

/// The current revision of a day.
#[derive(Debug, Default)]
pub struct Current {
    /// The highest revision with a manifest; 0 for none.
    pub revision: u32,
    /// What it states; `None` when there is none, or when it is damaged.
    pub manifest: Option<Manifest>,
    /// The SHA-256 of the manifest.
    pub sha256: Option<String>,
    /// `current.json` names it, and its file has the size that it states.
    pub is_whole: bool,
}

impl Sealer {
    /// The days of a stream that have a revision. One whose manifest is damaged counts as not sealed.
    pub(super) async fn sealed(&self, stream: &Stream) -> Result<BTreeMap<Day, SealedRange>, Failure> {
        let mut sealed = BTreeMap::new();
        let Some(directory) = names::stream_directory(stream) else { return Ok(sealed) };
        let found = self.place.names(&directory).await;
        for name in found.map_err(|error| self.failure(error, "list", &directory))? {
            let Some(day) = name.strip_prefix("date=").and_then(Day::parse) else { continue };
            let current = self.current(stream, &format!("{directory}/{name}")).await?;
            let manifest = current.manifest.filter(|_| current.is_whole);
            if let Some(range) = manifest.and_then(|manifest| SealedRange::of(&manifest, stream.channel, day)) {
                sealed.insert(day, range);
            }
        }
        Ok(sealed)
    }

    /// The current revision of a day.
    pub(super) async fn current(&self, stream: &Stream, directory: &str) -> Result<Current, Failure> {
        let found = self.place.names(directory).await.map_err(|error| self.failure(error, "list", directory))?;
        let Some(revision) = found.iter().filter_map(|name| names::manifest_revision(name)).max() else {
            return Ok(Current::default());
        };
        let read = async |name: &str| {
            let path = format!("{directory}/{name}");
            self.place.read(&path).await.map_err(|error| self.failure(error, "read", &path))
        };
        let Some(text) = read(&names::manifest(revision)).await? else { return Ok(Current::default()) };
        let manifest = serde_json::from_slice::<Manifest>(&text).ok();
        if let Some(other) = manifest.as_ref().filter(|manifest| manifest.symbol != stream.symbol.as_str()) {
            let place = self.place.name();
            let why = anyhow!("{place}/{directory} holds {}: two symbols have one name in a path", other.symbol);
            return Err(Failure::new(DATA, why));
        }
        let named = read(names::CURRENT).await?.and_then(|text| names::parse_current(&text));
        let size = match &manifest {
            Some(manifest) => {
                let path = format!("{directory}/{}", names::file(&manifest.channel, revision));
                self.place.size(&path).await.map_err(|error| self.failure(error, "read", &path))?
            }
            None => None,
        };
        let is_whole =
            named == Some(revision) && size.is_some() && size == manifest.as_ref().map(|stated| stated.bytes);
        Ok(Current { revision, manifest, sha256: Some(sha256(&text)), is_whole })
    }
}

impl Current {
    /// Why the current revision stays; `None` when a new one is needed.
    pub fn keeps(self, manifest: &Manifest) -> Option<(Outcome, Manifest)> {
        let stated = self.manifest.filter(|_| self.is_whole)?;
        if stated.says_the_same(manifest) {
            return Some((Outcome::Unchanged, stated));
        }
        // Retention drops rows of history: the sealed ones must not follow them.
        let fewer = stated.rows.checked_sub(manifest.rows).filter(|fewer| *fewer > 0)?;
        Some((Outcome::Kept(fewer), stated))
    }
}
