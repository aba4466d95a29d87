//! Whether this node can carry the mesh: asked at start and by `meshctl check`.
//!
//! Features are probed, versions are not compared (the floor, Linux 5.15, is where all required ones came together).
//! A failed check names the thing and the remedy; an optional feature that is missing is a warning that says what is
//! lost.

use std::path::Path;

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_program_supported};
use mesh_telemetry::preflight::{Check, Report};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, FsType, statfs};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// Bits of `CapEff` (linux/capability.h).
const CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (39, "CAP_BPF"), (21, "CAP_SYS_ADMIN"), (19, "CAP_SYS_PTRACE")];

/// Runs every check.
pub fn run(cgroup: &Path, bpffs: &Path) -> Report {
    let mut checks = vec![object(), capabilities(), cgroup2(cgroup), pins(bpffs)];
    checks.extend(features());
    Report::new(checks)
}

fn object() -> Check {
    if super::OBJECT.is_empty() {
        return Check::fail(
            "ebpf-object",
            "this mesh-agent was built without its eBPF object",
            "run `cargo xtask build-ebpf` and build again",
        );
    }
    Check::pass("ebpf-object", format!("{} bytes", super::OBJECT.len()))
}

fn capabilities() -> Check {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Check::pass("capabilities", "all that are needed")
    } else {
        Check::fail(
            "capabilities",
            format!("missing: {}", missing.join(", ")),
            "run as root, or add them to the container's securityContext.capabilities",
        )
    }
}

fn cgroup2(path: &Path) -> Check {
    match statfs(path) {
        Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => {
            Check::pass("cgroup2", format!("{}", path.display()))
        }
        Ok(_) => Check::fail(
            "cgroup2",
            format!("{} is not a cgroup2 directory", path.display()),
            "name the mount of cgroup2 with --cgroup (`findmnt -t cgroup2`)",
        ),
        Err(error) => Check::fail(
            "cgroup2",
            format!("{}: {error}", path.display()),
            "mount cgroup2 and name its directory with --cgroup (`findmnt -t cgroup2`)",
        ),
    }
}

fn pins(path: &Path) -> Check {
    match statfs(path) {
        Ok(fs) if fs.filesystem_type() == BPF_FS => Check::pass("bpffs", format!("{}", path.display())),
        Ok(_) => Check::fail(
            "bpffs",
            format!("{} is not on a bpffs", path.display()),
            "mount -t bpf bpf /sys/fs/bpf, and name a directory on it with --bpffs",
        ),
        Err(error) => Check::fail(
            "bpffs",
            format!("{}: {error}", path.display()),
            "mount -t bpf bpf /sys/fs/bpf, and name a directory on it with --bpffs",
        ),
    }
}

pub(super) fn on_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS)
}

fn features() -> Vec<Check> {
    let mut checks = Vec::new();
    for (kind, name) in [
        (ProgramType::CgroupSockAddr, "bpf-cgroup-sock-addr"),
        (ProgramType::SockOps, "bpf-sock-ops"),
        (ProgramType::SkLookup, "bpf-sk-lookup"),
    ] {
        checks.push(required(name, is_program_supported(kind).map_err(|error| error.to_string())));
    }
    for (kind, helper, name) in [
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie, "bpf-netns-cookie"),
        (ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_sk_storage_get, "bpf-socket-storage"),
        (ProgramType::SockOps, BpfHelper::BPF_FUNC_sk_storage_get, "bpf-sock-ops-storage"),
        (ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie, "bpf-sock-ops-cookie"),
        (ProgramType::SkLookup, BpfHelper::BPF_FUNC_sk_assign, "bpf-sk-assign"),
    ] {
        checks.push(required(name, is_helper_supported(kind, helper).map_err(|error| error.to_string())));
    }
    match is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval) {
        Ok(true) => checks.push(Check::pass("bpf-set-retval", "a refused connect(2) is ECONNREFUSED")),
        Ok(false) => checks.push(Check::warn(
            "bpf-set-retval",
            "a refused connect(2) is EPERM on this kernel",
            "Linux 5.18 or newer gives ECONNREFUSED",
        )),
        // The required features could not be probed either, and say so.
        Err(_) => {}
    }
    checks
}

fn required(name: &str, supported: Result<bool, String>) -> Check {
    let remedy = "Weft needs Linux 5.15 or newer with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_INET";
    match supported {
        Ok(true) => Check::pass(name, "supported"),
        Ok(false) => Check::fail(name, "this kernel does not support it", remedy),
        Err(error) => Check::fail(name, format!("cannot be probed: {error}"), "run as root, or with CAP_BPF"),
    }
}

/// Whether a connect hook may choose the error that the application sees (Linux 5.18).
pub(super) fn has_set_retval() -> bool {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}
