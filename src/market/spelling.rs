//! How an exchange spells a symbol: letters and digits of any script, capitals where the script has them.

use unicode_general_category::{GeneralCategory, get_general_category};

use super::Symbol;

/// Why a text is no symbol as an exchange spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpellingError {
    /// The text is empty.
    Empty,
    /// The text has small letters, or separators between its letters. Contains the spelling that is probably meant.
    Respell(String),
    /// The text contains this character, which no symbol has.
    Character(char),
    /// The text is not two parts, which this exchange joins with this character.
    Parts(char),
}

/// What people write between the parts of a symbol.
const SEPARATORS: [char; 5] = [' ', '-', '_', '/', '.'];

impl Symbol {
    /// Reads a symbol as a person writes it in a configuration. A letter without a small form (`币`) stays as it is.
    pub fn from_spelling(text: &str) -> Result<Self, SpellingError> {
        let Some(foreign) = foreign_character(text) else {
            let capitals = capitals(text);
            return match text {
                "" => Err(SpellingError::Empty),
                _ if capitals == text => Ok(Self::new(text)),
                _ => Err(SpellingError::Respell(capitals)),
            };
        };
        // Other exchanges write `ETH-USDT` or `ETH/USDT`. Nothing else is left out: a guess that drops letters or joins
        // `btcusdt@trade` to one word would mislead.
        let joined: String = text.chars().filter(|c| !SEPARATORS.contains(c)).collect();
        match foreign_character(&joined) {
            None if !joined.is_empty() => Err(SpellingError::Respell(capitals(&joined))),
            _ => Err(SpellingError::Character(foreign)),
        }
    }

    /// The same for an exchange that joins base and quote with `separator`: `BTC-USDT`. One word is an error without a
    /// guess, because nothing says where the base ends.
    pub fn from_spelling_with(text: &str, separator: char) -> Result<Self, SpellingError> {
        if text.is_empty() {
            return Err(SpellingError::Empty);
        }
        // Names of staked or delisted coins have a dot: `ETH2.S/ETH`.
        let has_dots = text.contains(separator);
        let parts: Vec<&str> = text.split(|c| SEPARATORS.contains(&c) && !(has_dots && c == '.')).collect();
        let words = parts.iter().flat_map(|part| part.split('.'));
        if let Some(foreign) = words.into_iter().find_map(foreign_character) {
            return Err(SpellingError::Character(foreign));
        }
        let [base, quote] = parts.as_slice() else { return Err(SpellingError::Parts(separator)) };
        if base.is_empty() || quote.is_empty() {
            return Err(SpellingError::Parts(separator));
        }
        let meant = format!("{}{separator}{}", capitals(base), capitals(quote));
        match meant == text {
            true => Ok(Self::new(text)),
            false => Err(SpellingError::Respell(meant)),
        }
    }
}

/// A name with small letters, one letter at a time, as exchanges name streams: letters without a small form stay as
/// they are, and the form of a letter does not depend on its neighbours (unlike `str::to_lowercase`).
pub fn small_letters(name: &str) -> impl Iterator<Item = char> + '_ {
    name.chars().flat_map(char::to_lowercase)
}

/// The first character that is neither a letter nor a digit of any script.
fn foreign_character(text: &str) -> Option<char> {
    text.char_indices().find(|(at, c)| !is_symbol_character(*c, *at == 0)).map(|(_, c)| c)
}

fn is_symbol_character(c: char, is_first: bool) -> bool {
    use GeneralCategory::*;
    match get_general_category(c) {
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter | DecimalNumber
        | LetterNumber => true,
        // Vowel signs and accents of many scripts are characters of their own. They need a letter before them.
        NonspacingMark | SpacingMark => !is_first,
        _ => false,
    }
}

/// The text with each small letter replaced by its capital. A small letter whose capital is not one letter stays.
fn capitals(text: &str) -> String {
    let capital = |c: char| {
        let mut upper = c.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(single), None) if c.is_lowercase() => single,
            _ => c,
        }
    };
    text.chars().map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(), SpellingError>) {
        assert_eq!(Symbol::from_spelling(text).map(|symbol| assert_eq!(symbol.as_str(), text)), expected, "{text}");
    }

    #[test]
    fn letters_and_digits_of_any_script_are_a_symbol() {
        for text in [
            "BTCUSDT",
            "1INCHUSDT",
            "币安人生USDT",
            "这是测试币456",
            "ΣΑΣUSDT",
            "हिन्दीUSDT",
            "ไม่USDT",
            "ÉUSDT",
            "٣USDT",
        ] {
            check(text, Ok(()));
        }
    }

    #[test]
    fn small_letters_and_separators_are_respelled() {
        let respelled = |text: &str| Err(SpellingError::Respell(text.to_owned()));
        check("btcusdt", respelled("BTCUSDT"));
        check("ETH-USDT", respelled("ETHUSDT"));
        check("eth/usdt", respelled("ETHUSDT"));
        check("币安人生usdt", respelled("币安人生USDT"));
        check("币安 人生USDT", respelled("币安人生USDT"));
        check("éusdt", respelled("ÉUSDT"));
    }

    #[test]
    fn other_characters_are_named_and_never_guessed_away() {
        for (text, c) in [
            ("btcusdt@trade", '@'),
            ("binance:BTCUSDT", ':'),
            ("\"BTCUSDT\"", '"'),
            ("BTC\u{0}USDT", '\u{0}'),
            ("BTC\u{200b}USDT", '\u{200b}'),
            ("BTC\u{202e}USDT", '\u{202e}'),
            ("☃", '☃'),
            ("BTC*", '*'),
            ("\u{301}A", '\u{301}'),
            (" - ", ' '),
        ] {
            check(text, Err(SpellingError::Character(c)));
        }
        check("", Err(SpellingError::Empty));
    }

    #[test]
    fn two_parts_are_joined_as_the_exchange_joins_them() {
        let read = |text: &str, separator| {
            Symbol::from_spelling_with(text, separator).map(|symbol| assert_eq!(symbol.as_str(), text))
        };
        for (text, separator) in [("BTC-USDT", '-'), ("1INCH-USDT", '-'), ("币安人生-USDT", '-'), ("BTC/USD", '/')]
        {
            assert_eq!(read(text, separator), Ok(()), "{text}");
        }
        let respelled = |text: &str| Err(SpellingError::Respell(text.to_owned()));
        assert_eq!(read("BTC/USDT", '-'), respelled("BTC-USDT"));
        assert_eq!(read("btc-usdt", '-'), respelled("BTC-USDT"));
        assert_eq!(read("btc_usd", '/'), respelled("BTC/USD"));
        for text in ["BTCUSDT", "BTC-USDT-SWAP", "-USDT", "BTC-", "-", "BTC--USDT", " BTC-USDT"] {
            assert_eq!(read(text, '-'), Err(SpellingError::Parts('-')), "{text}");
        }
        assert_eq!(read("", '-'), Err(SpellingError::Empty));
        assert_eq!(read("okx:BTC-USDT", '-'), Err(SpellingError::Character(':')));
        assert_eq!(read("BTC-\u{301}USDT", '-'), Err(SpellingError::Character('\u{301}')));
    }

    #[test]
    fn small_letters_do_not_depend_on_their_neighbours() {
        let small = |name: &str| small_letters(name).collect::<String>();
        assert_eq!(small("币安人生USDT"), "币安人生usdt");
        assert_eq!(small("ΣΑΣ"), "σασ", "str::to_lowercase ends with a final sigma");
    }
}
