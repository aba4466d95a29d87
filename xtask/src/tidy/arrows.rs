//! Who may depend on whom.
//!
//! ```text
//! 0 mesh-common  1 mesh-model  2 mesh-crd, mesh-identity, mesh-telemetry  3 mesh-hbone, mesh-xds  4 ends  5 lab  6 tests, xtask
//! 7 tests that lean on the cast of other tests
//! ```
//!
//! A crate depends on lower layers only. So wires never see an end, and ends never see each other. Beside that, what an
//! end links in all, through whatever it depends on, is bounded by its privilege.

use super::{Package, Verdict};
use crate::paths::Workspace;
use crate::process;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;

const LAYERS: [&[&str]; 8] = [
    &["mesh-common"],
    &["mesh-model"],
    &["mesh-crd", "mesh-identity", "mesh-telemetry"],
    &["mesh-hbone", "mesh-xds"],
    &["mesh-agent", "mesh-controller", "mesh-cli", "mesh-ebpf"],
    &["lab"],
    &[
        "bench",
        "datapath",
        "ebpf-tests",
        "escapes",
        "exhaustion",
        "foreign",
        "hostile",
        "kube-tests",
        "observe",
        "policy",
        "xtask",
    ],
    &["faults"],
];

/// An end, what it must never link, and why.
const NEVER: [(&str, &[&str], &str); 2] = [
    ("mesh-agent", &["kube", "kube-client", "k8s-openapi"], "it is privileged on every node"),
    ("mesh-controller", &["mesh-hbone", "aya", "aya-obj"], "it holds the signing key"),
];

pub(super) fn check(workspace: &Workspace, packages: &[Package]) -> Result<Vec<Verdict>> {
    Ok(vec![
        ("crates depend on lower layers only", layers(packages)),
        (
            "the agent never links kube, the controller never mesh-hbone or aya",
            closures(workspace, packages)?,
        ),
    ])
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn layers(packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in packages {
        let Some(own) = layer(&package.name) else {
            wrong.push(format!("{} is in no layer; add it to xtask/src/tidy/arrows.rs", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            if layer(dependency).is_some_and(|other| other >= own) {
                wrong.push(format!("{} depends on {dependency}", package.name));
            }
        }
    }
    wrong
}

fn closures(workspace: &Workspace, packages: &[Package]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (end, never, why) in NEVER {
        if packages.iter().all(|package| package.name != end) {
            continue;
        }
        let linked = linked(workspace, end)?;
        wrong.extend(
            never
                .iter()
                .filter(|name| linked.contains(**name))
                .map(|name| format!("{end} links {name}: {why}")),
        );
    }
    Ok(wrong)
}

/// All that a package links when it is built by itself.
fn linked(workspace: &Workspace, package: &str) -> Result<BTreeSet<String>> {
    let tree = |offline: &[&str]| {
        let mut cargo = process::cargo();
        cargo.current_dir(&workspace.root).args(["tree", "--locked", "--package", package]);
        cargo.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]).args(offline);
        process::output(&mut cargo)
    };
    let text = tree(&["--offline"]).or_else(|| tree(&[])).context("`cargo tree` fails; run it to see why")?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
