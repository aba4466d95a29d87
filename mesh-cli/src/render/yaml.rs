//! YAML: the same keys as in JSON, in the same order.

use serde_json::Value;

/// `value` as one document. What is read here came as JSON, and all of JSON can be written as YAML.
pub(crate) fn render(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
