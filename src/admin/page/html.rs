//! Words and markup of the page. Text from outside becomes text, never markup.

use std::fmt::{self, Write};

use crate::market::{DAY_US, Timestamp};

/// Text with its markup taken away.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A cell's content and how it is set.
pub enum Cell {
    /// The row's name.
    Head(String),
    /// A number, set right.
    Number(String),
    /// Short words with a colour: `good`, `bad`, `warn`, `dim`.
    Mark(&'static str, String),
    /// An instant.
    At(Option<Timestamp>),
}

/// A table that scrolls by itself on a narrow screen.
pub struct Table<'a> {
    out: &'a mut String,
    now: Timestamp,
    columns: usize,
    rows: usize,
}

impl<'a> Table<'a> {
    /// Begins a table; `id` keeps its scroll position over a renewal.
    pub fn begin(out: &'a mut String, now: Timestamp, id: &str, caption: &str, heads: &[&str]) -> Self {
        put(
            out,
            format_args!(
                "<div class=\"scroll\" id=\"{id}\" tabindex=\"0\" role=\"group\" aria-label=\"{caption}\"><table>\
                 <caption>{caption}</caption><thead><tr>"
            ),
        );
        for head in heads {
            // A head that ends with a mark stands over numbers.
            match head.strip_suffix('#') {
                Some(head) => put(out, format_args!("<th scope=\"col\" class=\"n\">{head}</th>")),
                None => put(out, format_args!("<th scope=\"col\">{head}</th>")),
            }
        }
        out.push_str("</tr></thead><tbody>");
        Self { out, now, columns: heads.len(), rows: 0 }
    }

    /// One row.
    pub fn row(&mut self, cells: &[Cell]) {
        self.rows += 1;
        self.out.push_str("<tr>");
        for cell in cells {
            match cell {
                Cell::Head(name) => put(self.out, format_args!("<th scope=\"row\">{}</th>", Escaped(name))),
                Cell::Number(number) => put(self.out, format_args!("<td class=\"n\">{}</td>", Escaped(number))),
                Cell::Mark(class, words) => {
                    put(self.out, format_args!("<td class=\"{class}\">{}</td>", Escaped(words)))
                }
                Cell::At(at) => {
                    let at = at.map_or(String::new(), |at| instant(at, self.now));
                    put(self.out, format_args!("<td>{at}</td>"));
                }
            }
        }
        self.out.push_str("</tr>");
    }

    /// A row of one cell: why there is nothing, or not everything.
    pub fn note(&mut self, class: &str, words: &str) {
        self.rows += 1;
        put(
            self.out,
            format_args!("<tr><td colspan=\"{}\" class=\"text {class}\">{}</td></tr>", self.columns, Escaped(words)),
        );
    }

    /// Ends the table; `empty` is said when there was no row.
    pub fn end(mut self, empty: &str) {
        if self.rows == 0 {
            self.note("dim", empty);
        }
        self.out.push_str("</tbody></table></div>");
    }
}

/// Adds text to a page.
pub fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

/// The time of day, with the day when it is not today; the whole instant for whoever points at it.
pub fn instant(at: Timestamp, now: Timestamp) -> String {
    let whole = at.rfc3339();
    let (day, time) = (whole.get(..10).unwrap_or(&whole), whole.get(11..19).unwrap_or_default());
    let shown = if at.day() == now.day() { time.to_owned() } else { format!("{day} {time}") };
    format!("<time datetime=\"{whole}\" title=\"{whole}\">{shown}</time>")
}

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

/// `1,234,567`, `86.4 M`, `3.1 G`: what fits a tile.
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
    fn text_cannot_become_markup() {
        assert_eq!(Escaped("<script>'\"&").to_string(), "&lt;script&gt;&#39;&quot;&amp;");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0.0, 999.0, 1e3, 1_234_567.0].map(grouped));
        assert_eq!(["-999", "-1,000"], [-999.0, -1e3].map(grouped));
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([1, 2, 1_000].map(|gaps| pluralize(gaps, "gap", "gaps")), ["1 gap", "2 gaps", "1,000 gaps"]);
    }

    #[test]
    fn what_is_too_long_for_a_tile_is_shortened() {
        let numbers = [9_999_999.0, 86_400_000.0, 3_120_000_000.0, 40_000_000_000.0];
        assert_eq!(["9,999,999", "86.4 M", "3.1 G", "40.0 G"].map(str::to_owned), numbers.map(short));
    }

    #[test]
    fn sizes_and_spans_have_units() {
        assert_eq!(["12 B", "1.5 KiB", "2.0 GiB"].map(str::to_owned), [12.0, 1_536.0, 2_147_483_648.0].map(size));
        assert_eq!(["12 ms", "5.0 s", "2 min", "3.0 d"].map(str::to_owned), [0.012, 5.0, 120.0, 259_200.0].map(span));
    }

    #[test]
    fn an_instant_of_another_day_shows_its_day() {
        let at = Timestamp(DAY_US + 3_600_000_000);
        assert!(instant(at, Timestamp(DAY_US)).ends_with(">01:00:00</time>"));
        assert!(instant(at, Timestamp(0)).ends_with(">1970-01-02 01:00:00</time>"));
    }
}
