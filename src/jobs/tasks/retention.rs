//! Deletes old data: consumed frames, dead letters, runs, and rows when `rows` is set.

use std::time::Duration;

use anyhow::Context;

use super::super::spec::TaskArgs;
use super::{Report, Services};
use crate::history::Retention;

pub(super) async fn run(services: &Services, args: &TaskArgs) -> anyhow::Result<Report> {
    let now = services.clock.now();
    let before = |age: Duration| now.plus_micros(-i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let kept = services.log_retention;
    let frames = services.log.retain(before(kept.age), kept.bytes).await.context("drop consumed frames")?;
    let retention = Retention {
        dead_letters_before: Some(before(args.dead_letters)),
        runs_before: args.runs.age.map(before),
        runs_per_job: args.runs.per_job,
        rows_before: args.rows.map(before),
    };
    let rows = services.history.retain(&retention).await.context("drop old rows")?;
    let data = serde_json::json!({ "frames": frames, "rows": rows });
    Report::new(format!("{frames} consumed frames and {rows} rows dropped"), &data)
}
