//! Compares closed klines with the exchange's own and with the trades they are made of, each once.

use crate::audit;
use crate::market::Timestamp;

use super::{Context, Report};

/// What is verified ends at a full minute, so that runs that are `last` apart verify each kline once.
const MINUTE_US: i64 = 60_000_000;
/// A kline that closed less than this ago may still be on its way, and the exchange's database behind. Microseconds.
const SETTLED_US: i64 = 60_000_000;

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, run, cancel } = context;
    let streams = services.streams.borrow().clone();
    let settled = |at: i64| Timestamp((at - SETTLED_US).div_euclid(MINUTE_US) * MINUTE_US);
    // Windows adjoin over failures and restarts, and so do what they leave when each end is moved alike.
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
        "{} klines: {} compared with the exchange's, {} made again of their trades ({} could not be), {} differences",
        found.klines, found.against_rest, found.against_trades, found.without_trades, found.differences
    );
    Report::new(summary, &found)
}
