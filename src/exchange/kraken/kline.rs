//! What klines of the socket and of REST have in common.

use rust_decimal::Decimal;

use crate::exchange::DecodeError;
use crate::market::{Interval, Timestamp};

/// Digits after the point that every history holds.
const SCALE_MAX: u32 = 18;

/// The last microsecond of a kline: no row names it, and trades have times in microseconds.
pub(super) fn close_time(
    what: &'static str,
    interval: Interval,
    open_time: Timestamp,
) -> Result<Timestamp, DecodeError> {
    match open_time.micros().checked_add(interval.micros() - 1) {
        Some(us) => Ok(Timestamp(us)),
        None => Err(DecodeError { what, why: format!("open time {open_time} has no end") }),
    }
}

/// The volume in the quote asset. 6.5: a kline has `vwap` and `volume` only; the quote volume is their product, exact but
/// for the exchange's own rounding of `vwap`. Digits that no history holds, after the eighteenth, are cut off.
pub(super) fn quote_volume(what: &'static str, vwap: Decimal, volume: Decimal) -> Result<Decimal, DecodeError> {
    product(vwap, volume)
        .ok_or_else(|| DecodeError { what, why: format!("vwap {vwap} x volume {volume} does not fit") })
}

fn product(a: Decimal, b: Decimal) -> Option<Decimal> {
    let mut mantissa = a.normalize().mantissa().checked_mul(b.normalize().mantissa())?;
    let mut scale = a.normalize().scale() + b.normalize().scale();
    while scale > SCALE_MAX || (scale > 0 && mantissa.unsigned_abs() >= 1 << 96) {
        mantissa /= 10;
        scale -= 1;
    }
    Decimal::try_from_i128_with_scale(mantissa, scale).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(a: &str, b: &str, expected: Option<&str>) {
        let product = product(a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(product.map(|product| product.normalize().to_string()).as_deref(), expected, "{a} x {b}");
    }

    #[test]
    fn a_product_is_exact_to_eighteen_digits_and_cut_off_below() {
        check("106039.6", "30927.68066226", Some("3279558886.353785496"));
        check("0", "5.5", Some("0"));
        check("0.0000000001", "0.000000001", Some("0"));
        check("1.0000000001", "1.0000000001", Some("1.0000000002"));
        check("1.9999999999", "1.9999999999", Some("3.9999999996"));
        check("0.000000001", "0.000000001", Some("0.000000000000000001"));
        check("79228162514264337593543950335", "2", None);
    }

    proptest! {
        #[test]
        fn a_product_that_fits_is_exact(a in 0_i64..1_000_000_000_000, b in 0_i64..1_000_000_000_000, x in 0_u32..=9, y in 0_u32..=9) {
            let (a, b) = (Decimal::new(a, x), Decimal::new(b, y));
            prop_assert_eq!(product(a, b), Some(a * b));
        }

        #[test]
        fn no_product_panics(a in any::<i64>(), b in any::<i64>(), x in 0_u32..=28, y in 0_u32..=28) {
            let (a, b) = (Decimal::new(a, x), Decimal::new(b, y));
            if let Some(found) = product(a, b) {
                prop_assert!(found.scale() <= SCALE_MAX);
            }
        }
    }
}
