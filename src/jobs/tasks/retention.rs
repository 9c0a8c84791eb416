//! Drops what is old: consumed frames, dead letters, runs, and rows when asked to.

use std::time::Duration;

use anyhow::Context;

use super::super::spec::TaskArgs;
use super::{Report, Services};

pub(super) async fn run(services: &Services, args: &TaskArgs) -> anyhow::Result<Report> {
    let now = services.clock.now();
    let before = |age: Duration| now.plus_micros(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let kept = services.log_retention;
    let frames = services.log.retain(before(kept.age), kept.bytes).await.context("drop consumed frames")?;
    let rows = services
        .history
        .retain(before(args.dead_letters), before(args.runs), args.rows.map(before))
        .await
        .context("drop old rows")?;
    let data = serde_json::json!({ "frames": frames, "rows": rows });
    Report::new(format!("{frames} consumed frames and {rows} rows dropped"), &data)
}
