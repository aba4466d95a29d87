//! A node's first agent: the pods that run already go on as they are until the world is known.
//!
//! An unknown pod's connects are refused, so that nothing slips past a capture that is about to come. On a node that never
//! had an agent nothing was captured, and whoever runs there did so without the mesh: refusing all of them for as long as
//! the controller takes to start would make the installation an outage. So they are recorded as excluded, as a predecessor
//! would have left them, with a mark: their connections are dealt with once they turn out to be labelled.
//!
//! Invariants: before the first hook; never where there are pins or a cache, which a boot leaves. A pod that is started
//! later is unknown, and refused, until it is classified. A connection of theirs is nobody's identity.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_common::{CgroupEntry, PodEntry};

use super::find::{Directory, classify};
use crate::kernel::MapFailure;
use crate::kernel::maps::{Maps, cgroup_id};

#[cfg(test)]
mod tests;

/// Records every pod below kubelet's directories so; how many they are.
pub fn spare_running(maps: &Maps, kubepods: &[PathBuf]) -> Result<usize, MapFailure> {
    let mut spared = 0;
    for directory in running(kubepods) {
        // One that is gone by now needs no leave.
        let Ok(id) = cgroup_id(&directory) else { continue };
        let state = PodEntry::STATE_EXCLUDED;
        maps.set_cgroup(id, CgroupEntry { netns_cookie: 0, state, flags: CgroupEntry::EARLIER })?;
        spared += 1;
    }
    Ok(spared)
}

/// The directories of all pods.
fn running(kubepods: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = kubepods.to_vec();
    while let Some(directory) = open.pop() {
        for (path, kind) in below(&directory) {
            match kind {
                Directory::Pod(_) => found.push(path),
                Directory::Class => open.push(path),
                _ => {}
            }
        }
    }
    found
}

fn below(directory: &Path) -> Vec<(PathBuf, Directory)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| Some((entry.path(), classify(entry.file_name().to_str()?)))).collect()
}
