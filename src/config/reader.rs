//! Reads a TOML document value by value, and collects all of its problems in one pass.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Severity, Source, did_you_mean};
use super::units::{format_duration, format_size, parse_duration, parse_size};

/// Collects the problems of one file.
#[derive(Debug)]
pub struct Diagnostics {
    /// The file.
    pub source: Source,
    problems: RefCell<Vec<Problem>>,
    syntax: RefCell<Vec<Problem>>,
}

impl Diagnostics {
    /// An empty collection for this file.
    pub fn new(name: &str, text: &str) -> Self {
        let source = Source { name: name.to_owned(), text: Arc::from(text) };
        Self { source, problems: RefCell::default(), syntax: RefCell::default() }
    }

    /// Adds an error at these bytes.
    pub fn error(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.push(Severity::Error, span, message.into(), help);
    }

    /// Adds a warning at these bytes.
    pub fn warning(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.push(Severity::Warning, span, message.into(), help);
    }

    /// Adds an error for a missing key, unless a syntax error may be the reason.
    pub fn missing(&self, span: Range<usize>, message: impl Into<String>, help: String) {
        if self.syntax.borrow().is_empty() {
            self.error(span, message, Some(help));
        }
    }

    /// Whether a line that begins with `[` is not valid TOML.
    fn has_broken_header(&self) -> bool {
        let is_header = |problem: &Problem| {
            let line = problem.position().map_or(0, |(line, _)| line - 1);
            self.source.text.lines().nth(line).is_some_and(|line| line.trim_start().starts_with('['))
        };
        self.syntax.borrow().iter().any(is_header)
    }

    fn push(&self, severity: Severity, span: Range<usize>, message: String, help: Option<String>) {
        let location = Some((self.source.clone(), span));
        self.problems.borrow_mut().push(Problem { severity, message, help, location });
    }

    /// All problems. A line that is not valid TOML has only its first syntax error: the values read from the rest of it
    /// are guesses.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut broken = BTreeSet::new();
        for problem in self.syntax.into_inner() {
            if problem.position().is_some_and(|(line, _)| broken.insert(line)) {
                problems.push(problem);
            }
        }
        let others = self.problems.into_inner().into_iter();
        problems.extend(others.filter(|problem| problem.position().is_none_or(|(line, _)| !broken.contains(&line))));
        problems
    }
}

/// Parses a text; collects the syntax errors and returns the values that could be read.
pub fn parse<'i>(text: &'i str, diagnostics: &Diagnostics) -> Spanned<DeTable<'i>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let location = Some((diagnostics.source.clone(), error.span().unwrap_or(0..0)));
        let message = error.message().replace('\n', ", ");
        let help = Some(syntax_help(&message).to_owned());
        diagnostics.syntax.borrow_mut().push(Problem { severity: Severity::Error, message, help, location });
    }
    document
}

/// The help for a syntax error, chosen by the parser's message.
fn syntax_help(message: &str) -> &'static str {
    if message.starts_with("duplicate key") {
        return "remove one of the two";
    }
    if message.starts_with("string values must be quoted") {
        return "put text in quotes: `key = \"value\"`";
    }
    if message.contains("array table") || message.contains("table") {
        return "a table begins with `[name]`, each table of a list with `[[name]]`";
    }
    if message.contains("string") {
        return "end the text with the quote it began with, on the same line";
    }
    "write `key = value`, one a line: text in quotes, lists in `[ ]`"
}

/// Reads a table: every key that is read is known, every other key is an error.
pub struct Table<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    path: String,
    diagnostics: &'a Diagnostics,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    /// The document's own table.
    pub fn root(document: &'a Spanned<DeTable<'a>>, diagnostics: &'a Diagnostics) -> Self {
        Self::at(document.get_ref(), 0..0, String::new(), diagnostics)
    }

    fn at(table: &'a DeTable<'a>, span: Range<usize>, path: String, diagnostics: &'a Diagnostics) -> Self {
        Self { table, span, path, diagnostics, known: RefCell::default() }
    }

    /// The bytes of its header.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The collection for its problems.
    pub fn diagnostics(&self) -> &'a Diagnostics {
        self.diagnostics
    }

    /// A key's full name.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key as written; makes the key known.
    pub fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    /// The bytes of a key, else of the table's header.
    pub fn key_span(&self, key: &str) -> Range<usize> {
        let found = self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key);
        found.map_or(self.span(), |(name, _)| name.span())
    }

    /// Whether the table has a key.
    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref().as_ref() == key)
    }

    /// Every key with its value; the caller checks which keys are known.
    pub fn entries(&self) -> impl Iterator<Item = (String, Range<usize>, &'a Spanned<DeValue<'a>>)> + use<'a> {
        self.table.iter().map(|(name, value)| (name.get_ref().to_string(), name.span(), value))
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<(String, Range<usize>)> {
        let value = self.value(key)?;
        self.text_of(key, value)
    }

    /// A value that must be text.
    pub fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<(String, Range<usize>)> {
        match value.get_ref() {
            DeValue::String(text) => Some((text.to_string(), value.span())),
            other => {
                self.wrong_type(key, value.span(), other, "text in quotes");
                None
            }
        }
    }

    /// A list of at least one text.
    pub fn texts(&self, key: &'static str) -> Option<Vec<(String, Range<usize>)>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                let help = format!("name at least one: `{key} = [\"...\"]`");
                self.diagnostics.error(value.span(), format!("`{}` is empty", self.name(key)), Some(help));
                None
            }
            DeValue::Array(items) => Some(items.iter().filter_map(|item| self.text_of(key, item)).collect()),
            DeValue::String(_) => {
                let written = self.diagnostics.source.text.get(value.span()).unwrap_or("\"...\"");
                let help = format!("write `{key} = [{written}]`");
                self.diagnostics.error(value.span(), format!("`{}` is a list of texts", self.name(key)), Some(help));
                None
            }
            other => {
                self.wrong_type(key, value.span(), other, "a list of texts");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(*boolean),
            other => {
                self.quoted(key, value.span(), other, "true or false", |text| text == "true" || text == "false");
                None
            }
        }
    }

    /// A whole number between two inclusive limits.
    pub fn integer(&self, key: &'static str, min: i64, max: i64) -> Option<i64> {
        self.integer_or(key, min, max, None)
    }

    /// A number of things to keep, at least one. Like for an age, `help` says what to write instead of 0.
    pub fn count(&self, key: &'static str, max: i64, help: &str) -> Option<i64> {
        self.integer_or(key, 1, max, Some(help))
    }

    fn integer_or(&self, key: &'static str, min: i64, max: i64, help: Option<&str>) -> Option<i64> {
        let value = self.value(key)?;
        let DeValue::Integer(written) = value.get_ref() else {
            let number = |text: &str| text.parse::<i64>().is_ok();
            self.quoted(key, value.span(), value.get_ref(), "a whole number", number);
            return None;
        };
        match i64::from_str_radix(written.as_str(), written.radix()) {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                let message = match (min, max) {
                    (only, max) if only == max => format!("`{}` must be {only}", self.name(key)),
                    (min, i64::MAX) => format!("`{}` must be {min} or more", self.name(key)),
                    (min, max) => format!("`{}` must be from {min} to {max}", self.name(key)),
                };
                // The sign says which limit a number beyond 64 bits exceeds.
                let nearest = if written.as_str().starts_with('-') { min } else { max };
                let nearest = i64::from_str_radix(written.as_str(), written.radix()).unwrap_or(nearest).clamp(min, max);
                let help = help.map_or_else(|| format!("the nearest allowed: `{key} = {nearest}`"), str::to_owned);
                self.diagnostics.error(value.span(), message, Some(help));
                None
            }
        }
    }

    /// A duration as text, between two inclusive limits; outside them the error suggests the nearest one.
    pub fn duration(&self, key: &'static str, min: Duration, max: Duration) -> Option<Duration> {
        self.duration_or(key, min, max, None)
    }

    /// How long to keep something. The nearest limit would be bad advice here: 0 hardly means "delete at once", so
    /// `help` says what to write.
    pub fn age(&self, key: &'static str, max: Duration, help: &str) -> Option<Duration> {
        self.duration_or(key, Duration::from_secs(1), max, Some(help))
    }

    fn duration_or(&self, key: &'static str, min: Duration, max: Duration, help: Option<&str>) -> Option<Duration> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => {
                // Ages are days: suggesting seconds would be advice to delete.
                let unit = if help.is_some() { "d" } else { "s" };
                let help = format!("name the unit: `{key} = \"{}{unit}\"`", number.as_str());
                let message = format!("`{}` is a duration, and a bare number has no unit", self.name(key));
                self.diagnostics.error(value.span(), message, Some(help));
                return None;
            }
            other => {
                self.wrong_type(key, value.span(), other, "a duration such as \"30s\"");
                return None;
            }
        };
        let Some(duration) = parse_duration(&text) else {
            let help = "write whole numbers with units d, h, m, s, ms or us: \"30s\", \"1h30m\"".to_owned();
            self.diagnostics.error(value.span(), format!("`{text}` is not a duration"), Some(help));
            return None;
        };
        if duration < min || duration > max {
            let nearest = format_duration(duration.clamp(min, max));
            let help = help.map_or_else(|| format!("the nearest allowed: `{key} = \"{nearest}\"`"), str::to_owned);
            let message =
                format!("`{}` must be from {} to {}", self.name(key), format_duration(min), format_duration(max));
            self.diagnostics.error(value.span(), message, Some(help));
            return None;
        }
        Some(duration)
    }

    /// A size as text, at least `min` bytes; the error for less suggests `suggested`.
    pub fn size(&self, key: &'static str, min: u64, suggested: u64) -> Option<u64> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => {
                let help = format!("name the unit: `{key} = \"{}B\"`", number.as_str());
                let message = format!("`{}` is a size, and a bare number has no unit", self.name(key));
                self.diagnostics.error(value.span(), message, Some(help));
                return None;
            }
            other => {
                self.wrong_type(key, value.span(), other, "a size such as \"10GiB\"");
                return None;
            }
        };
        match parse_size(&text) {
            Some(bytes) if bytes >= min => Some(bytes),
            Some(_) => {
                let message = format!("`{}` must be at least {}", self.name(key), format_size(min));
                let suggested = format_size(suggested);
                self.diagnostics.error(value.span(), message, Some(format!("the default: `{key} = \"{suggested}\"`")));
                None
            }
            None => {
                let help = "write a whole number with a unit: \"8MiB\", \"10GiB\", \"500MB\"".to_owned();
                self.diagnostics.error(value.span(), format!("`{text}` is not a size"), Some(help));
                None
            }
        }
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let (text, span) = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help =
            did_you_mean(&text, names.iter().copied()).unwrap_or_else(|| format!("write one of: {}", names.join(", ")));
        self.diagnostics.error(span, format!("`{}` cannot be `{text}`", self.name(key)), Some(help));
        None
    }

    /// A table below this one.
    pub fn table(&self, key: &'static str) -> Option<Table<'a>> {
        let value = self.value(key)?;
        self.table_of(key, self.key_span(key), value)
    }

    /// A value that must be a table below this one.
    pub fn table_of(&self, key: &str, key_span: Range<usize>, value: &'a Spanned<DeValue<'a>>) -> Option<Table<'a>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::at(table, key_span, self.name(key), self.diagnostics)),
            other => {
                self.wrong_type(key, value.span(), other, &format!("a table: `[{}]`", self.name(key)));
                None
            }
        }
    }

    /// A list of tables, `[[key]]`.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| match item.get_ref() {
                    DeValue::Table(table) => Some(Self::at(table, item.span(), self.name(key), self.diagnostics)),
                    other => {
                        self.wrong_type(key, item.span(), other, &format!("a table: `[[{key}]]`"));
                        None
                    }
                })
                .collect(),
            DeValue::Table(_) => {
                let help = format!("the list has one table or more: write `[[{key}]]`");
                self.diagnostics.error(self.key_span(key), format!("`{key}` is a list of tables"), Some(help));
                Vec::new()
            }
            other => {
                self.wrong_type(key, value.span(), other, &format!("a list of tables: `[[{key}]]`"));
                Vec::new()
            }
        }
    }

    /// Adds an error for every key that was not read.
    pub fn finish(self) {
        // The keys below a broken header seem to belong to the table before it.
        if self.diagnostics.has_broken_header() {
            return;
        }
        let known = self.known.borrow();
        for (name, _) in self.table.iter() {
            let written = name.get_ref().as_ref();
            if !known.contains(&written) {
                let help = did_you_mean(written, known.iter().copied()).unwrap_or_else(|| match known.as_slice() {
                    [] => "this table has no keys".to_owned(),
                    known => format!("known keys: {}", known.join(", ")),
                });
                self.diagnostics.error(name.span(), format!("unknown key `{}`", self.name(written)), Some(help));
            }
        }
    }

    fn wrong_type(&self, key: &str, span: Range<usize>, found: &DeValue<'_>, expected: &str) {
        let message = format!("`{}` must be {expected}, not {}", self.name(key), type_name(found));
        let help = match found {
            // The help can show an integer in quotes, but not a table or a list.
            DeValue::Integer(number) if expected.starts_with("text") => format!("put it in quotes: \"{number}\""),
            _ => format!("write `{key}` as {expected}"),
        };
        self.diagnostics.error(span, message, Some(help));
    }

    /// Like `wrong_type`, for a value that may only have quotes too many.
    fn quoted(&self, key: &str, span: Range<usize>, found: &DeValue<'_>, expected: &str, bare: impl Fn(&str) -> bool) {
        let message = format!("`{}` must be {expected}, not {}", self.name(key), type_name(found));
        let help = match found.as_str().filter(|text| bare(text)) {
            Some(text) => format!("remove the quotes: `{key} = {text}`"),
            None => format!("write `{key}` as {expected}"),
        };
        self.diagnostics.error(span, message, Some(help));
    }
}

/// A value's type for messages.
pub fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
