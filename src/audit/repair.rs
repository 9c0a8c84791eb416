//! Repairs what a check found: the cache only moves forward, missing rows go to backfill.

use std::sync::Arc;

use anyhow::Context;

use crate::backfill::Parts;
use crate::cache::{Cache, Update};
use crate::gap::{Evidence, Range};

use super::consistency::{ConsistencyReport, Issue, Kind};

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
        match (issue.kind, issue.missing) {
            // Nothing was traded yet, or nothing was recorded: there is nothing to repair from.
            (Kind::NoData, _) => {}
            (Kind::MissingInHistory, Some(range)) => {
                send(backfill, &issue, range).await?;
                outcome.sent_to_backfill += 1;
            }
            // The same id twice with different values: which one is right only a person can say. But when history
            // has something newer, the question is settled by moving on.
            _ if issue.forward.is_empty() => outcome.unrepaired.push(issue),
            _ => {
                update.ticks.extend(issue.forward.ticks);
                update.klines.extend(issue.forward.klines);
                outcome.repaired += 1;
            }
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
