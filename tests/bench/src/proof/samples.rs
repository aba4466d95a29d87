//! A page of metrics, line by line.

use std::collections::HashMap;

/// A sample of the text format: name, labels, value.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) value: f64,
}

impl Sample {
    /// A label's value; nothing if there is no such label.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// The mesh's own samples of a metrics page. Lines that are none are passed over.
pub(super) fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| line.starts_with("weft_")).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, rest),
        None => {
            let (name, value) = line.split_once(' ')?;
            return Some(Sample {
                name: name.to_owned(),
                labels: HashMap::new(),
                value: value.parse().ok()?,
            });
        }
    };
    // Our label values are names of Kubernetes and SPIFFE ids: no quote, no brace, no backslash is ever in one.
    let (labels, value) = rest.split_once('}')?;
    let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
    let labels = pairs.map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    let value = value.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value })
}
