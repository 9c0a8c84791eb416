//! Takes over what the exchange's listing says of the recorded symbols, and logs what changed. A symbol that does not
//! trade is a state of its streams: status shows it, health does not count it.

use std::collections::BTreeMap;

use tracing::{info, warn};

use crate::exchange::{ListingEntry, TradingState};
use crate::market::{Exchange, Stream, Symbol, Timestamp};

use super::Service;

/// Stores the entries; logs each symbol whose state changed.
pub(super) fn apply(exchange: Exchange, service: &Service, entries: BTreeMap<String, ListingEntry>) {
    let streams = service.streams.borrow().clone();
    let is_recorded = |exchange: Exchange, symbol: &Symbol| {
        streams.iter().any(|stream| stream.exchange == exchange && stream.symbol == *symbol)
    };
    service.listings.retain(is_recorded);
    let now = service.clock.now();
    for (symbol, entry) in entries {
        let symbol = Symbol::new(&symbol);
        let newest = newest_frame(service, &streams, exchange, &symbol);
        let mine = streams.iter().filter(|stream| stream.exchange == exchange && stream.symbol == symbol);
        let was_seen =
            newest.is_some() || mine.into_iter().any(|stream| service.progress.stream(stream).next.is_some());
        let before = service.listings.state(exchange, &symbol, newest);
        service.listings.listed(exchange, symbol.clone(), entry, was_seen, now);
        let state = service.listings.state(exchange, &symbol, newest);
        match &state {
            _ if state == before => {}
            TradingState::Trading => {
                info!(EXCHANGE = %exchange, SYMBOL = %symbol, "{exchange} lists {symbol} as trading")
            }
            TradingState::NotTrading(why) | TradingState::Ended(why) => {
                warn!(EXCHANGE = %exchange, SYMBOL = %symbol, "{why}");
            }
        }
    }
}

/// When the newest frame of a symbol arrived, of any of its streams.
pub(super) fn newest_frame(
    service: &Service,
    streams: &[Stream],
    exchange: Exchange,
    symbol: &Symbol,
) -> Option<Timestamp> {
    let mine = streams.iter().filter(|stream| stream.exchange == exchange && stream.symbol == *symbol);
    mine.filter_map(|stream| service.counters.last_seen.get(stream)).max()
}
