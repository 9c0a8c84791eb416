//! The positions that two connections with the same streams have both delivered. Pure.
//!
//! Each connection delivers the positions of a stream in order. When the new connection has delivered a position that
//! the old one had reached, it delivers everything after it too, and that stream no longer needs the old one.

use std::collections::HashMap;

use crate::exchange::Dialect;
use crate::market::{Channel, Stream, Symbol};

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// The streams of two connections while both are open.
#[derive(Debug)]
pub(super) struct Overlap {
    streams: HashMap<(Symbol, Channel), OverlapPositions>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OverlapPositions {
    /// The highest position of the old connection.
    old_last: Option<i64>,
    /// The lowest position of the new connection.
    new_first: Option<i64>,
}

impl Overlap {
    /// An overlap in which neither connection has delivered anything.
    pub(super) fn new(streams: &[Stream]) -> Self {
        let key = |stream: &Stream| ((stream.symbol.clone(), stream.channel), OverlapPositions::default());
        Self { streams: streams.iter().map(key).collect() }
    }

    /// Adds a frame that one of them delivered; frames without market data change nothing.
    pub(super) fn observe(&mut self, side: Side, dialect: &dyn Dialect, payload: &[u8]) {
        let decoded = dialect.decode(payload, &mut |market| {
            let (channel, position) = market.event.position();
            let Some(positions) = self.streams.get_mut(&(Symbol::new(&market.symbol), channel)) else { return };
            match side {
                Side::Old => positions.old_last = positions.old_last.max(Some(position)),
                Side::New => {
                    positions.new_first = Some(positions.new_first.map_or(position, |first| first.min(position)));
                }
            }
        });
        // The consumer reports it: the frame is in the log.
        if let Err(error) = decoded {
            tracing::debug!("{error}");
        }
    }

    /// Whether the new connection has delivered a position of every stream that the old one had reached.
    pub(super) fn is_complete(&self) -> bool {
        self.streams
            .values()
            .all(|positions| matches!((positions.old_last, positions.new_first), (Some(old), Some(new)) if new <= old))
    }

    /// How many streams the old connection delivers and the new one does not: those still need the old one.
    pub(super) fn missing_streams(&self) -> usize {
        self.streams.values().filter(|positions| positions.old_last.is_some() && positions.new_first.is_none()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::binance::Binance;

    fn trade(symbol: &str, id: i64) -> String {
        format!(
            r#"{{"stream":"{}@trade","data":{{"e":"trade","E":1,"s":"{symbol}","t":{id},"p":"1","q":"1","T":1,"m":true,"M":true}}}}"#,
            symbol.to_lowercase()
        )
    }

    fn overlap(symbols: &[&str], notes: &[(Side, &str, i64)]) -> Overlap {
        let streams = symbols.iter().map(|symbol| format!("binance:{symbol}:trade").parse().unwrap());
        let mut overlap = Overlap::new(&streams.collect::<Vec<Stream>>());
        for (side, symbol, id) in notes {
            overlap.observe(*side, &Binance, trade(symbol, *id).as_bytes());
        }
        overlap
    }

    #[test]
    fn both_connections_must_deliver_a_common_position_of_every_stream() {
        use Side::{New, Old};
        for (notes, complete) in [
            (&[][..], false),
            (&[(Old, "AAA", 5)][..], false),
            (&[(New, "AAA", 5)][..], false),
            (&[(Old, "AAA", 5), (New, "AAA", 6)][..], false),
            (&[(Old, "AAA", 5), (New, "AAA", 6), (Old, "AAA", 6)][..], true),
            (&[(Old, "AAA", 5), (New, "AAA", 4), (New, "AAA", 5)][..], true),
            (&[(Old, "BBB", 5), (New, "BBB", 5)][..], false),
        ] {
            assert_eq!(overlap(&["AAA"], notes).is_complete(), complete, "{notes:?}");
        }
        let notes = [(Old, "AAA", 5), (New, "AAA", 5), (Old, "BBB", 1)];
        let two = overlap(&["AAA", "BBB"], &notes);
        assert!(!two.is_complete());
        assert_eq!(two.missing_streams(), 1);
    }
}
