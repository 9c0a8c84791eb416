//! Reads the symbols of a `[[feed]]`: `symbols`, `exclude` and `succeeds`.

use std::ops::Range;

use crate::exchange::{Dialect, SymbolPattern, catalog};
use crate::market::Symbol;

use super::reader::Table;
use super::service::missing;
use super::spelling::{check_pattern, spelling_help};

/// The symbols of a feed.
#[derive(Debug, Default)]
pub(super) struct FeedSymbols {
    /// Those that it names.
    pub exact: Vec<Symbol>,
    /// Patterns over what the exchange lists.
    pub patterns: Vec<SymbolPattern>,
    /// What the patterns leave out.
    pub exclude: Vec<SymbolPattern>,
    /// The former name of the one symbol.
    pub succeeds: Option<Symbol>,
}

impl FeedSymbols {
    /// Reads the keys; `None` without `symbols`.
    pub fn read(table: &Table<'_>, dialect: Option<&dyn Dialect>) -> Option<Self> {
        let example = dialect.map_or("BTCUSDT", |dialect| dialect.spec().example);
        if !table.has("symbols") {
            missing(table, "symbols", &format!("[{example:?}]"));
        }
        let written = table.texts("symbols");
        let mut symbols = Self::default();
        for (text, span) in written.iter().flatten() {
            match read(table, dialect, text, span) {
                Some(Name::Exact(symbol)) => symbols.exact.push(symbol),
                Some(Name::Pattern(pattern)) => symbols.patterns.push(pattern),
                None => {}
            }
        }
        let count = written.as_ref().map_or(0, Vec::len);
        symbols.read_exclude(table, dialect, written.as_deref().unwrap_or_default());
        symbols.read_succeeds(table, dialect, count);
        written.map(|_| symbols)
    }

    fn read_exclude(&mut self, table: &Table<'_>, dialect: Option<&dyn Dialect>, symbols: &[(String, Range<usize>)]) {
        let is_empty = |value: &toml::Spanned<toml::de::DeValue<'_>>| {
            value.get_ref().as_array().is_some_and(|items| items.is_empty())
        };
        if table.value("exclude").is_none_or(is_empty) {
            return;
        }
        let Some(written) = table.texts("exclude") else { return };
        let has_patterns = symbols.iter().any(|(text, _)| SymbolPattern::is_pattern(text));
        if !has_patterns && !symbols.is_empty() {
            let help =
                "exclude leaves out symbols that a pattern like `ETH*` in `symbols` matches: remove it".to_owned();
            table.diagnostics().warning(
                table.key_span("exclude"),
                "`feed.exclude` has no effect: `symbols` has no pattern",
                Some(help),
            );
        }
        for (text, span) in written {
            let Some(name) = read(table, dialect, &text, &span) else { continue };
            if let Name::Exact(symbol) = &name
                && self.exact.contains(symbol)
            {
                let help = "remove it from one of the two".to_owned();
                let message = format!("`{text}` is in `symbols` and in `exclude`");
                table.diagnostics().error(span, message, Some(help));
                continue;
            }
            let covers = |pattern: &SymbolPattern| pattern.to_string() == text || text == "*";
            if let Some(pattern) = self.patterns.iter().find(|pattern| covers(pattern)) {
                let message = format!("`{text}` leaves nothing of the pattern `{pattern}`");
                let help = "remove the pattern from `symbols`, or name less in `exclude`".to_owned();
                table.diagnostics().error(span, message, Some(help));
                continue;
            }
            self.exclude.push(match name {
                Name::Exact(symbol) => SymbolPattern::new(symbol.as_str()),
                Name::Pattern(pattern) => pattern,
            });
        }
    }

    fn read_succeeds(&mut self, table: &Table<'_>, dialect: Option<&dyn Dialect>, count: usize) {
        let Some((text, span)) = table.text("succeeds") else { return };
        let name = if SymbolPattern::is_pattern(&text) {
            let help = "write the former name of the feed's symbol, without a `*`".to_owned();
            table.diagnostics().error(span.clone(), format!("`{text}` is a pattern, not a symbol"), Some(help));
            None
        } else {
            read(table, dialect, &text, &span)
        };
        if !self.patterns.is_empty() || count > 1 {
            let help = "give the symbol a feed of its own: one symbol, no pattern".to_owned();
            let message = "`feed.succeeds` is the former name of one symbol, and this feed has several";
            table.diagnostics().error(span, message, Some(help));
            return;
        }
        let Some(Name::Exact(former)) = name else { return };
        if self.exact.contains(&former) {
            let help = "write the name that the symbol had before it was renamed, or remove `succeeds`".to_owned();
            table.diagnostics().error(span, format!("`{text}` cannot succeed itself"), Some(help));
            return;
        }
        self.succeeds = Some(former);
    }
}

/// What an element is.
enum Name {
    Exact(Symbol),
    Pattern(SymbolPattern),
}

/// Reads an element; reports a spelling that the exchange does not use.
fn read(table: &Table<'_>, dialect: Option<&dyn Dialect>, text: &str, span: &Range<usize>) -> Option<Name> {
    // Without a known exchange its spelling is unknown; a text that no exchange spells so is wrong at each of them.
    let no_exchange = || catalog::dialects().iter().all(|dialect| check(&**dialect, text).is_err());
    let first = catalog::dialects().first().filter(|_| dialect.is_none() && no_exchange());
    let dialect = dialect.or(first.map(|first| &**first))?;
    match check(dialect, text) {
        Ok(name) => Some(name),
        Err(help) => {
            let message = if SymbolPattern::is_pattern(text) {
                format!("`{text}` matches no symbol as the exchange spells them")
            } else {
                format!("`{text}` is not a symbol as the exchange spells it")
            };
            table.diagnostics().error(span.clone(), message, Some(help));
            None
        }
    }
}

fn check(dialect: &dyn Dialect, text: &str) -> Result<Name, String> {
    if SymbolPattern::is_pattern(text) {
        return check_pattern(dialect, text).map(|()| Name::Pattern(SymbolPattern::new(text)));
    }
    dialect.symbol(text).map(Name::Exact).map_err(|error| spelling_help(dialect.spec(), error))
}
