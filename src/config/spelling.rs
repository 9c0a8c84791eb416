//! What to write in place of a text that is no symbol.

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
