//! Broken files and their exact reports. `golden/*.txt` has them side by side: `### a name`, the file, `--->`, and the
//! report. `TAPEKEEPER_BLESS=1 cargo test golden` writes the current reports.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::reader::Diagnostics;
use super::{Problem, Problems, schedule, service};
use crate::exchange::catalog;
use crate::market::Exchange;

const SEPARATOR: &str = "--->\n";

fn report_of_service(text: &str) -> String {
    let diagnostics = Diagnostics::new("tapekeeper.toml", text);
    service::read(text, &diagnostics, PathBuf::from("data"));
    render(diagnostics.into_problems())
}

/// A text with a line `=== jobs.d/more.toml` is two files.
fn report_of_schedule(text: &str) -> String {
    let mut files = vec![("jobs.toml".to_owned(), String::new())];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("=== ") {
            Some(name) => files.push((name.trim_end().to_owned(), String::new())),
            None => files.last_mut().unwrap().1.push_str(line),
        }
    }
    let diagnostics: Vec<(Diagnostics, &str)> =
        files.iter().map(|(name, text)| (Diagnostics::new(name, text), text.as_str())).collect();
    schedule::read(&diagnostics);
    render(diagnostics.into_iter().flat_map(|(diagnostics, _)| diagnostics.into_problems()).collect())
}

/// What stands for the names of all exchanges in a report, so that a new exchange changes none.
const ALL_EXCHANGES: &str = "<all exchanges>";

/// The report; checks that every problem has a position and help.
fn render(problems: Vec<Problem>) -> String {
    for problem in &problems {
        assert!(problem.help.is_some() && problem.location.is_some(), "{problem}");
    }
    let names = catalog::names().map(Exchange::as_str).collect::<Vec<_>>().join(", ");
    Problems(problems).sorted().to_string().replace(&names, ALL_EXCHANGES)
}

/// Compares every case of a file; returns their number.
fn check(file: &str, report: fn(&str) -> String) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/golden").join(file);
    let cases = std::fs::read_to_string(&path).unwrap();
    let (mut blessed, mut wrong, mut count) = (String::new(), String::new(), 0);
    for case in cases.split("### ").filter(|case| !case.trim().is_empty()) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, expected) = rest.split_once(SEPARATOR).unwrap_or((rest, ""));
        let actual = report(text);
        if actual.trim_end() != expected.trim_end() {
            writeln!(wrong, "{file}: {name}\nexpected:\n{expected}\nactual:\n{actual}\n").unwrap();
        }
        writeln!(blessed, "### {name}\n{text}{SEPARATOR}{}\n", actual.trim_end()).unwrap();
        count += 1;
    }
    if std::env::var_os("TAPEKEEPER_BLESS").is_some() {
        std::fs::write(&path, blessed).unwrap();
    } else {
        assert!(wrong.is_empty(), "{wrong}");
    }
    count
}

#[test]
fn each_golden_configuration_gets_its_exact_report() {
    assert!(check("service.txt", report_of_service) >= 25);
}

#[test]
fn each_golden_schedule_gets_its_exact_report() {
    assert!(check("schedule.txt", report_of_schedule) >= 40);
}
