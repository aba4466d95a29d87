//! What is refused of what a MeshConfig says on metrics and the access log.

use serde_json::json;

use super::Limits;

pub(super) fn limits() -> Limits {
    vec![
        ("spec.metrics.maxSeries", json!({"minimum": 1_000, "maximum": 1_000_000})),
        ("spec.accessLog.sample", json!({"minimum": 0, "maximum": 1})),
        (
            "spec.accessLog.namespaces",
            json!({"minItems": 1, "maxItems": 64, "x-kubernetes-list-type": "set"}),
        ),
        (
            "spec.accessLog.namespaces[]",
            json!({"minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
        ),
        (
            "spec.accessLog.minDuration",
            json!({"minLength": 2, "maxLength": 24, "pattern": "^([0-9]{1,9}(ms|s|m|h|d))+$"}),
        ),
    ]
}
