//! What feeds record when the symbols that their patterns select are known. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Feed;
use crate::market::{Channel, Exchange, Stream, Symbol};

/// Most streams of one exchange when patterns select them: `*` of the largest exchange with two channels is less, and a
/// listing that grows without an end must not.
pub const STREAMS_MAX: usize = 4_096;

/// The feeds with every symbol by its name, each stream in one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The feeds: the configured ones, each with what its patterns select. A feed whose symbols have different channels is
    /// several, because another feed may record a part of them.
    pub feeds: Vec<Feed>,
    /// For each exchange how many streams the limit leaves out.
    pub left_out: BTreeMap<Exchange, usize>,
}

impl Selection {
    /// What `feeds` record when `selected` are the symbols that their patterns may select. An exact symbol comes before one
    /// of a pattern, and the first of two patterns wins. Symbols of patterns come in order until an exchange has `max`
    /// streams.
    pub fn new(feeds: &[Feed], selected: &BTreeMap<Exchange, BTreeSet<Symbol>>, max: usize) -> Self {
        let mut selection = Self::default();
        let mut known: HashSet<Stream> = feeds.iter().flat_map(Feed::streams).collect();
        let mut counts: BTreeMap<Exchange, usize> = BTreeMap::new();
        for stream in &known {
            *counts.entry(stream.exchange).or_default() += 1;
        }
        for feed in feeds {
            // The channels that no other feed records, with their symbols.
            let mut by_channels: BTreeMap<Vec<Channel>, Vec<Symbol>> = BTreeMap::new();
            let count = counts.entry(feed.exchange).or_default();
            let candidates = selected.get(&feed.exchange).into_iter().flatten();
            for symbol in candidates.filter(|symbol| feed.selects(symbol.as_str())) {
                let stream = |channel: Channel| Stream::new(feed.exchange, symbol.clone(), channel);
                let mut channels = feed.channels.clone();
                channels.retain(|channel| !known.contains(&stream(*channel)));
                if *count + channels.len() > max {
                    *selection.left_out.entry(feed.exchange).or_default() += channels.len();
                    continue;
                }
                if !channels.is_empty() {
                    *count += channels.len();
                    known.extend(channels.iter().map(|channel| stream(*channel)));
                    by_channels.entry(channels).or_default().push(symbol.clone());
                }
            }
            let mut first = feed.clone();
            first.symbols.extend(by_channels.remove(&feed.channels).unwrap_or_default());
            selection.feeds.push(first);
            for (channels, symbols) in by_channels {
                selection.feeds.push(Feed { symbols, channels, ..feed.clone() });
            }
        }
        selection
    }

    /// Every stream, in the order of the feeds.
    pub fn streams(&self) -> Vec<Stream> {
        self.feeds.iter().flat_map(Feed::streams).collect()
    }
}

#[cfg(test)]
#[path = "selection_tests.rs"]
mod tests;
