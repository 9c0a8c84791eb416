//! Prints the faults of the demo and the gaps of the recorder as they happen.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use serde_json::Value;
use tokio::time::Instant;

use super::super::output::{Format, print_line};
use crate::market::Channel;

/// Prints lines with the time since the start.
pub struct Reporter {
    began: Instant,
    quiet: bool,
    colours: bool,
    /// State of each gap as last printed.
    printed: Mutex<HashMap<String, String>>,
}

impl Reporter {
    /// A reporter that prints nothing with `--format json`: then only the verdict is printed.
    pub fn new(format: Format) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { began: Instant::now(), quiet: format == Format::Json, colours, printed: Mutex::default() }
    }

    /// Prints an event of `who`.
    pub fn report(&self, who: &str, what: &str) {
        self.line(who, "", what);
    }

    /// Prints an injected fault.
    pub fn report_fault(&self, what: &str) {
        self.line("FAULT", "\x1b[31m", what);
    }

    /// Prints gaps that are new or whose state has changed.
    pub fn report_gaps(&self, gaps: &[Value]) {
        let mut printed = self.printed.lock().expect("no holder of this lock panics");
        for gap in gaps.iter().rev() {
            let text = |key: &str| gap[key].as_str().unwrap_or_default().to_owned();
            let (id, state) = (text("gap_id"), text("state"));
            let before = printed.insert(id, state.clone());
            if before.as_ref() == Some(&state) {
                continue;
            }
            let stream = format!("{} {}", text("symbol"), text("channel"));
            if before.is_none() {
                let by = gap["evidence"]["by"].as_str().unwrap_or_default().to_owned();
                let [first, last] = ["first_missing", "last_missing"].map(|key| gap[key].as_i64().unwrap_or_default());
                let span = text("channel").parse().map_or_else(|()| String::new(), |of: Channel| of.span(first, last));
                let missing = &gap["missing"];
                self.line("gap", "\x1b[33m", &format!("{stream}: {missing} missing, {span}, found by {by}"));
            }
            match state.as_str() {
                "open" | "filling" => {}
                "filled" => {
                    let filled = &gap["filled"];
                    self.line(
                        "filled",
                        "\x1b[32m",
                        &format!("{stream}: {filled} came back over REST, counted in history"),
                    );
                }
                other => self.line("closed", "\x1b[32m", &format!("{stream}: {other}, {}", text("reason"))),
            }
        }
    }

    fn line(&self, who: &str, colour: &str, what: &str) {
        if self.quiet {
            return;
        }
        let (on, off) = if self.colours && !colour.is_empty() { (colour, "\x1b[0m") } else { ("", "") };
        print_line!("{:6.1} s  {on}{who:<9}{off} {what}", self.began.elapsed().as_secs_f64());
    }
}
