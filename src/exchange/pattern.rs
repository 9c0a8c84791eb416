//! Symbols by pattern: `*USDT`.

use std::fmt;

/// A pattern of symbols. `*` stands for any number of characters, every other character for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolPattern(Vec<String>);

impl SymbolPattern {
    /// The pattern that this text is.
    pub fn new(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }

    /// Whether a text is a pattern, and no symbol.
    pub fn is_pattern(text: &str) -> bool {
        text.contains('*')
    }

    /// Whether a symbol is one of these.
    pub fn matches(&self, symbol: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else { return self.0.first().is_some_and(|text| text == symbol) };
        let Some(mut rest) = symbol.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            let Some(at) = rest.find(part.as_str()) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

impl fmt::Display for SymbolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, symbol, matches) in [
            ("*", "BTCUSDT", true),
            ("*", "", true),
            ("*USDT", "BTCUSDT", true),
            ("*USDT", "USDT", true),
            ("*USDT", "USDTTRY", false),
            ("BTC*", "BTCUSDT", true),
            ("BTC/*", "BTC/USD", true),
            ("B*U*T", "BTCUSDT", true),
            ("B*U*T", "BTUSD", false),
            ("BTCUSDT*BTCUSDT", "BTCUSDT", false),
            ("BTCUSDT", "BTCUSDT", true),
            ("BTCUSDT", "BTCUSD", false),
            ("*币*", "币安人生USDT", true),
        ] {
            assert_eq!(SymbolPattern::new(pattern).matches(symbol), matches, "{pattern} {symbol}");
            assert_eq!(SymbolPattern::new(pattern).to_string(), pattern);
        }
    }
}
