//! What to write in place of a text that is no symbol.

use crate::market::SpellingError;

/// The help for a symbol that is spelled wrong.
pub fn spelling_help(error: SpellingError) -> String {
    match error {
        SpellingError::Empty => "binance spells symbols like `BTCUSDT`".to_owned(),
        SpellingError::Respell(meant) => format!("binance spells it `{meant}`"),
        SpellingError::Character('@') => {
            "write the symbol alone, like `BTCUSDT`, and its channels in `channels`".to_owned()
        }
        SpellingError::Character(':') => {
            "write the symbol alone, like `BTCUSDT`, and the exchange in `exchange`".to_owned()
        }
        SpellingError::Character(c) => {
            // A character that may not show needs its number.
            let shown = if c.is_ascii_graphic() { c.to_string() } else { format!("U+{:04X}", u32::from(c)) };
            format!("a symbol has letters and digits only, no {shown}: binance spells symbols like `BTCUSDT`")
        }
    }
}
