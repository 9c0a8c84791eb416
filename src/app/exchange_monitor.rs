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
use crate::exchange::{ExchangeInfo, Feed, ListingEntry};
use crate::health::Health;
use crate::market::Exchange;
use crate::retry::{self, Backoff};

use super::recorded::exact_of;
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

/// What to ask the exchange for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    /// These symbols: feeds name them.
    Symbols(Vec<String>),
    /// Everything that it lists: a feed has a pattern.
    Everything,
}

/// What a listing says.
struct Said {
    entries: BTreeMap<String, ListingEntry>,
    /// Whether every element was readable.
    is_whole: bool,
    question: Question,
}

/// Measures the clock's offset every few minutes, reads limits and listing every hour and at every reload, follows the
/// listing with what patterns select, and saves the deadline of a pause or ban as soon as the exchange imposes it. No result rejects data.
pub(super) async fn watch(exchange: Exchange, rest: Arc<Rest>, service: Service, stop: CancellationToken) {
    let backoff = || Backoff::new(RETRY_MIN, RETRY_MAX);
    let report = |said| report(exchange, &service, said);
    tokio::join!(
        watch_clock(exchange, &rest, &service.health, backoff(), &stop),
        watch_listing((exchange, &rest), service.recorded.configured(), &service.health, report, backoff(), &stop),
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

/// Takes what a listing says; returns when to read it again.
fn report(exchange: Exchange, service: &Service, said: Said) -> Duration {
    match said.question {
        Question::Everything => {
            let again = listing_report::follow(exchange, service, &said.entries, said.is_whole);
            // All symbols are megabytes: only a pause of a recorded one, which may end soon, is worth them more often.
            let is_paused = listing_report::has_pauses(exchange, service, &said.entries);
            again.unwrap_or(if is_paused { LISTING_INTERVAL_PAUSED } else { LISTING_INTERVAL })
        }
        Question::Symbols(_) => {
            let interval = if all_trade(&said.entries) { LISTING_INTERVAL } else { LISTING_INTERVAL_PAUSED };
            listing_report::apply(exchange, service, said.entries);
            interval
        }
    }
}

async fn watch_listing(
    (exchange, rest): (Exchange, &Rest),
    mut feeds: watch::Receiver<Vec<Feed>>,
    health: &Health,
    report: impl Fn(Said) -> Duration,
    mut backoff: Backoff,
    stop: &CancellationToken,
) {
    let part = format!("{exchange} listing");
    let mut complaints = BTreeSet::new();
    let mut failures = 0;
    while !stop.is_cancelled() {
        let question = question(exchange, &feeds.borrow_and_update());
        let wait = match listing(rest, &question, stop).await {
            Ok(info) => {
                failures = 0;
                backoff.reset();
                health.restored(&part);
                complain(exchange, &info.unreadable, &mut complaints);
                report(Said { is_whole: info.unreadable.is_empty(), entries: entries(info), question })
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
            Ok(()) = feeds.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Limits and listing; asks nothing when no symbol is recorded, because all symbols are megabytes.
async fn listing(rest: &Rest, question: &Question, stop: &CancellationToken) -> anyhow::Result<ExchangeInfo> {
    match question {
        Question::Symbols(symbols) if symbols.is_empty() => Ok(ExchangeInfo::default()),
        Question::Symbols(symbols) => Ok(rest.info(symbols, stop).await?),
        Question::Everything => {
            let info = rest.info(&[], stop).await?;
            anyhow::ensure!(!info.symbols.is_empty(), "its listing is empty");
            Ok(info)
        }
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

fn question(exchange: Exchange, feeds: &[Feed]) -> Question {
    if feeds.iter().any(|feed| feed.exchange == exchange && !feed.patterns.is_empty()) {
        return Question::Everything;
    }
    Question::Symbols(exact_of(feeds, exchange).iter().map(ToString::to_string).collect())
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
