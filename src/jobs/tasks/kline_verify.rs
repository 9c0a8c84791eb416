//! Compares closed klines with the exchange's and with the trades they consist of, each kline once.

use crate::audit;
use crate::market::Timestamp;

use super::{Context, Report};

/// The verified time ends at a full minute, so that runs that are `last` apart verify each kline once.
const MINUTE_US: i64 = 60_000_000;
/// A kline that closed less than this ago may not have arrived, and the exchange's database may lag. Microseconds.
const SETTLED_US: i64 = 60_000_000;

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, run, cancel } = context;
    let streams = services.streams.borrow().clone();
    let settled = |at: i64| Timestamp((at - SETTLED_US).div_euclid(MINUTE_US) * MINUTE_US);
    // Windows adjoin across failures and restarts; moving both ends the same way keeps them adjoining.
    let closed = match run.window {
        Some((from, to)) => (settled(from.micros()), settled(to.micros())),
        None => {
            let to = settled(services.clock.now().micros());
            let last_us = i64::try_from(args.last.as_micros()).unwrap_or(i64::MAX);
            (Timestamp(to.micros().saturating_sub(last_us)), to)
        }
    };
    let found = audit::verify_klines(&services.history, &services.backfill, &streams, closed, cancel).await?;
    let summary = format!(
        "{} klines: {} compared with the exchange's, {} recomputed from their trades ({} could not be), {} differences",
        found.klines, found.against_rest, found.against_trades, found.without_trades, found.differences
    );
    Report::new(summary, &found)
}
