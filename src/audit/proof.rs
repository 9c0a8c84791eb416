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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbering_is_proven_by_documents_or_by_ten_thousand_neighbours() {
        let stream = |text: &str| text.parse::<Stream>().unwrap();
        let proven = |text: &str, present, holes, never| is_proven(&stream(text), present, holes, never);
        assert!(proven("binance:BTCUSDT:trade", 1, 0, true) && proven("coinbase:BTC-USD:trade", 1, 5, true));
        assert!(proven("unknown:BTC:trade", 1, 0, false), "rows of an exchange that this program does not know");
        let bybit = "bybit:BTCUSDT:trade";
        assert!(!proven(bybit, 0, 0, false) && !proven(bybit, NEIGHBOURS_MIN, 0, false));
        assert!(proven(bybit, NEIGHBOURS_MIN + 1, 0, false));
        assert!(!proven(bybit, NEIGHBOURS_MIN + 3, 3, false), "a hole has no neighbours");
        assert!(proven(bybit, NEIGHBOURS_MIN + 4, 3, false));
        assert!(!proven(bybit, NEIGHBOURS_MIN * 2, 1, true), "ids that were skipped disprove it");
        assert!(proven("bybit:BTCUSDT:kline_1m", 1, 0, false), "klines are numbered by time");
        assert!(!proven("okx:BTC-USDT:book_ticker", 100_000, 0, false));
    }
}
