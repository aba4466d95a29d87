//! What is refused in an AuthorizationPolicy, and of what a MeshConfig says on plaintext.
//!
//! Rules are kept to what is cheap: they stand in lists of lists, and the API server reckons with all of them full. Forms of names,
//! addresses and SPIFFE IDs are patterns here, and are read once more, with better words, by the controller (condition `Accepted`).

use serde_json::{Value, json};

use super::{Limits, PORT, conditions, rule, rules};

/// RFC 1123 subdomain.
const NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// Of Kubernetes' label keys and values, loosely: what matters is the length.
const LABEL: u64 = 317;

pub(super) fn authorization_policy_limits() -> Limits {
    let mut limits = vec![
        ("spec.targetRefs", json!({"minItems": 1, "maxItems": 16})),
        ("spec.targetRefs[]", rules(&targets())),
        ("spec.targetRefs[].group", json!({"maxLength": 0})),
        ("spec.targetRefs[].name", name()),
        ("spec.rules", json!({"maxItems": 64})),
        ("spec.rules[].sources", json!({"maxItems": 64})),
        (
            "spec.rules[].sources[]",
            rules(&[rule(
                "has(self.spiffe) || has(self.serviceAccount) || has(self.namespace) || has(self.ipBlock) || has(self.not)",
                "a source sets spiffe, serviceAccount, namespace, ipBlock or not; leave sources out for anybody",
            )]),
        ),
        ("spec.rules[].sources[].not", json!({"minItems": 1, "maxItems": 16})),
        (
            "spec.rules[].sources[].not[]",
            rules(&[rule(
                "has(self.spiffe) || has(self.serviceAccount) || has(self.namespace) || has(self.ipBlock)",
                "set spiffe, serviceAccount, namespace or ipBlock",
            )]),
        ),
        ("spec.rules[].networkAttributes.ports", json!({"minItems": 1, "maxItems": 64})),
        ("spec.rules[].networkAttributes.ports[]", port()),
        ("spec.rules[].httpAttributes.methods", json!({"maxItems": 16})),
        ("spec.rules[].httpAttributes.methods[]", json!({"minLength": 1, "maxLength": 32})),
        ("spec.rules[].httpAttributes.paths", json!({"maxItems": 64})),
        ("spec.rules[].httpAttributes.paths[]", json!({"minLength": 1, "maxLength": 1024})),
        ("spec.rules[].httpAttributes.hosts", json!({"maxItems": 64})),
        ("spec.rules[].httpAttributes.hosts[]", json!({"minLength": 1, "maxLength": 253})),
        ("status.conditions", conditions()),
    ];
    limits.extend(selector([
        "spec.targetRefs[].selector.matchExpressions",
        "spec.targetRefs[].selector.matchExpressions[].key",
        "spec.targetRefs[].selector.matchExpressions[].values",
        "spec.targetRefs[].selector.matchExpressions[].values[]",
        "spec.targetRefs[].selector.matchLabels",
    ]));
    limits.extend(source([
        "spec.rules[].sources[].spiffe",
        "spec.rules[].sources[].serviceAccount.namespace",
        "spec.rules[].sources[].serviceAccount.name",
        "spec.rules[].sources[].namespace",
        "spec.rules[].sources[].ipBlock.cidr",
        "spec.rules[].sources[].ipBlock.except",
        "spec.rules[].sources[].ipBlock.except[]",
    ]));
    limits.extend(source([
        "spec.rules[].sources[].not[].spiffe",
        "spec.rules[].sources[].not[].serviceAccount.namespace",
        "spec.rules[].sources[].not[].serviceAccount.name",
        "spec.rules[].sources[].not[].namespace",
        "spec.rules[].sources[].not[].ipBlock.cidr",
        "spec.rules[].sources[].not[].ipBlock.except",
        "spec.rules[].sources[].not[].ipBlock.except[]",
    ]));
    limits
}

pub(super) fn mtls_limits() -> Limits {
    let mut limits = vec![
        ("spec.mtlsOverrides", json!({"maxItems": 64})),
        ("spec.mtlsOverrides[].namespaces", json!({"minItems": 1, "maxItems": 64})),
        ("spec.mtlsOverrides[].namespaces[]", name()),
        ("spec.mtlsOverrides[].ports", json!({"minItems": 1, "maxItems": 64})),
        ("spec.mtlsOverrides[].ports[]", port()),
    ];
    limits.extend(selector([
        "spec.mtlsOverrides[].podSelector.matchExpressions",
        "spec.mtlsOverrides[].podSelector.matchExpressions[].key",
        "spec.mtlsOverrides[].podSelector.matchExpressions[].values",
        "spec.mtlsOverrides[].podSelector.matchExpressions[].values[]",
        "spec.mtlsOverrides[].podSelector.matchLabels",
    ]));
    limits
}

fn targets() -> [Value; 3] {
    [
        rule(
            "self.kind == 'Pod' ? has(self.selector) && !has(self.name) : !has(self.selector)",
            "kind Pod is selected by labels (selector: {} is all of them) and not by name; other kinds have no selector",
        ),
        rule("self.kind != 'Service' || has(self.name)", "name the Service"),
        rule(
            "!has(self.group) || self.group == ''",
            "Pod, Service and Namespace are of the core group: leave group empty",
        ),
    ]
}

/// Of a selector: expressions, keys, values, one value, labels.
fn selector(paths: [&'static str; 5]) -> Limits {
    let [expressions, key, values, value, labels] = paths;
    vec![
        (expressions, json!({"maxItems": 16})),
        (key, json!({"maxLength": LABEL})),
        (values, json!({"maxItems": 64})),
        (value, json!({"maxLength": LABEL})),
        (labels, json!({"maxProperties": 32})),
    ]
}

/// Of a source: SPIFFE ID, namespace and name of a service account, namespace, CIDR, exceptions, one exception.
fn source(paths: [&'static str; 7]) -> Limits {
    let [spiffe, account_namespace, account, namespace, cidr, excepts, except] = paths;
    vec![
        (spiffe, json!({"minLength": 1, "maxLength": 2048, "pattern": "^spiffe://[^/]+/.+$"})),
        (account_namespace, name()),
        (
            account,
            json!({"minLength": 1, "maxLength": 253, "pattern": "^([*]|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)$"}),
        ),
        (namespace, name()),
        (cidr, address()),
        (excepts, json!({"maxItems": 32})),
        (except, address()),
    ]
}

fn name() -> Value {
    json!({"minLength": 1, "maxLength": 253, "pattern": NAME})
}

fn address() -> Value {
    json!({"minLength": 1, "maxLength": 49, "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"})
}

fn port() -> Value {
    json!({"minimum": 1, "maximum": 65535, "maxLength": 11, "pattern": format!("^{PORT}(-{PORT})?$")})
}
