//! Recounts history against the exchange's numbering: the run's window, one share of all rows, or all of them. With
//! `appeal` it asks again for positions that closed without their rows.

use anyhow::Context as _;
use serde_json::json;

use crate::audit::{self, SweepScope};

use super::{Context, Report};

/// Runs read to find the share that the last one recounted.
const RUNS_READ: usize = 20;

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, run, cancel } = context;
    let streams = services.streams.borrow().clone();
    if args.appeal {
        let report = services.backfill.appeal(&streams, cancel).await?;
        let summary = format!(
            "{} closed gaps asked again, {} opened, {} without an answer",
            report.asked, report.reopened, report.unanswered
        );
        return Report::new(summary, &report);
    }
    let scope = match (run.window, args.share) {
        (Some((from, to)), _) => SweepScope::Window(from, to),
        (None, Some(of)) => SweepScope::Share { index: next_share(context, of).await?, of },
        (None, None) => SweepScope::All,
    };
    let swept = audit::sweep(&services.history, &services.backfill, &streams, scope, cancel).await?;
    let part = match scope {
        SweepScope::Share { index, of } => format!("part {} of {of}: ", index + 1),
        _ => String::new(),
    };
    let summary = format!(
        "{part}{} streams, {} rows counted, {} missing, {} gaps opened",
        swept.streams, swept.present, swept.missing, swept.opened
    );
    let mut data = json!(swept);
    if let SweepScope::Share { index, .. } = scope {
        data["share"] = json!(index);
    }
    Report::new(summary, &data)
}

/// The share after the one that the last successful run recounted, so that a machine that is off on some days skips
/// none.
async fn next_share(context: &Context, of: i64) -> anyhow::Result<i64> {
    let runs = context
        .services
        .history
        .runs(Some(&context.run.job), Some(context.services.backfill.writer.recorder()), RUNS_READ)
        .await
        .context("read the last runs")?;
    let last = runs
        .iter()
        .filter(|run| run.outcome == "succeeded")
        .find_map(|run| serde_json::from_str::<serde_json::Value>(&run.report).ok()?["share"].as_i64());
    Ok(last.map_or(0, |last| (last + 1).rem_euclid(of)))
}
