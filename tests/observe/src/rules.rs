//! `deploy/rules`: alerts and records as data, and which of them have tests.
//!
//! ```text
//! deploy/rules/NAME.yaml ─▶ rules        deploy/rules/tests/NAME.yaml ─▶ which alert fires, which does not, which
//!                                                                        record is asked for
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A recording rule.
    Record {
        /// The series that it writes.
        name: String,
        /// What it computes.
        expression: String,
    },
    /// An alerting rule.
    Alert {
        /// Its name.
        name: String,
        /// When it fires.
        expression: String,
        /// `critical`, `warning` or `info`.
        severity: String,
        /// What it tells people.
        annotations: BTreeMap<String, String>,
    },
}

impl Rule {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Record { name, .. } | Self::Alert { name, .. } => name,
        }
    }

    /// Its expression.
    pub fn expression(&self) -> &str {
        match self {
            Self::Record { expression, .. } | Self::Alert { expression, .. } => expression,
        }
    }
}

/// What the tests say of alerts and records.
#[derive(Clone, Debug, Default)]
pub struct Tested {
    /// Alerts that have to fire, each with the labels that it fires with.
    pub fires: BTreeMap<String, BTreeSet<String>>,
    /// Alerts that have not to.
    pub quiet: BTreeSet<String>,
    /// Series that are asked for and have values.
    pub records: BTreeSet<String>,
}

/// The files of rules.
pub fn files() -> Result<Vec<PathBuf>> {
    yaml_in(&crate::workspace().join("deploy/rules"))
}

/// The files of their tests.
pub fn test_files() -> Result<Vec<PathBuf>> {
    yaml_in(&crate::workspace().join("deploy/rules/tests"))
}

fn yaml_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// The rules of a file, in their order.
pub fn load(path: &Path) -> Result<Vec<Rule>> {
    let file = read(path)?;
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let rules = list(&file, "groups").into_iter().flat_map(|group| list(&group, "rules"));
    rules.map(|rule| of(&rule).with_context(|| format!("{}: {rule}", path.display()))).collect()
}

fn of(rule: &Value) -> Result<Rule> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let expression = text(&rule["expr"]).context("no expr")?;
    match (text(&rule["record"]), text(&rule["alert"])) {
        (Some(name), None) => Ok(Rule::Record { name, expression }),
        (None, Some(name)) => {
            let annotations = rule["annotations"].as_object().context("no annotations")?;
            let annotations = annotations.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?)));
            let severity = text(&rule["labels"]["severity"]).context("no severity")?;
            Ok(Rule::Alert { name, expression, severity, annotations: annotations.collect() })
        }
        _ => bail!("neither a record nor an alert"),
    }
}

/// Reads what the tests of all files ask for.
pub fn tested() -> Result<Tested> {
    let mut tested = Tested::default();
    for path in test_files()? {
        let file = read(&path)?;
        let tests = file["tests"].as_array().cloned().unwrap_or_default();
        for check in tests.iter().flat_map(|test| test["promql_expr_test"].as_array().into_iter().flatten()) {
            let expression = check["expr"].as_str().context("a check without an expression")?;
            let samples = check["exp_samples"].as_array().cloned().unwrap_or_default();
            note(&mut tested, expression, &samples);
        }
    }
    Ok(tested)
}

fn note(tested: &mut Tested, expression: &str, samples: &[Value]) {
    let name = expression.strip_prefix("ALERTS{alertname=\"").and_then(|rest| rest.strip_suffix("\"}"));
    match name {
        None => {
            let metrics = crate::promql::mentions(expression).selectors.into_iter();
            let found = metrics.map(|selector| selector.metric).filter(|_| !samples.is_empty());
            tested.records.extend(found);
        }
        Some(name) if samples.is_empty() => {
            tested.quiet.insert(name.to_owned());
        }
        Some(name) => {
            for sample in samples {
                let labels = crate::promql::mentions(sample["labels"].as_str().unwrap_or_default());
                let labels = labels.selectors.into_iter().flat_map(|selector| selector.labels);
                tested.fires.entry(name.to_owned()).or_default().extend(labels);
            }
        }
    }
}

/// The labels that a template of an annotation prints.
pub fn labels_in_template(text: &str) -> Vec<String> {
    let rest = text.match_indices("$labels.").map(|(at, word)| &text[at + word.len()..]);
    rest.map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()).collect()
}

#[cfg(test)]
mod tests;
