//! Decimals as Decimal(38, 18), the type of the columns in ClickHouse and Parquet: an integer, 10^18 times as large.

use rust_decimal::Decimal;

/// Digits after the point in every column.
const SCALE: u32 = 18;
/// The largest number of 38 digits.
const MAX: u128 = 10_u128.pow(38) - 1;

/// Exactly 10^18 times `value`; `None` when that is not an integer of at most 38 digits.
pub fn scaled(value: Decimal) -> Option<i128> {
    scaled_to(value, SCALE)
}

/// Exactly 10^`digits` times `value`; `None` when that is not an integer of at most 38 digits.
pub fn scaled_to(value: Decimal, digits: u32) -> Option<i128> {
    let mut mantissa = value.mantissa();
    let mut scale = value.scale();
    while scale > digits {
        if mantissa % 10 != 0 {
            return None;
        }
        mantissa /= 10;
        scale -= 1;
    }
    let scaled = mantissa.checked_mul(10_i128.checked_pow(digits - scale)?)?;
    (scaled.unsigned_abs() <= MAX).then_some(scaled)
}

/// The inverse of [`scaled`], without trailing zeros; `None` when the number needs more digits than a decimal holds,
/// which never happens to a result of [`scaled`].
pub fn unscaled(scaled: i128) -> Option<Decimal> {
    unscaled_from(scaled, SCALE)
}

/// The inverse of [`scaled_to`], without trailing zeros; `None` when the number needs more digits than a decimal holds.
pub fn unscaled_from(mut scaled: i128, mut scale: u32) -> Option<Decimal> {
    // Most values have ten trailing zeros: removing eight at a time saves most of the 128-bit divisions.
    while scale >= 8 && scaled % 100_000_000 == 0 {
        scaled /= 100_000_000;
        scale -= 8;
    }
    while scale > 0 && scaled % 10 == 0 {
        scaled /= 10;
        scale -= 1;
    }
    Decimal::try_from_i128_with_scale(scaled, scale).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plain;
    use super::*;

    fn check(text: &str, expected: Option<i128>) {
        let value: Decimal = text.parse().unwrap();
        assert_eq!(scaled(value), expected, "{text}");
        if let Some(expected) = expected {
            assert_eq!(plain(unscaled(expected).unwrap()), plain(value));
        }
    }

    #[test]
    fn a_value_that_fits_is_exact_and_any_other_is_refused() {
        check("0", Some(0));
        check("61234.56000000", Some(61_234_560_000_000_000_000_000));
        check("-0.5", Some(-500_000_000_000_000_000));
        check("0.000000000000000001", Some(1));
        // A day's volume of PEPE.
        check("12000000000000.00", Some(12_000_000_000_000 * 10_i128.pow(18)));
        check("12345678901234567890", Some(12_345_678_901_234_567_890 * 10_i128.pow(18)));
        check("99999999999999999999", Some(99_999_999_999_999_999_999 * 10_i128.pow(18)));
        check("100000000000000000000", None);
        check("79228162514264337593543950335", None);
        check("0.0000000000000000001", None);
        check("0.1000000000000000000000000000", Some(10_i128.pow(17)));
        assert_eq!(unscaled(10_i128.pow(38) - 1), None);
    }

    proptest! {
        #[test]
        fn scaling_never_panics_and_a_value_that_fits_comes_back(
            mantissa in -(1_i128 << 96) + 1..1_i128 << 96, shift in 0_u32..96, scale in 0_u32..29
        ) {
            let value = Decimal::from_i128_with_scale(mantissa >> shift, scale);
            if let Some(scaled) = scaled(value) {
                prop_assert_eq!(unscaled(scaled), Some(value));
            }
        }
    }
}
