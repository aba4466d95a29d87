//! What the tests of observability share: a real Prometheus, its rules' checker, the dashboards as data.
//!
//! ```text
//! deploy/dashboards/*.json ─▶ dashboards: panels, queries, what Grafana would complain of ─┐
//! deploy/rules/*.yaml ──────▶ rules: alerts and records, and which tests they have ────────┤
//! docs/metrics.md ──────────▶ names: what there is to ask for ────────────────────────────┼─▶ prometheus: runs them
//! agents, or `synthetic` ───▶ what is scraped ────────────────────────────────────────────┘   promtool: checks them
//! ```
//!
//! Invariants: a Prometheus listens on loopback alone and ends with its handle, whatever way the test ends. Not here:
//! Grafana itself; what its schema asks for is in `dashboards/schema.rs`, in our words.

use std::path::{Path, PathBuf};

pub mod access;
pub mod cli;
pub mod dashboards;
pub mod exposition;
pub mod names;
pub mod prometheus;
pub mod promql;
pub mod promtool;
pub mod rules;
pub mod scrape;
pub mod secrets;
pub mod setting;
pub mod stage;
pub mod synthetic;

/// The root of the workspace, for its dashboards, rules and documents.
pub fn workspace() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let own = own.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    own.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

/// A program of the system, in `PATH` or where administrators' programs are.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Which of these programs is not here, in words for a skipped row.
pub fn missing(programs: &[&str]) -> Option<String> {
    let absent: Vec<&str> = programs.iter().copied().filter(|name| program(name).is_none()).collect();
    (!absent.is_empty()).then(|| format!("{} not here: run `cargo xtask setup`", absent.join(", ")))
}
