//! Durations and sizes as text: `1h30m`, `250ms`, `10GiB`.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ms", 1_000_000),
    ("us", 1_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Parses a duration: the sum of whole numbers with the units d, h, m, s, ms and us, such as `1h30m`. `None` for any
/// other text, for a number without a unit (also `0`), and for 2^64 ns (584 years) or more.
///
/// The crate `humantime` cannot replace this function. It also accepts `0`, fractions, inner spaces and longer names,
/// and reads `1M` as a month; to reject these, this module would still split every text into numbers and units. Version
/// 2.4 panics at `18446744073709551615s1000ms`. Its `format_duration` prints `1h 30m` and `1month`, which this function
/// rejects.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (_, nanos) = DURATION_UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        total = total.checked_add(number.checked_mul(*nanos)?)?;
        rest = &rest[letters..];
    }
    Some(Duration::from_nanos(total))
}

/// Formats a duration in microseconds and larger units; [`parse_duration`] reads it back.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_micros() as u64;
    let mut text = String::new();
    for (unit, micros) in [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)] {
        if rest >= micros {
            text.push_str(&format!("{}{unit}", rest / micros));
            rest %= micros;
        }
    }
    if rest >= 1_000 {
        text.push_str(&format!("{}ms", rest / 1_000));
        rest %= 1_000;
    }
    if rest > 0 {
        text.push_str(&format!("{rest}us"));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Parses a size in bytes: a whole number with a unit, `10GiB`, `500MB`, `4096B`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// Formats a size in the largest unit that divides it; [`parse_size`] reads it back.
pub fn format_size(bytes: u64) -> String {
    for (unit, size) in SIZE_UNITS[..4].iter().rev() {
        if bytes > 0 && bytes.is_multiple_of(*size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, millis: Option<u64>) {
        assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn durations_are_numbers_with_units_and_sums_of_them() {
        check("250ms", Some(250));
        check("1h30m", Some(5_400_000));
        check("7d", Some(604_800_000));
        check("0s", Some(0));
        check("30m1h", Some(5_400_000));
        check("1s1s", Some(2_000));
        check("007s", Some(7_000));
        check(" 30s\t", Some(30_000));
        check("365d23h59m59s999ms", Some(31_622_399_999));
        for wrong in ["", "s", "1.5s", "-1s", "+1s", "5x", "1h30", "99999999999999d", "1e3s", "\u{0661}s"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_bare_number_is_no_duration() {
        for wrong in ["0", "00", "1", "30", " 30 ", "30 000", "18446744073709551616"] {
            check(wrong, None);
        }
    }

    #[test]
    fn the_longer_forms_of_other_parsers_are_no_durations() {
        for wrong in ["1M", "1 month", "1month", "2years", "2y", "1w", "1week", "1min", "30sec", "5 minutes", "1ns"] {
            check(wrong, None);
        }
        for wrong in ["1 s", "1h 30m", "7 d 2 h", "1H", "30S", "250MS", "1\u{b5}s", "PT30S", "00:30", "1h,30m"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_duration_that_overflows_is_none() {
        assert_eq!(parse_duration("213503d23h34m33s709ms551us"), Some(Duration::from_micros(18_446_744_073_709_551)));
        for wrong in ["213504d", "213503d23h34m33s709ms552us", "18446744073709551615s1000ms"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        assert_eq!(parse_size("10GiB"), Some(10 << 30));
        assert_eq!(parse_size("8 MiB"), Some(8 << 20));
        assert_eq!(parse_size("500MB"), Some(500_000_000));
        for wrong in ["", "10", "GiB", "10gib", "1.5GiB", "99999999TiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_parses_to_itself(micros in 0_u64..10_000_000_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn a_sum_is_the_sum_of_its_parts(parts in prop::collection::vec((0_u64..10_000, 0_usize..6), 1..6)) {
            let text: String = parts.iter().map(|(n, unit)| format!("{n}{}", DURATION_UNITS[*unit].0)).collect();
            let nanos = parts.iter().map(|(n, unit)| n * DURATION_UNITS[*unit].1).sum();
            prop_assert_eq!(parse_duration(&text), Some(Duration::from_nanos(nanos)));
        }

        #[test]
        fn a_size_is_its_number_times_its_unit(number in any::<u64>(), unit in 0_usize..9) {
            let (name, bytes) = SIZE_UNITS[unit];
            prop_assert_eq!(parse_size(&format!("{number}{name}")), number.checked_mul(bytes));
            prop_assert_eq!(parse_size(&number.to_string()), None);
        }

        #[test]
        fn a_formatted_size_parses_to_itself(bytes in any::<u64>(), zeros in 0_u32..45) {
            let bytes = bytes >> zeros << zeros;
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            parse_duration(&text);
            parse_size(&text);
        }
    }
}
