//! Whether a stream's numbers prove that nothing is missing.

use crate::exchange::catalog;
use crate::exchange::spec::Numbering;
use crate::market::Stream;

/// Neighbours, each one step from the next, that show that an exchange numbers a stream without holes.
pub const NEIGHBOURS_MIN: i64 = 10_000;

/// Whether the numbers of a stream prove its completeness. `present` rows are stored, with `holes` ranges between them
/// that are missing or never existed.
///
/// Where no document says that the numbers are contiguous, the stored rows must show it: neighbours that are one step
/// apart, many of them, and no hole that the exchange itself does not explain.
pub fn is_proven(stream: &Stream, present: i64, holes: usize, never_existed: bool) -> bool {
    let numbering = catalog::dialect(stream.exchange)
        .and_then(|dialect| dialect.spec().channel(stream.channel).map(|channel| channel.numbering));
    match numbering {
        Some(Numbering::Unproven) => {
            let neighbours = present.saturating_sub(1).saturating_sub(i64::try_from(holes).unwrap_or(i64::MAX));
            neighbours >= NEIGHBOURS_MIN && !never_existed
        }
        Some(Numbering::Unnumbered) => false,
        // History may have rows of an exchange that this program does not know.
        Some(Numbering::Contiguous | Numbering::WithHoles) | None => true,
    }
}
