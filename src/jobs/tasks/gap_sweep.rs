//! Recounts history against the exchange's numbering.

use tokio_util::sync::CancellationToken;

use crate::audit;

use super::{Report, Services};

pub(super) async fn run(services: &Services, cancel: &CancellationToken) -> anyhow::Result<Report> {
    let streams = services.streams.borrow().clone();
    let swept = audit::sweep(&services.history, &services.backfill, &streams, cancel).await?;
    let summary = format!(
        "{} streams, {} rows counted, {} missing, {} gaps opened",
        swept.streams, swept.present, swept.missing, swept.opened
    );
    Report::new(summary, &swept)
}
