//! Monitors an exchange: its clock, its limits, and whether it still lists the recorded symbols.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::exchange::ListingEntry;
use crate::exchange::rest::{Rest, RestError};
use crate::market::{Exchange, Stream};

use super::{Service, listing_report};

/// Time between two measurements of the clock while the exchange answers.
const CLOCK_INTERVAL: Duration = Duration::from_secs(300);
/// Time between two requests for the listing: symbols are delisted and renamed, and a weight of 20 an hour is
/// negligible.
const LISTING_INTERVAL: Duration = Duration::from_secs(3_600);
/// The same while a recorded symbol does not trade: its state should end soon after the exchange lists it.
const LISTING_INTERVAL_PAUSED: Duration = Duration::from_secs(300);

/// Measures the clock's offset every few minutes, and reads limits and listing every hour and when the recorded symbols
/// change. No result rejects data.
pub(super) async fn watch(exchange: Exchange, rest: Arc<Rest>, service: Service, stop: CancellationToken) {
    let mut wait = Duration::from_secs(1);
    let mut streams = service.streams.clone();
    let mut listing_due = Instant::now();
    while !stop.is_cancelled() {
        match rest.measure_clock(&stop).await {
            Ok(offset) => {
                debug!("the clock of {exchange} is {} ms ahead of ours", offset / 1_000);
                service.health.restored("rest");
                wait = CLOCK_INTERVAL;
            }
            Err(error) => {
                service.health.degraded("rest", &error.to_string());
                wait = (wait * 2).min(Duration::from_secs(60));
            }
        }
        if listing_due <= Instant::now() {
            let recorded = recorded_symbols(exchange, &streams.borrow_and_update());
            match listing(&rest, recorded, &stop).await {
                Some(entries) => {
                    let interval = if all_trade(&entries) { LISTING_INTERVAL } else { LISTING_INTERVAL_PAUSED };
                    listing_report::apply(exchange, &service, entries);
                    listing_due = Instant::now() + interval;
                }
                None => wait = wait.min(Duration::from_secs(60)),
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = streams.changed() => listing_due = Instant::now(),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn recorded_symbols(exchange: Exchange, streams: &[Stream]) -> Vec<String> {
    let mine = streams.iter().filter(|stream| stream.exchange == exchange);
    mine.map(|stream| stream.symbol.to_string()).collect::<BTreeSet<String>>().into_iter().collect()
}

fn all_trade(entries: &BTreeMap<String, ListingEntry>) -> bool {
    entries.values().all(|entry| *entry == ListingEntry::Trading)
}

/// What the listing says of these symbols; `None` when the exchange did not answer. One unknown symbol fails the whole
/// request (-1121), so the function divides the list in halves.
async fn listing(
    rest: &Rest,
    symbols: Vec<String>,
    stop: &CancellationToken,
) -> Option<BTreeMap<String, ListingEntry>> {
    let mut entries = BTreeMap::new();
    let mut parts = vec![symbols];
    while let Some(mut part) = parts.pop() {
        match rest.info(&part, stop).await {
            Ok(info) => entries.extend(info.symbols.into_iter().filter(|(symbol, _)| part.contains(symbol))),
            Err(RestError::UnknownSymbol { .. }) if part.len() == 1 => {
                entries.extend(part.into_iter().map(|symbol| (symbol, ListingEntry::Unlisted)));
            }
            Err(RestError::UnknownSymbol { .. }) => {
                let rest = part.split_off(part.len() / 2);
                parts.extend([part, rest]);
            }
            Err(_later) => return None,
        }
    }
    Some(entries)
}
