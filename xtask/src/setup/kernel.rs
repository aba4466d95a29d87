//! What the running kernel and our privileges allow: found by looking, never by a version number.
//!
//! The agent has a preflight of its own that goes further (it loads programs); this one only answers whether it makes
//! sense to start the lab at all.

use super::{Missing, Mode};
use crate::ui::{Found, say, step};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;

const BPFFS: &str = "/sys/fs/bpf";

/// What the agent and the lab need, by number in `linux/capability.h`.
const CAPABILITIES: [(&str, u32); 4] =
    [("NET_ADMIN", 12), ("SYS_PTRACE", 19), ("SYS_ADMIN", 21), ("BPF", 39)];

/// What is missing, without changing anything.
pub(crate) fn problems() -> Vec<Missing> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut missing = Vec::new();
    let mut need = |there: bool, what: &str, remedy: &str| {
        if !there {
            missing.push(Missing { what: what.to_owned(), remedy: remedy.to_owned() });
        }
    };
    let root = nix::unistd::geteuid().is_root();
    need(root, "root", "run the same command as root; `cargo xtask test unit` needs no privilege");
    if root {
        let lacking = lacking_capabilities();
        let what =
            format!("the capabilit{} {}", if lacking.len() == 1 { "y" } else { "ies" }, lacking.join(", "));
        need(lacking.is_empty(), &what, "run outside the container, or in one with --privileged");
    }
    need(
        mount_point(&mounts, "cgroup2").is_some(),
        "a cgroup2 hierarchy",
        "mount -t cgroup2 none /sys/fs/cgroup/unified   (beside v1), or boot with systemd.unified_cgroup_hierarchy=1",
    );
    need(
        mount_point(&mounts, "bpf").is_some(),
        "a mounted bpf filesystem",
        "mount -t bpf bpf /sys/fs/bpf   (as root)",
    );
    need(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "the kernel's type information (/sys/kernel/btf/vmlinux)",
        "a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian's and Ubuntu's are",
    );
    missing
}

/// Mounts the bpf filesystem where it is missing, and reports on the rest.
pub(super) fn ensure(mode: Mode) -> Vec<Missing> {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if mount_point(&mounts(), "bpf").is_none() && nix::unistd::geteuid().is_root() {
        step(Found::Install, "bpf filesystem", &format!("mount -t bpf bpf {BPFFS}"));
        if mode.dry_run {
            return problems()
                .into_iter()
                .filter(|missing| !missing.what.contains("bpf filesystem"))
                .collect();
        }
        if let Err(error) = mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>) {
            say!("         it cannot be mounted: {error}");
        }
    }
    let missing = problems();
    for Missing { what, .. } in &missing {
        mode.missing("kernel", what);
    }
    if missing.is_empty() {
        let place = mount_point(&mounts(), "cgroup2").unwrap_or_default();
        mode.found("kernel", &format!("cgroup2 at {place}, bpf filesystem, BTF, privileges"));
    }
    missing
}

fn lacking_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| *name).collect()
}

/// Where the first filesystem of that type is mounted, out of the text of `/proc/self/mountinfo`.
fn mount_point(mountinfo: &str, kind: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let matches = after.split(' ').next()? == kind;
        matches.then(|| before.split(' ').nth(4).map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests;
