//! The files that the package ships: configuration and schedule parse without a warning, the units pass systemd's own
//! check, and the unit's times fit the program's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tapekeeper::app::{CLOSE_GRACE, GRACES};
use tapekeeper::config;
use tapekeeper::heartbeat::BEAT_INTERVAL_MAX;

use super::{assert_none, root, rust_files};

const UNIT: &str = "systemd/tapekeeper.service";

/// The warnings or errors of a check of these two files.
fn problems_of(configuration: &Path, jobs: &Path) -> Vec<String> {
    match config::load_all(Some(configuration), Some(jobs), &|_| None) {
        Ok(loaded) => loaded.warnings.0.iter().map(ToString::to_string).collect(),
        Err(problems) => vec![problems.to_string()],
    }
}

/// The value of a setting of a unit's text.
fn setting<'a>(unit: &'a str, name: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::trim)
}

/// The faults in the times of a unit.
fn wrong_times(unit: &str) -> Vec<String> {
    let time = |name| setting(unit, name).and_then(config::parse_duration);
    let (Some(stop), Some(watchdog)) = (time("TimeoutStopSec"), time("WatchdogSec")) else {
        return vec!["TimeoutStopSec and WatchdogSec must be there, with a unit of time".to_owned()];
    };
    let mut found = Vec::new();
    let graces = GRACES.iter().map(|(_, grace)| *grace).sum::<Duration>() + CLOSE_GRACE;
    if graces >= stop {
        found.push(format!("an orderly stop may take {graces:?}, and TimeoutStopSec={stop:?} would cut it off"));
    }
    if watchdog < 4 * BEAT_INTERVAL_MAX {
        found.push(format!(
            "a loop may be quiet for {BEAT_INTERVAL_MAX:?}; WatchdogSec={watchdog:?} is not four times as long"
        ));
    }
    found
}

/// A unit's text with every program replaced by an existing one: ours is not installed where tests run.
fn installable(unit: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((name, _)) if name.starts_with("Exec") => format!("{name}=/bin/true"),
        _ => line.to_owned(),
    };
    unit.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// The output of `systemd-analyze verify` for a unit; `None` when systemd-analyze is not installed.
fn verify(name: &str, text: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    // All units, because one may name another.
    for other in units() {
        let text = std::fs::read_to_string(&other).unwrap();
        std::fs::write(directory.path().join(other.file_name().unwrap()), installable(&text)).unwrap();
    }
    let path = directory.path().join(name);
    std::fs::write(&path, installable(text)).unwrap();
    let ran = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    match ran {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let failed = if output.status.success() { "" } else { "failed\n" };
            Some(format!("{failed}{}", String::from_utf8_lossy(&text)))
        }
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "systemd-analyze: {error}");
            None
        }
    }
}

/// The version of the installed systemd.
fn systemd_version() -> Option<u32> {
    let output = Command::new("systemd-analyze").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().nth(1)?.parse().ok()
}

fn units() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("systemd")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_unit =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "service" || extension == "socket");
    paths.filter(is_unit).collect()
}

#[test]
fn the_shipped_configuration_and_schedule_read_without_a_warning() {
    assert_none(&problems_of(&root().join("packaging/tapekeeper.toml"), &root().join("jobs.toml")));
}

#[test]
fn the_shipped_units_pass_systemds_own_check() {
    let units = units();
    assert!(!units.is_empty(), "no unit is shipped");
    for path in units {
        let name = path.file_name().unwrap().to_str().unwrap();
        match verify(name, &std::fs::read_to_string(&path).unwrap()) {
            Some(text) => assert_eq!(text, "", "{}", path.display()),
            None => println!("SKIPPED: {}: systemd-analyze is not installed", path.display()),
        }
    }
}

#[test]
fn every_line_of_the_drop_in_examples_is_one_that_systemd_knows() {
    let unit = std::fs::read_to_string(root().join(UNIT)).unwrap();
    let name = Path::new(UNIT).file_name().unwrap().to_str().unwrap();
    for entry in std::fs::read_dir(root().join("systemd/drop-ins")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // An example setting is `#Name=value`; a comment has a space after the `#`.
        let shown =
            text.lines().map(|line| line.strip_prefix('#').filter(|shown| !shown.starts_with(' ')).unwrap_or(line));
        let shown = shown.collect::<Vec<_>>().join("\n");
        assert!(shown.lines().any(|line| line.contains('=')), "{} shows no setting", path.display());
        if shown.contains("notify-reload") && systemd_version().is_some_and(|version| version < 253) {
            continue;
        }
        let widened = format!("{unit}\n{shown}\n");
        match verify(name, &widened) {
            Some(text) => assert_eq!(text, "", "{}", path.display()),
            None => println!("SKIPPED: {}: systemd-analyze is not installed", path.display()),
        }
    }
}

#[test]
fn the_units_times_fit_the_programs() {
    assert_none(&wrong_times(&std::fs::read_to_string(root().join(UNIT)).unwrap()));
}

/// The mismatches between the MESSAGE_IDs of the code, the entries of the catalog and the code that logs them.
fn wrong_messages(ids: &str, catalog: &str, code: &str) -> Vec<String> {
    let id_of = |line: &str| -> Option<(String, String)> {
        let (name, id) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
        Some((name.to_owned(), id.trim_end_matches("\";").to_owned()))
    };
    let ids: Vec<(String, String)> = ids.lines().filter_map(id_of).collect();
    let entries: Vec<&str> = catalog.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
    let mut found = Vec::new();
    for (at, (name, id)) in ids.iter().enumerate() {
        if id.len() != 32 || !id.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
            found.push(format!("{name}: `{id}` is not an id of 32 hexadecimal digits"));
        }
        if ids[..at].iter().any(|(_, other)| other == id) {
            found.push(format!("{name}: another message has the same id"));
        }
        if entries.iter().filter(|entry| *entry == id).count() != 1 {
            found.push(format!("{name}: the catalog does not have exactly one entry for it"));
        }
        if !code.contains(&format!("messages::{name}")) {
            found.push(format!("{name}: nothing logs it"));
        }
    }
    let unknown = entries.iter().filter(|entry| !ids.iter().any(|(_, id)| id == *entry));
    found.extend(unknown.map(|entry| format!("the catalog explains {entry}, which is not an id of the program")));
    found
}

#[test]
fn every_message_id_is_logged_and_has_its_entry_in_the_catalog() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (ids, catalog) = (read("src/messages.rs"), read("systemd/tapekeeper.catalog"));
    let code: String = rust_files(&["src"]).into_iter().map(|file| file.text).collect();
    assert_none(&wrong_messages(&ids, &catalog, &code));
    assert!(ids.contains("pub const"), "the ids are not read");
    let id = "0123456789abcdef0123456789abcdef";
    let constant = format!("pub const A: &str = \"{id}\";\n");
    assert_none(&wrong_messages(&constant, &format!("-- {id}\n"), "messages::A"));
    assert_eq!(wrong_messages(&constant, "", "").len(), 2);
    assert_eq!(wrong_messages("", &format!("-- {id}\n"), "").len(), 1);
    assert_eq!(wrong_messages(&constant.replace("0", "X"), "", "messages::A").len(), 2);
}

#[test]
fn the_catalog_is_one_that_journald_takes() {
    let directory = tempfile::tempdir().unwrap();
    let catalogs = directory.path().join("usr/lib/systemd/catalog");
    std::fs::create_dir_all(&catalogs).unwrap();
    std::fs::copy(root().join("systemd/tapekeeper.catalog"), catalogs.join("tapekeeper.catalog")).unwrap();
    let root = format!("--root={}", directory.path().display());
    let ran = Command::new("journalctl").args([root.as_str(), "--update-catalog"]).output();
    match ran {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && errors.is_empty(), "{errors}");
        }
        Err(error) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "journalctl: {error}");
            println!("SKIPPED: journalctl is not installed");
        }
    }
}

#[test]
fn the_rules_find_a_configuration_or_a_schedule_that_does_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let (configuration, jobs) = (directory.path().join("tapekeeper.toml"), directory.path().join("jobs.toml"));
    let text = config::DEFAULT_CONFIG;
    let check = |text: &str, schedule: &str| {
        std::fs::write(&configuration, text).unwrap();
        std::fs::write(&jobs, schedule).unwrap();
        problems_of(&configuration, &jobs).len()
    };
    assert_eq!(check(text, config::DEFAULT_JOBS), 0);
    assert_eq!(check(&text.replace("retention = \"7d\"", "retention = 7"), config::DEFAULT_JOBS), 1);
    assert_eq!(check(&format!("{text}\n[cache.redis]\npassword = \"x\"\n"), config::DEFAULT_JOBS), 1);
    assert_eq!(check(text, &config::DEFAULT_JOBS.replace("every = \"30s\"", "evry = \"30s\"")), 1);
}

#[test]
fn the_rules_find_a_bad_unit() {
    let unit = std::fs::read_to_string(root().join(UNIT)).unwrap();
    let replaced = |name: &str, value: &str| {
        let line = format!("{name}={}", setting(&unit, name).unwrap());
        unit.replace(&line, &format!("{name}={value}"))
    };
    assert_eq!(wrong_times(&replaced("TimeoutStopSec", "20s")).len(), 1);
    assert_eq!(wrong_times(&replaced("WatchdogSec", "5s")).len(), 1);
    assert_eq!(wrong_times(&replaced("WatchdogSec", "soon")).len(), 1);
    match verify("tapekeeper.service", &replaced("Restart", "perhaps")) {
        Some(text) => assert_ne!(text, ""),
        None => println!("SKIPPED: systemd-analyze is not installed"),
    }
}
