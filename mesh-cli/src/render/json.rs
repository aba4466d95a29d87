//! JSON for scripts: indented, one value, ends with a newline.

use serde::Serialize;

/// `value` as text. What meshctl prints came from JSON or from its own structs, so it can be written.
pub(crate) fn render(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
