//! The exchanges that this program can record: a line each.

use std::sync::{Arc, LazyLock};

use super::Dialect;
use crate::market::Exchange;

/// One dialect per exchange, in the order of the documentation.
#[rustfmt::skip] // A line each: two branches that add a venue change two lines.
static DIALECTS: LazyLock<Vec<Arc<dyn Dialect>>> = LazyLock::new(|| vec![
    Arc::new(super::binance::Binance),
    Arc::new(super::binance_usdm::BinanceUsdm),
    Arc::new(super::okx::Okx),
    Arc::new(super::bybit::Bybit),
    Arc::new(super::coinbase::Coinbase),
    Arc::new(super::kraken::Kraken),
]);

/// Every dialect.
pub fn dialects() -> &'static [Arc<dyn Dialect>] {
    &DIALECTS
}

/// The dialect of an exchange; `None` when this program does not speak it.
pub fn dialect(exchange: Exchange) -> Option<Arc<dyn Dialect>> {
    DIALECTS.iter().find(|dialect| dialect.exchange() == exchange).cloned()
}

/// The exchange of this name, if this program can record it.
pub fn find(name: &str) -> Option<Exchange> {
    names().find(|exchange| exchange.as_str() == name)
}

/// The names of all exchanges.
pub fn names() -> impl Iterator<Item = Exchange> {
    DIALECTS.iter().map(|dialect| dialect.exchange())
}
