//! Lists of named values, as `kubectl describe` writes them: `Name:   value`, further values below the first.

use super::{NONE, Style, Tone, printable};

const GAP: usize = 2;

/// Names and values.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    fields: Vec<(&'static str, Vec<(Tone, String)>)>,
}

impl Fields {
    /// Adds a name with one value.
    pub(crate) fn field(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.toned(name, Tone::Plain, value);
    }

    /// Adds a name with one value that says something about the state of things.
    pub(crate) fn toned(&mut self, name: &'static str, tone: Tone, value: impl AsRef<str>) {
        self.list(name, [(tone, value.as_ref().into())]);
    }

    /// Adds a name with a line for each value; `<none>` without any.
    pub(crate) fn list(&mut self, name: &'static str, values: impl IntoIterator<Item = (Tone, String)>) {
        let mut values: Vec<_> = values.into_iter().map(|(tone, value)| (tone, printable(&value))).collect();
        if values.is_empty() {
            values.push((Tone::Plain, NONE.into()));
        }
        self.fields.push((name, values));
    }

    /// The whole list.
    pub(crate) fn render(&self, style: Style) -> String {
        let width = self.fields.iter().map(|(name, _)| name.len() + 1 + GAP).max().unwrap_or_default();
        let mut text = String::new();
        for (name, values) in &self.fields {
            let mut label = format!("{name}:");
            for (tone, value) in values {
                text.push_str(&format!("{label:width$}{}\n", style.paint(*tone, value)));
                label.clear();
            }
        }
        text
    }
}
