//! Repairs the issues of a check. The cache only moves forward, missing rows go to backfill, and a row that the
//! exchange no longer serves is written to history from the cache.

use std::sync::Arc;

use anyhow::Context;
use tracing::warn;

use crate::backfill::Deps;
use crate::cache::{Cache, Update};
use crate::gap::{Evidence, Gap, Range};
use crate::history::{Batch, KlineRow, TradeRow};

use super::consistency::{ConsistencyReport, Issue, IssueKind};

/// The outcome of a repair.
#[derive(Clone, Debug, Default, serde::Serialize, utoipa::ToSchema)]
pub struct RepairReport {
    /// Cache keys that moved forward, plus rows written to history from the cache.
    pub repaired: usize,
    /// Of these, rows written from the cache.
    pub written_from_cache: usize,
    /// Ranges sent to backfill.
    pub sent_to_backfill: usize,
    /// Issues that cannot be repaired automatically.
    pub unrepaired: Vec<Issue>,
}

/// Repairs every issue that can be repaired.
pub async fn repair(
    cache: &Arc<dyn Cache>,
    backfill: &Deps,
    report: ConsistencyReport,
) -> anyhow::Result<RepairReport> {
    let mut outcome = RepairReport::default();
    let mut update = Update::default();
    for issue in report.issues {
        match (issue.kind, issue.missing) {
            // Nothing was traded or recorded yet, so there is no source for a repair.
            (IssueKind::NoData, _) => {}
            (IssueKind::MissingInHistory, Some(range)) if is_settled(backfill, &issue, range).await? => {
                write_from_cache(backfill, &issue, range).await?;
                outcome.written_from_cache += 1;
                outcome.repaired += 1;
            }
            (IssueKind::MissingInHistory, Some(range)) => {
                send_to_backfill(backfill, &issue, range).await?;
                outcome.sent_to_backfill += 1;
            }
            // The same id has different values, and only a person can decide which one is right. But a newer row in
            // history replaces the cached value.
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

async fn send_to_backfill(backfill: &Deps, issue: &Issue, range: Range) -> anyhow::Result<()> {
    let evidence = Evidence { by: "audit".to_owned(), next: Some(range.last), ..Evidence::default() };
    backfill.open(&issue.stream, range, &evidence).await.context("record the gap").map(|_rows| ())
}

/// Whether backfill has already found that the exchange no longer serves the row.
async fn is_settled(backfill: &Deps, issue: &Issue, range: Range) -> anyhow::Result<bool> {
    let history = backfill.writer.history();
    backfill.ledger.is_settled(&**history, &issue.stream, range.last).await.context("read the gap ledger")
}

/// Writes the cached row to history, flagged, with a ledger row that names its source. Positions before it are not in
/// the cache and stay settled.
async fn write_from_cache(backfill: &Deps, issue: &Issue, range: Range) -> anyhow::Result<()> {
    let now = backfill.clock.now();
    let range = Range { first: range.last, last: range.last };
    let evidence = Evidence { by: "audit".to_owned(), ..Evidence::default() };
    let found = Gap::open(issue.stream.clone(), range, evidence, now);
    let reason = "the exchange no longer serves it: written from the cache";
    let gap = backfill.ledger.filled_row(found, "cache", reason);
    let trades = issue.cached.ticks.iter().map(|(exchange, symbol, trade)| TradeRow {
        exchange: *exchange,
        symbol: symbol.clone(),
        trade: *trade,
        received_at: now,
        is_backfilled: true,
        epoch: gap.epoch,
        version: crate::history::row_version(true),
    });
    let klines = issue.cached.klines.iter().map(|(exchange, symbol, kline)| KlineRow {
        exchange: *exchange,
        symbol: symbol.clone(),
        kline: *kline,
        is_backfilled: true,
        version: crate::history::row_version(true),
    });
    let (trades, klines) = (trades.collect(), klines.collect());
    let token = format!("cached:{}", gap.gap_id);
    let batch = Batch { gaps: vec![gap], trades, klines, token, ..Batch::default() };
    backfill.writer.history().insert(&batch).await.context("write the cached row")?;
    warn!(
        EXCHANGE = %issue.stream.exchange, SYMBOL = %issue.stream.symbol,
        "history lacked {} of {}, which the exchange no longer serves: wrote it from the cache", range.last, issue.stream
    );
    Ok(())
}
