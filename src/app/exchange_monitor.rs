//! Monitors an exchange: its clock, its limits, and whether it still lists the recorded symbols.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::exchange::rest::{Rest, RestError};
use crate::market::{Exchange, Stream};

use super::Service;

/// Time between two measurements of the clock while the exchange answers.
const CLOCK_INTERVAL: Duration = Duration::from_secs(300);
/// Time between two requests for the listing: symbols are delisted and renamed, and a weight of 20 an hour is
/// negligible.
const LISTING_INTERVAL: Duration = Duration::from_secs(3_600);

/// Measures the clock's offset every few minutes, and reads limits and listing every hour and when the recorded symbols
/// change. No result rejects data.
pub(super) async fn watch(exchange: Exchange, rest: Arc<Rest>, service: Service, stop: CancellationToken) {
    let mut wait = Duration::from_secs(1);
    let mut streams = service.streams.clone();
    let mut listing_due = Instant::now();
    let mut unlisted = BTreeSet::new();
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
            match unlisted_symbols(&rest, recorded, &stop).await {
                Some(now) => {
                    report(exchange, &service, &unlisted, &now);
                    unlisted = now;
                    listing_due = Instant::now() + LISTING_INTERVAL;
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

/// The symbols that the exchange does not list; `None` when it did not answer. One unknown symbol fails the whole
/// request (-1121), so the function divides the list in halves.
async fn unlisted_symbols(rest: &Rest, symbols: Vec<String>, stop: &CancellationToken) -> Option<BTreeSet<String>> {
    let mut unlisted = BTreeSet::new();
    let mut parts = vec![symbols];
    while let Some(mut part) = parts.pop() {
        match rest.info(&part, stop).await {
            Ok(info) => {
                for (symbol, trades) in info.symbols.iter().filter(|(symbol, _)| part.contains(symbol)) {
                    if !trades {
                        warn!(SYMBOL = %symbol, "{symbol} is listed but does not trade now");
                    }
                }
            }
            Err(RestError::UnknownSymbol { .. }) if part.len() == 1 => unlisted.extend(part),
            Err(RestError::UnknownSymbol { .. }) => {
                let rest = part.split_off(part.len() / 2);
                parts.extend([part, rest]);
            }
            Err(_later) => return None,
        }
    }
    Some(unlisted)
}

fn report(exchange: Exchange, service: &Service, before: &BTreeSet<String>, now: &BTreeSet<String>) {
    for symbol in before.difference(now) {
        service.health.restored(&format!("{exchange}:{symbol}"));
    }
    for symbol in now {
        let why = format!("{exchange} does not list {symbol}: it was delisted or renamed, remove it from the feed");
        if !before.contains(symbol) {
            warn!(EXCHANGE = %exchange, SYMBOL = %symbol, "{why}");
        }
        service.health.degraded(&format!("{exchange}:{symbol}"), &why);
    }
}
