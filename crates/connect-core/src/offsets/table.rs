//! Rows under a head, in columns as wide as they need to be.

use std::fmt::Write;

/// Lays out rows. Every column but the first and the last holds numbers, which stand at its right.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a string can't fail.
            let _ = match column {
                0 => write!(line, "{cell:width$}"),
                _ if column == N - 1 => write!(line, "{gap}{cell}"),
                _ => write!(line, "{gap}{cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [["a-0", "5", "x"], ["longer-11", "12345678", ""]].map(|row| row.map(str::to_owned));
        let expected = "PARTITION  COMMITTED  NOTE\na-0                5  x\nlonger-11   12345678\n";
        assert_eq!(table(["PARTITION", "COMMITTED", "NOTE"], &rows), expected);
    }
}
