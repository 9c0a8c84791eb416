//! Runs a program: argv, never a shell. What it prints goes to the journal under the run's id.
//!
//! It gets a process group of its own and is killed as one, so that nothing it started stays behind. It gets an
//! environment of its own too: the service's may hold passwords. When the recorder itself is killed (SIGKILL), systemd ends
//! what is left of the unit; without systemd it goes on.

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

/// Longest line that is kept; the rest of it is dropped.
const LINE_BYTES_MAX: usize = 4_096;
/// Lines of a run that go to the journal; the others are counted.
const LINES_MAX: u64 = 1_000;
/// How long a program may take to end after SIGTERM, before SIGKILL. Less than the runner gives any task.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long what it printed may take to arrive after its end: something it started may hold the pipe.
const OUTPUT_GRACE: Duration = Duration::from_millis(300);
const STDERR: &str = "stderr";
/// What of the service's own environment a program gets.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

pub(super) async fn run(args: &TaskArgs, run: &Identity, cancel: &CancellationToken) -> anyhow::Result<Report> {
    let args = args.command.as_ref().context("the job does not say what to run")?;
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
    let (status, terminated) = loop {
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
        info!(JOB = %run.job, RUN_ID = %run.run_id, "{}: something it started left its group", run.job);
    }
    output.report(status, terminated)
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

/// Waits for the program's end, and brings it about when the run is cancelled; whether it did.
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

/// The program and whatever it started; all of it is killed when the run is over, however it ends.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        // An empty group is what we want: there is nobody left to be told.
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

/// Where lines go, and how many there were.
struct OutputLog<'a> {
    run: &'a Identity,
    stats: Mutex<OutputStats>,
}

#[derive(Debug, Default)]
struct OutputStats {
    lines: u64,
    last: String,
    /// The last one of stderr, which says more of a failure.
    last_error: String,
}

impl OutputLog<'_> {
    fn line(&self, bytes: &[u8], stream: &'static str) {
        let text = String::from_utf8_lossy(bytes);
        // A program must not steer a terminal, nor forge another line.
        let text: String = text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        let text = text.trim_end();
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.lines += 1;
        let Identity { job, run_id, .. } = self.run;
        if stats.lines <= LINES_MAX {
            info!(JOB = %job, RUN_ID = %run_id, STREAM = stream, "{job}: {text}");
        } else if stats.lines == LINES_MAX + 1 {
            info!(JOB = %job, RUN_ID = %run_id, "{job}: more than {LINES_MAX} lines; the others are only counted");
        }
        if !text.is_empty() && stream == STDERR {
            stats.last_error = text.to_owned();
        }
        if !text.is_empty() {
            stats.last = text.to_owned();
        }
    }

    fn report(&self, status: ExitStatus, terminated: bool) -> anyhow::Result<Report> {
        let stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let data = json!({
            "exit_code": status.code(), "signal": std::os::unix::process::ExitStatusExt::signal(&status),
            "lines": stats.lines, "lines_dropped": stats.lines.saturating_sub(LINES_MAX), "last_line": stats.last,
        });
        let suffix = |last: &str| if last.is_empty() { String::new() } else { format!(": {last}") };
        let mut report = Report::new(format!("{status}, {} lines{}", stats.lines, suffix(&stats.last)), &data)?;
        let last = suffix(if stats.last_error.is_empty() { &stats.last } else { &stats.last_error });
        report.failure = match (terminated, status.success()) {
            (true, _) => Some(format!("it was told to end: {status}{last}")),
            (false, false) => Some(format!("{status}{last}")),
            (false, true) => None,
        };
        Ok(report)
    }
}

/// Reads to the end of a pipe, line by line; of a line that has no end only its beginning is kept.
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
