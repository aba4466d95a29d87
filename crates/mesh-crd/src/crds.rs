//! The CustomResourceDefinitions as an API server gets them: the types' schemas, and what types cannot say.
//!
//! ```text
//! derive(CustomResource) ──▶ tidy (no null, no Rust formats) ──▶ + LIMITS (bounds, rules with messages) ──▶ YAML in the chart
//! ```
//!
//! One table per kind says what is refused and in which words. Invariants: every list and every string that a rule reads is
//! bounded, else the API server would refuse the whole definition for what its rules might cost; no rule reads a field
//! whose own rule failed (an error in a rule hides the message that would help); what passes here also converts
//! (`MeshConfig::settings`).
//!
//! Not here: what a rule cannot afford. Until Kubernetes 1.34 a rule on a value that is a number or a string counts as if the string
//! were as long as a request may be, so the form of ports is a pattern, and a range that runs backwards is accepted here
//! and refused by the controller, in the condition `Accepted`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};

use crate::{AuthorizationPolicy, MeshConfig, NodeState};

mod observe;
mod policies;

#[cfg(test)]
mod tests;

/// One port of a range, 1 to 65535.
const PORT: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// A definition that cannot be made: the tables here and the types do not agree.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The table names a field that the type does not have.
    #[error("{kind}: the schema has no field {path:?}")]
    NoField {
        /// Of the definition.
        kind: String,
        /// As the table has it.
        path: &'static str,
    },
    /// The definition has no place for the annotation, or says what Helm would take for its own.
    #[error("{0} cannot be a template of a chart")]
    Form(String),
    /// The definition is no YAML.
    #[error("a definition does not print")]
    Print(#[from] serde_saphyr::ser::Error),
    /// The definition is no JSON, or not again.
    #[error("a definition does not convert")]
    Convert(#[from] serde_json::Error),
}

/// All of Weft's definitions.
pub fn all() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    [
        (AuthorizationPolicy::crd(), policies::authorization_policy_limits()),
        (MeshConfig::crd(), mesh_config_limits()),
        (NodeState::crd(), node_state_limits()),
    ]
    .into_iter()
    .map(|(crd, limits)| complete(&crd, limits))
    .collect()
}

/// The definitions as templates of the chart `mesh-crds`: file name and text. Kept when the chart goes, unless its value `keep`
/// is false.
pub fn templates() -> Result<Vec<(String, String)>, CrdError> {
    all()?.iter().map(template).collect()
}

fn template(crd: &CustomResourceDefinition) -> Result<(String, String), CrdError> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let yaml = serde_saphyr::to_string(crd)?;
    let form = || CrdError::Form(name.clone());
    if yaml.contains("{{") {
        return Err(form());
    }
    let (before, after) = yaml.split_once("metadata:\n").ok_or_else(form)?;
    let text = format!(
        "# Written by `cargo xtask gen` from crates/mesh-crd; changes here are lost.\n{before}metadata:\n  \
         {{{{- if .Values.keep }}}}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{{{- end }}}}\n{after}"
    );
    Ok((format!("{name}.yaml"), text))
}

type Limits = Vec<(&'static str, Value)>;

/// What is refused in a MeshConfig, and in which words.
fn mesh_config_limits() -> Limits {
    let mut limits = mesh_limits();
    limits.extend(policies::mtls_limits());
    limits.extend(observe::limits());
    limits
}

fn mesh_limits() -> Limits {
    let removed = rule(
        "has(self.trustDomain) == has(oldSelf.trustDomain)",
        "trustDomain cannot be added or removed: every identity begins with it. Uninstall, then install with the other one",
    );
    vec![
        (
            "",
            rules(&[rule(
                "self.metadata.name == 'default'",
                "the MeshConfig of a mesh is named \"default\"; one with another name would have no effect",
            )]),
        ),
        ("spec", rules(&[removed])),
        (
            "spec.trustDomain",
            with(
                json!({"minLength": 1, "maxLength": 255}),
                &[
                    rule(
                        "self.matches('^[a-z0-9._-]+$')",
                        "a trust domain is made of lower-case letters, digits, '.', '-' and '_', without spiffe://, for example cluster.local",
                    ),
                    rule(
                        "self == oldSelf",
                        "trustDomain cannot be changed: every identity begins with it. Uninstall, then install with the other one",
                    ),
                ],
            ),
        ),
        ("spec.excludedCIDRs", json!({"maxItems": 256, "x-kubernetes-list-type": "set"})),
        (
            "spec.excludedCIDRs[]",
            with(
                json!({"minLength": 1, "maxLength": 49}),
                &[rule_saying(
                    "isCIDR(self)",
                    "self + ' is no CIDR: write an address, a slash and a length, for example 10.0.0.0/8 or fd00::/8'",
                    "not a CIDR: write an address, a slash and a length, for example 10.0.0.0/8 or fd00::/8",
                )],
            ),
        ),
        ("spec.excludedPorts", json!({"maxItems": 64, "x-kubernetes-list-type": "set"})),
        (
            "spec.excludedPorts[]",
            json!({"minimum": 1, "maximum": 65535, "maxLength": 11, "pattern": format!("^{PORT}(-{PORT})?$")}),
        ),
        ("spec.bootstrapNamespaces", json!({"maxItems": 64, "x-kubernetes-list-type": "set"})),
        (
            "spec.bootstrapNamespaces[]",
            with(
                json!({"minLength": 1, "maxLength": 63}),
                &[rule_saying(
                    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                    "self + ' cannot be the name of a namespace: lower-case letters, digits and, between them, dashes'",
                    "not the name of a namespace: lower-case letters, digits and, between them, dashes",
                )],
            ),
        ),
        ("spec.kubeletPort", json!({"minimum": 1, "maximum": 65535})),
        ("spec.certificateLifetime", lifetime()),
        ("status.conditions", conditions()),
    ]
}

/// NodeState is written by the controller alone, so only its form is bound.
fn node_state_limits() -> Limits {
    vec![("status.conditions", conditions())]
}

/// Days, hours, minutes and seconds, in this order, each once; together from a minute to 90 days.
fn lifetime() -> Value {
    const FORM: &str = "self.matches('^([0-9]{1,3}d)?([0-9]{1,4}h)?([0-9]{1,6}m)?([0-9]{1,7}s)?$')";
    let seconds = "(self.contains('d') ? int(self.split('d')[0]) * 86400 : 0) + (self.endsWith('d') ? 0 : \
                   duration(self.contains('d') ? self.split('d')[1] : self).getSeconds())";
    with(
        json!({"minLength": 2, "maxLength": 24}),
        &[
            rule_saying(
                FORM,
                "self + ' is no time: write a number with d, h, m or s, for example 24h or 1h30m'",
                "not a time: write a number with d, h, m or s, for example 24h or 1h30m",
            ),
            rule_saying(
                &format!("!{FORM} || ({seconds} >= 60 && {seconds} <= 7776000)"),
                "self + ' is not between 1m and 90d'",
                "not between 1m and 90d",
            ),
        ],
    )
}

/// One condition of each type, so that two writers do not overwrite each other's.
fn conditions() -> Value {
    json!({"maxItems": 16, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// With a message that repeats what was written; the plain one is for when that cannot be worked out.
fn rule_saying(rule: &str, expression: &str, message: &str) -> Value {
    json!({"rule": rule, "messageExpression": expression, "message": message})
}

fn rules(rules: &[Value]) -> Value {
    json!({"x-kubernetes-validations": rules})
}

fn with(mut limits: Value, rules: &[Value]) -> Value {
    limits["x-kubernetes-validations"] = rules.into();
    limits
}

fn complete(crd: &CustomResourceDefinition, limits: Limits) -> Result<CustomResourceDefinition, CrdError> {
    let kind = crd.spec.names.kind.clone();
    let mut value = serde_json::to_value(crd)?;
    let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(schema);
    for (path, limit) in limits {
        let field = field(schema, path).ok_or(CrdError::NoField { kind: kind.clone(), path })?;
        if let Value::Object(limit) = limit {
            field.extend(limit);
        }
    }
    Ok(serde_json::from_value(value)?)
}

/// `spec.list[]`: the schema of the list's items.
fn field<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut at = schema;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let (name, items) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
        at = at.get_mut("properties")?.get_mut(name)?;
        if items {
            at = at.get_mut("items")?;
        }
    }
    at.as_object_mut()
}

/// A field that may be left out need not also be null, which rules would have to expect; and the API server warns of
/// formats that it does not know, such as Rust's.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}
