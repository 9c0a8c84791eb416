//! Asks once more for positions that closed without their rows, and opens those again that the exchange now serves.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::exchange::rest::RestError;
use crate::gap::{Evidence, Gap, Range};
use crate::history::{GapFilter, GapPages};
use crate::market::Stream;
use crate::retry;

use super::deps::Deps;
use super::pages::lowest_served_from;

/// Longest wait for the exchange's budget between two requests; the next appeal asks for the rest.
const BUDGET_WAIT_MAX: Duration = Duration::from_secs(120);

/// The outcome of an appeal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct AppealReport {
    /// Closed gaps that the exchange was asked about.
    pub asked: usize,
    /// Of these, gaps whose positions it now serves: they are open again.
    pub reopened: usize,
    /// Gaps about which it gave no answer; the next appeal asks again.
    pub unanswered: usize,
}

impl Deps {
    /// Asks the exchange about every gap of these streams that closed without its rows. One request a gap. Fails when
    /// history is down or `cancel` is cancelled.
    pub async fn appeal(&self, streams: &[Stream], cancel: &CancellationToken) -> anyhow::Result<AppealReport> {
        let mut report = AppealReport::default();
        let mut pages = GapPages::new(GapFilter::verdicts());
        while let Some(page) = pages.next(&**self.history()).await.context("read the gap ledger")? {
            for gap in page.iter().filter(|gap| streams.contains(&gap.stream)) {
                ensure!(!cancel.is_cancelled(), "cancelled after {} gaps", report.asked);
                self.appeal_one(gap, &mut report, cancel).await?;
            }
        }
        Ok(report)
    }

    async fn appeal_one(&self, gap: &Gap, report: &mut AppealReport, cancel: &CancellationToken) -> anyhow::Result<()> {
        let counted = self.history().count(&gap.stream, gap.range).await.context("count a gap's rows")?;
        if counted.present >= gap.len() {
            return Ok(());
        }
        report.asked += 1;
        match self.served_again(gap, cancel).await {
            Ok(Some(range)) => {
                let evidence = Evidence { by: "appeal".to_owned(), ..Evidence::default() };
                let opened = self.open(&gap.stream, range, &evidence).await.context("open the gap again")?;
                report.reopened += usize::from(!opened.is_empty());
            }
            Ok(None) => {}
            Err(error) => {
                debug!("no answer about the closed gap {} in {}: {error}", gap.gap_id, gap.stream);
                report.unanswered += 1;
            }
        }
        Ok(())
    }

    /// The part of a closed gap from the first position that the exchange serves now; `None` when it serves none.
    async fn served_again(&self, gap: &Gap, cancel: &CancellationToken) -> Result<Option<Range>, RestError> {
        let lowest = match lowest_served_from(self, gap, gap.range.first, cancel).await {
            Err(RestError::Limited { until }) => {
                if !retry::wait(until.left(&self.clock).min(BUDGET_WAIT_MAX), cancel).await {
                    return Err(RestError::Stopped);
                }
                lowest_served_from(self, gap, gap.range.first, cancel).await?
            }
            lowest => lowest?,
        };
        Ok(lowest.and_then(|(position, _)| Range::new(position, gap.range.last)))
    }
}
