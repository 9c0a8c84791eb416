//! Tables for people: aligned columns, nothing else.

/// One row of cells below one row of heads; a cell of digits is set right.
pub fn print(heads: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.');
            let pad = " ".repeat(width - cell.chars().count());
            let gap = if at == 0 { "" } else { "  " };
            text.push_str(&if number { format!("{gap}{pad}{cell}") } else { format!("{gap}{cell}{pad}") });
        }
        println!("{}", text.trim_end());
    };
    line(&heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>());
    for row in rows {
        line(row);
    }
}
