//! What commands print on stdout: lines, documents and tables, for people or as JSON.
//!
//! A reader that closes the pipe early (`| head`) is not an error, so nothing here panics as `println!` does. This file
//! knows no command.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::exit::{Failure, IO};
use crate::market::Timestamp;

use super::table;

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences for people.
    #[default]
    Human,
    /// One document, or one object per line for a list.
    Json,
}

/// Prints a line on stdout.
macro_rules! print_line {
    ($($text:tt)*) => { $crate::cli::output::print_text(format_args!("{}\n", format_args!($($text)*))) };
}
pub(super) use print_line;

/// Prints text on stdout, unchanged.
pub(super) fn print_text(text: fmt::Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("tapekeeper: cannot print: {error}");
    }
}

/// Turns the failure of a command whose reader closed the pipe into success.
pub(super) fn allow_closed_stdout(ended: Result<u8, Failure>) -> Result<u8, Failure> {
    // Failed writes to stdout have this code; a broken connection to a server has another.
    let is_closed = |failure: &Failure| {
        failure.code == IO
            && failure
                .error
                .root_cause()
                .downcast_ref()
                .is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe)
    };
    match ended {
        Err(failure) if is_closed(&failure) => Ok(0),
        ended => ended,
    }
}

/// Prints a document: as JSON, or as the text that `words` makes.
pub(super) fn print_document(document: &Value, format: Format, words: impl FnOnce() -> String) {
    match format {
        Format::Json => print_line!("{document}"),
        Format::Human => print_line!("{}", words()),
    }
}

/// Prints a list: one object per line, or a table of these columns.
pub(super) fn print_rows(rows: &Value, columns: &[&str], format: Format) {
    let rows = rows.as_array().cloned().unwrap_or_default();
    if format == Format::Json {
        for row in rows {
            print_line!("{row}");
        }
        return;
    }
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
    print_text(format_args!("{}", table::render(columns, &cells)));
}

/// The position in this column; of a kline, this part of its open time in RFC 3339.
pub(super) fn position(row: &Value, column: &str, part: std::ops::Range<usize>) -> Value {
    let is_kline = row["channel"].as_str().is_some_and(|channel| channel.starts_with("kline"));
    match row[column].as_i64().filter(|_| is_kline).map(|at| Timestamp(at).rfc3339()) {
        Some(at) => json!(at.get(part).unwrap_or(&at).replacen('T', " ", 1)),
        None => row[column].clone(),
    }
}

/// A value as people read it: times to the second, a kline's position as the minute of its open time.
pub(super) fn cell(row: &Value, column: &str) -> String {
    let row = match column {
        "first" | "last" | "first_missing" | "last_missing" => position(row, column, 0..16),
        _ => row[column].clone(),
    };
    match &row {
        Value::Null => String::new(),
        Value::String(text) if Timestamp::parse(text).is_some() => text.get(..19).unwrap_or(text).replacen('T', " ", 1),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::exit::UNAVAILABLE;

    #[test]
    fn only_a_closed_stdout_is_no_failure() {
        let broken = |code, kind: ErrorKind| {
            let error: Result<u8, _> = Err(io::Error::from(kind)).context("write the rows");
            error.map_err(|error| Failure::new(code, error))
        };
        assert_eq!(allow_closed_stdout(broken(IO, ErrorKind::BrokenPipe)).ok(), Some(0));
        assert!(allow_closed_stdout(broken(IO, ErrorKind::StorageFull)).is_err(), "a full disk");
        assert!(allow_closed_stdout(broken(UNAVAILABLE, ErrorKind::BrokenPipe)).is_err(), "a server");
        assert_eq!(allow_closed_stdout(Ok(1)).ok(), Some(1));
    }

    #[test]
    fn people_read_times_where_json_has_numbers() {
        let kline = json!({ "channel": "kline_1m", "first": 1_795_517_280_000_000_i64, "expected": 7 });
        assert_eq!([cell(&kline, "first"), cell(&kline, "expected")], ["2026-11-24 10:48", "7"]);
        let trade = json!({ "channel": "trade", "first": 18, "next_run": "2026-11-24T10:50:00.123Z", "reason": null });
        assert_eq!(
            [cell(&trade, "first"), cell(&trade, "next_run"), cell(&trade, "reason")],
            ["18", "2026-11-24 10:50:00", ""]
        );
    }
}
