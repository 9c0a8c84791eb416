//! Opens the gap before a kline stream's first row: the kline during which the recording began, and later ones that never
//! came. A connection that is cut, or a process that is killed, before the first closed kline is durable leaves no earlier
//! row that would reveal the loss.
//!
//! A kline needs no question to be due: it ends at a known time, and the exchange sends every kline that ends while we are
//! subscribed. Only where the exchange's klines begin is asked, because a symbol may be listed after the recording began.

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::exchange::rest::RestError;
use crate::gap::{Evidence, Range};
use crate::market::{Interval, Stream, Timestamp};
use crate::progress::Progress;

use super::deps::Deps;
use super::since::Check;

/// How far the exchange's time must be past a kline's end before it is missed, in microseconds: the exchange sends it within
/// 2 s, and the consumer stores it soon after.
const LATE_US: i64 = 10_000_000;
/// Missing ranges opened per check.
const RANGES_MAX: usize = 1_000;
/// Klines before a missing one that show whether the exchange had the symbol already.
const EARLIER_KLINES: i64 = 10;

/// Opens the gaps between `at`, when the recording began by the exchange's clock, and what the consumer follows.
pub(super) async fn open_gaps_before_first(
    deps: &Deps,
    progress: &Progress,
    (stream, interval): (&Stream, Interval),
    (at, by): (Timestamp, &str),
    stop: &CancellationToken,
) -> Check {
    let step = interval.micros();
    let open_time = |us: i64| us.div_euclid(step).saturating_mul(step);
    let first = open_time(at.micros());
    let now = deps.rest[&stream.exchange].exchange_now();
    let next = progress.stream(stream).next;
    // The consumer notices by itself what is missing from `next` on. Without any frame it notices nothing, and only the
    // exchange's clock says which klines have ended.
    let before = next.unwrap_or_else(|| open_time(now.micros().saturating_sub(LATE_US)));
    // Until the first kline has ended there is nothing to look up.
    let Some(required) = Range::new(first, before.saturating_sub(step)) else { return Check::NotYet };
    let stored = match deps.history().extent(stream).await {
        Ok(stored) => stored,
        Err(error) => {
            debug!("cannot look up the first row of {stream}: {error}");
            return Check::NotYet;
        }
    };
    // Only a row outlives this process: until there is one, the next process must know when the recording began.
    let check = if stored.is_some() && next.is_some() { Check::Finished } else { Check::NotYet };
    let missing = match deps.history().missing(stream, required, RANGES_MAX).await {
        Ok(missing) => missing,
        Err(error) => {
            debug!("cannot look up which klines of {stream} are missing: {error}");
            return Check::NotYet;
        }
    };
    let Some(earliest) = missing.first() else { return check };
    let (begin, check) = match first_served(deps, (stream, interval), *earliest, stop).await {
        Ok(Some(begin)) => (begin, check),
        Ok(None) => {
            // The exchange serves none of them and none before them: it lists the symbol since then. Like any other "it does
            // not exist", this is believed only after hours.
            let since_us = stored.map_or(0, |stored| now.micros().saturating_sub(stored.first));
            let is_confirmed = i64::try_from(deps.confirm_after.as_micros()).is_ok_and(|wait_us| since_us > wait_us);
            let check = if is_confirmed { check } else { Check::Asked };
            // The klines above a stored one are still required.
            let Some(stored) = stored else { return check };
            (stored.first, check)
        }
        Err(error) => {
            debug!("cannot look up where the klines of {stream} begin: {error}");
            return Check::Asked;
        }
    };
    for range in missing.iter().filter_map(|range| Range::new(range.first.max(begin), range.last)) {
        let next = Some(range.last.saturating_add(step));
        let evidence = Evidence { by: by.to_owned(), next, ..Evidence::default() };
        match deps.open(stream, range, &evidence).await {
            Ok(rows) if rows.is_empty() => debug!("{stream}: {range:?} is known"),
            Ok(_) => info!("{stream} is backfilled from {} on ({by}): {} klines", range.first, range.len(step)),
            Err(error) => {
                debug!("cannot open the gap before the first row of {stream}: {error}");
                return Check::NotYet;
            }
        }
    }
    match check {
        Check::Finished => Check::Finished,
        Check::NotYet | Check::Asked => Check::Asked,
    }
}

/// The first kline of `missing` that the exchange must serve: where its klines begin, or the first one when it serves
/// earlier klines too. `None` when it serves none.
async fn first_served(
    deps: &Deps,
    (stream, interval): (&Stream, Interval),
    missing: Range,
    stop: &CancellationToken,
) -> Result<Option<i64>, RestError> {
    let rest = &deps.rest[&stream.exchange];
    let step = interval.micros();
    let lowest = async |range: Range| {
        let page = rest.klines(stream.symbol.as_str(), interval, range, stop).await?;
        let refused = page.refused.iter().filter_map(|row| row.position);
        Ok::<_, RestError>(page.rows.iter().map(|kline| kline.open_time.micros()).chain(refused).min())
    };
    let served = lowest(missing).await?;
    if served == Some(missing.first) {
        return Ok(served);
    }
    let earlier = Range {
        first: missing.first.saturating_sub(EARLIER_KLINES.saturating_mul(step)),
        last: missing.first.saturating_sub(step),
    };
    let is_listed_earlier = lowest(earlier).await?.is_some();
    Ok(if is_listed_earlier { Some(missing.first) } else { served })
}

#[cfg(test)]
#[path = "first_klines_tests.rs"]
mod tests;
