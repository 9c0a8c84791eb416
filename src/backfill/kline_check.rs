//! Compares stored klines with the exchange's own, for an exchange that never says that a kline is final: there the next
//! kline closes it. When the last frames of a kline are lost while the connection stays, the kline is stored as it was
//! before them, and nothing in history shows it. REST serves the final one: it replaces the row, which is kept as a conflict.

use std::collections::{HashMap, HashSet};

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::exchange::rest::{QUERY_TIME_MAX, RestError};
use crate::exchange::spec::KlineClose;
use crate::gap::Range;
use crate::heartbeat::{BEAT_INTERVAL_MAX, Heartbeat};
use crate::history::{HistoryError, KlineRow};
use crate::market::{Channel, Exchange, Kline, Stream, Symbol, Timestamp};

use super::conflicts::{self, Undecided};
use super::deps::Deps;

/// How long after its end a kline is compared: a lagging server of the exchange may show an earlier state until then.
const SETTLED_US: i64 = 30_000_000;
/// Time between two checks of a stream. One answer has hundreds of klines.
const CHECK_EVERY_US: i64 = 3_600_000_000;
/// Time between two answers that must agree about a kline.
const ASK_AGAIN_US: i64 = 5_000_000;
/// Time until a check that failed is tried again.
const RETRY_US: i64 = 60_000_000;

/// What is known about the klines of one stream.
#[derive(Debug, Default)]
struct Checked {
    /// The klines before this position agree with the exchange's.
    from: Option<i64>,
    /// When to compare next, by the exchange's clock.
    due: Option<Timestamp>,
    /// What the exchange's last answer had instead of the stored klines.
    differing: HashMap<i64, Kline>,
}

#[derive(Debug, thiserror::Error)]
enum Unchecked {
    #[error(transparent)]
    Exchange(#[from] RestError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

/// Whether an exchange's klines are checked.
pub fn is_needed(deps: &Deps, exchange: Exchange) -> bool {
    deps.dialects.get(&exchange).is_some_and(|dialect| dialect.spec().kline_close() == KlineClose::Successor)
}

/// Checks the kline streams of an exchange until `stop`.
pub async fn run(
    deps: Deps,
    exchange: Exchange,
    streams: impl Fn() -> Vec<Stream>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let mut checked: HashMap<Stream, Checked> = HashMap::new();
    while !stop.is_cancelled() {
        heartbeat.beat();
        let refilled = deps.answers.take_refilled(exchange);
        let klines = streams().into_iter().filter(|stream| stream.exchange == exchange);
        let klines: HashSet<Stream> = klines.filter(|stream| matches!(stream.channel, Channel::Kline(_))).collect();
        checked.retain(|stream, _| klines.contains(stream));
        for stream in klines {
            if stop.is_cancelled() {
                break;
            }
            let state = checked.entry(stream.clone()).or_default();
            let pass = check_when_due(&deps, &stream, state, &refilled, (&heartbeat, &stop));
            heartbeat.beat_while(QUERY_TIME_MAX * 6, pass).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(BEAT_INTERVAL_MAX / 5) => {}
        }
    }
    heartbeat.retire();
}

async fn check_when_due(
    deps: &Deps,
    stream: &Stream,
    state: &mut Checked,
    refilled: &HashSet<Symbol>,
    (heartbeat, stop): (&Heartbeat, &CancellationToken),
) {
    let now = deps.rest[&stream.exchange].exchange_now();
    // Frames of klines were lost with the trades.
    let soon = now.plus_micros(SETTLED_US);
    if refilled.contains(&stream.symbol) {
        state.due = state.due.map(|due| due.min(soon));
    }
    let due = *state.due.get_or_insert(soon);
    if now < due {
        return;
    }
    let is_first_sight = state.differing.is_empty();
    let pause = match check(deps, stream, state, (heartbeat, stop)).await {
        Ok(()) if state.differing.is_empty() => CHECK_EVERY_US,
        Ok(()) if is_first_sight => ASK_AGAIN_US,
        // Each answer says something else: to ask on and on would use up the budget that repairs need.
        Ok(()) => CHECK_EVERY_US,
        Err(why) => {
            debug!("the klines of {stream} are not compared: {why}");
            RETRY_US
        }
    };
    state.due = Some(now.plus_micros(pause));
}

/// Compares the klines that are not compared yet, at most one answer of them.
async fn check(
    deps: &Deps,
    stream: &Stream,
    state: &mut Checked,
    (heartbeat, stop): (&Heartbeat, &CancellationToken),
) -> Result<(), Unchecked> {
    let Channel::Kline(interval) = stream.channel else { return Ok(()) };
    let (rest, step) = (&deps.rest[&stream.exchange], interval.micros());
    let settled = rest.exchange_now().micros().saturating_sub(SETTLED_US).div_euclid(step) * step - step;
    let page = deps.dialects[&stream.exchange].spec().rest.klines_page;
    let oldest = settled.saturating_sub((page - 1) * step);
    let Some(range) = Range::new(state.from.unwrap_or(oldest).max(oldest), settled) else { return Ok(()) };
    let rows = deps.history().klines(stream, range, page as usize).await?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
    let span = Range { first: first.kline.open_time.micros(), last: last.kline.open_time.micros() };
    let served = rest.klines(stream.symbol.as_str(), interval, span, stop).await?;
    let served = served.rows.into_iter().filter(|kline| kline.closed).map(|kline| (kline.open_time, kline));
    let differing = differing(&rows, &served.collect());
    let mut confirmed = Vec::new();
    for (row, kline) in &differing {
        if state.differing.get(&kline.open_time.micros()) == Some(kline) {
            confirmed.push((*row, *kline));
        }
    }
    state.differing = differing.iter().map(|(_, kline)| (kline.open_time.micros(), *kline)).collect();
    conflicts::replace_klines(deps, stream, &confirmed, heartbeat, stop).await?;
    for (_, kline) in confirmed {
        state.differing.remove(&kline.open_time.micros());
    }
    if state.differing.is_empty() {
        state.from = Some(span.last + step);
    }
    Ok(())
}

/// The stored klines that the exchange has with other numbers. One of fewer trades is no later state of the kline: the
/// exchange's server lags.
fn differing<'a>(rows: &'a [KlineRow], served: &HashMap<Timestamp, Kline>) -> Vec<(&'a KlineRow, Kline)> {
    // The quote volume is derived where an exchange does not send it.
    let numbers = |kline: &Kline| (kline.open, kline.high, kline.low, kline.close, kline.volume, kline.trade_count);
    let pairs = rows.iter().filter_map(|row| Some((row, *served.get(&row.kline.open_time)?)));
    pairs
        .filter(|(row, kline)| {
            let progress = |kline: &Kline| (kline.trade_count, kline.volume);
            numbers(&row.kline) != numbers(kline) && progress(kline) >= progress(&row.kline)
        })
        .collect()
}

#[cfg(test)]
#[path = "kline_check_tests.rs"]
mod tests;
