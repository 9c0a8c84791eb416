//! Monitors an exchange: its clock, its limits, whether it still lists the recorded symbols, and until when it refuses
//! our requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::exchange::rest::Rest;
use crate::exchange::socket::Connections;
use crate::exchange::{ExchangeInfo, ListingEntry};
use crate::health::Health;
use crate::market::{Exchange, Stream};
use crate::retry::{self, Backoff};

use super::{Service, SnapshotSaver, listing_report};

/// Time between two measurements of the clock while the exchange answers.
const CLOCK_INTERVAL: Duration = Duration::from_secs(300);
/// Time between two requests for the listing: symbols are delisted and renamed, and a weight of 20 an hour is
/// negligible.
const LISTING_INTERVAL: Duration = Duration::from_secs(3_600);
/// First delay after a failed request; it doubles up to [`RETRY_MAX`]. Half of it, which jitter leaves, is enough to
/// confirm a measurement.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// Longest delay after a failed request.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Failed requests for the listing before health shows them: the first ones say no more than the clock does.
const LISTING_FAILURES_SHOWN: usize = 3;
/// Most complaints about the listing that one warning names.
const COMPLAINTS_MAX: usize = 5;
/// The same while a recorded symbol does not trade: its state should end soon after the exchange lists it.
const LISTING_INTERVAL_PAUSED: Duration = Duration::from_secs(300);

/// Measures the clock's offset every few minutes, reads limits and listing every hour and when the recorded symbols
/// change, and saves the deadline of a pause or ban as soon as the exchange imposes it. No result rejects data.
pub(super) async fn watch(exchange: Exchange, rest: Arc<Rest>, service: Service, stop: CancellationToken) {
    let backoff = || Backoff::new(RETRY_MIN, RETRY_MAX);
    let report = |entries| listing_report::apply(exchange, &service, entries);
    tokio::join!(
        watch_clock(exchange, &rest, &service.health, backoff(), &stop),
        watch_listing((exchange, &rest), service.streams.clone(), &service.health, report, backoff(), &stop),
        save_deadlines(exchange, (&rest, &service.connections), &service.saver, backoff(), &stop),
    );
}

async fn watch_clock(exchange: Exchange, rest: &Rest, health: &Health, mut backoff: Backoff, stop: &CancellationToken) {
    let mut goes_on = !stop.is_cancelled();
    while goes_on {
        goes_on = match rest.measure_clock(stop).await {
            Ok(offset) => {
                debug!("the clock of {exchange} is {} ms ahead of ours", offset / 1_000);
                health.restored("rest");
                backoff.reset();
                retry::wait(CLOCK_INTERVAL, stop).await
            }
            Err(error) => {
                health.degraded("rest", &error.to_string());
                backoff.wait(stop).await
            }
        };
    }
}

async fn watch_listing(
    (exchange, rest): (Exchange, &Rest),
    mut streams: watch::Receiver<Vec<Stream>>,
    health: &Health,
    report: impl Fn(BTreeMap<String, ListingEntry>),
    mut backoff: Backoff,
    stop: &CancellationToken,
) {
    let part = format!("{exchange} listing");
    let mut complaints = BTreeSet::new();
    let mut failures = 0;
    while !stop.is_cancelled() {
        let recorded = recorded_symbols(exchange, &streams.borrow_and_update());
        let wait = match listing(rest, &recorded, stop).await {
            Ok(info) => {
                failures = 0;
                backoff.reset();
                health.restored(&part);
                complain(exchange, &info.unreadable, &mut complaints);
                let entries = entries(info);
                let interval = if all_trade(&entries) { LISTING_INTERVAL } else { LISTING_INTERVAL_PAUSED };
                report(entries);
                interval
            }
            Err(error) => {
                failures += 1;
                if failures >= LISTING_FAILURES_SHOWN {
                    let why = format!("{exchange} does not say what it lists, trying again: {error}");
                    health.degraded(&part, &why);
                }
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = streams.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Limits and listing of the recorded symbols; asks nothing when there are none, because all symbols are megabytes.
async fn listing(rest: &Rest, recorded: &[String], stop: &CancellationToken) -> anyhow::Result<ExchangeInfo> {
    match recorded {
        [] => Ok(ExchangeInfo::default()),
        recorded => Ok(rest.info(recorded, stop).await?),
    }
}

/// Saves each new deadline: a process that is killed a second later must not send requests during a ban.
async fn save_deadlines(
    exchange: Exchange,
    (rest, connections): (&Rest, &Connections),
    saver: &SnapshotSaver,
    mut backoff: Backoff,
    stop: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rest.deadline_moved() => {}
            () = connections.deferral_moved(exchange) => {}
        }
        backoff.reset();
        while let Err(error) = saver.save(false).await {
            warn!("cannot save until when {exchange} refuses requests, trying again: {error:#}");
            if !backoff.wait(stop).await {
                return;
            }
        }
    }
}

fn recorded_symbols(exchange: Exchange, streams: &[Stream]) -> Vec<String> {
    let mine = streams.iter().filter(|stream| stream.exchange == exchange);
    mine.map(|stream| stream.symbol.to_string()).collect::<BTreeSet<String>>().into_iter().collect()
}

/// Warns once about what could not be read, and again only about something new.
fn complain(exchange: Exchange, unreadable: &[String], known: &mut BTreeSet<String>) {
    let new: Vec<&str> = unreadable.iter().filter(|&why| !known.contains(why)).map(String::as_str).collect();
    if !new.is_empty() {
        let more = new.len().saturating_sub(COMPLAINTS_MAX);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let named = new[..new.len().min(COMPLAINTS_MAX)].join(", ");
        warn!(EXCHANGE = %exchange, "a part of the listing of {exchange} is unreadable, the rest is used: {named}{more}");
    }
    *known = unreadable.iter().cloned().collect();
}

fn entries(info: ExchangeInfo) -> BTreeMap<String, ListingEntry> {
    let unlisted = info.unlisted.into_iter().map(|symbol| (symbol, ListingEntry::Unlisted));
    info.symbols.into_iter().chain(unlisted).collect()
}

fn all_trade(entries: &BTreeMap<String, ListingEntry>) -> bool {
    entries.values().all(|entry| *entry == ListingEntry::Trading)
}

#[cfg(test)]
#[path = "exchange_monitor_tests.rs"]
mod tests;
