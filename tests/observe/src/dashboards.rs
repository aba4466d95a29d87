//! `deploy/dashboards`: panels, variables and queries of each dashboard, as data.
//!
//! ```text
//! JSON ─▶ Dashboard ─▶ panels ─▶ queries ─ variables put in ─▶ PromQL ─▶ `live`: run against a Prometheus
//!                   └▶ `schema`: what Grafana would complain of, or a reader
//! ```
//!
//! Not here: which metrics there are (`names`).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

pub mod live;
pub mod schema;

/// One file.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// The file's name without its ending.
    pub name: String,
    /// The file.
    pub text: String,
    /// What is in it.
    pub json: Value,
}

/// One question to Prometheus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// `mesh`, `workload` …
    pub dashboard: String,
    /// The panel's title, or `$name` for a variable.
    pub panel: String,
    /// Which of its queries.
    pub reference: String,
    /// As it stands in the file.
    pub expression: String,
}

/// What stands for Grafana's variables: names without `$`, and PromQL text.
#[derive(Clone, Debug)]
pub struct Variables(BTreeMap<String, String>);

impl Default for Variables {
    /// Intervals for a Prometheus that scrapes every second; every instance.
    fn default() -> Self {
        Self(BTreeMap::new())
            .with("__rate_interval", "10s")
            .with("__interval", "5s")
            .with("__range", "30s")
            .with("__range_s", "30")
            .with("instance", ".*")
    }
}

impl Variables {
    /// Sets one.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Puts them into an expression: `$name`, `${name}`, `${name:format}`.
    pub fn put_into(&self, expression: &str) -> Result<String> {
        let mut result = String::new();
        let mut rest = expression;
        while let Some(at) = rest.find('$') {
            result.push_str(&rest[..at]);
            let (name, after) = variable(&rest[at..]);
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                // `$1` of label_replace, or a lone sign.
                result.push_str(&rest[at..rest.len() - after.len()]);
            } else {
                let value = self
                    .0
                    .get(name)
                    .with_context(|| format!("nothing stands for ${name} in {expression}"))?;
                result.push_str(value);
            }
            rest = after;
        }
        result.push_str(rest);
        Ok(result)
    }
}

/// The name of the variable that the text begins with, and what follows.
fn variable(text: &str) -> (&str, &str) {
    let word =
        |text: &str| text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    if let Some(braced) = text.strip_prefix("${")
        && let Some((inside, after)) = braced.split_once('}')
    {
        return (&inside[..word(inside)], after);
    }
    let bare = &text[1..];
    bare.split_at(word(bare))
}

/// Names of the variables in a text, Grafana's own ones too.
pub fn variables_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (name, after) = variable(&rest[at..]);
        if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
            found.push(name.to_owned());
        }
        rest = after;
    }
    found
}

/// All dashboards.
pub fn load() -> Result<Vec<Dashboard>> {
    let directory = crate::workspace().join("deploy/dashboards");
    let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path)?;
            let json = serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
            let name = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
            Ok(Dashboard { name, text, json })
        })
        .collect()
}

impl Dashboard {
    /// Its panels, those inside collapsed rows too.
    pub fn panels(&self) -> Vec<&Value> {
        let top = || self.json["panels"].as_array().into_iter().flatten();
        let inner = top().flat_map(|panel| panel["panels"].as_array().into_iter().flatten());
        top().chain(inner).collect()
    }

    /// Its variables.
    pub fn variables(&self) -> Vec<&Value> {
        self.json["templating"]["list"].as_array().into_iter().flatten().collect()
    }

    /// What its panels ask.
    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push(self.query(&panel["title"], &target["refId"], &target["expr"]));
            }
        }
        queries
    }

    /// What its variables ask, as expressions that have a value where the variable has one.
    pub fn variable_queries(&self) -> Vec<Query> {
        let asking = self.variables().into_iter().filter(|variable| variable["type"] == "query");
        asking
            .map(|variable| {
                let text = variable["query"]["query"].as_str().unwrap_or_default();
                let name = format!("${}", variable["name"].as_str().unwrap_or_default());
                self.query(&name.into(), &variable["query"]["refId"], &expression_of(text).into())
            })
            .collect()
    }

    fn query(&self, panel: &Value, reference: &Value, expression: &Value) -> Query {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Query {
            dashboard: self.name.clone(),
            panel: text(panel),
            reference: text(reference),
            expression: text(expression),
        }
    }
}

/// `query_result(E)` asks E; `label_values(M, L)` asks for the values of L.
fn expression_of(text: &str) -> String {
    let inside = |function: &str| text.strip_prefix(function)?.strip_suffix(')');
    if let Some(expression) = inside("query_result(") {
        return expression.to_owned();
    }
    match inside("label_values(").and_then(|arguments| arguments.rsplit_once(',')) {
        Some((metric, label)) => format!("count by ({}) ({metric})", label.trim()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
