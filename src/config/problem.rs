//! A problem in a file: the message, its position, and how to correct it.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A file's name and text.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in messages: the path, or `the built-in ...`.
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
}

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but has a flaw.
    Warning,
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its severity.
    pub severity: Severity,
    /// The message, in lower case, without a full stop.
    pub message: String,
    /// What to write instead, when it is known.
    pub help: Option<String>,
    /// The file and the range of bytes; `None` when the problem is not in a file.
    pub location: Option<(Source, Range<usize>)>,
}

impl Problem {
    /// An error of a whole file, or of something that is not a file.
    pub fn without_location(message: String, help: &str) -> Self {
        Self { severity: Severity::Error, message, help: Some(help.to_owned()), location: None }
    }

    /// Line and column, both from 1; columns are characters.
    pub fn position(&self) -> Option<(usize, usize)> {
        let (source, span) = self.location.as_ref()?;
        Some(position(&source.text, span.start))
    }
}

/// Line and column of a byte, both from 1; columns are characters.
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor_char_boundary(text, at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{word}: {}", sanitize(&self.message))?;
        if let (Some((source, span)), Some((line, column))) = (&self.location, self.position()) {
            let text = sanitize(source.text.lines().nth(line - 1).unwrap_or_default());
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            // The marker ends with the line, even when the value continues.
            let marked = source
                .text
                .get(floor_char_boundary(&source.text, span.start)..floor_char_boundary(&source.text, span.end));
            let wide = marked.and_then(|marked| marked.lines().next()).map_or(1, |marked| marked.chars().count());
            let wide = wide.min(text.chars().count().saturating_sub(column - 1)).max(1);
            writeln!(f, "{margin}--> {}:{line}:{column}", source.name)?;
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {text}")?;
            // Tabs stay tabs, so that the caret is under its character at any tab width.
            let under = |at| if at == Some('\t') { '\t' } else { ' ' };
            let mut characters = text.chars();
            let indent: String = (1..column).map(|_| under(characters.next())).collect();
            writeln!(f, "{margin} | {indent}{}", "^".repeat(wide))?;
            if let Some(help) = &self.help {
                writeln!(f, "{margin} = help: {}", sanitize(help))?;
            }
        } else if let Some(help) = &self.help {
            writeln!(f, " = help: {}", sanitize(help))?;
        }
        Ok(())
    }
}

/// Problems of one or more files.
#[derive(Clone, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// Only the warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// Sorted by position, the files in the order in which they were read; problems without a position come first.
    pub fn sorted(mut self) -> Self {
        let mut files: Vec<String> = Vec::new();
        for (source, _) in self.0.iter().filter_map(|problem| problem.location.as_ref()) {
            if !files.contains(&source.name) {
                files.push(source.name.clone());
            }
        }
        self.0.sort_by_key(|problem| {
            let (source, span) = problem.location.as_ref()?;
            Some((files.iter().position(|name| *name == source.name), span.start, span.end))
        });
        self
    }

    /// The number of files with problems; a problem without a position, such as an unreadable file, counts as one.
    fn files(&self) -> usize {
        let named: BTreeSet<&str> = self
            .0
            .iter()
            .filter_map(|problem| problem.location.as_ref())
            .map(|(source, _)| source.name.as_str())
            .collect();
        named.len() + self.0.iter().filter(|problem| problem.location.is_none()).count()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (errors, warnings) = (self.errors(), self.0.len() - self.errors());
        write!(f, "{}", counted(errors, "error"))?;
        if warnings > 0 {
            write!(f, ", {}", counted(warnings, "warning"))?;
        }
        write!(f, " in {}", counted(self.files(), "file"))
    }
}

impl std::error::Error for Problems {}

/// Suggests the name of `known` that is closest to `written`, when it is close enough and means the same number:
/// `GMT+0` is no typing error of `GMT+2`, and a `kline_1M` is a month, not a minute.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let best = known
        .into_iter()
        .filter(|name| numbers(written) == numbers(name))
        .map(|name| (strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase()), name))
        .min()?;
    let tolerated = (written.chars().count() / 3).clamp(1, 4);
    (best.0 <= tolerated).then(|| format!("did you mean `{}`?", best.1))
}

/// The numbers in a name, each with its sign before it and its unit behind it.
fn numbers(name: &str) -> Vec<&str> {
    let bytes = name.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = (at..bytes.len()).find(|&index| bytes[index].is_ascii_digit()) {
        let digits = (start..bytes.len()).find(|&index| !bytes[index].is_ascii_digit()).unwrap_or(bytes.len());
        let end = (digits..bytes.len()).find(|&index| !bytes[index].is_ascii_alphabetic()).unwrap_or(bytes.len());
        let signed = start > 0 && matches!(bytes[start - 1], b'+' | b'-');
        found.push(&name[start - usize::from(signed)..end]);
        at = end;
    }
    found
}

/// Makes a line safe to print on terminals and in the journal: hides passwords, and replaces control characters, which
/// could move a cursor or forge a line.
fn sanitize(line: &str) -> String {
    let line: String =
        line.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect();
    hide_user(&hide_value(&line))
}

/// Hides the value of a password or a token in this line.
fn hide_value(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let secret = ["password", "token"].iter().filter_map(|key| lower.find(key)).min();
    let Some(equals) = secret.and_then(|at| Some(at + line[at..].find('=')?)) else { return line.to_owned() };
    let value = line[equals + 1..].trim_start();
    let start = line.len() - value.len();
    if value.is_empty() { line.to_owned() } else { format!("{}***", &line[..start]) }
}

/// Hides the user and the password of `scheme://user:password@host`.
fn hide_user(line: &str) -> String {
    let Some(start) = line.find("://").map(|at| at + 3) else { return line.to_owned() };
    // To the end of the text, not of the host: a password may contain a slash.
    let end = line[start..].find(['"', '\'', ' ', '`']).map_or(line.len(), |length| start + length);
    match line[start..end].rfind('@') {
        Some(at) => format!("{}***{}", &line[..start], &line[start + at..]),
        None => line.to_owned(),
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_line_contains_no_password() {
        for (line, shown) in [
            ("password = \"hunter2\"", "password = ***"),
            ("redis = { url = \"x\", password = \"hunter2\" }", "redis = { url = \"x\", password = ***"),
            ("\"sasl.password\" = \"hunter2\"", "\"sasl.password\" = ***"),
            ("url = \"redis://me:hunter2@host:1\"", "url = \"redis://***@host:1\""),
            ("`redis://me:p/w@host` is bad", "`redis://***@host` is bad"),
            ("[token]", "[token]"),
        ] {
            assert_eq!(sanitize(line), shown);
        }
    }

    #[test]
    fn a_printed_line_cannot_move_the_cursor() {
        assert_eq!(sanitize("a\u{1b}[2Jb\tc"), "a\u{fffd}[2Jb\tc");
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(position("é = 1\nü = 2", 4), (1, 4));
        assert_eq!(position("é = 1\nü = 2", 10), (2, 3));
        assert_eq!(position("", 9), (1, 1));
    }
}
