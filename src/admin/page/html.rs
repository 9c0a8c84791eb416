//! Markup that several parts of the page share: instants and tables.
//!
//! `maud` escapes every text that it inserts, so text from outside cannot become markup.

use maud::{Markup, html};

use crate::market::Timestamp;

/// The content of a cell and its style.
pub enum Cell {
    /// The row's name.
    Head(String),
    /// A number, aligned right.
    Number(String),
    /// Short words with a class: `good`, `bad`, `warn`, `dim`.
    Mark(&'static str, String),
    /// An instant.
    At(Option<Timestamp>),
}

/// A table that scrolls by itself on a narrow screen.
pub struct Table<'a> {
    /// Keeps the scroll position when the part is replaced.
    pub id: &'a str,
    /// Names the table for screen readers too.
    pub caption: &'a str,
    /// A head that ends with `#` is above numbers.
    pub heads: &'a [&'a str],
    /// One list of cells a row.
    pub rows: Vec<Vec<Cell>>,
    /// The last row: why there is nothing, or not everything.
    pub note: Option<String>,
}

impl Table<'_> {
    /// The table's markup; `now` shortens instants of today.
    pub fn markup(&self, now: Timestamp) -> Markup {
        html! {
            div class="scroll" id=(self.id) tabindex="0" role="group" aria-label=(self.caption) {
                table {
                    caption { (self.caption) }
                    thead { tr { @for name in self.heads { (head(name)) } } }
                    tbody {
                        @for row in &self.rows { tr { @for value in row { (cell(value, now)) } } }
                        @if let Some(note) = &self.note {
                            tr { td colspan=(self.heads.len()) class="text dim" { (note) } }
                        }
                    }
                }
            }
        }
    }
}

fn head(name: &str) -> Markup {
    html! {
        @match name.strip_suffix('#') {
            Some(name) => { th scope="col" class="n" { (name) } }
            None => { th scope="col" { (name) } }
        }
    }
}

fn cell(cell: &Cell, now: Timestamp) -> Markup {
    html! {
        @match cell {
            Cell::Head(name) => { th scope="row" { (name) } }
            Cell::Number(number) => { td class="n" { (number) } }
            Cell::Mark(class, words) => { td class=(class) { (words) } }
            Cell::At(at) => { td { @if let Some(at) = at { (instant(*at, now)) } } }
        }
    }
}

/// The time of day, with the day when it is not today; a tooltip shows the whole instant.
pub fn instant(at: Timestamp, now: Timestamp) -> Markup {
    let whole = at.rfc3339();
    let (day, time) = (whole.get(..10).unwrap_or(&whole), whole.get(11..19).unwrap_or_default());
    let shown = if at.day() == now.day() { time.to_owned() } else { format!("{day} {time}") };
    html! { time datetime=(whole) title=(whole) { (shown) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::DAY_US;

    #[test]
    fn text_cannot_become_markup() {
        let table = Table {
            id: "a",
            caption: "b",
            heads: &["c"],
            rows: vec![vec![Cell::Head("<script>'\"&".to_owned())]],
            note: Some("</table>".to_owned()),
        };
        let markup = table.markup(Timestamp(0)).into_string();
        assert!(markup.contains("&lt;script&gt;") && markup.contains("&lt;/table&gt;"), "{markup}");
        assert!(!markup.contains("<script>") && markup.matches("</table>").count() == 1, "{markup}");
    }

    #[test]
    fn an_instant_of_another_day_shows_its_day() {
        let at = Timestamp(DAY_US + 3_600_000_000);
        assert!(instant(at, Timestamp(DAY_US)).into_string().ends_with(">01:00:00</time>"));
        assert!(instant(at, Timestamp(0)).into_string().ends_with(">1970-01-02 01:00:00</time>"));
    }
}
