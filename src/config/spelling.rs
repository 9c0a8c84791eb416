//! What to write in place of a text that is no symbol.

use crate::exchange::Dialect;
use crate::exchange::spec::Spec;
use crate::market::SpellingError;

/// The help for a symbol that is spelled wrong.
pub fn spelling_help(spec: &Spec, error: SpellingError) -> String {
    let (exchange, example) = (spec.exchange, spec.example);
    match error {
        SpellingError::Empty => format!("{exchange} spells symbols like `{example}`"),
        SpellingError::Respell(meant) => format!("{exchange} spells it `{meant}`"),
        SpellingError::Parts(separator) => {
            format!("{exchange} joins base and quote with `{separator}`: it spells symbols like `{example}`")
        }
        SpellingError::Character('@') => {
            format!("write the symbol alone, like `{example}`, and its channels in `channels`")
        }
        SpellingError::Character(':') => {
            format!("write the symbol alone, like `{example}`, and the exchange in `exchange`")
        }
        SpellingError::Character(c) => {
            // A character that may not show needs its number.
            let shown = if c.is_ascii_graphic() { c.to_string() } else { format!("U+{:04X}", u32::from(c)) };
            format!("a symbol has letters and digits only, no {shown}: {exchange} spells symbols like `{example}`")
        }
    }
}

/// What a pattern could stand for at an exchange, in place of each `*`: a word, and a word with the exchange's separator
/// before or behind it.
const WORD: &str = "USD";
/// Stars that are tried with every replacement; more are rare, and the rest gets a word.
const STARS_MAX: usize = 3;

/// Whether a symbol of the exchange can match a pattern; else the help.
pub fn check_pattern(dialect: &dyn Dialect, pattern: &str) -> Result<(), String> {
    let spec = dialect.spec();
    let separator = spec.example.chars().find(|letter| !letter.is_alphanumeric());
    let mut fillers = vec![WORD.to_owned(), String::new()];
    if let Some(separator) = separator {
        fillers.extend([
            format!("{WORD}{separator}{WORD}"),
            format!("{separator}{WORD}"),
            format!("{WORD}{separator}"),
        ]);
    }
    let parts: Vec<&str> = pattern.split('*').collect();
    let mut texts = vec![parts[0].to_owned()];
    for (star, part) in parts[1..].iter().enumerate() {
        let fillers = if star < STARS_MAX { &fillers[..] } else { &fillers[..1] };
        texts =
            texts.iter().flat_map(|text| fillers.iter().map(move |filler| format!("{text}{filler}{part}"))).collect();
    }
    let mut errors: Vec<(String, SpellingError)> = Vec::new();
    for text in texts {
        match dialect.symbol(&text) {
            Ok(_) => return Ok(()),
            Err(error) => errors.push((text, error)),
        }
    }
    let is_respelled = |(_, error): &&(String, SpellingError)| matches!(error, SpellingError::Respell(_));
    let capitals: String = pattern.chars().flat_map(char::to_uppercase).collect();
    if capitals != pattern && check_pattern(dialect, &capitals).is_ok() {
        return Err(format!("{} spells it `{capitals}`", spec.exchange));
    }
    Err(match errors.iter().find(is_respelled).or(errors.first()) {
        Some((text, SpellingError::Respell(meant))) => {
            format!("`{text}` would match, which {} spells `{meant}`", spec.exchange)
        }
        Some((_, error)) => spelling_help(spec, error.clone()),
        None => spelling_help(spec, SpellingError::Empty),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::catalog;
    use crate::market::Exchange;

    fn check(exchange: &'static str, pattern: &str, help: Option<&str>) {
        let dialect = catalog::dialect(Exchange::named(exchange)).unwrap();
        let found = check_pattern(&*dialect, pattern);
        match help {
            None => assert_eq!(found, Ok(()), "{exchange} {pattern}"),
            Some(part) => assert!(found.clone().unwrap_err().contains(part), "{exchange} {pattern}: {found:?}"),
        }
    }

    #[test]
    fn a_pattern_is_spelled_as_the_exchange_spells() {
        for dialect in catalog::dialects() {
            let (exchange, example) = (dialect.exchange().as_str(), dialect.spec().example);
            let exchange: &'static str = exchange;
            for at in (0..=example.len()).filter(|at| example.is_char_boundary(*at)) {
                check(exchange, &format!("{}*", &example[..at]), None);
                check(exchange, &format!("*{}", &example[at..]), None);
                check(exchange, &format!("{}*{}", &example[..at], &example[at..]), None);
                check(exchange, &format!("*{}*", &example[at..]), None);
            }
        }
        check("binance", "*币*", None);
        check("okx", "*-*", None);
    }

    #[test]
    fn a_pattern_that_matches_nothing_gets_a_hint() {
        check("binance", "eth*", Some("binance spells it `ETH*`"));
        check("binance", "ETH-*", Some("binance"));
        check("okx", "eth-*", Some("okx spells it `ETH-*`"));
        check("okx", "ETH/*", Some("ETH-"));
        check("kraken", "XBT/*", Some("BTC/"));
        check("binance", "BTC@*", Some("channels"));
    }
}
