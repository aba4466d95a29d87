//! The API server's audit log: who asked for what, and what the answer was.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// One request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// `system:serviceaccount:weft-system:weft-controller`, say.
    pub user: String,
    /// `get`, `list`, `watch`, `create` …
    pub verb: String,
    /// API group; empty for the core.
    pub group: String,
    /// `pods`, or `pods/status` for a subresource; empty for a path that is no resource.
    pub resource: String,
    /// Namespace; empty for what has none, or for all of them.
    pub namespace: String,
    /// Name; empty for lists and watches.
    pub name: String,
    /// The path with its query.
    pub uri: String,
    /// HTTP status of the answer.
    pub code: u16,
}

/// Reads the log. A last line that is still being written is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<Request>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|line| request(&line)).collect())
}

fn request(line: &Value) -> Request {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &line["objectRef"];
    let mut resource = word(&object["resource"]);
    if let Some(sub) = object["subresource"].as_str() {
        resource = format!("{resource}/{sub}");
    }
    let code = line["responseStatus"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    Request {
        user: word(&line["user"]["username"]),
        verb: word(&line["verb"]),
        group: word(&object["apiGroup"]),
        resource,
        namespace: word(&object["namespace"]),
        name: word(&object["name"]),
        uri: word(&line["requestURI"]),
        code: code.unwrap_or_default(),
    }
}
