//! Repairs what a check found: the cache only moves forward, missing rows go to backfill.

use std::sync::Arc;

use anyhow::Context;

use crate::backfill::Parts;
use crate::cache::{Cache, Update};
use crate::gap::{Evidence, Range};
use crate::market::Channel;

use super::consistency::{ConsistencyReport, Issue, Kind, forward};

/// The outcome of a repair.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RepairReport {
    /// Keys of the cache that were moved forward.
    pub repaired: usize,
    /// Ranges that backfill fetches.
    pub sent_to_backfill: usize,
    /// What cannot be repaired, and why it is listed.
    pub unrepaired: Vec<Issue>,
}

/// Repairs every issue that can be.
pub async fn repair(
    cache: &Arc<dyn Cache>,
    backfill: &Parts,
    report: ConsistencyReport,
) -> anyhow::Result<RepairReport> {
    let mut outcome = RepairReport::default();
    let mut update = Update::default();
    for issue in report.issues {
        match issue.kind {
            // Nothing was traded yet, or nothing was recorded: there is nothing to repair from.
            Kind::NoData => {}
            Kind::MissingInCache => {
                let mut moved = forward(&issue);
                update.ticks.append(&mut moved.ticks);
                update.klines.append(&mut moved.klines);
                outcome.repaired += 1;
            }
            Kind::MissingInHistory => match (issue.stream.channel, position(&issue)) {
                (Channel::Trade, Some(id)) => {
                    let range = Range { first: id, last: id };
                    send(backfill, &issue, range).await?;
                    outcome.sent_to_backfill += 1;
                }
                (Channel::Kline(_), Some(open_time)) => {
                    let range = Range { first: open_time, last: open_time };
                    send(backfill, &issue, range).await?;
                    outcome.sent_to_backfill += 1;
                }
                _ => outcome.unrepaired.push(issue),
            },
            // The same id twice with different values: which one is right only a person can say.
            Kind::TimestampMismatch | Kind::PriceMismatch => outcome.unrepaired.push(issue),
        }
    }
    if !update.is_empty() {
        cache.apply(&update).await.context("move the cache forward")?;
    }
    Ok(outcome)
}

async fn send(backfill: &Parts, issue: &Issue, range: Range) -> anyhow::Result<()> {
    let evidence = Evidence { by: "audit".to_owned(), next: Some(range.last), ..Evidence::default() };
    backfill.open(&issue.stream, range, &evidence).await.context("record the gap").map(|_rows| ())
}

fn position(issue: &Issue) -> Option<i64> {
    let cache = issue.cache.as_ref()?;
    cache.get("trade_id").or_else(|| cache.get("open_time"))?.as_i64()
}
