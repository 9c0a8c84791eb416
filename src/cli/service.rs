//! Commands that need the running service: status, gaps, coverage, repair, backfill, reload, jobs.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::exit::{Failure, NO, TEMPORARY};
use crate::market::Timestamp;

use super::client::Client;
use super::output::{self, Format, cell, position, print_document, print_line, print_rows};
use super::{backfill, coverage, status, watch};

/// Time between two requests for the state of a run.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for a run. The job's own timeout usually ends it much sooner.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Commands that need the service.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Shows streams, lag, gaps, stores and problems
    Status(watch::Args),
    /// Lists the gap ledger, newest first
    Gaps {
        /// Only gaps that are not closed
        #[arg(long)]
        open: bool,
        /// Only this symbol
        #[arg(long)]
        symbol: Option<String>,
    },
    /// Counts the rows of each stream in history; exit 1 when something is missing
    Coverage {
        /// Only this symbol
        #[arg(long)]
        symbol: Option<String>,
        /// The numbering of the trades: a number from 0, or `all`; default: each symbol's newest
        #[arg(long, value_name = "N|all")]
        epoch: Option<String>,
        /// Also a line for each UTC day (JSON always has the days)
        #[arg(long)]
        days: bool,
    },
    /// Compares the cache with history and repairs differences
    Repair {
        /// Only this symbol
        #[arg(long)]
        symbol: Option<String>,
        /// Only compare; exit 1 when something differs
        #[arg(long)]
        dry_run: bool,
    },
    /// Fetches older trades over REST: trade ids, or RFC 3339 times
    Backfill(backfill::Args),
    /// Reads configuration and schedule again; exit 78 and no change when one is wrong
    Reload {
        /// Only print what would change
        #[arg(long)]
        dry_run: bool,
        /// Wait until it is done; it always waits, the flag is for systemd units
        #[arg(long)]
        wait: bool,
    },
}

/// Commands of the scheduler that need the service.
#[derive(Clone, Debug, Subcommand)]
pub enum JobsCommand {
    /// Lists jobs with their next run and last outcome
    List,
    /// Runs a job now
    Run {
        /// Its name
        name: String,
        /// Wait for its end; exit 1 unless it succeeds
        #[arg(long)]
        wait: bool,
    },
    /// Pauses a job, so that its schedule does not start it
    Pause {
        /// Its name
        name: String,
        /// The reason, for later readers
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lets a paused job run again
    Resume {
        /// Its name
        name: String,
    },
    /// Lists runs, newest first
    History {
        /// Only this job
        name: Option<String>,
        /// Number of runs
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: usize,
    },
}

/// Runs a command; returns the exit code.
pub async fn run(command: Command, client: &Client, format: Format) -> Result<u8, Failure> {
    match command {
        Command::Status(watch::Args { watch: Some(every) }) => {
            output::allow_closed_stdout(watch::run(every, client, format).await)
        }
        Command::Status(watch::Args { watch: None }) => {
            let status = client.get("/api/v1/status").await?;
            print_document(&status, format, || status::render(&status, client.base()));
            Ok(0)
        }
        Command::Gaps { open, symbol } => {
            let state = if open { "open" } else { "all" };
            let parameters = [("state", Some(state)), ("symbol", symbol.as_deref())];
            let gaps = client.query("/api/v1/gaps", &parameters).await?;
            show_gaps(gaps, format);
            Ok(0)
        }
        Command::Coverage { symbol, epoch, days } => {
            let parameters = [("symbol", symbol.as_deref()), ("epoch", epoch.as_deref())];
            let coverage = client.query("/api/v1/coverage", &parameters).await?;
            let complete = coverage.as_array().into_iter().flatten().all(|row| row["complete"] == true);
            coverage::show(coverage, days, format);
            Ok(if complete { 0 } else { NO })
        }
        Command::Repair { symbol, dry_run } => repair(client, symbol.as_deref(), dry_run, format).await,
        Command::Backfill(args) => backfill::run(args, client, format).await,
        Command::Reload { dry_run, wait: _ } => {
            let dry_run = if dry_run { "true" } else { "false" };
            let response = client.post_query("/api/v1/reload", &[("dry_run", Some(dry_run))]).await?;
            print_document(&response, format, || response["changed"].as_str().unwrap_or_default().to_owned());
            if format == Format::Human {
                print_rows(&response["next_runs"], &["job", "next_run"], format);
            }
            Ok(0)
        }
    }
}

/// Who did it, and when: `sweep 10:50`, or `sweep 11-24 10:50` when that was not today.
fn actor_and_time(by: &Value, at: &Value, today: &str) -> Value {
    let at = at.as_str().unwrap_or_default();
    let shown = if at.starts_with(today) { at.get(11..16) } else { at.get(5..16) };
    let at = shown.unwrap_or_default().replacen('T', " ", 1);
    json!(format!("{} {at}", by.as_str().unwrap_or_default()).trim())
}

fn show_gaps(mut gaps: Value, format: Format) {
    if format == Format::Human {
        let now = Clock::system().now().rfc3339();
        let today = now.get(..10).unwrap_or_default();
        for gap in gaps.as_array_mut().into_iter().flatten() {
            gap["found"] = actor_and_time(&gap["evidence"]["by"], &gap["detected_at"], today);
            gap["filled"] = actor_and_time(&gap["filled_by"], &gap["filled_at"], today);
            gap["first"] = position(gap, "first_missing", 5..16);
            gap["last"] = position(gap, "last_missing", 5..16);
            gap["tries"] = gap["attempts"].clone();
        }
    }
    print_rows(&gaps, &["symbol", "channel", "state", "missing", "first", "last", "found", "filled", "tries"], format);
    if format == Format::Human {
        // A reason is too long for a column.
        for gap in gaps.as_array().into_iter().flatten() {
            if let Some(reason) = gap["reason"].as_str().filter(|reason| !reason.is_empty()) {
                let (first, last) = (cell(gap, "first_missing"), cell(gap, "last_missing"));
                print_line!("{} {} {first}..{last}: {reason}", cell(gap, "symbol"), cell(gap, "channel"));
            }
        }
    }
}

/// Runs a command of the scheduler; returns the exit code.
pub async fn run_jobs(command: JobsCommand, client: &Client, format: Format) -> Result<u8, Failure> {
    match command {
        JobsCommand::List => {
            let jobs = client.get("/api/v1/jobs").await?;
            print_rows(&jobs, &["name", "when", "next_run", "last_outcome", "runs", "failures", "paused"], format);
            Ok(0)
        }
        JobsCommand::Run { name, wait } => {
            let mut response = client.post_job(&name, "run", &[]).await?;
            if wait {
                response = wait_for_end(client, &name, &response).await?;
            }
            let outcome = response["outcome"].as_str().unwrap_or("started");
            print_document(&response, format, || match response["reason"].as_str().unwrap_or_default() {
                "" => format!("{name}: {outcome}"),
                reason => format!("{name}: {outcome}: {reason}"),
            });
            Ok(if matches!(outcome, "started" | "succeeded") { 0 } else { NO })
        }
        JobsCommand::Pause { name, reason } => {
            print_job_change(client.post_job(&name, "pause", &[("reason", reason.as_deref())]).await?, "paused", format)
        }
        JobsCommand::Resume { name } => {
            print_job_change(client.post_job(&name, "resume", &[]).await?, "resumed", format)
        }
        JobsCommand::History { name, limit } => {
            let parameters = [("limit", Some(&*limit.to_string())), ("job", name.as_deref())];
            let mut runs = client.query("/api/v1/jobs/history", &parameters).await?;
            if format == Format::Human {
                // People read times; JSON has the stored columns.
                for run in runs.as_array_mut().into_iter().flatten() {
                    let at = run["started_at"].as_i64().map(|at| Timestamp(at).rfc3339());
                    let took = run["finished_at"].as_i64().zip(run["started_at"].as_i64());
                    run["started"] = json!(at);
                    run["late"] = json!(run["lateness_ms"].as_i64().map(|late| late as f64 / 1e3));
                    run["seconds"] = json!(took.map(|(ended, began)| (ended - began).max(0) as f64 / 1e6));
                }
            }
            print_rows(&runs, &["job", "started", "late", "seconds", "trigger", "outcome", "reason"], format);
            Ok(0)
        }
    }
}

/// Polls the run until it has finished: it may take longer than a request may.
async fn wait_for_end(client: &Client, name: &str, started: &Value) -> Result<Value, Failure> {
    let run_id = started["run_id"].as_str().unwrap_or_default();
    let until = tokio::time::Instant::now() + WAIT_MAX;
    while tokio::time::Instant::now() < until {
        let runs = client.query("/api/v1/jobs/history", &[("job", Some(name)), ("limit", Some("100"))]).await?;
        let run = runs.as_array().into_iter().flatten().find(|run| run["run_id"] == run_id);
        if let Some(run) = run.filter(|run| !run["finished_at"].is_null()) {
            return Ok(run.clone());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Err(Failure::new(TEMPORARY, anyhow::anyhow!("{name} still runs after {} h", WAIT_MAX.as_secs() / 3_600)))
}

fn print_job_change(response: Value, word: &str, format: Format) -> Result<u8, Failure> {
    print_document(&response, format, || format!("{} is {word}", response["job"].as_str().unwrap_or_default()));
    Ok(0)
}

async fn repair(client: &Client, symbol: Option<&str>, dry_run: bool, format: Format) -> Result<u8, Failure> {
    if dry_run {
        let report = client.query("/api/v1/admin/consistency-check", &[("symbol", symbol)]).await?;
        let issues = report["issues"].as_array().map_or(0, Vec::len);
        if format == Format::Json {
            print_line!("{report}");
        } else {
            print_line!("{} keys compared, {issues} issues", report["checked"]);
            if issues > 0 {
                print_rows(&report["issues"], &["symbol", "channel", "kind"], format);
            }
        }
        return Ok(if issues == 0 { 0 } else { NO });
    }
    let report = client.post_query("/api/v1/admin/repair-data", &[("symbol", symbol)]).await?;
    let left = report["unrepaired"].as_array().map_or(0, Vec::len);
    print_document(&report, format, || {
        format!("{} repaired, {} sent to backfill, {left} left", report["repaired"], report["sent_to_backfill"])
    });
    Ok(if left == 0 { 0 } else { NO })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_today_is_shown_without_its_date() {
        let output = |at| actor_and_time(&json!("sweep"), &json!(at), "2026-11-24");
        assert_eq!(output("2026-11-24T10:50:11.123Z"), "sweep 10:50");
        assert_eq!(output("2026-11-23T10:50:11.123Z"), "sweep 11-23 10:50");
        assert_eq!(actor_and_time(&json!(""), &Value::Null, "2026-11-24"), "");
    }
}
