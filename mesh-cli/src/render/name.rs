//! One name a line, as `kubectl -o name` writes them: `pod/shop/web-0`.
//!
//! Made of the keys that an object has: namespace and name, else the account of its identity, else a number or a UID.

use mesh_model::Identity;
use serde_json::Value;

use super::printable;

/// `KIND/NAME` of one object; `nouns` is what a list of them is called.
pub(crate) fn of(nouns: &str, value: &Value) -> String {
    let text = |key: &str| match value.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let named = || {
        let name = text("name")?;
        Some(text("namespace").map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}")))
    };
    let account = || {
        let identity: Identity = text("identity")?.parse().ok()?;
        Some(format!("{}/{}", identity.namespace(), identity.service_account()))
    };
    // Numbers are unique on a node only.
    let number = || Some(text("node").map_or_else(String::new, |node| node + "/") + &text("id")?);
    let name = named().or_else(account).or_else(number).or_else(|| text("uid")).or_else(|| text("node"));
    printable(&format!("{}/{}", singular(nouns), name.unwrap_or_default()))
}

fn singular(nouns: &str) -> String {
    match (nouns.strip_suffix("ies"), nouns.strip_suffix('s')) {
        (Some(stem), _) => format!("{stem}y"),
        (None, Some(stem)) => stem.into(),
        (None, None) => nouns.into(),
    }
}
