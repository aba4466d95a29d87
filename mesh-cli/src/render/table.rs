//! Tables: upper-case headers, columns aligned by three blanks, no borders.
//!
//! On a terminal no line is longer than the terminal is wide: columns that can be spared go, then the widest give way, and what is cut
//! ends in `…`. Elsewhere, and with `-o wide`, every column is there, and in a pipe nothing is ever cut.

use super::{NONE, Style, Tone, printable};

const GAP: usize = 3;
/// A column that is cut keeps so much.
const LEAST: usize = 6;
/// As much of a column as has to have room before another one is spared.
const ENOUGH: usize = 24;
/// Of a SPIFFE ID the end tells more than the beginning.
const SPIFFE: &str = "spiffe://";

/// Headers and rows.
#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    /// Shown with `-o wide` alone.
    wide: Vec<&'static str>,
    /// Left out where the terminal is too narrow, the first of them first.
    spare: Vec<&'static str>,
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
    pub(crate) fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.into(), wide: Vec::new(), spare: Vec::new(), rows: Vec::new() }
    }

    /// Which of the headers are shown with `-o wide` alone.
    pub(crate) fn wide(mut self, headers: &[&'static str]) -> Self {
        debug_assert!(headers.iter().all(|header| self.headers.contains(header)));
        self.wide = headers.into();
        self
    }

    /// Which of the headers a narrow terminal can do without, the most easily spared first.
    pub(crate) fn spare(mut self, headers: &[&'static str]) -> Self {
        debug_assert!(headers.iter().all(|header| self.headers.contains(header)));
        self.spare = headers.into();
        self
    }

    /// Adds a row: as many cells as there are headers.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.headers.len());
        self.rows.push(cells.into());
    }

    /// Puts a column before all others, unless there is one of this name: a cell for each row.
    pub(crate) fn first(mut self, header: &'static str, cells: impl IntoIterator<Item = Cell>) -> Self {
        if !self.headers.contains(&header) {
            self.headers.insert(0, header);
            self.rows.iter_mut().zip(cells).for_each(|(row, cell)| row.insert(0, cell));
        }
        self
    }

    /// The whole table; nothing at all where it has no row.
    pub(crate) fn render(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut shown: Vec<usize> = (0..self.headers.len())
            .filter(|column| style.wide || !self.wide.contains(&self.headers[*column]))
            .collect();
        let header = |column: usize| if style.no_headers { 0 } else { self.headers[column].len() };
        let cell = |row: &[Cell], column: usize| row.get(column).map_or(0, |cell| cell.text.chars().count());
        let mut widths: Vec<usize> = shown
            .iter()
            .map(|column| {
                let cells = self.rows.iter().map(|row| cell(row, *column));
                cells.max().unwrap_or(0).max(header(*column))
            })
            .collect();
        if let Some(width) = style.width {
            let mut spare = self.spare.iter().filter(|_| !style.wide);
            while widths.iter().map(|width| ENOUGH.min(*width) + GAP).sum::<usize>() > width + GAP
                && let Some(spared) = spare.next()
            {
                if let Some(at) = shown.iter().position(|column| self.headers[*column] == *spared) {
                    shown.remove(at);
                    widths.remove(at);
                }
            }
            fit(&mut widths, width);
        }
        let mut text = String::new();
        if !style.no_headers {
            let headers = shown.iter().map(|column| (self.headers[*column], Tone::Plain));
            line(&mut text, &widths, headers, style);
        }
        for row in &self.rows {
            let cells = shown.iter().filter_map(|column| row.get(*column));
            line(&mut text, &widths, cells.map(|cell| (cell.text.as_str(), cell.tone)), style);
        }
        text
    }
}

/// Takes from the widest columns until a line fits, or every column is at its least.
fn fit(widths: &mut [usize], limit: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut sum = widths.iter().sum::<usize>() + gaps;
    while sum > limit {
        let Some(widest) = widths.iter_mut().max() else { return };
        if *widest <= LEAST {
            return;
        }
        *widest -= 1;
        sum -= 1;
    }
}

/// `text` in at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.into();
    }
    let kept = width.saturating_sub(1);
    if text.starts_with(SPIFFE) {
        std::iter::once('…').chain(text.chars().skip(length - kept)).collect()
    } else {
        text.chars().take(kept).chain(['…']).collect()
    }
}

fn line<'a>(text: &mut String, widths: &[usize], cells: impl Iterator<Item = (&'a str, Tone)>, style: Style) {
    let (mut padding, mut at) = (0, 0);
    let limit = style.width.unwrap_or(usize::MAX);
    for ((cell, tone), width) in cells.zip(widths) {
        // Columns at their least may still be too many: the rest of the line is beyond the edge.
        if at + padding >= limit {
            break;
        }
        // Only before the next cell, so that no line ends in blanks.
        text.extend(std::iter::repeat_n(' ', padding));
        at += padding;
        let cell = cut(cell, (*width).min(limit - at));
        let length = cell.chars().count();
        text.push_str(&style.paint(tone, &cell));
        at += length;
        padding = width.saturating_sub(length) + GAP;
    }
    text.push('\n');
}
