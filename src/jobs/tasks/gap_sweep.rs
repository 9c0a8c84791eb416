//! Recounts history against the exchange's numbering.

use crate::audit;

use super::{Report, Services};

pub(super) async fn run(services: &Services) -> anyhow::Result<Report> {
    let streams = services.streams.borrow().clone();
    let swept = audit::sweep(&services.history, &services.backfill, &streams).await?;
    let summary = format!(
        "{} streams, {} rows counted, {} missing, {} gaps opened",
        swept.streams, swept.present, swept.missing, swept.opened
    );
    Report::new(summary, &swept)
}
