//! Answers as text: tables in kubectl's manner, lists of fields, JSON, YAML, names.
//!
//! Pure: values in, a string out. Text that came from elsewhere goes through [`printable`] before it may reach a
//! terminal.

pub(crate) mod fields;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod name;
pub(crate) mod table;
#[cfg(test)]
mod tests;
pub(crate) mod yaml;

/// What stands where there is nothing.
pub(crate) const NONE: &str = "<none>";

/// How text may look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    /// Colours are wanted.
    pub(crate) colours: bool,
    /// Columns that are too much for most are wanted too.
    pub(crate) wide: bool,
    /// The first line of a table is not wanted.
    pub(crate) no_headers: bool,
    /// Columns of the terminal; `None` where the reader is no terminal: then nothing is cut.
    pub(crate) width: Option<usize>,
}

/// What a piece of text says about the state of things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

impl Style {
    /// `text` in the colour of its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.into(),
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Bad => 31,
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// `text` in one line, with control characters made visible.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}
