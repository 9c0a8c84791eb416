//! Exact numbers: parses and prints decimals, never through a binary float.

use rust_decimal::Decimal;

/// Parses a decimal exactly, also in exponent notation (`1e-8`). Returns `None` when the text is not a number or needs
/// more than the 28 digits that a decimal holds, because a rounded price is a wrong price.
pub fn parse_decimal(text: &str) -> Option<Decimal> {
    match parse_short(text.as_bytes()) {
        Some(value) => Some(value),
        None => parse_long(text),
    }
}

/// Any notation: a sign, leading and trailing zeros, an exponent. Zeros that do not change the value need no digit.
fn parse_long(text: &str) -> Option<Decimal> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (number, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let exponent_digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if exponent_digits.is_empty() || !is_digits(exponent_digits) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    let trailing_zeros = digits.len() - digits.trim_end_matches('0').len();
    if significant.is_empty() {
        // The scale is kept as written, as for every other number; an exponent does not change zero.
        return Decimal::try_from_i128_with_scale(0, u32::try_from(fraction.len()).ok()?.min(Decimal::MAX_SCALE)).ok();
    }
    // The value is `significant` x 10^shift. An exponent that an i64 does not hold is out of every range.
    let shift = exponent.parse::<i64>().ok()?;
    let shift =
        shift.checked_add(i64::try_from(trailing_zeros).ok()?)?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let mut mantissa = significant.parse::<i128>().ok()?;
    let mut scale = 0;
    if shift >= 0 {
        mantissa = mantissa.checked_mul(10_i128.checked_pow(u32::try_from(shift).ok()?)?)?;
    } else {
        scale = u32::try_from(shift.checked_neg()?).ok()?;
    }
    Decimal::try_from_i128_with_scale(if negative { -mantissa } else { mantissa }, scale).ok()
}

/// A fast path, at a third of the cost, for the numbers that exchanges send: at most 18 digits, which an `i64` holds,
/// with at least one digit on each side of the point. `None` leaves the text to the general parser.
fn parse_short(text: &[u8]) -> Option<Decimal> {
    if text.len() > 19 {
        return None;
    }
    let mut mantissa: i64 = 0;
    let mut point = None;
    for (index, &byte) in text.iter().enumerate() {
        match byte {
            // Nineteen digits without a point may wrap; the check below refuses them.
            b'0'..=b'9' => mantissa = mantissa.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')),
            b'.' if point.is_none() && index > 0 => point = Some(index),
            _ => return None,
        }
    }
    let scale = match point {
        Some(index) => text.len() - index - 1,
        None if text.len() > 18 => return None,
        None => return (!text.is_empty()).then(|| Decimal::new(mantissa, 0)),
    };
    (scale > 0).then(|| Decimal::new(mantissa, scale as u32))
}

/// The decimal in plain notation, without exponent or trailing zeros: `61234.56`, `0`.
pub fn plain(value: Decimal) -> String {
    value.normalize().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_short_parser_agrees_with_the_general_one(text in "-?[0-9]{0,20}\\.?[0-9]{0,20}|[0-9.+_ e-]{0,12}") {
            if let Some(value) = parse_short(text.as_bytes()) {
                let general = Decimal::from_str_exact(&text).unwrap();
                prop_assert_eq!((value, value.scale()), (general, general.scale()));
                prop_assert_eq!(parse_long(&text), Some(value));
            }
        }

        #[test]
        fn the_long_parser_agrees_with_the_crates(text in "-?[0-9]{1,14}(\\.[0-9]{0,14})?") {
            prop_assert_eq!(parse_long(&text), Decimal::from_str_exact(&text).ok());
        }

        #[test]
        fn an_exponent_moves_the_point(mantissa in any::<i32>(), exponent in -20_i32..=10) {
            let expected = match exponent {
                0.. => Decimal::from(i128::from(mantissa) * 10_i128.pow(exponent as u32)),
                _ => Decimal::from_i128_with_scale(i128::from(mantissa), exponent.unsigned_abs()),
            };
            prop_assert_eq!(parse_decimal(&format!("{mantissa}e{exponent}")), Some(expected));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?[0-9]{0,40}\\.?[0-9]{0,40}([eE][-+]?[0-9]{0,25})?") {
            if let Some(value) = parse_decimal(&text) {
                prop_assert_eq!(parse_decimal(&plain(value)), Some(value));
            }
        }

        #[test]
        fn nineteen_digits_are_left_to_the_general_parser(text in "[1-9][0-9]{18}") {
            prop_assert_eq!(parse_short(text.as_bytes()), None);
            prop_assert_eq!(parse_decimal(&text), Decimal::from_str_exact(&text).ok());
        }

        #[test]
        fn prices_as_sent_take_the_fast_path(mantissa in 0_i64..10_i64.pow(16), scale in 0_u32..=8) {
            let value = Decimal::new(mantissa, scale);
            prop_assert_eq!(parse_short(value.to_string().as_bytes()), Some(value));
        }
    }

    fn check(input: &str, expected: &str) {
        assert_eq!(plain(parse_decimal(input).unwrap()), expected);
    }

    #[test]
    fn trailing_zeros_are_removed() {
        check("61234.56000000", "61234.56");
        check("100.00000000", "100");
        check("0.00000000", "0");
        check("0.00000010", "0.0000001");
        check("1200", "1200");
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused_not_rounded() {
        assert_eq!(parse_decimal("0.12345678901234567890123456789012"), None);
        for text in
            ["12a", "", ".", "-", "e5", "1e", "1e+", "1e5.0", "1_000", " 1", "1 ", "NaN", "Infinity", "0x10", "--1"]
        {
            assert_eq!(parse_decimal(text), None, "{text}");
        }
        for text in ["123456789012345678901234567890.1", "123456789012.123456789012345678", "1e29", "1e-29"] {
            assert_eq!(parse_decimal(text), None, "{text}");
        }
        for text in ["1e99999999999999999999", "1e-99999999999999999999", "1e9223372036854775807"] {
            assert_eq!(parse_decimal(text), None, "{text}");
        }
    }

    #[test]
    fn exponents_and_zeros_are_read_exactly() {
        check("1e-8", "0.00000001");
        check("1E-8", "0.00000001");
        check("1.50e+3", "1500");
        check("-2.5e1", "-25");
        check("0e99999999999999999999", "0");
        check("123456789012.500000000000000000000", "123456789012.5");
        check("0000000000000000000000000000000000.5", "0.5");
        check("1234567890000000000000000000000e-12", "1234567890000000000");
        check(".5", "0.5");
        check("5.", "5");
    }
}
