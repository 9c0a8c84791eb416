//! Numbers as people read them: grouped, short, with units. Pure, and without markup.

use crate::market::DAY_US;

/// `1 gap`, `2 gaps`.
pub fn pluralize(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number as f64), if number == 1 { one } else { many })
}

/// `1,234,567`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 && digit.is_ascii_digit() && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,234,567`, `86.4 M`, `3.1 G`: short enough for a tile.
pub fn short(number: f64) -> String {
    for (unit, name) in [(1e9, "G"), (1e6, "M")] {
        if number >= 10.0 * unit || (number >= unit && unit > 1e6) {
            return format!("{:.1} {name}", number / unit);
        }
    }
    grouped(number)
}

/// `12 ms`, `3.2 s`, `5 min`, `1.5 h`, `2.0 d`.
pub fn span(seconds: f64) -> String {
    const DAY_S: f64 = (DAY_US / 1_000_000) as f64;
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3_600.0 => format!("{:.0} min", s / 60.0),
        s if s < 2.0 * DAY_S => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} d", s / DAY_S),
    }
}

/// `3.2 GiB`.
pub fn size(bytes: f64) -> String {
    for (unit, name) in [(1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1_024.0, "KiB")] {
        if bytes >= unit {
            return format!("{:.1} {name}", bytes / unit);
        }
    }
    format!("{bytes:.0} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0.0, 999.0, 1e3, 1_234_567.0].map(grouped));
        assert_eq!(["-999", "-1,000"], [-999.0, -1e3].map(grouped));
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([1, 2, 1_000].map(|gaps| pluralize(gaps, "gap", "gaps")), ["1 gap", "2 gaps", "1,000 gaps"]);
    }

    #[test]
    fn a_number_too_long_for_a_tile_is_shortened() {
        let numbers = [9_999_999.0, 86_400_000.0, 3_120_000_000.0, 40_000_000_000.0];
        assert_eq!(["9,999,999", "86.4 M", "3.1 G", "40.0 G"].map(str::to_owned), numbers.map(short));
    }

    #[test]
    fn sizes_and_spans_have_units() {
        assert_eq!(["12 B", "1.5 KiB", "2.0 GiB"].map(str::to_owned), [12.0, 1_536.0, 2_147_483_648.0].map(size));
        assert_eq!(["12 ms", "5.0 s", "2 min", "3.0 d"].map(str::to_owned), [0.012, 5.0, 120.0, 259_200.0].map(span));
    }
}
