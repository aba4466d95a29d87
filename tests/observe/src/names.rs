//! Which metrics there are: by the documentation, and by what rules record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};

use crate::rules::{self, Rule};
use crate::synthetic;

/// What Prometheus makes up itself.
const OWN: [&str; 3] = ["up", "ALERTS", "ALERTS_FOR_STATE"];
/// Labels that come with a scrape, or with a histogram.
const SCRAPED: [&str; 4] = ["instance", "job", "le", "__name__"];

/// Metrics by name, with their labels where those are known.
#[derive(Clone, Debug)]
pub struct Names {
    labels: BTreeMap<String, Option<BTreeSet<String>>>,
}

/// The names in `docs/metrics.md`: those of a table's first cell, in its code.
pub fn documented() -> Result<BTreeSet<String>> {
    let path = crate::workspace().join("docs/metrics.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(names_in(&text))
}

/// Names of metrics in a document. `weft_controller_*` and the like are none.
fn names_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '*');
    let names = text.split(word).filter(|name| {
        let metric = name.starts_with("weft_") || name.starts_with("process_");
        metric && !name.ends_with('_') && !name.contains('*')
    });
    names.map(str::to_owned).collect()
}

impl Names {
    /// Everything that a query may ask for: the mesh's metrics, what the rules record, what Prometheus makes up.
    pub fn known() -> Result<Self> {
        let mut labels: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
        labels.extend(OWN.map(|name| (name.to_owned(), None)));
        labels.extend(documented()?.into_iter().map(|name| (name, None)));
        for family in synthetic::FAMILIES {
            let own: BTreeSet<String> =
                synthetic::labels(family).into_iter().chain(SCRAPED.map(str::to_owned)).collect();
            for name in synthetic::series_names(family) {
                labels.insert(name, Some(own.clone()));
            }
        }
        for file in rules::files()? {
            for rule in rules::load(&file)? {
                if let Rule::Record { name, .. } = rule {
                    labels.insert(name, None);
                }
            }
        }
        Ok(Self { labels })
    }

    /// What is wrong with the names in an expression, in words; nothing if all are known.
    pub fn complaints(&self, expression: &str) -> Vec<String> {
        let found = crate::promql::mentions(expression);
        let made = crate::promql::made_labels(expression);
        let mut wrong = Vec::new();
        let mut possible: BTreeSet<String> =
            SCRAPED.iter().map(|name| (*name).to_owned()).chain(made).collect();
        let mut open = false;
        for selector in &found.selectors {
            match self.labels.get(&selector.metric) {
                None => wrong.push(format!("there is no metric {:?}", selector.metric)),
                Some(None) => open = true,
                Some(Some(labels)) => {
                    let unknown = selector.labels.iter().filter(|label| !labels.contains(*label));
                    wrong.extend(unknown.map(|label| format!("{} has no label {label}", selector.metric)));
                    possible.extend(labels.iter().cloned());
                }
            }
        }
        if !open {
            let unknown = found.grouping.iter().filter(|label| !possible.contains(*label));
            wrong.extend(unknown.map(|label| format!("nothing in it has the label {label}")));
        }
        wrong
    }
}

#[cfg(test)]
mod tests;
