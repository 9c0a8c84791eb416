//! What the exchange says of itself: its clock, its limits, and whether it still lists what is recorded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::exchange::rest::{Rest, RestError};
use crate::market::{Exchange, Stream};

use super::Service;

/// How often the clock is asked for while it answers.
const CLOCK_INTERVAL: Duration = Duration::from_secs(300);
/// How often the listing is asked for: symbols are delisted and renamed, and 20 of weight an hour are nothing.
const LISTING_INTERVAL: Duration = Duration::from_secs(3_600);

/// Measures the clock's offset every few minutes, and learns limits and listing each hour and when other symbols are
/// recorded. None of it ever rejects data.
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

/// Which of the symbols the exchange does not know; `None` when it did not say. One of them spoils the answer for all
/// (-1121), so they are asked for in halves.
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
        let why = format!("{exchange} does not list {symbol}: it was delisted or renamed, take it out of the feed");
        if !before.contains(symbol) {
            warn!(EXCHANGE = %exchange, SYMBOL = %symbol, "{why}");
        }
        service.health.degraded(&format!("{exchange}:{symbol}"), &why);
    }
}
