//! Exact numbers: text to decimal and back, never through a binary float.

use rust_decimal::Decimal;

/// Parses a decimal exactly; `None` when it is not a plain number or needs more digits than
/// a decimal holds (28), because a rounded price is a wrong price.
pub fn parse_decimal(text: &str) -> Option<Decimal> {
    Decimal::from_str_exact(text).ok()
}

/// Plain notation without exponent or trailing zeros: `61234.56`, `0`.
pub fn plain(value: Decimal) -> String {
    value.normalize().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(plain(parse_decimal(input).unwrap()), expected);
    }

    #[test]
    fn trailing_zeros_go() {
        check("61234.56000000", "61234.56");
        check("100.00000000", "100");
        check("0.00000000", "0");
        check("0.00000010", "0.0000001");
        check("1200", "1200");
    }

    #[test]
    fn what_does_not_fit_is_refused_not_rounded() {
        assert_eq!(parse_decimal("0.12345678901234567890123456789012"), None);
        assert_eq!(parse_decimal("12a"), None);
        assert_eq!(parse_decimal(""), None);
    }
}
