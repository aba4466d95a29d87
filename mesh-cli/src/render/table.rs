//! Tables: upper-case headers, columns aligned by three blanks, no borders.

use super::{NONE, Style, Tone, printable};

const GAP: usize = 3;

/// Headers and rows.
#[derive(Debug)]
pub(crate) struct Table {
    headers: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

/// One field of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Text that says something about the state of things.
    pub(crate) fn toned(tone: Tone, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        Self { text: if text.is_empty() { NONE.into() } else { printable(text) }, tone }
    }

    /// `<none>` for nothing.
    pub(crate) fn option<T: ToString>(value: Option<T>) -> Self {
        value.map_or_else(String::new, |value| value.to_string()).into()
    }
}

/// Empty text is `<none>`.
impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

impl Table {
    /// Without rows.
    pub(crate) fn new(headers: &'static [&'static str]) -> Self {
        Self { headers, rows: Vec::new() }
    }

    /// Adds a row: as many cells as there are headers.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headers.len());
        self.rows.push(cells.into());
    }

    /// The whole table; nothing at all where it has no row.
    pub(crate) fn render(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut widths: Vec<_> = self.headers.iter().map(|header| header.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let mut text = String::new();
        let headers = self.headers.iter().map(|header| (*header, Tone::Plain));
        line(&mut text, &widths, headers, style);
        for row in &self.rows {
            line(&mut text, &widths, row.iter().map(|cell| (cell.text.as_str(), cell.tone)), style);
        }
        text
    }
}

fn line<'a>(text: &mut String, widths: &[usize], cells: impl Iterator<Item = (&'a str, Tone)>, style: Style) {
    let mut padding = 0;
    for ((cell, tone), width) in cells.zip(widths) {
        // Only before the next cell, so that no line ends in blanks.
        text.extend(std::iter::repeat_n(' ', padding));
        text.push_str(&style.paint(tone, cell));
        padding = width - cell.chars().count() + GAP;
    }
    text.push('\n');
}
