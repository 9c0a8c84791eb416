//! Runs a program: argv, never a shell. Its output goes to the journal under the run's id.
//!
//! The program gets its own process group, which the task kills at the end, so that no child process survives. It gets
//! its own environment too: the service's may hold passwords. When the recorder itself is killed (SIGKILL), systemd
//! ends the processes of the unit; without systemd the program continues.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::spec::{CommandArgs, TaskArgs};
use super::{Identity, Report};

/// The bytes kept of a line; the rest is dropped.
const LINE_BYTES_MAX: usize = 4_096;
/// Lines of a run that go to the journal; the others are only counted.
const LINES_MAX: u64 = 1_000;
/// How long a program may take to end after SIGTERM, before SIGKILL. Less than the runner's ABORT_GRACE.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long the task reads output after the program's end: a child process may hold the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(300);
const STDERR: &str = "stderr";
/// The variables that a program inherits from the service.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

pub(super) async fn run(args: &TaskArgs, run: &Identity, cancel: &CancellationToken) -> anyhow::Result<Report> {
    let args = args.command.as_ref().context("the job has no command arguments")?;
    let program = args.argv.first().context("argv is empty")?;
    let mut child = command(program, args, run).spawn().with_context(|| format!("start {program}"))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let output = OutputLog { run, stats: Mutex::default() };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async { tokio::join!(forward(stdout, "stdout", &output), forward(stderr, STDERR, &output)) };
    tokio::pin!(reading);
    let mut read = false;
    let ending = end(&mut child, &group, cancel);
    tokio::pin!(ending);
    let (status, cancelled) = loop {
        tokio::select! {
            ended = &mut ending => break ended.with_context(|| format!("wait for {program}"))?,
            _ = &mut reading, if !read => read = true,
        }
    };
    if !read {
        read = tokio::time::timeout(OUTPUT_GRACE, &mut reading).await.is_ok();
    }
    group.signal(Signal::KILL);
    if !read && tokio::time::timeout(OUTPUT_GRACE, &mut reading).await.is_err() {
        info!(JOB = %run.job, RUN_ID = %run.run_id, "{}: a child process left its process group", run.job);
    }
    output.report(status, cancelled)
}

fn command(program: &str, args: &CommandArgs, run: &Identity) -> Command {
    let mut command = Command::new(program);
    command.args(&args.argv[1..]).env_clear();
    let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(inherited).envs(args.environment.iter().map(|(name, value)| (name, value)));
    command.env("TAPEKEEPER_JOB", &run.job).env("TAPEKEEPER_RUN_ID", &run.run_id);
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
async fn end(child: &mut Child, group: &Group, cancel: &CancellationToken) -> std::io::Result<(ExitStatus, bool)> {
    tokio::select! {
        status = child.wait() => return Ok((status?, false)),
        () = cancel.cancelled() => group.signal(Signal::TERM),
    }
    if let Ok(status) = tokio::time::timeout(TERM_GRACE, child.wait()).await {
        return Ok((status?, true));
    }
    group.signal(Signal::KILL);
    Ok((child.wait().await?, true))
}

/// The program's process group; dropping it kills every process in it.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        // An error means that the group is empty.
        if let Some(group) = self.0 {
            kill_process_group(group, signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
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
