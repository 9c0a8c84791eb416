//! What is wrong with a file, where, and what to do about it: one error as a person reads it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A file's name and text.
#[derive(Clone, Debug)]
pub struct Source {
    /// As shown: the path, or `the built-in default`.
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used; somebody should look.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// What, in lower case, without a full stop.
    pub message: String,
    /// What to write instead, when we know.
    pub help: Option<String>,
    /// The file, and the bytes of it that are wrong; none when the file itself is.
    pub place: Option<(Source, Range<usize>)>,
}

impl Problem {
    /// Line and column, both from 1; columns are characters.
    pub fn position(&self) -> Option<(usize, usize)> {
        let (source, span) = self.place.as_ref()?;
        let start = floor(&source.text, span.start);
        let before = &source.text[..start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{word}: {}", self.message)?;
        if let (Some((source, span)), Some((line, column))) = (&self.place, self.position()) {
            let text = source.text.lines().nth(line - 1).unwrap_or_default();
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            // What is marked ends with its line, however long the value goes on.
            let marked = source.text.get(floor(&source.text, span.start)..floor(&source.text, span.end));
            let wide =
                marked.and_then(|marked| marked.lines().next()).map_or(1, |marked| marked.chars().count().max(1));
            let wide = wide.min(text.chars().count().saturating_sub(column - 1).max(1));
            writeln!(f, "{margin}--> {}:{line}:{column}", source.name)?;
            writeln!(f, "{margin} |")?;
            writeln!(f, "{number} | {text}")?;
            // Tabs are kept so that the caret stands under its character whatever their width.
            let indent: String = text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            writeln!(f, "{margin} | {indent}{}", "^".repeat(wide))?;
            if let Some(help) = &self.help {
                writeln!(f, "{margin} = help: {help}")?;
            }
        } else if let Some(help) = &self.help {
            writeln!(f, " = help: {help}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the files.
#[derive(Clone, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// How many are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// Only the warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter().filter(|problem| problem.severity == Severity::Warning)
    }

    /// By file and place.
    pub fn sorted(mut self) -> Self {
        self.0.sort_by_key(|problem| {
            problem.place.as_ref().map(|(source, span)| (source.name.clone(), span.start, span.end))
        });
        self
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let (errors, warnings) = (self.errors(), self.0.len() - self.errors());
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        write!(f, "{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings))
    }
}

impl std::error::Error for Problems {}

/// The closest of `known` to what was written, when it is close enough to be meant.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let best = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written.to_lowercase(), &name.to_lowercase()), name))
        .min()?;
    let tolerated = (written.chars().count() / 3).clamp(1, 4);
    (best.0 <= tolerated).then(|| format!("did you mean `{}`?", best.1))
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
