//! Compares the cache with history, and repairs the differences when `repair` is set.

use crate::audit;

use super::super::spec::TaskArgs;
use super::{Report, Services};

pub(super) async fn run(services: &Services, args: &TaskArgs) -> anyhow::Result<Report> {
    let streams = services.streams.borrow().clone();
    let found = audit::check(&services.history, &services.cache, &streams).await?;
    let (checked, issues) = (found.checked, found.issues.len());
    if !args.repair || issues == 0 {
        return Report::new(format!("{checked} keys compared, {issues} issues"), &found);
    }
    let repaired = audit::repair(&services.cache, &services.backfill, found).await?;
    let summary = format!(
        "{checked} keys compared, {issues} issues: {} repaired, {} sent to backfill, {} left",
        repaired.repaired,
        repaired.sent_to_backfill,
        repaired.unrepaired.len()
    );
    Report::new(summary, &repaired)
}
