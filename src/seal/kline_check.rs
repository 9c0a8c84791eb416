//! Compares a day's one-minute klines with the trades that they name, as the trades are read. Pure.
//!
//! A witness, not a judge: a difference is counted in the manifest and changes nothing.

use rust_decimal::Decimal;

use crate::gap::Range;
use crate::market::{Kline, Trade};

use super::KlineCheck;

/// The klines of a day, and how far the trades have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KlineComparison {
    /// With the ids of their trades, ascending, the next one last.
    klines: Vec<(Range, Kline)>,
    /// What the trades of the next kline make so far, and how many there were.
    rebuilt: Option<(Kline, i64)>,
    found: KlineCheck,
}

impl KlineComparison {
    /// Compares these klines; those that do not name their trades are left out.
    pub fn new(klines: impl IntoIterator<Item = Kline>) -> Self {
        let named = klines.into_iter().filter(|kline| kline.first_trade_id >= 0);
        let mut klines: Vec<(Range, Kline)> =
            named.filter_map(|kline| Some((Range::new(kline.first_trade_id, kline.last_trade_id)?, kline))).collect();
        klines.sort_by_key(|(range, _)| std::cmp::Reverse(*range));
        Self { klines, ..Self::default() }
    }

    /// Takes a trade; ids ascend.
    pub fn trade(&mut self, trade: &Trade) {
        while self.klines.last().is_some_and(|(range, _)| range.last < trade.id) {
            self.compare();
        }
        let Some((_, kline)) = self.klines.last().filter(|(range, _)| range.contains(trade.id)) else { return };
        let first = Kline { open: trade.price, high: trade.price, low: trade.price, volume: Decimal::ZERO, ..*kline };
        let (rebuilt, count) = self.rebuilt.get_or_insert((first, 0));
        rebuilt.high = rebuilt.high.max(trade.price);
        rebuilt.low = rebuilt.low.min(trade.price);
        rebuilt.close = trade.price;
        // A sum beyond the largest decimal differs from every kline's volume.
        rebuilt.volume = rebuilt.volume.checked_add(trade.quantity).unwrap_or(Decimal::MIN);
        *count += 1;
    }

    /// Compares the next kline with its trades, if all of them were there.
    fn compare(&mut self) {
        let Some((range, kline)) = self.klines.pop() else { return };
        let Some((rebuilt, count)) = self.rebuilt.take().filter(|(_, count)| *count == range.len(1)) else { return };
        self.found.checked += 1;
        // Not every exchange counts the trades of a kline.
        let is_same = rebuilt == kline && (kline.trade_count == 0 || kline.trade_count == count);
        self.found.different += u64::from(!is_same);
    }

    /// The outcome.
    pub fn end(mut self) -> KlineCheck {
        while !self.klines.is_empty() {
            self.compare();
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Timestamp;
    use crate::seal::fixture_tests::{kline_of, trade_row};

    fn check(klines: &[Kline], ids: impl IntoIterator<Item = i64>) -> (u64, u64) {
        let mut comparison = KlineComparison::new(klines.iter().copied());
        ids.into_iter().for_each(|id| comparison.trade(&trade_row(id, Timestamp(0)).trade));
        let found = comparison.end();
        (found.checked, found.different)
    }

    #[test]
    fn a_kline_is_compared_when_all_of_its_trades_are_there() {
        let klines = [kline_of(10, 12), kline_of(13, 13), kline_of(14, 19)];
        assert_eq!(check(&klines, 10..=19), (3, 0));
        assert_eq!(check(&klines, 5..=30), (3, 0));
        assert_eq!(check(&klines, (10..=19).filter(|id| *id != 11)), (2, 0));
        assert_eq!(check(&klines, 14..=18), (0, 0));
        let wrong = Kline { high: klines[2].high + Decimal::ONE, ..klines[2] };
        let miscounted = Kline { trade_count: 9, ..klines[0] };
        assert_eq!(check(&[miscounted, klines[1], wrong], 10..=19), (3, 2));
        assert_eq!(check(&[Kline { first_trade_id: -1, last_trade_id: -1, ..klines[0] }], 10..=19), (0, 0));
    }
}
