//! Runs a program: argv, never a shell. Its output goes to the journal under the run's id.
//!
//! At the end the task kills every process that the program started (`process_tree`). The program gets an environment of
//! its own: the service's may hold passwords. When the recorder itself is killed (SIGKILL), systemd ends the processes
//! of the unit; without systemd the program continues.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::spec::{CommandArgs, TaskArgs};
use super::process_tree::{self, ProcessTree, RUN_ID};
use super::{Identity, Report};

/// The bytes kept of a line; the rest is dropped.
const LINE_BYTES_MAX: usize = 4_096;
/// Lines of a run that go to the journal; the others are only counted.
const LINES_MAX: u64 = 1_000;
/// How long a program may take to end after SIGTERM, before SIGKILL. Less than the runner's ABORT_GRACE.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long the task reads output after the program's end: a child process may hold the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(300);
/// How often the task reaps processes that the program left behind while it runs.
const REAP_INTERVAL: Duration = Duration::from_secs(5);
const STDERR: &str = "stderr";
/// The variables that a program inherits from the service.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

pub(super) async fn run(args: &TaskArgs, run: &Identity, cancel: &CancellationToken) -> anyhow::Result<Report> {
    let args = args.command.as_ref().context("the job has no command arguments")?;
    let program = args.argv.first().context("argv is empty")?;
    process_tree::become_subreaper();
    let started = ProcessTree::spawn(&mut command(program, args, run), &run.run_id);
    let (mut child, mut tree) = started.with_context(|| format!("start {program}"))?;
    let output = OutputLog { run, stats: Mutex::default() };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async { tokio::join!(forward(stdout, "stdout", &output), forward(stderr, STDERR, &output)) };
    tokio::pin!(reading);
    let mut read = false;
    let cancelled = {
        let ending = end(&tree, cancel);
        tokio::pin!(ending);
        let mut reaping = tokio::time::interval(REAP_INTERVAL);
        loop {
            tokio::select! {
                cancelled = &mut ending => break cancelled,
                _ = &mut reading, if !read => read = true,
                _ = reaping.tick() => drop(tokio::task::spawn_blocking(process_tree::reap_leftovers)),
            }
        }
    };
    if !read {
        read = tokio::time::timeout(OUTPUT_GRACE, &mut reading).await.is_ok();
    }
    // Before the program is reaped: until then its group's number cannot belong to anybody else.
    let outside = tree.kill_rest().await;
    let status = child.wait().await.with_context(|| format!("wait for {program}"))?;
    if outside > 0 {
        info!(
            JOB = %run.job, RUN_ID = %run.run_id,
            "{}: killed {outside} processes that had left the program's process group", run.job
        );
    }
    if !read && tokio::time::timeout(OUTPUT_GRACE, &mut reading).await.is_err() {
        info!(JOB = %run.job, RUN_ID = %run.run_id, "{}: another process holds the program's output open", run.job);
    }
    output.report(status, cancelled)
}

fn command(program: &str, args: &CommandArgs, run: &Identity) -> Command {
    let mut command = Command::new(program);
    command.args(&args.argv[1..]).env_clear();
    let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(inherited).envs(args.environment.iter().map(|(name, value)| (name, value)));
    command.env("TAPEKEEPER_JOB", &run.job).env(RUN_ID, &run.run_id);
    if let Some((from, to)) = run.window {
        command.env("TAPEKEEPER_WINDOW_FROM", from.rfc3339()).env("TAPEKEEPER_WINDOW_TO", to.rfc3339());
    }
    if let Some(directory) = &args.working_directory {
        command.current_dir(directory);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}

/// Waits for the program's end; ends it when the run is cancelled. Returns whether it was cancelled.
async fn end(tree: &ProcessTree, cancel: &CancellationToken) -> bool {
    tokio::select! {
        () = tree.ended() => return false,
        () = cancel.cancelled() => tree.signal(Signal::TERM),
    }
    if tokio::time::timeout(TERM_GRACE, tree.ended()).await.is_err() {
        tree.signal(Signal::KILL);
        tree.ended().await;
    }
    true
}

/// Writes the lines to the journal and counts them.
struct OutputLog<'a> {
    run: &'a Identity,
    stats: Mutex<OutputStats>,
}

#[derive(Debug, Default)]
struct OutputStats {
    lines: u64,
    last: String,
    /// The last line of stderr, which says more about a failure.
    last_error: String,
}

impl OutputLog<'_> {
    fn line(&self, bytes: &[u8], stream: &'static str) {
        let text = String::from_utf8_lossy(bytes);
        // A program must not control a terminal, nor forge another line.
        let text: String = text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        let text = text.trim_end();
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.lines += 1;
        let Identity { job, run_id, .. } = self.run;
        if stats.lines <= LINES_MAX {
            info!(JOB = %job, RUN_ID = %run_id, STREAM = stream, "{job}: {text}");
        } else if stats.lines == LINES_MAX + 1 {
            info!(JOB = %job, RUN_ID = %run_id, "{job}: more than {LINES_MAX} lines; further lines are only counted");
        }
        if !text.is_empty() && stream == STDERR {
            stats.last_error = text.to_owned();
        }
        if !text.is_empty() {
            stats.last = text.to_owned();
        }
    }

    fn report(&self, status: ExitStatus, cancelled: bool) -> anyhow::Result<Report> {
        let stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let data = json!({
            "exit_code": status.code(), "signal": std::os::unix::process::ExitStatusExt::signal(&status),
            "lines": stats.lines, "lines_dropped": stats.lines.saturating_sub(LINES_MAX), "last_line": stats.last,
        });
        let suffix = |last: &str| if last.is_empty() { String::new() } else { format!(": {last}") };
        let mut report = Report::new(format!("{status}, {} lines{}", stats.lines, suffix(&stats.last)), &data)?;
        let last = suffix(if stats.last_error.is_empty() { &stats.last } else { &stats.last_error });
        report.failure = match (cancelled, status.success()) {
            (true, _) => Some(format!("it was cancelled: {status}{last}")),
            (false, false) => Some(format!("{status}{last}")),
            (false, true) => None,
        };
        Ok(report)
    }
}

/// Reads a pipe to its end, line by line; keeps at most [`LINE_BYTES_MAX`] of a line.
async fn forward(pipe: Option<impl AsyncRead + Unpin>, stream: &'static str, output: &OutputLog<'_>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; 8_192];
    let mut line = Vec::new();
    loop {
        let read = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                output.line(&line, stream);
                line.clear();
            } else if line.len() < LINE_BYTES_MAX {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        output.line(&line, stream);
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
