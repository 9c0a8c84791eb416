//! Tables for people: aligned columns that fit a terminal.

/// Widest line. Longer lines wrap in a terminal of common width.
const WIDTH_MAX: usize = 100;
/// Narrowest width of a column that is shortened.
const COLUMN_MIN: usize = 8;
const BETWEEN: usize = 2;

/// A row of heads, then rows of cells; numbers are aligned right.
pub fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut columns: Vec<Column> =
        heads.iter().map(|head| Column { width: head.chars().count(), is_words: false }).collect();
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row) {
            column.width = column.width.max(cell.chars().count());
            column.is_words |= !cell.is_empty() && !is_number(cell);
        }
    }
    fit(&mut columns);
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for cells in std::iter::once(&heads).chain(rows) {
        text.push_str(line(cells, &columns).trim_end());
        text.push('\n');
    }
    text
}

struct Column {
    width: usize,
    is_words: bool,
}

/// Shortens the widest columns of words until the line fits. A shortened number would be another number.
fn fit(columns: &mut [Column]) {
    let between = BETWEEN * columns.len().saturating_sub(1);
    while columns.iter().map(|column| column.width).sum::<usize>() + between > WIDTH_MAX {
        let words = columns.iter_mut().filter(|column| column.is_words && column.width > COLUMN_MIN);
        let Some(widest) = words.max_by_key(|column| column.width) else { return };
        widest.width -= 1;
    }
}

fn is_number(cell: &str) -> bool {
    !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.')
}

fn line(cells: &[String], columns: &[Column]) -> String {
    let mut text = String::new();
    for (at, (cell, Column { width, .. })) in cells.iter().zip(columns).enumerate() {
        if at > 0 {
            text.push_str(&" ".repeat(BETWEEN));
        }
        let cell = shortened(cell, *width);
        let pad = " ".repeat(width - cell.chars().count());
        text.push_str(&if is_number(&cell) { format!("{pad}{cell}") } else { format!("{cell}{pad}") });
    }
    text
}

/// One line of at most `width` characters, without control characters: text of an exchange must not control the
/// terminal.
fn shortened(cell: &str, width: usize) -> String {
    let cell: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cell.chars().count() <= width {
        return cell;
    }
    let kept: String = cell.chars().take(width.saturating_sub(3)).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn words_align_left_and_numbers_right() {
        let text = render(&["symbol", "missing"], &rows(&[&["BTCUSDT", "7"], &["ETH", "1234"]]));
        assert_eq!(text, "symbol   missing\nBTCUSDT        7\nETH         1234\n");
    }

    #[test]
    fn a_long_reason_does_not_break_the_line() {
        let reason = "x".repeat(500);
        let text = render(&["symbol", "state", "reason"], &rows(&[&["BTCUSDT", "unrecoverable", &reason]]));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
        assert!(text.contains("BTCUSDT  unrecoverable  xxx") && text.trim_end().ends_with("..."), "{text}");
    }

    #[test]
    fn a_number_is_never_cut() {
        let words: Vec<String> = (0..9).map(|_| "some words".to_owned()).collect();
        let mut row = words.clone();
        row.push("1795517280000000".to_owned());
        let heads = ["words"; 10];
        assert!(render(&heads, &[row]).contains("1795517280000000"));
    }

    #[test]
    fn a_cell_cannot_control_the_terminal() {
        let text = render(&["reason"], &rows(&[&["a\u{1b}[31m\nb"]]));
        assert_eq!(text, "reason\na [31m b\n");
    }
}
