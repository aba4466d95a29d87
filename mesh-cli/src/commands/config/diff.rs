//! What differs between two dumps: objects by kind and name, fields by path.
//!
//! Pure: JSON in, changes out. What belongs to the moment and not to what is held (when it was asked for, on which node, by
//! which version of the world) is left out, so that two nodes can be compared.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::render::Tone;

#[cfg(test)]
mod tests;

/// Characters of a value in a line.
const SHORT: usize = 60;

/// Objects by kind and key.
#[derive(Debug, Default)]
pub(super) struct Items {
    all: BTreeMap<(&'static str, String), Item>,
    /// They are what a controller knows: no settings, no node, and of Services only that they are there. Which pods are behind one it
    /// tells by the selector, an agent by what is ready, so that there is nothing to compare.
    of_controller: bool,
}

#[derive(Debug)]
struct Item {
    /// As people know it.
    name: String,
    value: Value,
}

/// An object that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    /// setting, mesh, node, workload, service, or policy.
    pub(super) kind: &'static str,
    /// Which.
    pub(super) name: String,
    /// How.
    pub(super) change: How,
    /// What of it, where it is in both.
    pub(super) fields: Vec<Field>,
}

/// How an object differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    /// It is in the first alone.
    OnlyLeft,
    /// It is in the second alone.
    OnlyRight,
    /// It is in both.
    Differs,
}

/// A field that differs; null is what is not there.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Field {
    /// Keys and places, with dots.
    pub(super) path: String,
    /// In the first.
    pub(super) left: Value,
    /// In the second.
    pub(super) right: Value,
}

impl Change {
    /// How it is marked.
    pub(super) fn sign(&self) -> (Tone, char) {
        match self.change {
            How::OnlyLeft => (Tone::Bad, '-'),
            How::OnlyRight => (Tone::Good, '+'),
            How::Differs => (Tone::Warn, '~'),
        }
    }
}

impl Items {
    /// What a dump holds: an agent's, or a controller's (`policy dump`).
    pub(super) fn of_dump(dump: &Value) -> Self {
        if dump["settings"].is_null() && dump["observed"].is_array() {
            return Self::of_controller(dump);
        }
        let mut items = Self::default();
        for setting in list(dump, "settings") {
            let name = text(setting, "name");
            // Who it is, and not what it holds.
            if name != "node" {
                items.add(
                    "setting",
                    name.clone(),
                    name,
                    json!({"value": setting["value"], "from": setting["from"]}),
                );
            }
        }
        if !dump["node_info"].is_null() {
            let mut info = dump["node_info"].clone();
            remove(&mut info, "name");
            remove(&mut info, "addresses");
            items.add("node", String::new(), "zone".into(), info);
        }
        items.add_world(dump);
        for service in list(dump, "services") {
            let name = full_name(service);
            items.add("service", name.clone(), name, service.clone());
        }
        items
    }

    /// What a controller's world holds.
    pub(super) fn of_controller(world: &Value) -> Self {
        Self::as_a_controller_knows(world)
    }

    /// Of an agent's dump what a controller's world has as well.
    pub(super) fn as_a_controller_knows(dump: &Value) -> Self {
        let mut items = Self { of_controller: true, ..Self::default() };
        items.add_world(dump);
        for service in list(dump, "services") {
            let name = full_name(service);
            items.add("service", name.clone(), name, Value::Null);
        }
        items
    }

    fn add_world(&mut self, world: &Value) {
        if !world["mesh"].is_null() {
            self.add("mesh", String::new(), "MeshConfig".into(), world["mesh"].clone());
        }
        for workload in list(world, "workloads") {
            let mut value = workload.clone();
            // Only a controller knows them.
            remove(&mut value, "labels");
            self.add("workload", text(workload, "uid"), full_name(workload), value);
        }
        for policy in list(world, "policies") {
            let name = full_name(&policy["key"]);
            self.add("policy", name.clone(), name, policy.clone());
        }
    }

    fn add(&mut self, kind: &'static str, key: String, name: String, value: Value) {
        self.all.insert((kind, key), Item { name, value });
    }

    /// What is different in another one, by kind and name.
    pub(super) fn changes(&self, right: &Self) -> Vec<Change> {
        let only = |kind: &'static str, item: &Item, change| Change {
            kind,
            name: item.name.clone(),
            change,
            fields: Vec::new(),
        };
        // Where one of both is a controller's, both are compared by what a controller knows.
        let by_controller = self.of_controller || right.of_controller;
        let counts = |kind: &str| !by_controller || !matches!(kind, "setting" | "node");
        let mut changes = Vec::new();
        for ((kind, key), item) in self.all.iter().filter(|((kind, _), _)| counts(kind)) {
            match right.all.get(&(*kind, key.clone())) {
                None => changes.push(only(kind, item, How::OnlyLeft)),
                Some(_) if by_controller && *kind == "service" => {}
                Some(other) => {
                    let mut fields = Vec::new();
                    compare("", &item.value, &other.value, &mut fields);
                    if !fields.is_empty() {
                        changes.push(Change { kind, name: item.name.clone(), change: How::Differs, fields });
                    }
                }
            }
        }
        let new = right.all.iter().filter(|(key, _)| counts(key.0) && !self.all.contains_key(*key));
        changes.extend(new.map(|((kind, _), item)| only(kind, item, How::OnlyRight)));
        changes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        changes
    }
}

fn compare(path: &str, left: &Value, right: &Value, into: &mut Vec<Field>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (left, right) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, left) in one {
                compare(&below(key), left, other.get(key).unwrap_or(&Value::Null), into);
            }
            for (key, right) in other.iter().filter(|(key, _)| !one.contains_key(*key)) {
                compare(&below(key), &Value::Null, right, into);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (place, (left, right)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}[{place}]"), left, right, into);
            }
        }
        (left, right) if left != right => {
            into.push(Field { path: path.into(), left: left.clone(), right: right.clone() });
        }
        _ => {}
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn remove(value: &mut Value, key: &str) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(key);
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn full_name(value: &Value) -> String {
    format!("{}/{}", text(value, "namespace"), text(value, "name"))
}

/// A value as people write it; nothing for null.
pub(super) fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.iter().all(|one| !one.is_object() && !one.is_array()) => {
            all.iter().map(words).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// The same, cut.
pub(super) fn short(value: &Value) -> String {
    let words = words(value);
    if words.is_empty() {
        return crate::render::NONE.into();
    }
    match words.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}
