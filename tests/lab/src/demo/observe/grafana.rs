//! What a Grafana reads at its start, ready to use: the data source, and the dashboards of `deploy/dashboards`.
//!
//! ```text
//! DIR/grafana/provisioning/datasources/weft.yaml ─▶ the demo's Prometheus
//! DIR/grafana/provisioning/dashboards/weft.yaml ──▶ DIR/grafana/dashboards/*.json
//! ```
//!
//! Not here: Grafana itself, which no distribution brings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::scraper::INTERVAL;

#[cfg(test)]
mod tests;

/// The dashboards, all of them.
pub(super) const DASHBOARDS: [(&str, &str); 5] = [
    ("agents.json", include_str!("../../../../../deploy/dashboards/agents.json")),
    ("control-plane.json", include_str!("../../../../../deploy/dashboards/control-plane.json")),
    ("mesh.json", include_str!("../../../../../deploy/dashboards/mesh.json")),
    ("namespace.json", include_str!("../../../../../deploy/dashboards/namespace.json")),
    ("workload.json", include_str!("../../../../../deploy/dashboards/workload.json")),
];

/// Writes the files below the lab's directory, and says where they are.
pub(super) fn write(lab: &Path, prometheus: &str) -> Result<PathBuf> {
    let directory = lab.join("grafana");
    for (name, text) in files(&directory, prometheus) {
        let path = directory.join(name);
        let context = || format!("write {}", path.display());
        std::fs::create_dir_all(path.parent().unwrap_or(&directory)).with_context(context)?;
        std::fs::write(&path, text).with_context(context)?;
    }
    Ok(directory)
}

/// Names and texts. The two of Grafana's own are JSON, which is YAML too.
fn files(directory: &Path, prometheus: &str) -> Vec<(String, String)> {
    let source = json!({
        "apiVersion": 1,
        "datasources": [{
            "name": "Weft demo",
            "uid": "weft-demo",
            "type": "prometheus",
            "access": "proxy",
            "url": prometheus,
            "isDefault": true,
            "jsonData": { "timeInterval": format!("{}s", INTERVAL.as_secs()) },
        }],
    });
    let provider = json!({
        "apiVersion": 1,
        "providers": [{
            "name": "weft",
            "folder": "Weft",
            "type": "file",
            "options": { "path": directory.join("dashboards") },
        }],
    });
    let mut files: Vec<(String, String)> = [("datasources", source), ("dashboards", provider)]
        .map(|(kind, object)| (format!("provisioning/{kind}/weft.yaml"), format!("{object:#}\n")))
        .into();
    files.extend(DASHBOARDS.map(|(name, text)| (format!("dashboards/{name}"), text.to_owned())));
    files
}
