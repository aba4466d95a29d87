//! What is left of the mesh on the nodes: pins, programs at the nodes' cgroups, listeners in pods. After an uninstall,
//! nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use lab::Lab;

const PORTS: [u16; 3] = [15001, 15006, 15008];

/// Everything of the mesh that is still on the lab's nodes, in words.
pub fn left(lab: &Lab) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for node in lab.nodes() {
        found.extend(left_on(lab, node.name())?);
    }
    Ok(found)
}

/// The same for one node.
pub fn left_on(lab: &Lab, name: &str) -> Result<Vec<String>> {
    let node = lab.node(name);
    let mut found: Vec<String> =
        files(&lab.place().bpffs(name)).iter().map(|pin| format!("the pin {}", pin.display())).collect();
    let programs = Command::new("bpftool")
        .args(["-j", "cgroup", "show"])
        .arg(node.cgroup().path())
        .output()
        .context("start bpftool")?;
    let programs: serde_json::Value = serde_json::from_slice(&programs.stdout).unwrap_or_default();
    for program in programs.as_array().into_iter().flatten() {
        found.push(format!("the program {} at the cgroup of node {name}", program["name"]));
    }
    for pod in lab.pods().iter().filter(|pod| pod.node().name() == name) {
        let ports = pod.listening_ports()?;
        for port in ports.iter().filter(|port| PORTS.contains(port)) {
            found.push(format!("a listener on {port} in {}", pod.key()));
        }
    }
    Ok(found)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
