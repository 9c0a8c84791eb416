//! Formats decimals for storage, in plain notation as `market::plain`, but into a reused buffer.

use rust_decimal::Decimal;

/// The size of the buffer. Sign, 29 digits, point and leading zero need less.
const TEXT_MAX: usize = 48;

/// Formats decimals without allocation.
#[derive(Debug)]
pub(super) struct DecimalText([u8; TEXT_MAX]);

impl DecimalText {
    pub(super) fn new() -> Self {
        Self([0; TEXT_MAX])
    }

    /// Plain notation without exponent or trailing zeros. The text is valid until the next call.
    pub(super) fn plain(&mut self, value: Decimal) -> &str {
        let mut rest = value.mantissa().unsigned_abs();
        let mut scale = value.scale();
        // Most prices fit into 64 bits, whose division is many times faster.
        match u64::try_from(rest) {
            Ok(mut small) => {
                while scale > 0 && small.is_multiple_of(10) {
                    small /= 10;
                    scale -= 1;
                }
                rest = u128::from(small);
            }
            Err(_) => {
                while scale > 0 && rest.is_multiple_of(10) {
                    rest /= 10;
                    scale -= 1;
                }
            }
        }
        let mut at = TEXT_MAX;
        let mut digits = 0;
        let mut small = u64::try_from(rest).ok();
        // Writes from the last digit to the first; the point comes before the last `scale` digits.
        loop {
            let digit = match &mut small {
                Some(small) => {
                    let digit = *small % 10;
                    *small /= 10;
                    rest = u128::from(*small);
                    digit as u8
                }
                None => {
                    let digit = (rest % 10) as u8;
                    rest /= 10;
                    small = u64::try_from(rest).ok();
                    digit
                }
            };
            at -= 1;
            self.0[at] = b'0' + digit;
            digits += 1;
            if digits == scale {
                at -= 1;
                self.0[at] = b'.';
            }
            if rest == 0 && digits > scale {
                break;
            }
        }
        if value.is_sign_negative() && !value.is_zero() {
            at -= 1;
            self.0[at] = b'-';
        }
        std::str::from_utf8(&self.0[at..]).expect("digits, a point and a sign are ASCII")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{parse_decimal, plain};

    fn check(input: &str, expected: &str) {
        assert_eq!(DecimalText::new().plain(parse_decimal(input).unwrap()), expected);
    }

    #[test]
    fn decimals_are_plain() {
        check("61234.56000000", "61234.56");
        check("0.00000000", "0");
        check("-0.0", "0");
        check("0.00000010", "0.0000001");
        check("1200", "1200");
        check("-1.50", "-1.5");
        check("79228162514264337593543950335", "79228162514264337593543950335");
        check("0.0000000000000000000000000001", "0.0000000000000000000000000001");
    }

    proptest! {
        #[test]
        fn it_writes_what_plain_writes(mantissa in -(1_i128 << 96) + 1..1_i128 << 96, shift in 0_u32..96, scale in 0_u32..29) {
            let value = Decimal::from_i128_with_scale(mantissa >> shift, scale);
            let mut text = DecimalText::new();
            prop_assert_eq!(text.plain(value), plain(value));
        }
    }
}
