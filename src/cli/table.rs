//! Tables for people: aligned columns that fit a terminal, nothing else.

/// Widest line. Longer ones wrap in a terminal of common width and cannot be read as a table.
const WIDTH_MAX: usize = 100;
/// A column is not made narrower than this, however many there are.
const COLUMN_MIN: usize = 8;
const BETWEEN: usize = 2;

/// One row of cells below one row of heads; a cell of digits is set right.
pub fn print(heads: &[&str], rows: &[Vec<String>]) {
    print!("{}", render(heads, rows));
}

fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    fit(&mut widths);
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for cells in std::iter::once(&heads).chain(rows) {
        text.push_str(line(cells, &widths).trim_end());
        text.push('\n');
    }
    text
}

/// Takes from the widest column until the line fits.
fn fit(widths: &mut [usize]) {
    let between = BETWEEN * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + between > WIDTH_MAX {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > COLUMN_MIN) else { return };
        *widest -= 1;
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if at > 0 {
            text.push_str(&" ".repeat(BETWEEN));
        }
        let cell = shortened(cell, *width);
        let pad = " ".repeat(width - cell.chars().count());
        let number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.');
        text.push_str(&if number { format!("{pad}{cell}") } else { format!("{cell}{pad}") });
    }
    text
}

/// One line of at most `width` characters; what comes from an exchange must not steer the terminal.
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
    fn words_are_set_left_and_numbers_right() {
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
    fn a_cell_cannot_steer_the_terminal() {
        let text = render(&["reason"], &rows(&[&["a\u{1b}[31m\nb"]]));
        assert_eq!(text, "reason\na [31m b\n");
    }
}
