//! Compares closed klines with the exchange's own and with the trades they are made of, each once.

use tokio_util::sync::CancellationToken;

use crate::audit;
use crate::market::Timestamp;

use super::super::spec::TaskArgs;
use super::{Report, Services};

/// What is verified ends at a full minute, so that runs that are `last` apart verify each kline once.
const MINUTE_US: i64 = 60_000_000;
/// A kline that closed less than this ago may still be on its way, and the exchange's database behind. Microseconds.
const SETTLED_US: i64 = 60_000_000;

pub(super) async fn run(services: &Services, args: &TaskArgs, cancel: &CancellationToken) -> anyhow::Result<Report> {
    let streams = services.streams.borrow().clone();
    let to = (services.clock.now().micros() - SETTLED_US).div_euclid(MINUTE_US) * MINUTE_US;
    let last_us = i64::try_from(args.last.as_micros()).unwrap_or(i64::MAX);
    let closed = (Timestamp(to.saturating_sub(last_us)), Timestamp(to));
    let found = audit::verify_klines(&services.history, &services.backfill, &streams, closed, cancel).await?;
    let summary = format!(
        "{} klines: {} compared with the exchange's, {} made again of their trades ({} could not be), {} differences",
        found.klines, found.against_rest, found.against_trades, found.without_trades, found.differences
    );
    Report::new(summary, &found)
}
