//! Recounts history against the exchange's numbering: all rows, or the run's window.

use crate::audit;

use super::{Context, Report};

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, run, cancel, .. } = context;
    let streams = services.streams.borrow().clone();
    let swept = audit::sweep(&services.history, &services.backfill, &streams, run.window, cancel).await?;
    let summary = format!(
        "{} streams, {} rows counted, {} missing, {} gaps opened",
        swept.streams, swept.present, swept.missing, swept.opened
    );
    Report::new(summary, &swept)
}
