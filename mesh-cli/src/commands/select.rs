//! `--field-selector`: rows by the values that `-o json` shows of them.
//!
//! `KEY=VALUE`, `KEY==VALUE` and `KEY!=VALUE`, with commas between, all of which must hold. A key is a path: `dst.service`. `null` and
//! a key that a row lacks are the empty text; a list fits if one of its values does.

use std::str::FromStr;

use serde_json::Value;

use crate::render::human;

#[cfg(test)]
mod tests;

/// What a row must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldSelector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    key: String,
    value: String,
    /// `=` and not `!=`.
    equal: bool,
}

impl FromStr for FieldSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let term = |part: &str| {
            let (key, value, equal) = match part.split_once("!=") {
                Some((key, value)) => (key, value, false),
                None => {
                    let (key, value) = part.split_once('=')?;
                    (key, value.strip_prefix('=').unwrap_or(value), true)
                }
            };
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            (!key.is_empty()).then_some(Term { key, value, equal })
        };
        let terms = text.split(',').map(|part| {
            term(part).ok_or_else(|| format!("--field-selector {part:?}: write KEY=VALUE or KEY!=VALUE"))
        });
        Ok(Self(terms.collect::<Result<_, _>>()?))
    }
}

impl FieldSelector {
    /// Whether a row says so.
    pub(super) fn covers(&self, row: &Value) -> bool {
        self.0.iter().all(|term| fits(at(row, &term.key).unwrap_or(&Value::Null), &term.value) == term.equal)
    }

    /// A key that no row has is a slip of the pen. Without rows nobody can tell.
    pub(super) fn check<'a>(&self, rows: impl Iterator<Item = &'a Value> + Clone) -> Result<(), String> {
        let Some(first) = rows.clone().next() else { return Ok(()) };
        for term in &self.0 {
            if rows.clone().any(|row| at(row, &term.key).is_some()) {
                continue;
            }
            let mut known = Vec::new();
            keys(first, "", &mut known);
            let mut alike: Vec<String> =
                known.iter().filter(|known| human::is_like(known, &term.key)).cloned().collect();
            if alike.is_empty() {
                alike = known;
            }
            return Err(format!(
                "--field-selector: no row has a key {}: there is {}",
                term.key,
                human::list(alike)
            ));
        }
        Ok(())
    }
}

fn at<'a>(row: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(row, |value, key| value.get(key))
}

fn fits(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Null => wanted.is_empty(),
        Value::String(text) => text == wanted,
        Value::Array(values) => values.iter().any(|value| fits(value, wanted)),
        other => {
            let text = other.to_string();
            text == wanted
        }
    }
}

fn keys(value: &Value, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(_) => keys(value, &key, found),
            _ => found.push(key),
        }
    }
}
