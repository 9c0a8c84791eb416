//! Takes over what the exchange's listing says of the recorded symbols, and logs what changed. A symbol that does not
//! trade is a state of its streams: status shows it, health does not count it.

use std::collections::BTreeMap;

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::exchange::{Listing, ListingEntry, TradingState};
use crate::market::{Exchange, Stream, Symbol, Timestamp};

use super::Service;

/// A symbol that does not trade and has been silent for this long has ended, microseconds: Binance keeps a delisted symbol
/// in its listing, paused for ever, and no maintenance lasts so long.
const PAUSE_MAX_US: i64 = 86_400_000_000;

/// Takes a listing of everything: records what patterns select now, then stores the states of the recorded symbols.
/// Returns when to ask again, if this answer alone proves nothing.
pub(super) fn follow(
    exchange: Exchange,
    service: &Service,
    entries: &BTreeMap<String, ListingEntry>,
    is_whole: bool,
) -> Option<Duration> {
    let dialect = service.backfill.dialects.get(&exchange)?;
    let (now, streams) = (Instant::now(), OwnStreams::of(exchange, service));
    let is_over = |symbol: &Symbol| streams.is_over(service, symbol);
    let change = service.recorded.take(&**dialect, Listing { entries, is_whole }, is_over, now);
    let recorded = OwnStreams::of(exchange, service);
    let said = recorded.0.keys().filter_map(|symbol| {
        let entry = match entries.get(symbol.as_str()) {
            None | Some(ListingEntry::Unlisted) => {
                service.recorded.is_absent(exchange, symbol, &change, now).then_some(ListingEntry::Unlisted)?
            }
            Some(entry) => entry.clone(),
        };
        Some((symbol.to_string(), entry))
    });
    apply(exchange, service, said.collect());
    change.ask_again
}

/// Whether a recorded symbol is paused, and its end is not sure.
pub(super) fn has_pauses(exchange: Exchange, service: &Service, entries: &BTreeMap<String, ListingEntry>) -> bool {
    let streams = OwnStreams::of(exchange, service);
    let is_paused = |symbol: &Symbol| matches!(entries.get(symbol.as_str()), Some(ListingEntry::Paused(_)));
    streams.0.keys().any(|symbol| is_paused(symbol) && !streams.is_over(service, symbol))
}

/// Stores the entries; logs each symbol whose state changed.
pub(super) fn apply(exchange: Exchange, service: &Service, entries: BTreeMap<String, ListingEntry>) {
    let streams = OwnStreams::of(exchange, service);
    service.listings.retain(|of, symbol| of != exchange || streams.0.contains_key(symbol));
    let now = service.clock.now();
    for (symbol, entry) in entries {
        let symbol = Symbol::new(&symbol);
        let newest = streams.newest_frame(service, &symbol);
        let has_rows = |stream: &Stream| service.progress.stream(stream).next.is_some();
        let was_seen = newest.is_some() || streams.of_symbol(&symbol).iter().any(has_rows);
        let before = service.listings.state(exchange, &symbol, newest);
        match &entry {
            ListingEntry::Paused(word) if streams.is_over(service, &symbol) => {
                let why =
                    format!("{exchange} has stopped the trade of {symbol} ({word}), and it is silent for over a day");
                service.listings.ended(exchange, symbol.clone(), entry, why, now);
            }
            _ => service.listings.listed(exchange, symbol.clone(), entry, was_seen, now),
        }
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

/// The recorded streams of one exchange, by symbol: patterns may select thousands.
struct OwnStreams(BTreeMap<Symbol, Vec<Stream>>);

impl OwnStreams {
    fn of(exchange: Exchange, service: &Service) -> Self {
        let mut own: BTreeMap<Symbol, Vec<Stream>> = BTreeMap::new();
        for stream in service.streams.borrow().iter().filter(|stream| stream.exchange == exchange) {
            own.entry(stream.symbol.clone()).or_default().push(stream.clone());
        }
        Self(own)
    }

    fn of_symbol(&self, symbol: &Symbol) -> &[Stream] {
        self.0.get(symbol).map_or(&[], Vec::as_slice)
    }

    fn newest_frame(&self, service: &Service, symbol: &Symbol) -> Option<Timestamp> {
        self.of_symbol(symbol).iter().filter_map(|stream| service.counters.last_seen.get(stream)).max()
    }

    /// Whether nothing of a symbol that does not trade has come for so long that this is its end.
    fn is_over(&self, service: &Service, symbol: &Symbol) -> bool {
        let newest = |stream: &Stream| {
            let progress = service.progress.stream(stream);
            progress.last_ts.max(progress.last_received)
        };
        let stored = self.of_symbol(symbol).iter().filter_map(newest).max();
        let newest = stored.max(self.newest_frame(service, symbol).map(Timestamp::micros));
        newest.is_some_and(|newest| service.clock.now().micros() - newest > PAUSE_MAX_US)
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
