//! Where the node's cgroups are mounted, and which of them is the agent's own.
//!
//! A DaemonSet's pod has a cgroup namespace of its own: there `/proc/self/cgroup` says `0::/`, and a cgroup2 file system
//! mounted for the container begins at the container. Taken at its word, that would let a wrong cgroup pass the hooks. So
//! the agent believes a directory alone in whose `cgroup.procs` its own pid stands: the kernel writes each reader the pids
//! of the reader's own pid namespace, and lists a process in one cgroup only.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};

#[cfg(test)]
mod tests;

/// Where cgroup2 is mounted (mountinfo, proc(5)). Of several mounts the one that reaches highest: a container sees the node's
/// beside its own.
pub fn mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    highest(&mounts).context("cgroup2 is not mounted (`mount -t cgroup2 none /sys/fs/cgroup`)")
}

fn highest(mountinfo: &str) -> Option<PathBuf> {
    let mut best: Option<(Option<usize>, PathBuf)> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(at)) = (fields.next(), fields.next()) else { continue };
        if !right.starts_with("cgroup2 ") {
            continue;
        }
        let height = height(Path::new(root));
        if best.as_ref().is_none_or(|(other, _)| height > *other) {
            best = Some((height, at.into()));
        }
    }
    best.map(|(_, path)| path)
}

/// How far above the reader's own root a mount begins; none: below it.
fn height(root: &Path) -> Option<usize> {
    let mut up = 0;
    for component in root.components() {
        match component {
            Component::ParentDir => up += 1,
            Component::RootDir => {}
            _ => return None,
        }
    }
    Some(up)
}

/// The id of this process's own cgroup, found below the directory of the hooks, or else below the mount.
pub fn own_cgroup(hooks: &Path) -> anyhow::Result<u64> {
    let own = std::process::id();
    let mount = mount()?;
    // Without a namespace of its own the kernel says where to look.
    let said = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = said.lines().find_map(|line| line.strip_prefix("0::/")).map(|path| mount.join(path));
    let path = path.filter(|path| holds(path, own));
    let Some(path) = path.or_else(|| search(hooks, own)).or_else(|| search(&mount, own)) else {
        bail!(
            "pid {own} is in no cgroup.procs below {} and {}: mount the node's whole cgroup2 hierarchy (hostPath /sys/fs/cgroup) \
             and name it with --cgroup",
            hooks.display(),
            mount.display()
        );
    };
    let id = fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?.ino();
    tracing::debug!(path = %path.display(), id, "the agent's own cgroup");
    Ok(id)
}

/// Whether a process is in the cgroup itself.
pub fn holds(cgroup: &Path, pid: u32) -> bool {
    fs::read_to_string(cgroup.join("cgroup.procs"))
        .is_ok_and(|list| list.lines().any(|line| line.parse() == Ok(pid)))
}

/// The cgroup at or below a directory that holds a process.
pub fn search(top: &Path, pid: u32) -> Option<PathBuf> {
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        if holds(&directory, pid) {
            return Some(directory);
        }
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    None
}
