//! Which files `tapekeeper check` reads, and its exit codes: the real program in directories of its own.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A configuration with this number of streams, which shows which file was read.
fn configuration(streams: usize) -> String {
    let symbols: Vec<String> = (0..streams).map(|n| format!("\"SYM{n}\"")).collect();
    format!("[[feed]]\nexchange = \"binance\"\nsymbols = [{}]\nchannels = [\"trade\"]\n", symbols.join(", "))
}

/// A schedule with this number of jobs.
fn schedule(prefix: &str, jobs: usize) -> String {
    let job = |n| format!("[job.{prefix}{n}]\ntask = \"gap-sweep\"\nevery = \"15m\"\n");
    format!("schema = 1\n{}", (0..jobs).map(job).collect::<String>())
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// Runs `tapekeeper check` in a directory with exactly these environment variables.
fn check(directory: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapekeeper"));
    command.current_dir(directory).env_clear().envs(variables.iter().copied());
    command.arg("check").args(arguments).output().unwrap()
}

/// Checks which files the command read, and its counts.
#[track_caller]
fn assert_reads(output: &Output, files: &str, streams: usize, jobs: usize) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // The built-in schedule has the job.
    let note = "note: job `seal` is off: `[seal] to` names no place for sealed days\n";
    let text = text.strip_prefix(note).unwrap_or(&text);
    assert_eq!(text, format!("ok: {files}: {streams} streams, {jobs} jobs\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_directory() {
    let files = [("tapekeeper.toml", 1), ("env.toml", 2), ("line.toml", 3)].map(|(name, n)| (name, configuration(n)));
    let mut files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let jobs =
        [("jobs.toml", 1), ("env-jobs.toml", 2), ("line-jobs.toml", 3)].map(|(name, n)| (name, schedule("a", n)));
    files.extend(jobs.iter().map(|(name, text)| (*name, text.as_str())));
    let directory = directory(&files);
    let variables = [("TAPEKEEPER_CONFIG", "env.toml"), ("TAPEKEEPER_JOBS", "env-jobs.toml")];
    let arguments = ["--config", "line.toml", "--jobs", "line-jobs.toml"];
    assert_reads(&check(directory.path(), &variables, &arguments), "line.toml, line-jobs.toml", 3, 3);
    assert_reads(&check(directory.path(), &variables, &[]), "env.toml, env-jobs.toml", 2, 2);
    assert_reads(&check(directory.path(), &[], &[]), "tapekeeper.toml, jobs.toml", 1, 1);
    // An empty variable counts as not set.
    let empty = [("TAPEKEEPER_CONFIG", ""), ("TAPEKEEPER_JOBS", "")];
    assert_reads(&check(directory.path(), &empty, &[]), "tapekeeper.toml, jobs.toml", 1, 1);
}

#[test]
fn without_any_file_the_built_in_ones_are_used() {
    if Path::new("/etc/tapekeeper/tapekeeper.toml").exists() {
        println!("SKIPPED: tapekeeper is installed here, and its configuration would be read");
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    assert_reads(&check(empty.path(), &[], &[]), "the built-in configuration, the built-in schedule", 4, 9);
}

#[test]
fn drop_ins_are_read_by_name_and_only_toml_files() {
    let (configuration, first, second) = (configuration(1), schedule("b", 1), schedule("c", 2));
    let base = schedule("a", 1);
    let files = [
        ("tapekeeper.toml", configuration.as_str()),
        ("jobs.toml", &base),
        ("jobs.d/20-second.toml", &second),
        ("jobs.d/10-first.toml", &first),
        ("jobs.d/notes.txt", "not TOML at all ["),
    ];
    let directory = directory(&files);
    let read = "tapekeeper.toml, jobs.toml, jobs.d/10-first.toml, jobs.d/20-second.toml";
    assert_reads(&check(directory.path(), &[], &[]), read, 1, 4);
}

#[test]
fn errors_of_all_files_are_reported_at_once_in_the_order_of_the_files() {
    let files = [
        ("tapekeeper.toml", "data_dri = \"x\"\n[[feed]]\nexchange = \"binanse\"\n[log]\nretention = 7\n"),
        ("jobs.toml", "schema = 1\n[job.sweep]\ntask = \"gap-sweep\"\nevery = 30\n"),
        ("jobs.d/a.toml", "schema = 2\n"),
    ];
    let directory = directory(&files);
    let output = check(directory.path(), &[], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let errors = String::from_utf8(output.stderr).unwrap();
    let positions: Vec<&str> = errors.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")).collect();
    let expected = [
        "tapekeeper.toml:1:1",
        "tapekeeper.toml:2:1",
        "tapekeeper.toml:2:1",
        "tapekeeper.toml:3:12",
        "tapekeeper.toml:5:13",
        "jobs.toml:4:9",
        "jobs.d/a.toml:1:10",
    ];
    assert_eq!(positions, expected, "{errors}");
    assert!(errors.trim_end().ends_with("7 errors in 3 files"), "{errors}");
}

#[test]
fn a_named_file_that_does_not_exist_is_an_error() {
    let directory = directory(&[("tapekeeper.toml", &configuration(1))]);
    let output = check(directory.path(), &[("TAPEKEEPER_JOBS", "gone.toml")], &["--config", "missing.toml"]);
    assert_eq!(output.status.code(), Some(78));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("cannot read missing.toml: there is no such file"), "{errors}");
    assert!(errors.contains("cannot read gone.toml: there is no such file"), "{errors}");
}
