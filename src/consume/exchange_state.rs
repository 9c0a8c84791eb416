//! What the consumer knows of one exchange: its symbols, its clock, and facts of its dialect.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::plausible::ExchangeTime;
use super::router::SymbolStreams;
use crate::exchange::Dialect;
use crate::exchange::spec::KlineClose;
use crate::market::{Symbol, Timestamp};

/// The symbols of one exchange.
pub(super) struct ExchangeState {
    pub(super) dialect: Arc<dyn Dialect>,
    /// How its klines close.
    pub(super) close: KlineClose,
    /// Whether its klines prove which trades exist.
    pub(super) klines_name_trades: bool,
    pub(super) index: HashMap<Symbol, usize>,
    pub(super) symbols: Vec<SymbolStreams>,
    /// The exchange's time, as its event times show it.
    pub(super) time: ExchangeTime,
    /// The exchange's clock minus ours, in microseconds, and our clock; `None` before it was measured.
    pub(super) clock: Option<(i64, Timestamp)>,
    /// Symbols with held items.
    pub(super) holding: BTreeSet<usize>,
}

impl ExchangeState {
    pub(super) fn new(dialect: Arc<dyn Dialect>) -> Self {
        Self {
            close: dialect.spec().kline_close(),
            klines_name_trades: dialect.spec().klines_name_trades(),
            dialect,
            index: HashMap::new(),
            symbols: Vec::new(),
            time: ExchangeTime::default(),
            clock: None,
            holding: BTreeSet::new(),
        }
    }

    /// The index of a symbol, which is added if it is new.
    pub(super) fn index_of(&mut self, symbol: &str) -> usize {
        if let Some(&index) = self.index.get(symbol) {
            return index;
        }
        let symbol = Symbol::new(symbol);
        self.symbols.push(SymbolStreams::new(symbol.clone()));
        self.index.insert(symbol, self.symbols.len() - 1);
        self.symbols.len() - 1
    }
}
