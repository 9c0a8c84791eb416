//! Real programs: their arguments and environment, their output, and that no process survives.

use std::time::Instant;

use serde_json::Value;

use super::*;
use crate::market::Timestamp;

/// Upper limit for steps that take a moment on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(30);

fn args(argv: &[&str]) -> TaskArgs {
    let argv = argv.iter().map(|text| (*text).to_owned()).collect();
    let environment = vec![("COLOUR".to_owned(), "blue".to_owned())];
    let command = CommandArgs { argv, environment, working_directory: Some("/usr".into()) };
    TaskArgs { command: Some(command), ..TaskArgs::default() }
}

fn identity() -> Identity {
    let window = Some((Timestamp(0), Timestamp(60_000_000)));
    Identity { job: "job".to_owned(), run_id: "0192".to_owned(), window }
}

async fn ran(argv: &[&str], cancel: &CancellationToken) -> anyhow::Result<Report> {
    let (args, identity) = (args(argv), identity());
    tokio::time::timeout(TIMEOUT, run(&args, &identity, cancel)).await.expect("it ends")
}

async fn shell(script: &str) -> Report {
    ran(&["sh", "-c", script], &CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn a_program_gets_its_arguments_unchanged_and_its_own_environment() {
    let report = ran(&["echo", "$HOME; *", "a b"], &CancellationToken::new()).await.unwrap();
    assert_eq!((&report.data["last_line"], report.failure), (&json!("$HOME; * a b"), None));
    let variables = "$COLOUR $PWD $TAPEKEEPER_JOB $TAPEKEEPER_RUN_ID $TAPEKEEPER_WINDOW_FROM $TAPEKEEPER_WINDOW_TO";
    let report = shell(&format!("echo {variables}")).await;
    let expected = "blue /usr job 0192 1970-01-01T00:00:00.000Z 1970-01-01T00:01:00.000Z";
    assert_eq!(report.data["last_line"], expected);
    // Cargo sets it for this process; a job's program must not see the service's environment.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert_eq!(shell("echo [$CARGO_MANIFEST_DIR]").await.data["last_line"], "[]");
}

#[tokio::test]
async fn an_exit_status_other_than_0_is_a_failure_with_a_report() {
    let report = shell("echo out; echo no space >&2; exit 3").await;
    assert_eq!(report.failure.as_deref(), Some("exit status: 3: no space"));
    assert_eq!((&report.data["exit_code"], &report.data["lines"]), (&json!(3), &json!(2)));
    let report = shell("kill -9 $$").await;
    assert_eq!((&report.data["exit_code"], &report.data["signal"]), (&Value::Null, &json!(9)));
    let error = ran(&["/no/such/program"], &CancellationToken::new()).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("start /no/such/program: "), "{error:#}");
}

#[tokio::test]
async fn lines_are_bounded_and_cannot_control_a_terminal() {
    let report = shell("head -c 5000000 /dev/zero | tr '\\0' x; echo; seq 5000; printf 'a\\033[31mb\\rc'").await;
    assert_eq!((&report.data["lines"], &report.data["lines_dropped"]), (&json!(5_002), &json!(4_002)));
    assert_eq!(report.data["last_line"], "a [31mb c");
    let long = shell("head -c 5000000 /dev/zero | tr '\\0' x").await;
    assert_eq!(long.data["last_line"].as_str().unwrap().len(), LINE_BYTES_MAX);
}

/// Whether a process runs, and is no zombie.
fn is_alive(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

async fn wait_until_gone(process: &str) {
    let until = Instant::now() + TIMEOUT;
    while is_alive(process) {
        assert!(Instant::now() < until, "{process} still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn child_processes_are_killed_when_the_program_ends() {
    let report = shell("sleep 1000 & echo $!").await;
    assert_eq!(report.failure, None, "it succeeded by itself");
    wait_until_gone(report.data["last_line"].as_str().unwrap()).await;
}

#[tokio::test]
async fn a_cancelled_program_and_its_children_are_terminated_then_killed() {
    for (trap, ended) in [("", "signal: 15 (SIGTERM)"), ("trap '' TERM;", "signal: 9 (SIGKILL)")] {
        let cancel = CancellationToken::new();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("child").display().to_string();
        // The child's id is moved into place, so that it is there whole or not at all.
        let script = format!("{trap} sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait; wait; sleep 1000");
        let running = tokio::spawn({
            let cancel = cancel.clone();
            async move { ran(&["sh", "-c", &script], &cancel).await.unwrap() }
        });
        let until = Instant::now() + TIMEOUT;
        let child = loop {
            if let Ok(child) = std::fs::read_to_string(&file) {
                break child.trim().to_owned();
            }
            assert!(Instant::now() < until, "the program does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(is_alive(&child));
        cancel.cancel();
        let failure = running.await.unwrap().failure.unwrap();
        assert!(failure.starts_with("it was cancelled: ") && failure.contains(ended), "{failure}");
        wait_until_gone(&child).await;
    }
}

#[tokio::test]
async fn an_aborted_run_kills_the_group_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("child").display().to_string();
    let script = format!("sleep 1000 & echo $! > {file}.new; mv {file}.new {file}; wait");
    let running = tokio::spawn(async move { ran(&["sh", "-c", &script], &CancellationToken::new()).await });
    let until = Instant::now() + TIMEOUT;
    while !std::path::Path::new(&file).exists() {
        assert!(Instant::now() < until, "the program does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.abort();
    wait_until_gone(std::fs::read_to_string(&file).unwrap().trim()).await;
}

#[tokio::test]
async fn a_child_with_a_session_of_its_own_is_killed_too() {
    for setsid in ["setsid", "env -i setsid"] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("child").display().to_string();
        // The output is closed, so that the run does not wait for it; the parent between them ends.
        let inner = format!("sh -c 'sleep 1000 & echo $! > {file}.new; mv {file}.new {file}' >/dev/null 2>&1");
        let report = shell(&format!("{setsid} {inner} & while ! test -e {file}; do sleep 0.01; done")).await;
        assert_eq!(report.failure, None);
        wait_until_gone(std::fs::read_to_string(&file).unwrap().trim()).await;
    }
}

#[tokio::test]
async fn what_a_cancelled_program_left_behind_is_killed_and_reaped() {
    let (cancel, directory) = (CancellationToken::new(), tempfile::tempdir().unwrap());
    let file = directory.path().join("child").display().to_string();
    let inner = format!("sh -c 'sleep 1000 & echo $! > {file}.new; mv {file}.new {file}' >/dev/null 2>&1");
    let script = format!("setsid {inner} & sleep 1000");
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { ran(&["sh", "-c", &script], &cancel).await }
    });
    let until = Instant::now() + TIMEOUT;
    while !std::path::Path::new(&file).exists() {
        assert!(Instant::now() < until, "the program does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
    let child = std::fs::read_to_string(&file).unwrap();
    wait_until_gone(child.trim()).await;
    let reaped = async {
        while std::path::Path::new(&format!("/proc/{}", child.trim())).exists() {
            process_tree::reap_leftovers();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, reaped).await.expect("no zombie is left");
}
